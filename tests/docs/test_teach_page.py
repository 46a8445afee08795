"""The half hour of docs/teach.md, typed line by line in an empty folder (minutes, so it is slow)."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import commands

PAGE = Path(__file__).parents[2] / "docs" / "teach.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps(text: str) -> list[tuple[str, str]]:
    """(language, code) of each block to type, in order; shown output is not typed."""
    return [(found[1] or "shell", found[2]) for found in BLOCK.finditer(text) if found[1] != "text"]


@pytest.mark.slow
def test_a_model_is_taught_and_maps_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = PAGE.read_text(encoding="utf-8").split("\n## With your own points")[0]
    for language, code in steps(typed):
        if language == "python":
            exec(compile(code, PAGE.name, "exec"), {})
            continue
        for line in commands.shell_lines(f"```\n{code}```\n"):
            assert subpixmap(*shlex.split(line)[1:]) == 0, (line, capsys.readouterr())
    assert {path.name for path in tmp_path.iterdir()} >= {"country", "look", "palms.safetensors", "short.safetensors"}
    assert (tmp_path / "runs" / "palms" / "report.html").exists()


def test_output_that_a_page_shows_is_not_typed() -> None:
    page = "```\nls\n```\n\n```text\nfile\n```\n\n```python\n1\n```\n"
    assert steps(page) == [("shell", "ls\n"), ("python", "1\n")]
