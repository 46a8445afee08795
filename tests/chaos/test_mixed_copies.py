"""Partial restores, late writers and owners that were held up, at random: no number comes from what does not belong."""

import json
import random
import shutil
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from subpixmap.counts.count import count_run
from subpixmap.errors import VerificationFailed
from subpixmap.mapping.ledger import read_records, record_path, write_record
from subpixmap.mapping.owner import FolderLost
from subpixmap.mapping.plan import read_plan
from subpixmap.mapping.run import RunProgress, map_region
from subpixmap.mapping.store import shard_paths
from subpixmap.mapping.verify import take_back, verify
from subpixmap.runpaths import LOCK
from tests.helpers.mapping_data import hashes, tiny
from tests.helpers.run_folders import make_plan, make_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("older", [False, True])
def test_any_two_shards_that_were_exchanged_are_found_by_count_and_verify(tmp_path: Path, older: bool) -> None:
    out = tmp_path / "run"
    make_run(out, make_plan())
    plan, rng = read_plan(out), random.Random(0)
    if older:
        for record in read_records(out).values():
            write_record(out, replace(record, shard_sha256={}))
    places = [(one.block, p.label) for zone in plan.zones.values() for one in zone.blocks for p in plan.periods]
    pairs = rng.sample(list(combinations(places, 2)), 40)
    for (block, period), (other, then) in pairs:
        i = rng.choice([0, 1, 3])  # count, presence, n_obs: what a count reads
        a, b = shard_paths(out, block, period)[i], shard_paths(out, other, then)[i]
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)
        with pytest.raises(VerificationFailed, match="verify --repair"):
            count_run(out)
        assert {one.block for one in verify(out).damaged if one.block} == {(block.id, period), (other.id, then)}
        a.write_bytes(first)
        b.write_bytes(second)
    count_run(out)


def test_any_part_of_an_older_copy_is_found_and_made_again(tmp_path: Path) -> None:
    """Records and shards of blocks that were mapped from other items come back: a restore from before --refresh."""
    made = tiny(tmp_path / "scenes", dates=2, years="2021")
    fewer = [item for item in made.items if item.acquisition != made.items[0].acquisition]
    old, out = tmp_path / "old", tmp_path / "new"
    map_region(old, made.plan(), fewer, made.model, workers=0)
    map_region(out, made.plan(), made.items, made.model, workers=0)
    sound, rng = hashes(out), random.Random(1)
    blocks = {one.block.id: one.block for zone in read_plan(out).zones.values() for one in zone.blocks}
    for _ in range(8):
        keys = rng.sample(sorted(sound), rng.randint(1, 3))
        for block_id, period in keys:
            shutil.copy(record_path(old, block_id, period), record_path(out, block_id, period))
            if rng.random() < 0.7:
                theirs, ours = (shard_paths(folder, blocks[block_id], period) for folder in (old, out))
                for a, b in zip(theirs, ours, strict=True):
                    shutil.copy(a, b)
        damaged = verify(out).damaged
        assert {one.block for one in damaged if one.block} == set(keys)
        take_back(out, damaged)
        map_region(out, made.plan(), made.items, made.model, workers=0)
        assert hashes(out) == sound


def test_an_owner_that_is_held_up_at_any_moment_stops(tmp_path: Path) -> None:
    made = tiny(tmp_path / "scenes", dates=1, years="2021")
    map_region(tmp_path / "whole", made.plan(), made.items, made.model, workers=0)
    sound = hashes(tmp_path / "whole")
    for moment in range(len(sound)):
        out = tmp_path / f"run{moment}"

        def lose(now: RunProgress, out: Path = out, moment: int = moment) -> None:
            if now.done == moment:
                raw = json.loads((out / LOCK).read_text())
                (out / LOCK).write_text(json.dumps(raw | {"token": "another", "born": "0"}))

        with pytest.raises(FolderLost):
            map_region(out, made.plan(), made.items, made.model, workers=2 if moment == 3 else 0, progress=lose)
        late = len(hashes(out))
        time.sleep(0.5)
        assert len(hashes(out)) == late <= moment + 1
        map_region(out, made.plan(), made.items, made.model, workers=0)
        assert hashes(out) == sound
