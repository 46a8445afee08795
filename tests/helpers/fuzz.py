"""Random damage, and the rule that whatever is read must keep: right, or one line and the stated exit code."""

import contextlib
import io
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from subpixmap.errors import SubpixmapError

CHECKS: Any = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
QUICK = settings(max_examples=int(os.environ.get("SUBPIXMAP_FUZZ", 25)), deadline=None, suppress_health_check=CHECKS)
"""In CI: seconds."""
FEW = settings(QUICK, max_examples=int(os.environ.get("SUBPIXMAP_FUZZ", 8)))
"""The same where a case takes a second."""
LONG = settings(max_examples=int(os.environ.get("SUBPIXMAP_FUZZ", 1500)), deadline=None, suppress_health_check=CHECKS)
"""Marked slow: minutes."""
SECONDS, MEGABYTES = 20, 700
"""Time of the processor, and growth of the process, that one case may take."""


def deep() -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(800):
        value = [value]
    return value


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", "NaN", "\0", "../../etc/passwd", "/vsicurl/http://127.0.0.1:9/a", "<OGRVRTDataSource/>"]),
    st.sampled_from([0, -1, 1e308, 10**9, 2**31, 2**63, float("nan"), float("inf")]),
    st.builds(list),
    st.builds(dict),
    st.builds(deep),  # each its own: what is drawn is damaged further
    st.lists(st.one_of(st.floats(), st.integers(-5, 5), st.none(), st.text(max_size=3)), max_size=9),
    st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=3), max_size=3),
)  # fmt: skip


@st.composite
def damaged_json(draw: Any, value: Any, *, most: int = 4) -> Any:
    """A JSON value with up to `most` of its places deleted, exchanged, repeated or replaced by junk."""
    value = _copy(value)
    for _ in range(draw(st.integers(1, most))):
        places = list(_paths(value))
        if not places:
            return value
        path = draw(st.sampled_from(places))
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["junk", "delete", "copy", "wrap", "text"]))
        key = path[-1]
        if how == "delete":
            del parent[key]
        elif how == "copy":
            other = value
            for step in draw(st.sampled_from(places)):
                try:
                    other = other[step]
                except (LookupError, TypeError):
                    break
            parent[key] = _copy(other)
        else:
            parent[key] = draw(junk) if how == "junk" else [parent[key]] if how == "wrap" else str(parent[key])
    return value


def _copy(value: Any) -> Any:
    """A copy of a JSON value, however deep."""
    return json.loads(json.dumps(value))


def _paths(value: Any, prefix: Any = (), depth: int = 0) -> Iterator[Any]:
    if depth > 30:
        return
    for key, child in list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )[:60]:
        yield (*prefix, key)
        yield from _paths(child, (*prefix, key), depth + 1)


@st.composite
def damaged_bytes(draw: Any, data: bytes, others: Any = (b"",)) -> Any:
    """Bytes that were cut, flipped, overwritten, exchanged, repeated, or are those of another file."""
    how = draw(st.sampled_from(["cut", "flip", "flip", "fill", "swap", "repeat", "insert", "other"]))
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    if how == "other" or not data:
        return bytes(draw(st.sampled_from([b"", b"{}", b"[]", b"null", b"\0" * 100, b"PAR1" * 20, *others])))
    if how == "cut":
        return data[:at]
    if how == "flip":
        changed = bytearray(data)
        for place in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
            changed[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    size = draw(st.integers(1, 64))
    if how == "fill":
        return data[:at] + draw(st.binary(min_size=size, max_size=size)) + data[at + size :]
    if how == "swap":
        return data[at:] + data[:at]
    return data[:at] + (data[at : at + size] * 3 if how == "repeat" else draw(st.binary(max_size=size))) + data[at:]


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """What happens inside takes little time and memory."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


def right_or_refused(call: Callable[[], Any]) -> Any:
    """The result of a call, or None where it was refused in one short line; anything else is a failure."""
    refused: SubpixmapError | None = None
    with bounded():
        try:
            return call()
        except SubpixmapError as error:
            refused = error
    assert refused.exit_code in (2, 3, 4, 5)
    assert "\n" not in str(refused)
    assert len(str(refused)) < 2500
    return None


def command(*arguments: object) -> tuple[int, str]:
    """The command line in this process: exit code and what it said on stderr; a traceback is a failure."""
    from subpixmap.cli.main import main

    said = io.StringIO()
    with bounded(), mock.patch.object(sys, "argv", ["subpixmap", *map(str, arguments)]):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            try:
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except Exception as error:
                raise AssertionError(f"{arguments}: {''.join(traceback.format_exception(error)[-6:])}") from error
    text = said.getvalue()
    assert code in (0, 2, 3, 4, 5), text
    if code:
        lines = [line for line in text.splitlines() if line.startswith("subpixmap: ")]
        assert len(lines) == 1, text
        assert text.rstrip().splitlines()[-1].startswith("subpixmap: "), text
    return code, text
