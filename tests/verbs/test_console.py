"""What a person reads on a terminal; run.log: one JSON object a line, and no secret in it."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from subpixmap.verbs import console
from subpixmap.verbs.console import folded, run_log


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_person_reads_fits_the_terminal_and_scripts_get_whole_lines(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from subpixmap.model.card import read_stored

    monkeypatch.setenv("COLUMNS", str(columns))
    text = " ".join(["a-word"] * 60)
    shown: dict[tuple[type[io.StringIO], str], io.StringIO] = {}
    for kind in (Terminal, io.StringIO):
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, shown.setdefault((kind, stream), kind()))
        console.show_checkpoint("demo-s2", read_stored("demo-s2"))
        console.show_remarks([text], quiet=False)
    for stream in ("stdout", "stderr"):
        folded_lines, whole = (shown[kind, stream].getvalue() for kind in (Terminal, io.StringIO))
        assert max(map(len, folded_lines.splitlines())) <= columns
        assert max(map(len, whole.splitlines())) > 200
        assert folded_lines.split() == whole.split()  # no word is lost or cut
    assert folded(text, to=io.StringIO()) == [text]


def test_the_log_has_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY/abc+def")
    log = logging.getLogger("subpixmap")
    with pytest.raises(RuntimeError, match="ended"), run_log(tmp_path):  # noqa: PT012 (all that is written)
        log.info("asked https://user:SECRETWORD@a.example.org/B04.tif?sig=SECRETTOKEN&x=1 today")
        log.warning("block repeated", extra={"reason": "https://a.example.org/x?sig=SECRETTOKEN", "n": [1, {"a": 2}]})
        raise RuntimeError("ended with SECRETKEY/abc+def")
    text = (tmp_path / "run.log").read_text()
    assert "SECRET" not in text
    first, second, last = (json.loads(line) for line in text.splitlines())
    assert first["event"] == "asked https://a.example.org/B04.tif today"
    assert (second["level"], second["reason"], second["n"]) == ("warning", "https://a.example.org/x", [1, {"a": 2}])
    assert last["event"] == "RuntimeError: ended with ***"
    assert not log.handlers
