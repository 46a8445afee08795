"""Ctrl-C and SIGTERM end a command with exit code 3 within seconds, even during a read."""

import subprocess
import sys
import threading
import time

import pytest

from subpixmap.machine import thread_pool

BEGIN = """
import os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from subpixmap.cli import interrupt
interrupt.IN_ORDER_S = float(sys.argv[1])

def read():
    print("reading", flush=True)
    time.sleep(600)
"""
SWALLOWS = """
with interrupt.signals_end_the_run():
    while True:
        try:
            read()
        except BaseException:
            pass  # as a library does that calls Python from C
"""
WAITS_FOR_THREADS = """
pool = ThreadPoolExecutor(1)
try:
    with interrupt.signals_end_the_run():
        pool.submit(read).result()
except interrupt.Interrupted as end:
    interrupt.tell(str(end))
    sys.exit(interrupt.EXIT_CODE)
"""


@pytest.mark.parametrize(
    ("code", "in_order_s", "signals"),
    [(SWALLOWS, 0.2, 1), (SWALLOWS, 600, 2), (WAITS_FOR_THREADS, 600, 1)],
    ids=["swallowed", "asked twice", "a thread still reads"],
)
def test_a_command_ends_whatever_still_reads(code: str, in_order_s: float, signals: int) -> None:
    words = [sys.executable, "-c", BEGIN + code, str(in_order_s)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(signals):
            assert process.stdout.readline() == "reading\n"
            process.terminate()
        _, told = process.communicate(timeout=60)  # the reading takes ten minutes
    assert process.returncode == 3, told
    assert told == "subpixmap: interrupted by SIGTERM; rerun the same command to resume\n"


def test_a_pool_of_threads_begins_nothing_after_an_interrupt() -> None:
    begun: list[int] = []
    free = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        free.wait(60)

    def interrupted() -> None:
        with thread_pool(2) as pool:
            pool.map(work, range(20))
            raise KeyboardInterrupt

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - before < 50  # those that work are not waited for
    free.set()
    assert set(begun) <= {0, 1}
