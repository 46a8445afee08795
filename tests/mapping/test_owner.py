"""Of two runs in a folder one goes on; a dead owner does not stand in the way."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from subpixmap.errors import Refused
from subpixmap.mapping import owner as runlock
from subpixmap.mapping.owner import FolderLost, Owner, is_alive, read_owner, require_held, run_lock
from subpixmap.runpaths import LOCK
from tests.helpers.mapping_data import HOLD


def holder(folder: Any, seconds: float = 60.0) -> Any:
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def named(path: Path) -> Owner:
    owner = read_owner(path)
    assert owner is not None
    return owner


def test_a_second_run_is_refused_and_a_dead_owner_is_not_waited_for(tmp_path: Path) -> None:
    process = holder(tmp_path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Refused, match=str(process.pid)), run_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / LOCK).exists()
    with run_lock(tmp_path):
        owner = read_owner(tmp_path / LOCK)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_many_at_once_exactly_one_goes_on(tmp_path: Path, left_behind: bool) -> None:
    if left_behind:
        dead = holder(tmp_path)
        dead.stdout.readline()
        dead.kill()
        dead.wait()
        dead.stdout.close()
    processes = [holder(tmp_path, 3) for _ in range(6)]
    said = [process.communicate()[0] for process in processes]
    assert sorted(said) == ["held\n"] + ["refused\n"] * 5


def test_the_holder_may_take_it_again_but_not_another_thread(tmp_path: Path) -> None:
    import threading

    refused = []

    def other() -> None:
        try:
            with run_lock(tmp_path):
                pass
        except Refused as error:
            refused.append(error)

    with run_lock(tmp_path):
        with run_lock(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused
    assert not (tmp_path / LOCK).exists()


def test_an_owner_on_another_host_is_judged_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlock, "BEAT_S", 0.05)
    with run_lock(tmp_path):
        path = tmp_path / LOCK
        os.utime(path, (1, 1))
        time.sleep(0.4)
        assert time.time() - path.stat().st_mtime < 60  # the heart beats
        text = path.read_text()
    raw = json.loads(text) | {"host": "elsewhere"}
    path.write_text(json.dumps(raw))
    owner = read_owner(path)
    assert owner is not None
    assert is_alive(owner, path)
    with pytest.raises(Refused, match="elsewhere"), run_lock(tmp_path):
        pass
    os.utime(path, (time.time() - 1000,) * 2)
    with run_lock(tmp_path):
        pass


def test_a_process_of_another_container_is_not_judged_by_its_number(tmp_path: Path) -> None:
    """The same host name, another namespace of process numbers: number and birth are of somebody else."""
    path = tmp_path / LOCK
    with run_lock(tmp_path):
        raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"system": "elsewhere", "pid": 1, "born": "0"}))
    assert is_alive(named(path), path)
    with pytest.raises(Refused, match="process 1"), run_lock(tmp_path):
        pass
    os.utime(path, (time.time() - 1000,) * 2)
    assert not is_alive(named(path), path)
    path.write_text(json.dumps({key: value for key, value in raw.items() if key != "system"}))  # of an earlier version
    with pytest.raises(Refused), run_lock(tmp_path):
        pass


@pytest.mark.parametrize("ahead", [200.0, -200.0])
def test_a_clock_that_differs_from_the_file_systems_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    path, really = tmp_path / LOCK, time.time
    with run_lock(tmp_path):
        raw = json.loads(path.read_text()) | {"host": "elsewhere"}
    path.write_text(json.dumps(raw))
    monkeypatch.setattr(time, "time", lambda: really() + ahead)
    assert is_alive(named(path), path)
    with pytest.raises(Refused, match="elsewhere"), run_lock(tmp_path):
        pass
    os.utime(path, (really() - 150,) * 2)
    with run_lock(tmp_path) as mine:
        assert abs(mine.since - really()) < 60
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_lost_the_folder_may_commit_nothing(tmp_path: Path) -> None:
    with run_lock(tmp_path) as mine:
        require_held(tmp_path)
        require_held(tmp_path, mine.token)
        require_held(tmp_path, "")  # a task for which nobody has to hold a folder
        text = (tmp_path / LOCK).read_text()
        (tmp_path / LOCK).write_text(json.dumps(json.loads(text) | {"token": "other", "pid": 77}))
        for token in (None, mine.token):
            with pytest.raises(FolderLost, match=r"process 77.*subpixmap status"):
                require_held(tmp_path, token)
        (tmp_path / LOCK).unlink()
        with pytest.raises(FolderLost, match="removed"):
            require_held(tmp_path)
    require_held(tmp_path)


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        raw = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps(raw | {"born": "1"}))  # our own number, another birth
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["born"] == raw["born"]  # taken over


def test_a_garbled_lock_is_no_owner(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{")
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())  # taken over, and whole
