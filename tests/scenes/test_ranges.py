"""Files whose bytes are checked here: threads end, datasets are freed late, and the process lives on."""

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from subpixmap.scenes import ranges, reader
from subpixmap.scenes.items import Asset
from tests.helpers import stac_server

TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
SIZE = 600

THREADS_THAT_END = """
import gc, random, sys, threading
from pathlib import Path
import rasterio
from rasterio.windows import Window
from subpixmap.scenes import access, reader
from subpixmap.scenes.items import Asset
from tests.helpers import stac_server

reader.BACKOFF_S = 0.0
access.GDAL_OPTIONS |= {"GDAL_HTTP_MAX_RETRY": 0, "GDAL_HTTP_TIMEOUT": 3}
transform, size = %r, %r
held = []

def answer(server, method, path, body):
    content = (server.files / path.lstrip("/")).read_bytes()
    status, headers, part = server.part(path, content, server.headers[-1].get("Range"))
    return random.Random(sum(server.requests.values())).choice(
        [(200, {}, content), (status, headers, part[: len(part) // 2]), *[(status, headers, part)] * 18]
    )

def work(asset, seed):
    rng = random.Random(seed)
    for _ in range(6):
        try:
            reader.read_window(asset, Window(rng.randrange(300), rng.randrange(300), 200, 200), 32651)
        except reader.ReadFailed as error:
            held.append(error)
        gc.collect()
    # As a traceback, a debugger or a cycle of references may hold it longer than its thread lives.
    held.extend(one for one in gc.get_objects() if isinstance(one, rasterio.DatasetReader))

with stac_server.serve() as server:
    server.files, server.fault = Path(sys.argv[1]), answer
    asset = Asset(f"{server.url}/B04.tif", transform, (size, size))
    for turn in range(3):
        threads = [threading.Thread(target=work, args=(asset, 4 * turn + i)) for i in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        gc.collect()
print(len(held), "held")
held.clear()
gc.collect()
print("alive")
"""


def write_uncompressed(path: Path) -> None:
    values = (np.arange(SIZE**2) % 30000 + 1).astype(np.uint16).reshape(SIZE, SIZE)
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE, width=SIZE, count=1, dtype="uint16", crs="EPSG:32651", nodata=0,
        transform=Affine(*TRANSFORM), tiled=True, blockxsize=128, blockysize=128,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)


def test_a_thread_leaves_no_dataset_open_whose_file_ends_with_it(tmp_path: Path) -> None:
    """Rasterio frees the Python file of a dataset with the thread that opened it; GDAL would go on using it."""
    write_uncompressed(tmp_path / "B04.tif")
    left: list[str] = []

    def work(asset: Asset) -> None:
        reader.read_window(asset, Window(0, 0, 50, 50), 32651)
        datasets = [one for one in gc.get_objects() if issubclass(type(one), rasterio.DatasetReader)]
        left.extend(one.name for one in datasets if not one.closed and one.name.endswith("/GTiff"))

    with stac_server.serve() as server:
        server.files = tmp_path
        thread = threading.Thread(target=work, args=(Asset(f"{server.url}/B04.tif", TRANSFORM, (SIZE, SIZE)),))
        thread.start()
        thread.join()
    assert not left


@pytest.mark.slow
def test_a_dataset_that_outlives_the_thread_that_opened_it_ends_no_process(tmp_path: Path) -> None:
    """Rasterio frees the Python file of a dataset with the thread; GDAL would go on using it."""
    write_uncompressed(tmp_path / "B04.tif")
    script = THREADS_THAT_END % (TRANSFORM, SIZE)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("alive\n")
    assert int(done.stdout.split()[0]) > 0


def test_an_interrupt_in_the_middle_of_a_file_comes_out_of_gdal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL calls our code to get bytes; what is raised there is lost, unless it is kept and raised again."""
    write_uncompressed(tmp_path / "B04.tif")
    calls: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        raise KeyboardInterrupt

    with stac_server.serve() as server:
        server.files = tmp_path
        asset = Asset(f"{server.url}/B04.tif", TRANSFORM, (SIZE, SIZE))
        monkeypatch.setattr(ranges, "get_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader.read_window(asset, Window(0, 0, 200, 200), 32651)
    assert len(calls) == 1  # nothing is asked for again
