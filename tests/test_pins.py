"""requirements-hashed.txt: the versions of constraints.txt, all that an installation needs, and nothing by a link."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = ("train", "detect", "s3", "safe")
LINUX = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "os_name": "posix",
}
"""What the file is made for, whatever runs this test."""


def pins(text: str) -> dict[str, str]:
    return {canonicalize_name(name): pin for name, pin in re.findall(r"^([\w.-]+)==([^\s\\]+)", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def hashed() -> str:
    return (ROOT / "requirements-hashed.txt").read_text()


def test_the_versions_are_those_that_are_tested(hashed: str) -> None:
    tested = pins((ROOT / "constraints.txt").read_text())
    assert {name: tested.get(name) for name in pins(hashed)} == pins(hashed)


def test_every_file_has_a_hash_and_none_comes_by_a_link(hashed: str) -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", hashed, flags=re.MULTILINE).strip())
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==[\w.+!-]+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry


def test_all_that_is_needed_is_there(hashed: str) -> None:
    """pip refuses the whole file where a single package is missing from it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    there, open_, seen = pins(hashed), [Requirement(text) for text in wanted], set()
    while open_:
        one = open_.pop()
        name = canonicalize_name(one.name)
        assert name in there, f"{one} is not in requirements-hashed.txt: make hashes"
        assert one.specifier.contains(there[name], prereleases=True), (
            f"{name} {there[name]} is not {one.specifier}: make hashes"
        )
        for extra in one.extras or {""}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                open_ += needed(name, extra, there[name])
    # what is there beyond that is needed by packages that are not installed here, in this version
    assert len({name for name, _ in seen}) > 0.7 * len(there)


def needed(name: str, extra: str, pinned: str) -> list[Requirement]:
    """What an installed package of the pinned version asks for on Linux; nothing where it is not installed."""
    try:
        if version(name).partition("+")[0] != pinned:
            return []
    except PackageNotFoundError:
        return []
    environment: dict[str, str] = {key: str(value) for key, value in default_environment().items()} | LINUX
    environment["extra"] = extra
    asked = [Requirement(text) for text in requires(name) or ()]
    return [one for one in asked if one.marker is None or one.marker.evaluate(environment)]
