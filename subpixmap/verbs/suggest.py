"""Suggest areas to label next to improve the model of a run, as a file and a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError, Refused
from subpixmap.files import require_place, write_atomic
from subpixmap.verbs import console

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry.base import BaseGeometry

    from subpixmap.estimation.areas import Looks
    from subpixmap.estimation.frame import FrameCells
    from subpixmap.estimation.suggest import Suggested
    from subpixmap.model.checkpoint import Model
    from subpixmap.runfolder import RunFolder

OBSERVED = 0.75
"""Smallest observed share of a suggested area."""
_KNOWN = 200  # largest number of labelled areas to compare with
LAYER = "areas"


def suggest(
    out: Path,
    output: Path,
    *,
    n: int = 20,
    side: float = 320.0,
    by: str = "all",
    period: str | None = None,
    objects: Sequence[str] = (),
    labelled: Path | None = None,
    looks: int = 1000,
    seed: int = 0,
    model: str | None = None,
    quiet: bool = False,
) -> gpd.GeoDataFrame:
    """Suggest areas to label next, each with its reason.

    Parameters
    ----------
    out
        The run's folder.
    output
        GeoPackage to write; a picture of the same name (.png) is written beside it.
    n
        Areas.
    side
        Of an area, metres.
    by
        all, or one of `estimation.suggest.REASONS`.
    period
        Label; the last that is mapped when not given.
    objects
        All that the run counts when not given.
    labelled
        Polygons already labelled, in addition to the areas in the model's card: nothing is suggested there, and similar
        land counts as known.
    looks
        Number of candidate areas, drawn at random from the map; the imagery of each is read again.
    seed
        Of that draw.
    model
        Name or path of model file of the run, if it is not a shipped model.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per area, best first, as in the file.

    Raises
    ------
    InputError
        More areas are requested than the map holds; unknown object or period.
    Refused
        The model is not the model of the run.
    """
    import pandas as pd

    from subpixmap.estimation.areas import Looks
    from subpixmap.estimation.suggest import require_reason, suggest_areas
    from subpixmap.runfolder import RunFolder

    # 1. Find areas of the map that could be labelled, and areas that are labelled.
    _require_options(output, n=n, looks=looks)
    require_reason(by)
    folder = RunFolder.open(out)
    label, names = _period(folder, period), _objects(folder, objects)
    loaded = _model(folder, model)
    free, known = _areas(folder, _taught(loaded, labelled), side=side, period=label, objects=names)
    if n > len(free):
        raise InputError(
            f"--n {n}: the map of {label} has only {len(free):,} areas of {side:g} m that are observed and not "
            "labelled; reduce --n or --side"
        )
    # 2. Read a random part of both: reading all imagery would take as long as mapping.
    rng = np.random.default_rng(seed)
    some = free.take(_drawn(len(free), max(looks, 2 * n), rng))
    order = [loaded.card.object_names.index(name) for name in names]
    seen = Looks.of(folder, loaded, some, period=label, objects=order)
    some = _seen(some, seen, n, label)
    taught = Looks.of(folder, loaded, known.take(_drawn(len(known), _KNOWN, rng)), period=label, objects=order)
    # 3. Choose by disagreement, novelty and share of the total, with the reason.
    whole = np.maximum(free.mapped[:, 0].sum(axis=0), 1.0)
    mapped = some.mapped[:, 0]
    chosen = suggest_areas(
        seen.features,
        (seen.deviation / whole).sum(axis=1),
        (mapped / whole).mean(axis=1),
        n,
        known=taught.features if len(taught.features) else None,
        by=by,
    )
    table = _table(some, seen, chosen, names, mapped / whole)
    table.insert(2, "period", label)
    _write(table, output, free, folder, label)
    if not quiet:
        print(pd.DataFrame(table)[["area", "reason", "why"]].to_string(index=False))
    console.say_files([output, output.with_suffix(".png")], quiet=quiet)
    return table


def _require_options(output: Path, *, n: int, looks: int) -> None:
    if output.suffix != ".gpkg":
        raise InputError(f"{output}: the name of the file must end in .gpkg")
    if n < 1 or looks < 2:
        raise InputError(f"--n {n} and --looks {looks}: give --n 1 or more, and --looks 2 or more")
    require_place(output.parent)


def _period(folder: RunFolder, period: str | None) -> str:
    """The requested period, or the last mapped one."""
    labels = [one.label for one in folder.plan.periods]
    if period is not None and period not in labels:
        raise InputError(f"--period {period}: the run has {', '.join(labels)}")
    mapped = {label for _, label in folder.done}
    if period is None and not mapped:
        raise InputError(f"{folder.path}: nothing is mapped yet; run `subpixmap map {folder.path}` first")
    return period or [label for label in labels if label in mapped][-1]


def _objects(folder: RunFolder, asked: Sequence[str]) -> list[str]:
    there = folder.plan.objects
    if unknown := [name for name in asked if name not in there]:
        raise InputError(f"--object {unknown[0]}: the run has {', '.join(there)}")
    return [name for name in there if not asked or name in asked]


def _model(folder: RunFolder, name: str | None) -> Model:
    from subpixmap.model.checkpoint import load_model

    info = folder.plan.model
    try:
        loaded = load_model(name or info.name, known=info.sha256)
    except InputError as error:
        raise InputError(f"{error}; give the model of this run with --model FILE") from error
    if loaded.sha256 != info.sha256:
        raise Refused(
            f"model {loaded.card.name!r}, sha256 {loaded.sha256[:12]}, is not the model of this run "
            f"({info.sha256[:12]}); give that one with --model FILE"
        )
    return loaded


def _taught(model: Model, labelled: Path | None) -> list[BaseGeometry]:
    """Labelled polygons (EPSG:4326) from the model's card and from a file."""
    from subpixmap.model.land import taught_land
    from subpixmap.region.vector import read_polygons

    more = [] if labelled is None else [one for one in read_polygons(labelled).geometry if not one.is_empty]
    return [*taught_land(model.card).polygons, *more]


def _areas(
    folder: RunFolder, taught: Sequence[BaseGeometry], *, side: float, period: str, objects: Sequence[str]
) -> tuple[FrameCells, FrameCells]:
    """Observed cells of the map: those outside labelled land, and those that touch it."""
    from subpixmap.counts.blocks import read_blocks
    from subpixmap.counts.units import prepare_units
    from subpixmap.estimation.frame import cell_pixels, frame_cells, outside_of

    plan = folder.plan
    cells = frame_cells(
        read_blocks(folder),
        prepare_units(folder.units.table),
        px=cell_pixels(side, plan.recipe.resolution, option="--side"),
        periods=[period],
        objects=[plan.objects.index(name) for name in objects],
        threshold=plan.model.presence_threshold,
    )
    cells = cells.take(cells.observed_px[:, 0] >= OBSERVED * cells.px**2)
    outside = outside_of(cells, taught)
    return cells.take(outside), cells.take(~outside)


def _drawn(size: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Up to n positions drawn at random, in ascending order."""
    return np.sort(rng.permutation(size)[:n])


def _seen(cells: FrameCells, seen: Looks, n: int, period: str) -> FrameCells:
    """The cells that are clear in one acquisition; raise if fewer than requested."""
    if n > len(seen.at):
        raise InputError(
            f"--n {n}: only {len(seen.at)} candidate areas are clear in one acquisition of {period}; reduce --n, or "
            "raise --looks"
        )
    return cells.take(seen.at)


def _table(
    cells: FrameCells,
    seen: Looks,
    chosen: Suggested,
    objects: Sequence[str],
    share: NDArray[np.float64],
) -> gpd.GeoDataFrame:
    """One row per area: rank, reason (a word and a sentence), the values behind it, and the outline."""
    import geopandas as gpd

    from subpixmap.estimation.sheets import cell_outlines

    at = chosen.index
    mapped, deviation = cells.mapped[at, 0], seen.deviation[at]
    ids = np.array(cells.ids, object)[at]
    main = np.argmax(share[at], axis=1)
    columns = {
        "area": np.arange(1, len(at) + 1),
        "reason": chosen.reason,
        "why": [
            _why(reason, {name: ranks[k] for name, ranks in chosen.ranks.items()}, objects[main[k]], mapped[k, main[k]],
                 deviation[k, main[k]], share[at[k]].mean())
            for k, reason in enumerate(chosen.reason)
        ],
        "cell_id": ids,
        **{f"mapped_{name}": mapped[:, o] for o, name in enumerate(objects)},
        **{f"deviation_{name}": deviation[:, o] for o, name in enumerate(objects)},
        "share_percent": 100 * share[at].mean(axis=1),
        "distance": chosen.distance,
        **{f"rank_{name}": ranks for name, ranks in chosen.ranks.items()},
    }  # fmt: skip
    outlines = cell_outlines(ids, {epsg: grid.lattice for epsg, grid in cells.grids.items()})
    return gpd.GeoDataFrame(columns, geometry=outlines, crs=4326)


def _why(reason: str, ranks: dict[str, float], name: str, mapped: float, deviation: float, share: float) -> str:
    """The strongest reason as a sentence."""
    more = f"more than {100 * ranks[reason]:.0f} % of the candidate areas"
    return {
        "disagreement": f"the networks disagree, {more}: {name} {mapped:,.0f}, standard deviation {deviation:,.0f}",
        "distance": f"it is unlike the labelled and already chosen areas, {more}",
        "share": f"it holds {100 * share:.2g} % of the total, {more}: {name} {mapped:,.0f}",
    }[reason]


def _write(table: gpd.GeoDataFrame, output: Path, cells: FrameCells, folder: RunFolder, period: str) -> None:
    """Write the file of areas and the picture next to it, both atomically."""
    from subpixmap.estimation.sheets import write_gpkg
    from subpixmap.report.plots import plot_areas

    write_gpkg(table, output, layer=LAYER)
    per_ha = cells.mapped[:, 0].sum(axis=1) / (cells.px * folder.plan.recipe.resolution / 100) ** 2
    title = f"{len(table)} areas to label next, from the map of {period}"
    picture = io.BytesIO()
    plot_areas(table, *cells.centres(), per_ha, folder.units.table, title=title).savefig(picture, dpi=150)
    write_atomic(output.with_suffix(".png"), picture.getvalue())
