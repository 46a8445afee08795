"""run.log: one JSON object a line, and no secret in it."""

import json
import logging
from pathlib import Path

import pytest

from subpixmap.verbs.console import run_log


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
