"""README and docs: every command exists, every snippet runs, every page is linked, what is shown is what comes out."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import subpixmap as package
from tests.helpers import commands
from tests.helpers.run_folders import make_plan, make_run

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
RUN_ON_A_DEMO = ["docs/opens-anywhere.md", "README.md", "docs/tutorial.md", "docs/how-to.md", "docs/tables.md"]
OTHERS = {"--torch-backend", "--index-url", "--require-hashes", "--recipe", "--channel", "--empty"}
"""Options of uv, pip, rattler-build and .ci/wheel.sh that pages name."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def snippets(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_of_a_page_is_one_that_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for line in commands.shell_lines(text):
        commands.require_known_line(line)
    for inline in re.findall(r"`(subpixmap [^`\n]+)`", text):
        words = inline.split()[1:]
        if re.fullmatch(r"[a-z][a-z-]*", words[0]):
            command, rest = commands.find([word for word in words if word != "..."][:2] + words[2:])
            assert {word for word in rest if re.fullmatch(r"--[a-z-]+", word)} <= commands.option_names(command), inline


def test_every_option_that_a_page_names_exists() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "workflows").glob("*.[ps][yh]")]
    of_scripts = {name for text in scripts for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)}
    known = commands.all_options() | of_scripts | OTHERS
    for path in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", path.read_text(encoding="utf-8")))
        assert not named - known, (name_of(path), sorted(named - known))


def test_a_wrong_command_is_found() -> None:
    lines = commands.shell_lines(
        "```\nsubpixmap run --region demo \\\n  --years 2020   # why\nsubpixmap plan ... --probe\n```\n"
    )
    assert [commands.require_known_line(line) for line in lines] == [True, False]
    for wrong in ("subpixmap run --region demo --yeers 2020", "subpixmap plan ... --prob", "subpixmap fly"):
        with pytest.raises(Exception, match=r"No such option|prob|fly"):
            commands.require_known_line(wrong)


def test_every_page_is_in_the_site_and_linked_from_another() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1].split("\n\n")[0]
    in_nav = set(re.findall(r": ([\w-]+\.md)$", nav, re.MULTILINE))
    links = {
        path: {link.split("/")[-1] for link in re.findall(r"\]\(([^)\s#]+\.md)", path.read_text(encoding="utf-8"))}
        for path in [*PAGES, ROOT / "CHANGELOG.md"]
    }
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in in_nav, f"{page.name}: add a line to nav in mkdocs.yml"
        assert any(page.name in found for path, found in links.items() if path != page), f"nothing links to {page.name}"


def test_relative_links_lead_to_files() -> None:
    for path in [*PAGES, ROOT / "CODE_OF_CONDUCT.md"]:
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            assert "://" in link or (path.parent / link).exists(), (name_of(path), link)


def test_the_list_of_python_names_is_complete() -> None:
    listed = re.findall(r"^::: (\S+)\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted((name, home) for home, name in listed) == sorted(package._PUBLIC.items())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which runs/demo is a counted run, of a small made-up map."""
    from subpixmap.verbs.count import count, trend

    folder = tmp_path_factory.mktemp("docs")
    (folder / "runs").mkdir()
    make_run(folder / "runs" / "demo", make_plan())
    count(folder / "runs" / "demo", workers=0, quiet=True)
    trend(folder / "runs" / "demo", quiet=True)
    return folder


def run_snippets(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Execute the snippets of a page in order, in one namespace."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for number, code in enumerate(snippets(path), 1):
        exec(compile(code, f"{name_of(path)}, snippet {number}", "exec"), names)
    plt.close("all")
    return names


@pytest.mark.parametrize("name", RUN_ON_A_DEMO)
def test_snippets_run(name: str, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert snippets(ROOT / name)
    run_snippets(ROOT / name, demo, monkeypatch)


def test_quick_commands_on_the_demo_do_what_they_say(
    demo: Path, monkeypatch: pytest.MonkeyPatch, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/tutorial.md", "docs/how-to.md")]
    lines = [line for page in pages for line in commands.shell_lines(page) if "runs/demo" in line]
    assert {line.split()[1] for line in lines} >= {"status", "verify", "export", "trend"}
    for line in lines:
        assert subpixmap(*shlex.split(line)[1:]) == 0, (line, capsys.readouterr())


def test_teaching_begins_as_the_page_says(
    country: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subpixmap: Any
) -> None:
    (tmp_path / "country").symlink_to(country, target_is_directory=True)
    run_snippets(ROOT / "docs" / "teach.md", tmp_path, monkeypatch)
    text = (ROOT / "docs" / "teach.md").read_text(encoding="utf-8")
    (line,) = [line for line in commands.shell_lines(text) if line.startswith("subpixmap reference country")]
    assert subpixmap(*shlex.split(line)[1:]) == 0
    assert len(list((tmp_path / "look").glob("*_count.tif"))) == 25


def test_pages_with_snippets_are_all_executed() -> None:
    """running.md shows a line for people who open the map without this package."""
    executed = {*RUN_ON_A_DEMO, "docs/teach.md"}
    assert {name_of(path) for path in PAGES if snippets(path)} == executed | {"docs/running.md"}


def test_the_output_in_the_readme_is_that_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.ci/run` maps two years of the demo before the tests; its numbers depend on the processor in the last digits."""
    if not (run := os.environ.get("SUBPIXMAP_DEMO_RUN")):
        pytest.skip("set SUBPIXMAP_DEMO_RUN to a folder of `subpixmap run --region demo`")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(Path(run).resolve(), target_is_directory=True)
    country = run_snippets(ROOT / "README.md", tmp_path, monkeypatch)["country"]
    found = pd.DataFrame(country).pivot(index="object", columns="period", values="map_total_full")
    shown = re.search(
        r"^```text\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert shown
    header, *rows = shown[1].splitlines()
    periods = header.split()[1:]
    table = {
        cells[0]: dict(zip(periods, map(float, cells[1:]), strict=True))
        for cells in map(str.split, rows[1 : 1 + len(found)])
    }
    assert set(table) == set(found.index)
    for name, one in table.items():
        for period in found.columns:
            assert one[period] == pytest.approx(found.loc[name, period], rel=0.02, abs=100), (name, period)
