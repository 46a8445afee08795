"""What killed writers left is removed; what anybody else left is not."""

from pathlib import Path

import pytest

from subpixmap.files import sweep, write_atomic, write_new


def test_only_drafts_of_our_own_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    theirs = ["thesis.partial", "a.csv.partial", ".notes.partial", "x.1234.partial", ".counts.csv.12.part"]
    for name in theirs:
        (tmp_path / name).write_text("mine")
    ours = [".counts.csv.4711.partial", f".run.lock.{'0a' * 8}.partial", f"zarr.{'0a' * 16}.partial"]
    for folder in (tmp_path, tmp_path / "below"):
        for name in ours:
            (folder / name).write_text("torn")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, "below"])
    assert len(list((tmp_path / "below").iterdir())) == 3
    sweep(tmp_path, below=True)
    assert list((tmp_path / "below").iterdir()) == []


def test_the_drafts_of_both_writers_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    monkeypatch.setattr("os.link", die)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # as after kill -9
    for write in (write_atomic, write_new):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a.json", b"half")
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
