"""What stands twice for packagers, citers and contributors says the same everywhere."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import subpixmap

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"dask": "dask-core", "torch": "pytorch", "matplotlib": "matplotlib-base"}
"""PyPI -> conda-forge, where they differ."""


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_conda_recipe_asks_for_what_the_wheel_asks_for() -> None:
    wanted = {}
    for line in PROJECT["dependencies"]:
        name, versions = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(.*)", line).groups()  # type: ignore[union-attr]
        wanted[CONDA_NAMES.get(name, name)] = versions
    recipe = read_yaml("recipe/recipe.yaml")
    found = dict(line.split(" ", 1) for line in recipe["requirements"]["run"])
    assert found.pop("python") == ">=${{ python_min }}"
    assert PROJECT["requires-python"] == f">={recipe['context']['python_min']}"
    assert found == wanted


def test_one_version_and_one_licence_everywhere() -> None:
    recipe, citation = read_yaml("recipe/recipe.yaml"), read_yaml("CITATION.cff")
    assert recipe["context"]["version"] == citation["version"] == subpixmap.__version__
    assert recipe["about"]["license"] == citation["license"] == PROJECT["license"]
    assert recipe["about"]["homepage"] == PROJECT["urls"]["Homepage"]
    assert set(recipe["about"]["license_file"]) == set(PROJECT["license-files"])


def test_hooks_download_nothing_and_run_what_lint_runs() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    commands = {" ".join(hook["entry"].split()[1:3]) for hook in repository["hooks"]}
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    used = {" ".join(words.split()[:2]) for words in re.findall(r"\$\(BIN\)/(.*)", lint)}
    assert {one.split()[0] for one in commands} == {one.split()[0] for one in used}


def test_forms_for_issues_ask_for_something() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 2
    for form in map(read_yaml, (path.relative_to(ROOT).as_posix() for path in forms)):
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields)
        assert any(field.get("validations", {}).get("required") for field in fields)


def test_what_is_shipped_from_others_is_named() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    data = (ROOT / "subpixmap" / "data" / "README.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\((https://github\.com/[^)]+)\)", data))
    assert links
    assert all(link in notice for link in links)
    assert "Permission is hereby granted" in notice
