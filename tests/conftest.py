"""Fixtures shared by the tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each process of tests has a core of its own: no more threads than that
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data; tests that need it are marked `realdata` and skip without it."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SUBPIXMAP_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real data folder is missing; set SUBPIXMAP_TEST_DATA to it")
    return folder


@pytest.fixture(scope="session")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated country: 2 km, two years, two acquisitions a year."""
    from subpixmap.simulate import simulate_country

    folder = tmp_path_factory.mktemp("country")
    return simulate_country(folder, seed=3, size_km=2, years=(2020, 2021), acquisitions=2)


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the ten bands and two objects, narrow and quick."""
    import torch

    from subpixmap.model.card import Card
    from subpixmap.model.checkpoint import save_model

    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    torch.manual_seed(0)
    card = Card(
        name="stand-in",
        bands=bands,
        objects={"coconut": "an untrained stand-in", "car": "an untrained stand-in"},
        measure={"coconut": "count", "car": "occupancy"},
        input_mean=(0.1,) * 10,
        input_std=(0.1,) * 10,
        input_low=(0.0,) * 10,
        input_high=(0.6,) * 10,
        evidence="simulated",
        width=16,
        mid=8,
    )
    path = tmp_path_factory.mktemp("model") / "stand-in.safetensors"
    save_model(path, card.build_net(), card)
    return path


@pytest.fixture(scope="session")
def quick_processes() -> Iterator[Any]:
    """Worker and driver processes are forked from one that has the libraries, and start in a tenth of the time."""
    import multiprocessing.forkserver

    import dask

    libraries = ["torch", "distributed", "zarr", "rasterio", "stackstac", "geopandas", "pyarrow", "rioxarray"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(libraries)
    multiprocessing.forkserver.ensure_running()  # before distributed names libraries of its own
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield context


@pytest.fixture
def subpixmap(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line in this process: `subpixmap("run", ...)` -> exit code."""
    from subpixmap.cli.main import main

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["subpixmap", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call
