"""Measures the share of pixels flagged as unlike the training data, by kind of land.

    python workflows/out_of_domain.py --data DIR [--json OUT] [--cache DIR]
    python workflows/out_of_domain.py [--data DIR] --teach demo-rgbn --output demo-rgbn-v2.safetensors [--cache DIR]

DIR holds `muenster_houses`, `sentinel2_10m`, `sentinel2_120m` (real Sentinel-2 clips) and `trees_california`. The first
line measures the shipped models: on unseen simulated places, on the real clips, and on Californian cities, each left
out once. The second adds what the land of its training looks like to a model that was shipped without it; the network
stays as it is. Thresholds come from places of the training's own kind that were held out, never from the real clips.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from trees_california import CITIES, HALO, NAME, Crops, crops_as_places, read_crops, see

from subpixmap.errors import InputError, SubpixmapError
from subpixmap.model.checkpoint import Model, load_model, save_model
from subpixmap.model.domain import out_of_domain
from subpixmap.reference.patches import Patches
from subpixmap.training.from_simulator import SEEDS, simulated_patches
from subpixmap.training.inputs import with_likeness
from subpixmap.training.realism import real_chips

SIMULATED = ("demo-s2-v2", "demo-rgbn-v2")
RGBN = ("B02", "B03", "B04", "B08")
PLACES = {"training": 75, "calibration": 100, "test": 25}
"""Simulated places of two acquisitions each."""
CHUNK = 256
"""Pixels a side in which a map is computed."""
CLEAR = (4, 5, 6, 7, 11)
"""Scene classes of clear ground."""

Scene = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Reflectance (band, y, x) and what is observed of it (y, x)."""


def simulated(part: str, world: str, cache: Path | None) -> Patches:
    """Simulated places of a split with all ten bands."""
    return simulated_patches(SEEDS[part], PLACES[part], world=world, acquisitions=2, cache=cache, workers=1)


def scenes_of(patches: Patches) -> Iterator[Scene]:
    """Every acquisition of every place, without context."""
    halo = patches.halo
    for place in range(len(patches)):
        for acquisition in range(patches.valid.shape[1]):
            seen = patches.reflectance[place, acquisition, :, halo:-halo, halo:-halo]
            yield seen.astype(np.float32), np.asarray(patches.valid[place, acquisition])


def real_clips(data: Path) -> dict[str, list[Scene]]:
    """Clip -> its images in B02, B03, B04, B08."""
    with rasterio.open(data / "muenster_houses" / "sentinel2_l1c_2016.tif", driver="GTiff") as source:
        houses = source.read()
    clips = {"Muenster, houses (L1C)": [(houses / np.float32(10000), (houses > 0).all(axis=0))]}
    for chip in real_chips(data / "sentinel2_10m"):
        image = np.stack([chip.bands[band] for band in RGBN])
        name = "Austria, fields and woods" if chip.name.startswith("Austria") else "Belgium, fields (composites)"
        clips.setdefault(name, []).append((image, (image > 0).all(axis=0)))
    clips["Austria, whole tile at 120 m"] = [
        _coarse(one.parent) for one in sorted(data.glob("sentinel2_120m/*/*/SCL.tif"))
    ]
    return clips


def _coarse(folder: Path) -> Scene:
    images = []
    for band in RGBN:
        with rasterio.open(folder / f"{band}.tif", driver="GTiff") as source:
            images.append(source.read(1))
    with rasterio.open(folder / "SCL.tif", driver="GTiff") as source:
        classes = source.read(1, out_shape=images[0].shape)
    image = np.stack(images).astype(np.float32)
    return image / np.float32(10000), np.isin(classes, CLEAR) & (image > 0).all(axis=0)


def judge(model: Model, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Observed pixels, shares that are unlike the training data (now, and by the range of bands alone), and scores."""
    if model.likeness is None:
        raise InputError(f"model {model.card.name!r} does not say what the land of its training looks like")
    before = Model.of(model.net, dataclasses.replace(model.card, likeness={}))
    pixels, unlike, beyond, scores = 0, 0, 0, [np.empty(0, np.float32)]
    for reflectance, observed in (chunk for scene in scenes for chunk in _chunks(scene)):
        pixels += int(observed.sum())
        unlike += int((out_of_domain(model, reflectance, observed) & observed).sum())
        beyond += int((out_of_domain(before, reflectance, observed) & observed).sum())
        scores.append(model.likeness.scores(reflectance, observed).ravel())
    found = np.concatenate(scores)
    shares = {"unlike": unlike / max(pixels, 1), "range_alone": beyond / max(pixels, 1)}
    return {"pixels": pixels, **shares, "scores": found[np.isfinite(found)]}


def _chunks(scene: Scene) -> Iterator[Scene]:
    reflectance, observed = scene
    for row in range(0, observed.shape[0], CHUNK):
        for col in range(0, observed.shape[1], CHUNK):
            at = slice(row, row + CHUNK), slice(col, col + CHUNK)
            yield reflectance[:, *at], observed[at]


def row_of(found: Mapping[str, Any], known: NDArray[np.floating]) -> dict[str, float]:
    """What `--json` holds of a kind of land; `known` are scores of land like the training data."""
    truth = np.repeat([0, 1], [len(known), len(found["scores"])])
    auroc = float(roc_auc_score(truth, np.concatenate([known, found["scores"]])))
    return {key: found[key] for key in ("pixels", "unlike", "range_alone")} | {"auroc": auroc}


def measure(data: Path, cache: Path | None) -> dict[str, Any]:
    """Model -> land -> pixels, shares and AUROC against unseen land of the training's own kind."""
    worlds = {world: simulated("test", world, cache) for world in ("base", "shifted")}
    clips = real_clips(data)
    table: dict[str, Any] = {}
    for name in SIMULATED:
        model = load_model(name)
        own = {w: judge(model, list(scenes_of(p.select_bands(model.card.bands)))) for w, p in worlds.items()}
        land = {f"unseen simulated places, {world}": found for world, found in own.items()}
        if model.card.bands == RGBN:
            land |= {clip: judge(model, scenes) for clip, scenes in clips.items()}
            land["all real clips at 10 m"] = judge(model, [s for clip in list(clips)[:3] for s in clips[clip]])
            land["all real clips"] = judge(model, [s for scenes in clips.values() for s in scenes])
        table[name] = {kind: row_of(found, own["base"]["scores"]) for kind, found in land.items()}
    table[NAME] = measure_trees(read_crops(data / "trees_california"))
    return table


def measure_trees(crops: Crops) -> dict[str, Any]:
    """Each city judged by what the others look like, against the scores of those others themselves."""
    table = {}
    for city in crops.cities:
        others = crops.of([one for one in crops.cities if one != city])
        model = with_likeness(load_model(NAME), crops_as_places(others))
        known, found = (judge(model, list(crop_scenes(some))) for some in (others, crops.of([city])))
        table[f"{city}, left out"] = row_of(found, known["scores"])
    return table


def crop_scenes(crops: Crops) -> Iterator[Scene]:
    """Every crop in the plain view."""
    for crop in see(crops)[:, 0, :, HALO:-HALO, HALO:-HALO]:
        yield crop, np.ones(crop.shape[1:], bool)


def teach(name: str, output: Path, data: Path | None, cache: Path | None) -> Model:
    """Write a shipped model with what the land of its training looks like; the network stays as it is."""
    model = load_model(name)
    if model.card.evidence == "simulated":
        training, held_out = (simulated(part, "base", cache) for part in ("training", "calibration"))
        known = with_likeness(model, training, held_out)
    elif data is None:
        raise InputError(f"--teach {name}: give the folder with trees_california as --data")
    else:
        known = with_likeness(model, crops_as_places(read_crops(data / "trees_california").of(CITIES)))
    likeness = dict(known.card.likeness) | {"made_from": model.sha256, "command": command(name, output)}
    card = dataclasses.replace(known.card, name=output.stem, likeness=likeness)
    return save_model(output, known.net, card)


def command(name: str, output: Path) -> str:
    """For the card."""
    data = "" if name.startswith("demo") else "--data DIR "
    return f"python workflows/out_of_domain.py {data}--teach {name} --output {output.name}"


def show(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A row for every model and kind of land."""
    print(f"{'model':<26}{'land':<38}{'pixels':>10}{'unlike':>9}{'by range':>10}{'AUROC':>7}")
    for name, rows in table.items():
        for land, row in rows.items():
            shares = f"{row['unlike']:>8.1%} {row['range_alone']:>9.1%} {row['auroc']:>6.3f}"
            print(f"{name:<26}{land:<38}{row['pixels']:>10,.0f} {shares}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--teach")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args(argv)
    try:
        if chosen.teach:
            if chosen.output is None:
                raise InputError("--teach: give the file to write as --output")
            print(teach(chosen.teach, chosen.output, chosen.data, chosen.cache))
            return 0
        if chosen.data is None:
            raise InputError("give the folder of real clips and trees as --data")
        table = measure(chosen.data, chosen.cache)
    except SubpixmapError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    show(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
