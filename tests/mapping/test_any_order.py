"""Runs, crashes, damage, repairs and extensions in any order: what is committed is right, or it is reported."""

import os
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from subpixmap.errors import Refused, VerificationFailed
from subpixmap.grid import Window
from subpixmap.mapping.ledger import array_sha256, read_records
from subpixmap.mapping.manifest import write_manifest
from subpixmap.mapping.owner import run_lock
from subpixmap.mapping.plan import read_plan
from subpixmap.mapping.run import map_region
from subpixmap.mapping.store import open_map, read_block
from subpixmap.mapping.verify import status, take_back, verify
from tests.helpers.mapping_data import hashes, region_of, tiny, tiny_model


class Crash(BaseException):
    """The power is gone: from here on nothing reaches the disk."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A region of two blocks and two years, and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("world")
    country = tiny(folder / "scenes", dates=1)
    (zone,) = country.plan().zones.values()
    first = zone.blocks[0].block.window
    country = replace(country, region=region_of(Window(first.row + 60, first.col + 100, 99, 300), zone.lattice))
    map_region(folder / "truth", country.plan(), country.items, country.model, workers=0)
    truth = hashes(folder / "truth")
    assert len(truth) == 4
    (whole,) = open_map(folder / "truth").values()
    return country, truth, {str(p): float(whole["count"].sel(period=p).sum()) for p in whole.period.values}


def machine(world: Any) -> Any:
    country, truth, totals = world

    class Engine(RuleBasedStateMachine):
        @initialize(first=st.sampled_from(["2021", "2022"]))
        def start(self, first: Any) -> None:
            self.folder = Path(tempfile.mkdtemp())
            self.out, self.asked, self.damaged = self.folder / "run", country.years(first), False
            self.go_on()

        def teardown(self) -> None:
            if hasattr(self, "folder"):
                shutil.rmtree(self.folder)

        def go_on(self, **options: Any) -> Any:
            return map_region(self.out, self.asked.plan(), country.items, country.model, workers=0, **options)

        @rule()
        def run(self) -> None:
            try:
                summary = self.go_on()
            except VerificationFailed:
                assert self.damaged  # of the plan or the map's metadata, and it says so
                return
            assert summary.earlier + summary.done == summary.total

        @rule(years=st.sampled_from(["2021", "2022", "2021-2022"]), nth=st.integers(1, 60))
        def crash(self, years: Any, nth: Any) -> None:
            """The N-th call that changes the disk is the last; the run may ask for more years than before."""
            left = nth

            def dying(call: Any) -> Any:
                def wrapped(*args: Any, **kwargs: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left <= 0:
                        raise Crash
                    return call(*args, **kwargs)

                return wrapped

            self.asked = country.years(years)
            with pytest.MonkeyPatch.context() as patch:
                for name in ("fsync", "replace", "rename", "link"):
                    patch.setattr(os, name, dying(getattr(os, name)))
                try:
                    self.go_on()
                except Crash:
                    (self.out / "run.lock").unlink(missing_ok=True)
                except VerificationFailed:
                    assert self.damaged

        @rule(seed=st.integers(0, 2**16))
        def damage(self, seed: Any) -> None:
            """A bit flips, or a file is cut or lost; a plan that is gone is another matter."""
            rng = random.Random(seed)
            files = [p for p in self.out.rglob("*") if p.is_file() and p.name not in ("plan.json", "run.lock")]
            path = rng.choice(sorted(files))
            data = bytearray(path.read_bytes())
            how = rng.choice(["flip", "flip", "flip", "cut", "lose"])
            if how == "lose" and path.parent.name == "ledger":
                how = "cut"  # a record that is gone is a block that is not done, which is no damage
            if how == "lose":
                path.unlink()
            elif data:
                at = rng.randrange(len(data) * 8)
                data[at // 8] ^= 1 << (at % 8)
                path.write_bytes(data if how == "flip" else data[: len(data) // 2])
            self.damaged = True

        @rule()
        def repair(self) -> None:
            take_back(self.out, verify(self.out).damaged)
            self.asked = country
            self.go_on()
            write_manifest(self.out)
            assert verify(self.out).damaged == ()
            assert hashes(self.out) == truth
            self.damaged = False

        @rule()
        def refuse_another_model(self) -> None:
            with pytest.raises((Refused, VerificationFailed)):
                map_region(self.out, self.asked.plan(), country.items, tiny_model(seed=9), workers=0)

        @rule()
        def refuse_a_second_run(self) -> None:
            before = sorted(self.out.rglob("*"))
            with run_lock(self.out):
                import threading

                told = []

                def second() -> None:
                    try:
                        self.go_on()
                    except Refused as error:
                        told.append(str(error))

                thread = threading.Thread(target=second)
                thread.start()
                thread.join()
            assert str(os.getpid()) in told[0]
            assert sorted(self.out.rglob("*")) == before

        @precondition(lambda self: not self.damaged)
        @rule()
        def count(self) -> None:
            """Totals are those of the blocks that are done, and of no others."""
            done = read_records(self.out, read_plan(self.out))
            (whole,) = open_map(self.out).values()
            for period in whole.period.values:
                records = [one for one in done.values() if one.period == period]
                total = float(whole["count"].sel(period=period).sum(dtype=np.float64))
                assert total == pytest.approx(sum(sum(one.total.values()) for one in records), rel=1e-6, abs=1e-6)
                if len(records) == 2:
                    assert total == pytest.approx(totals[str(period)], rel=1e-6)

        @invariant()
        def what_is_committed_is_right_or_reported(self) -> None:
            if not hasattr(self, "out"):
                return
            plan = read_plan(self.out)
            blocks = {one.block.id: one.block for zone in plan.zones.values() for one in zone.blocks}
            records = read_records(self.out, plan)
            assert status(self.out).done == len(records)
            reported = {one.block for one in verify(self.out).damaged} if self.damaged else set()
            zone_is_reported = self.damaged and any(one.what.startswith("map.zarr") for one in verify(self.out).damaged)
            for key in records:
                if key in reported or zone_is_reported:
                    continue
                arrays = read_block(self.out, blocks[key[0]], key[1])
                assert {name: array_sha256(values) for name, values in arrays.items()} == truth[key]

    return Engine


SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def test_whatever_happens_committed_blocks_are_right_or_reported(world: Any) -> None:
    engine = settings(**SETTINGS, max_examples=4, stateful_step_count=8, derandomize=True)
    run_state_machine_as_test(machine(world), settings=engine)


@pytest.mark.slow
def test_whatever_happens_at_length(world: Any) -> None:
    engine = settings(**SETTINGS, max_examples=60, stateful_step_count=20)
    run_state_machine_as_test(machine(world), settings=engine)
