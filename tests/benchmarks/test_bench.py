"""The benchmark is right: all sides make the same map, a decode too many is seen, and goals are judged."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from subpixmap.mapping import task
from subpixmap.mapping.quantise import STEP
from subpixmap.mapping.run import map_region
from subpixmap.mapping.store import open_map
from subpixmap.model.checkpoint import load_model
from subpixmap.model.mean import TRIM_FROM
from subpixmap.scenes import reader
from subpixmap.scenes.cube import read_reflectance
from tests.benchmarks import bench, whole_map
from tests.benchmarks.figures import Figure, as_markdown, machine
from tests.benchmarks.plain_loop import map_plainly
from tests.benchmarks.scene import Scene, make_scene, without_network
from tests.benchmarks.usual_tools import map_with_stackstac, map_with_xbatcher

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import bench_gpu

NAMES = ("count", "presence", "sd_over_dates", "n_obs")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), side=256, dates=9)


def values_of(path: Path) -> dict[str, Any]:
    group = zarr.open_group(path, mode="r")
    return {name: np.asarray(group[name][...]) for name in NAMES}  # type: ignore[index]


@pytest.mark.filterwarnings("ignore")  # of pixels that were never seen, and of other packages
def test_all_sides_make_the_same_map(scene: Scene, tmp_path: Path) -> None:
    model = without_network(load_model("demo-s2"))
    call = {"block": 256, "tile": (128, 128)}
    map_plainly(scene, model, model.folded, tmp_path / "plain", **call)  # type: ignore[arg-type]
    plain = values_of(tmp_path / "plain")
    assert plain["n_obs"].max() > TRIM_FROM > plain["n_obs"].min()

    map_region(tmp_path / "run", scene.plan(model, block=256), list(scene.items), model, workers=0)
    (ours,) = open_map(tmp_path / "run").values()
    for name in NAMES:
        got = ours[name].isel(period=0).values
        np.testing.assert_allclose(got, plain[name], rtol=0, atol=1.01 * STEP, err_msg=name)

    map_with_stackstac(scene, model, model.folded, tmp_path / "stackstac", **call)  # type: ignore[arg-type]
    inside = ..., slice(20, -20), slice(20, -20)  # it does not look beyond the region
    for name, got in values_of(tmp_path / "stackstac").items():
        np.testing.assert_allclose(got[inside], plain[name][inside], rtol=1e-5, atol=1e-5, err_msg=name)

    pytest.importorskip("xbatcher")
    map_with_xbatcher(scene, model, model.folded, tmp_path / "xbatcher", **call)  # type: ignore[arg-type]
    for name, got in values_of(tmp_path / "xbatcher").items():
        np.testing.assert_allclose(got, plain[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first map of a process reads the files of all modules that it imports."""
    folder = tmp_path_factory.mktemp("first")
    whole_map.decodes(make_scene(folder, side=256, dates=1), folder, load_model("demo-s2"), block=256)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_decoded_twice_is_seen(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(tmp_path, side=256, dates=2)  # no other test has its blocks in a cache
    once = read_reflectance

    def several_times(*where: Any, **options: Any) -> Any:
        for _ in range(times - 1):
            once(*where, **options)
            while reader._threads.pool:  # with its blocks in GDAL's cache
                reader._threads.pool.popitem()[1].dataset.close()
        return once(*where, **options)

    monkeypatch.setattr(task, "read_reflectance", several_times)
    figure, _ = whole_map.decodes(scene, tmp_path, load_model("demo-s2"), block=256)
    assert figure.value == pytest.approx(times, rel=0.2)


@pytest.mark.filterwarnings("ignore")
def test_the_way_of_a_gpu_runs_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--device", "cpu", "--small", "--json", str(path)])
    bench_gpu.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
    for row in rows:
        assert min(row["device"], row["memory"], row["files"]) > 0
        assert row["busy"] is None
        assert row["error of the total"] < 0.1


def test_goals_are_judged_and_told() -> None:
    low = Figure(key="low", value=1.2, goal=("<=", 1.25), meaning="m")
    high = replace(low, key="high", goal=(">=", 1.25))
    blank = replace(low, key="blank", value=None, meaning="no GPU")
    assert [low.reached, high.reached, blank.reached, replace(low, goal=None).reached] == [True, False, None, None]
    told = as_markdown([low, high, blank], machine(), short=True).splitlines()
    assert "| `low` | 1.2 | <= 1.25 | m |" in told
    assert "| `high` | 1.2 | >= 1.25: **missed** | m |" in told
    assert "| `blank` | - | <= 1.25 | no GPU |" in told


@pytest.mark.parametrize(("certain", "code"), [(True, 1), (False, 0)])
def test_only_what_no_load_can_touch_fails(
    certain: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = Figure(key="k", value=np.float64(2.0), goal=("<=", 1.0), meaning="m", certain=certain)
    monkeypatch.setattr(bench, "measure", partial(lambda one, *a, **k: iter([one]), figure))
    monkeypatch.setattr(sys, "argv", ["bench", "--short", "--json", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert int(end.value.code or 0) == code
    told = json.loads((tmp_path / "bench.json").read_text())
    assert told["figures"][0]["value"] == 2.0
    assert {"processor", "cores", "instructions", "versions", "date", "load"} <= set(told["machine"])


def test_a_gpu_is_busy_once_while_a_copy_and_the_network_overlap() -> None:
    assert bench_gpu.union([(0, 2), (1, 3), (5, 6), (5.5, 5.8)]) == 4
    assert bench_gpu.union([]) == 0
