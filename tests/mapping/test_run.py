"""The block task against a plain computation over the whole image, and the driver: resume, failures, retries."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subpixmap.errors import Refused
from subpixmap.mapping import run
from subpixmap.mapping import task as block
from subpixmap.mapping.ledger import Record, read_records, record_path
from subpixmap.mapping.metadata import create_map
from subpixmap.mapping.needs import needs
from subpixmap.mapping.plan import read_plan, write_plan
from subpixmap.mapping.pool import WorkerDied, open_pool
from subpixmap.mapping.probe import probe
from subpixmap.mapping.quantise import STEP
from subpixmap.mapping.run import BlocksFailed, map_region, pending_tasks
from subpixmap.mapping.store import open_map, read_block
from subpixmap.mapping.task import map_block
from subpixmap.mapping.verify import status
from subpixmap.model import device
from subpixmap.model.backends import Arithmetic
from subpixmap.model.mean import fits_in_order
from subpixmap.model.predict import predict_block
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.cube import read_reflectance, read_valid
from subpixmap.scenes.items import by_acquisition
from tests.helpers.mapping_data import Tiny, hashes, tiny, tiny_model


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("scenes"), dates=(7, 2), region_px=(340, 430))


@pytest.fixture(scope="module")
def mapped(country: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("run")
    summary = map_region(out, country.plan(max_scenes=7), country.items, country.model, workers=0)
    assert (summary.done, summary.earlier, summary.failed) == (8, 0, ())
    return out


def process_state() -> Any:
    flags = torch.backends.cudnn
    gdal = {name: value for name, value in os.environ.items() if name.startswith("GDAL")}
    return torch.get_num_threads(), flags.deterministic, flags.benchmark, gdal


def test_a_run_in_this_process_leaves_it_as_it_was(
    country: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = process_state()
        predict_block(country.model, np.zeros((3, 40, 40), np.float32))
        assert process_state() == before
        year = country.years("2022")
        plan = year.plan(block=512)
        map_region(tmp_path, plan, year.items, year.model, workers=0)
        assert process_state() == before
        probe(plan, year.items, year.model, needs(plan, year.items))
        assert process_state() == before
    finally:
        torch.set_num_threads(threads)


def test_an_import_leaves_the_process_as_it_was() -> None:
    code = (
        "import os; before = dict(os.environ); import torch; threads = torch.get_num_threads();"
        "import subpixmap.scenes.cube, subpixmap.mapping.run, subpixmap.model.predict;"
        "assert torch.get_num_threads() == threads;"
        "print(before.get('GDAL_CACHEMAX') == os.environ.get('GDAL_CACHEMAX'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GDAL_CACHEMAX"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "True"


def plainly(country: Tiny, plan: Any, period: Any, window: Any) -> Any:
    """The whole window at once, every acquisition kept in memory."""
    (zone,) = plan.zones.values()
    halo = country.model.halo
    counts = []
    for group in by_acquisition([i for i in country.items if i.period == period]).values():
        reflectance = read_reflectance(group, zone.lattice, window.padded(halo), plan.recipe.bands)
        count, _ = predict_block(country.model, reflectance)
        inner = reflectance[:, halo:-halo, halo:-halo]
        valid = read_valid(group, zone.lattice, window, MaskRule()) & np.isfinite(inner).all(axis=0)
        counts.append(np.where(valid, count, np.nan).astype(np.float64))
    return np.array(counts)


def test_blocks_are_what_the_whole_image_gives(country: Tiny, mapped: Any) -> None:
    plan = read_plan(mapped)
    (zone,) = plan.zones.values()
    whole = open_map(mapped)[zone.lattice.epsg]
    for p, period in enumerate(("2021", "2022")):
        counts = plainly(country, plan, period, zone.extent)
        n = np.isfinite(counts[:, 0]).sum(axis=0)
        planned = np.zeros(zone.extent.shape, bool)
        for one in zone.blocks:
            planned[one.window.slices(zone.extent)] = one.pixels()
        n = np.where(planned, n, 0)
        np.testing.assert_array_equal(whole["n_obs"].values[p], n)
        assert set(np.unique(n)) >= ({0, 5, 6, 7} if period == "2021" else {0, 1, 2})
        with np.errstate(invalid="ignore", divide="ignore"):
            ordered = np.sort(counts, axis=0)  # NaN last
            total = np.nansum(counts, axis=0)
            trimmed = (total - ordered[0] - np.nanmax(np.where(np.isnan(counts), -np.inf, counts), axis=0)) / (n - 2)
            background, slope = fits_in_order(country.model.card.trimmed, ("coconut", "car")).T[:, :, None, None]
            expected = np.where(n >= 6, (trimmed - background) * slope, total / n)
            expected[:, n == 0] = np.nan
            spread = np.sqrt(np.nansum((counts - total / n) ** 2, axis=0) / (n - 1))
            spread[:, n < 2] = np.nan
        for name, exact in (("count", expected), ("sd_over_dates", spread)):
            got = whole[name].values[:, p]
            np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1.001 * STEP)
            runs = (*got.shape[:-1], -1, 128)  # the sum of a row is kept over the cell, not over the map
            sums = [np.nansum(values.reshape(runs), axis=-1, dtype=float) for values in (got, exact)]
            np.testing.assert_allclose(sums[0], sums[1], rtol=1e-4, atol=1.001 * STEP)
        assert np.isnan(whole["count"].values[:, p]).any(axis=0).sum() == (n == 0).sum()


def test_the_block_size_does_not_change_a_bit(country: Tiny, mapped: Any, tmp_path: Path) -> None:
    late = country.years("2022")
    map_region(tmp_path, late.plan(max_scenes=7, block=512), late.items, country.model, workers=0)
    (small,), (large,) = open_map(mapped).values(), open_map(tmp_path).values()
    small, large = small.sel(period=["2022"]), large.sel(x=small.x, y=small.y)
    for name in ("count", "presence", "sd_over_dates", "n_obs"):
        np.testing.assert_array_equal(small[name].values, large[name].values)


def test_a_halo_one_pixel_too_small_would_show(country: Tiny, mapped: Any) -> None:
    plan = read_plan(mapped)
    (zone,) = plan.zones.values()
    group = next(iter(by_acquisition(country.items).values()))
    window, halo = zone.blocks[0].block.window, country.model.halo
    full = read_reflectance(group, zone.lattice, window.padded(halo), plan.recipe.bands)
    short = full.copy()
    short[:, 0] = short[:, -1] = short[:, :, 0] = short[:, :, -1] = np.nan
    assert not np.array_equal(predict_block(country.model, full)[0], predict_block(country.model, short)[0])


def test_records_say_what_went_in(country: Tiny, mapped: Any) -> None:
    plan = read_plan(mapped)
    records = read_records(mapped, plan)
    (zone,) = plan.zones.values()
    assert len(records) == 8
    for one in zone.blocks:
        record = records[one.block.id, "2021"]
        arrays = read_block(mapped, one.block, "2021")
        assert record.observed_px == np.isfinite(arrays["count"][0]).sum()
        assert record.total["coconut"] == pytest.approx(np.nansum(arrays["count"][0], dtype=np.float64), rel=1e-12)
        cells = record.cells
        assert cells["observed_px"].sum() == record.observed_px
        per_acquisition = [used.observed_px for used in record.acquisitions]
        assert cells["acquisition_observed_px"].sum(axis=(1, 2)).tolist() == per_acquisition
        assert sum(per_acquisition) == arrays["n_obs"].sum() == record.used_px
        assert record.used_px <= (record.predicted_px or 0) <= len(per_acquisition) * record.computed_px
        # A third of the values lie above the card's 0.75, in one of three bands or more.
        assert 0 < cells["out_of_domain_px"].sum() < record.observed_px or not record.observed_px
        assert [u.time for u in record.acquisitions] == sorted(u.time for u in record.acquisitions)


def test_what_went_through_the_network_and_into_a_mean_is_told(mapped: Any) -> None:
    records = read_records(mapped).values()
    share = sum(record.used_px for record in records) / sum(record.predicted_px or 0 for record in records)
    assert status(mapped).used_share == share < 1
    whole = sum(len(record.acquisitions) for record in records) * 256**2
    assert sum(record.predicted_px or 0 for record in records) < whole  # not all of a block is in the region and clear
    assert Record.from_json(replace(next(iter(records)), predicted_px=None).to_json()).predicted_px is None


def test_resume_does_only_what_is_missing(country: Tiny, mapped: Any, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(mapped, out)
    before = hashes(out)
    plan = country.plan(max_scenes=7)
    seen: list[Any] = []
    summary = map_region(out, plan, country.items, country.model, workers=0, progress=seen.append)
    assert (summary.earlier, summary.done, seen) == (8, 0, [])
    key = sorted(before)[3]
    record_path(out, *key).unlink()
    summary = map_region(out, plan, country.items, country.model, workers=0, progress=seen.append)
    assert (summary.earlier, summary.done) == (7, 1)
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (8, 8, 0)
    assert hashes(out) == before


def test_years_added_later_equal_a_run_made_at_once(country: Tiny, mapped: Any, tmp_path: Path) -> None:
    late, early = country.years("2022"), country.years("2021")
    map_region(tmp_path, late.plan(max_scenes=7), late.items, country.model, workers=0)
    map_region(tmp_path, early.plan(max_scenes=7), country.items, country.model, workers=0)
    assert read_plan(tmp_path).run_id == read_plan(mapped).run_id
    assert hashes(tmp_path) == hashes(mapped)
    (one,), (other,) = open_map(tmp_path).values(), open_map(mapped).values()
    assert one.period.values.tolist() == ["2021", "2022"]
    assert one.equals(other)


def test_another_recipe_is_refused_by_name(country: Tiny, mapped: Any) -> None:
    with pytest.raises(Refused, match=r"max_scenes.*7.*3"):
        map_region(mapped, country.plan(max_scenes=3), country.items, country.model, workers=0)
    plan = country.plan(max_scenes=7, mask=MaskRule(dilate_m=50.0))
    with pytest.raises(Refused, match=r"mask\.dilate_m.*100.*50"):
        map_region(mapped, plan, country.items, country.model, workers=0)
    plan = country.plan(max_scenes=7)
    older = replace(plan, recipe=replace(plan.recipe, numerics={**plan.recipe.numerics, "torch": "0.1"}))
    with pytest.raises(Refused, match=r"numerics\.torch.*0\.1"):
        map_region(mapped, older, country.items, country.model, workers=0)
    other = tiny_model(seed=1)
    with pytest.raises(Refused, match="model"):
        map_region(mapped, country.plan(max_scenes=7), country.items, other, workers=0)


def test_other_items_are_refused(country: Tiny, mapped: Any) -> None:
    fewer = [item for item in country.items if not item.datetime.startswith("2021-01")]
    with pytest.raises(Refused, match=r"2021.*items\.parquet"):
        map_region(mapped, country.plan(max_scenes=7), fewer, country.model, workers=0)


def test_a_damaged_file_fails_its_blocks_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    monkeypatch.setattr(run, "_PAUSE_S", 0.0)
    monkeypatch.setattr("subpixmap.scenes.reader.time.sleep", lambda _: None)
    country = tiny(tmp_path / "scenes", dates=2, years="2021")
    broken = country.items[0]
    href = Path(broken.assets["B08"].href)
    data = href.read_bytes()
    href.write_bytes(data[: len(data) // 2])
    out = tmp_path / "run"
    plan = country.plan()
    with pytest.raises(BlocksFailed, match=r"32651-r\d+-c\d+.*2021.*B08\.tif") as caught:
        map_region(out, plan, country.items, country.model, workers=0)
    summary = caught.value.summary
    assert summary.done + len(summary.failed) == summary.total == 9
    assert 0 < len(summary.failed) < 9
    assert summary.retries == 2 * len(summary.failed)
    (dataset,) = open_map(out).values()
    done = read_records(out, plan)
    assert {(f.block_id, f.period) for f in summary.failed}.isdisjoint(done)
    assert dataset["n_obs"].sum() == sum(
        sum(used.observed_px for used in record.acquisitions) for record in done.values()
    )
    href.write_bytes(data)
    from subpixmap.scenes import reader

    reader._threads.__dict__.clear()  # the next command is another process
    reader._seen.clear()
    summary = map_region(out, plan, country.items, country.model, workers=0)
    assert (summary.earlier, summary.failed) == (len(done), ())


def test_several_readers_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    country = tiny(tmp_path / "scenes", dates=4, years="2021", size_px=300, region_px=(100, 150))
    map_region(tmp_path / "one", country.plan(), country.items, country.model, workers=0)
    monkeypatch.setattr(block, "readers_for", lambda device: 3)
    map_region(tmp_path / "three", country.plan(), country.items, country.model, workers=0)
    assert len(hashes(tmp_path / "one")) > 0
    assert hashes(tmp_path / "three") == hashes(tmp_path / "one")


@pytest.mark.parametrize("spread", [False, True])
def test_the_path_of_a_gpu_maps_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: bool) -> None:
    country = tiny(tmp_path / "scenes", dates=4, years="2021", size_px=300, region_px=(100, 150))
    if spread:
        country = replace(country, model=tiny_model(members=2))
    maps = []
    for where in ("cpu", "cuda"):
        if where == "cuda":  # the processor in its place
            monkeypatch.setattr(device, "torch_device", lambda name: "cpu")
            monkeypatch.setattr(block, "readers_for", lambda device: 3)
        arithmetic = Arithmetic.chosen(backend="torch", device=where)
        plan = country.plan(arithmetic=arithmetic, spread=spread)
        assert map_region(tmp_path / where, plan, country.items, country.model, workers=0).failed == ()
        (one,) = open_map(tmp_path / where).values()
        maps.append(one.load())
    assert maps[0].sizes == maps[1].sizes
    for name, expected in maps[0].data_vars.items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(maps[1][name], expected, rtol=1e-4, atol=2.001 * STEP, err_msg=str(name))
        elif expected.dtype.kind in "iu":
            np.testing.assert_array_equal(maps[1][name], expected)


def test_a_gpu_predicts_the_next_acquisition_while_this_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    country = tiny(tmp_path / "scenes", dates=3, years="2021", size_px=300, region_px=(100, 150))
    monkeypatch.setattr(device, "torch_device", lambda name: "cpu")
    predict, began = block._predict, threading.Semaphore(0)

    def begin(*args: Any) -> Any:
        began.release()
        return predict(*args)

    monkeypatch.setattr(block, "_predict", begin)
    for where, ahead in (("cpu", False), ("cuda", True)):
        plan = write_plan(tmp_path / where, country.plan(arithmetic=Arithmetic.chosen(backend="torch", device=where)))
        create_map(tmp_path / where, plan)
        task, seconds = (
            pending_tasks(tmp_path / where, plan, country.items)[0],
            dict.fromkeys(("read", "wait", "network", "write"), 0.0),
        )
        wanted = block._wanted(task.plan)
        coming = block._predict_ahead(task, country.model, block._choose(task, wanted, wanted, seconds), seconds)
        next(coming)
        assert began.acquire(timeout=0)
        assert began.acquire(timeout=60 if ahead else 0.2) == ahead
        assert len(list(coming)) == 2
        while began.acquire(timeout=0):
            pass


def test_the_last_tasks_go_from_large_to_small_so_that_workers_end_together(country: Tiny, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, country.plan(max_scenes=1))
    create_map(tmp_path, plan)
    tasks = pending_tasks(tmp_path, plan, country.items) * 3
    sizes = [int(task.plan.computed.sum()) for task in tasks]
    assert sizes != sorted(sizes, reverse=True)
    with open_pool(map_block, country.model, workers=0) as pool:
        todo = [*run._Drive(pool, tasks, run.Summary(24, 0, 0, (), 0, 0.0), 1, None).todo]
    assert pool.slots == 1
    assert todo[:20] == tasks[:20]
    assert sorted(map(id, todo)) == sorted(map(id, tasks))
    assert [int(task.plan.computed.sum()) for task in todo[20:]] == sorted(sizes[20:], reverse=True)


def dies_on_one(task: Any, model: Any) -> Any:
    """A task that a worker does not survive, on one block."""
    if task.plan.block.id == dies_on_one.block:  # type: ignore[attr-defined]
        raise WorkerDied(dies_on_one.deaths, 60.0)  # type: ignore[attr-defined]
    return map_block(task, model)


@pytest.mark.parametrize(("deaths", "repeated"), [(1, 2), (4, 0)])
def test_a_block_that_kills_its_workers_is_given_up_and_the_others_go_on(
    country: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, repeated: int
) -> None:
    monkeypatch.setattr(run, "_PAUSE_S", 0.0)
    late = country.years("2022")
    plan = write_plan(tmp_path, late.plan(max_scenes=1))
    create_map(tmp_path, plan)
    tasks = pending_tasks(tmp_path, plan, late.items)[:3]
    dies_on_one.block, dies_on_one.deaths = tasks[1].plan.block.id, deaths  # type: ignore[attr-defined]
    with open_pool(dies_on_one, country.model, workers=0) as pool:
        summary = run._Drive(pool, tasks, run.Summary(3, 0, 0, (), 0, 0.0), 3, None).run()
    assert (summary.done, summary.retries) == (2, repeated)
    (failure,) = summary.failed
    assert (failure.block_id, failure.period) == tasks[1].key
    assert "memory, or because it took longer than 60 s; try a smaller --block" in failure.reason
    assert status(tmp_path).failed == (failure,)


def test_min_obs_hides_pixels_seen_too_rarely(country: Tiny, mapped: Any, tmp_path: Path) -> None:
    early = country.years("2021")
    map_region(tmp_path, early.plan(max_scenes=7, min_obs=6), early.items, country.model, workers=0)
    (strict,), (loose,) = open_map(tmp_path).values(), open_map(mapped).values()
    loose = loose.sel(period=["2021"])
    np.testing.assert_array_equal(strict["n_obs"].values, loose["n_obs"].values)
    seen = (loose["n_obs"].values >= 6)[None]
    expected = np.where(np.broadcast_to(seen, strict["count"].shape), loose["count"].values, np.nan)
    np.testing.assert_allclose(strict["count"].values, expected, rtol=0, atol=1.001 * STEP)


def test_only_the_chosen_objects_are_mapped(country: Tiny, mapped: Any, tmp_path: Path) -> None:
    early = country.years("2021")
    map_region(tmp_path, early.plan(max_scenes=7, objects=["car"]), early.items, country.model, workers=0)
    (one,), (both,) = open_map(tmp_path).values(), open_map(mapped).values()
    assert one.object.values.tolist() == ["car"]
    np.testing.assert_array_equal(one["count"].values[0], both["count"].sel(object="car", period=["2021"]).values)


def test_worker_processes_give_the_same_bits(
    country: Tiny, mapped: Any, tmp_path: Path, quick_processes: object
) -> None:
    late = country.years("2022")
    summary = map_region(tmp_path, late.plan(max_scenes=7), late.items, country.model, workers=2)
    assert summary.done == 4
    assert hashes(tmp_path) == {key: value for key, value in hashes(mapped).items() if key[1] == "2022"}
    assert 50e6 < summary.peak_rss < 2e9
    assert set(summary.stages) == {"read", "wait", "network", "write"}
    assert summary.bottleneck in summary.stages
