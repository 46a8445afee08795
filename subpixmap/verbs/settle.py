"""From a request to a job: region, locked items per period, model, plan, and refused or missing items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from subpixmap import runpaths
from subpixmap.errors import InputError, Refused
from subpixmap.files import require_place
from subpixmap.mapping.cluster import require_scheduler
from subpixmap.periods import Period, last_whole, make_periods, over_new_year, parse_months, parse_years
from subpixmap.simulate import demo
from subpixmap.verbs.job import Job
from subpixmap.verbs.request import Request

if TYPE_CHECKING:
    from subpixmap.mapping.plan import Plan
    from subpixmap.mapping.recipe import MappedBy
    from subpixmap.model.backends import Arithmetic
    from subpixmap.model.card import Card
    from subpixmap.model.checkpoint import Model
    from subpixmap.region.resolve import Region
    from subpixmap.scenes.clouds import MaskRule
    from subpixmap.scenes.items import Item
    from subpixmap.scenes.radiometry import Missing

DEFAULT_MODELS = ("demo-s2-v2", "demo-rgbn-v2", "demo-s2", "demo-rgbn")
"""The first one whose bands the items have is used; a folder started with one of the last two keeps it."""


def settle(request: Request) -> Job:
    """Decide region, model, items and plan; does not write files."""
    from subpixmap.mapping.plan import make_plan
    from subpixmap.scenes.completeness import completeness
    from subpixmap.scenes.hrefs import redact
    from subpixmap.scenes.source import anchored

    new_units = request.names_units
    require_place(request.folder)
    if request.scheduler is not None:
        require_scheduler(request.scheduler)
    request = _with_model(request)
    _require_names(request)  # before torch is loaded or a country is simulated
    if request.is_demo:
        request = _demo(request)
    region = _region(request)
    models = _load_models(request)
    for model in models:
        _require_like_card(request, model)
    model, items, asked, refused = ask_items(request, region, models)
    _require_clear(request, items)
    _require_like_card(request, model, items)
    made = make_plan(
        region,
        periods_of(request),
        items,
        model,
        block=request.block,
        resolution=request.resolution,
        max_scenes=request.max_scenes,
        min_obs=request.min_obs,
        max_cloud=request.max_cloud,
        mask=_mask(request, model.card),
        every=request.every,
        months=parse_months(request.months),
        objects=request.objects or None,
        sources=[redact(anchored(source)) for source in request.sources] if asked else (),
        arithmetic=_arithmetic(request),
        forced=request.force,
        missing=_missing(request),
        spread=request.spread,
        mapped_by=_mapped_by(request),
    )
    _require_own_blocks(request, made)
    lacks = completeness(items, region.geometry, known_periods(request))
    notes = _other_source(request, asked) + _without_version(items)
    return Job(request.folder, made, items, model, region, new_units, asked, refused, lacks, notes)


def _region(request: Request) -> Region:
    from subpixmap.region.resolve import resolve_region

    return resolve_region(
        request.region,
        admin=request.admin,
        id_column=request.id_column,
        name_column=request.name_column,
        parent_column=request.parent_column,
        layer=request.layer,
        encoding=request.encoding,
    )


def ask_items(
    request: Request, region: Region, models: Sequence[Model]
) -> tuple[Model, list[Item], tuple[str, ...], dict[str, str]]:
    """The model that fits the items, the locked items of all periods, the searched periods, and the refused items.

    Only new and refreshed periods are searched in the catalogue.
    """
    from subpixmap.mapping.plan import read_plan
    from subpixmap.scenes.fallback import lock_sources
    from subpixmap.scenes.hrefs import redact
    from subpixmap.scenes.items import read_lock, read_notes
    from subpixmap.scenes.source import common_bands, find_by_source, preferred, with_signatures

    new, kept, noted = periods_of(request), [], {}
    if (request.folder / runpaths.PLAN).is_file():
        planned = read_plan(request.folder)
        _require_season(request, planned)
        models = [model for model in models if model.sha256 == planned.recipe.model_sha256] or models
        have = [p for p in planned.periods if p.label not in request.refresh]
        new = [p for p in new if not any(p.start <= q.start <= p.end for q in have)]
        labels = {p.label for p in new}
        kept = [item for item in read_lock(request.folder / runpaths.ITEMS) if item.period not in labels]
        _require_offsets(request, kept)
        kept = with_signatures(kept, request.sources, region.geometry, planned.periods, collection=request.collection)
        noted = read_notes(request.folder / runpaths.ITEMS).get("refused", {})
    asks: dict[str, Any] = {"collection": request.collection, "level": request.level}
    by_source = find_by_source(request.sources, region.geometry, new, **asks) if new else {}
    candidates = preferred(by_source)
    if not candidates and not kept:
        when = f"--years {request.years}" + (f" with --months {request.months}" if request.months else "")
        raise InputError(
            f"no item of {', '.join(map(redact, request.sources))} touches region {region.name} in {when}; choose "
            "other years or months, or another --source"
        )
    model = models[0]
    if len(models) > 1 and candidates:
        offered = set(common_bands(candidates, least=0.5))  # one item without a band must not decide
        model = next((one for one in models if offered >= set(one.card.bands)), model)
    refused: dict[str, str] = {}
    locked = lock_sources(
        by_source,
        new,
        model.card.bands,
        offset_rule=request.offset_rule,
        level=request.level,
        refused=refused,
        allow_partial=request.allow_partial,
    )
    asked_again = {str(item.get("id")) for items in by_source.values() for item in items}
    noted = {name: why for name, why in noted.items() if name not in asked_again}
    return model, kept + locked, tuple(p.label for p in new), dict(sorted((noted | refused).items()))


def _other_source(request: Request, asked: Sequence[str]) -> tuple[str, ...]:
    """A note about a given source that is not searched, because the folder already has the items of some periods."""
    from subpixmap.mapping.plan import read_plan
    from subpixmap.scenes.hrefs import redact
    from subpixmap.scenes.source import anchored

    if not request.source or not (request.folder / runpaths.PLAN).is_file():
        return ()
    planned = read_plan(request.folder)
    other = [source for source in request.source if redact(anchored(source)) not in planned.sources]
    kept = [period.label for period in planned.periods if period.label not in asked]
    if not other or not kept:
        return ()
    again = " ".join(f"--refresh {label}" for label in kept[:3]) + (" ..." if len(kept) > 3 else "")
    told = "" if request.every == "scene" else f"; add {again} to search again"
    return (
        f"--source {' '.join(map(redact, other))} is not searched for {', '.join(kept[:3])}"
        f"{' ...' if len(kept) > 3 else ''}: their items are already locked from {', '.join(planned.sources)}{told}",
    )


def _without_version(items: Sequence[Item]) -> tuple[str, ...]:
    """A note about locked files without a recorded version."""
    from subpixmap.scenes.hrefs import redact

    assets = [asset for item in items for asset in item.assets.values()]
    unknown = [asset.href for asset in assets if asset.pin is None]
    if not unknown:
        return ()
    return (
        f"{len(unknown):,} of {len(assets):,} files have no recorded version, such as {redact(unknown[0])}: a change "
        "of these files between two runs cannot be detected; use --refresh to get the versions from the servers",
    )


def _missing(request: Request) -> Missing:
    """The rule for missing pixels: as in the folder, if there is one."""
    from subpixmap.mapping.plan import read_plan

    there = (request.folder / runpaths.PLAN).is_file()
    return read_plan(request.folder).recipe.missing if there else "stated"


def _mapped_by(request: Request) -> MappedBy:
    """What is computed near the region: as in the folder, if there is one."""
    from subpixmap.mapping.plan import read_plan

    there = (request.folder / runpaths.PLAN).is_file()
    return read_plan(request.folder).recipe.mapped_by if there else "cell"


def _require_own_blocks(request: Request, plan: Plan) -> None:
    """Refuse a folder that lost its plan.json and holds blocks of another recipe: they would all be mapped again."""
    from subpixmap.mapping.ledger import read_records

    if (request.folder / runpaths.PLAN).is_file():
        return
    if (records := read_records(request.folder)) and all(one.run_id != plan.run_id for one in records.values()):
        raise Refused(
            f"{request.folder / runpaths.PLAN} is missing, and the {len(records)} finished blocks of the folder have "
            "other settings than this command: restore plan.json from another copy, or use another --out"
        )


def _require_like_card(request: Request, model: Model, items: Sequence[Item] = ()) -> None:
    """Refuse a level, resolution or pixel size that does not match the model's card."""
    from subpixmap.model.predict import check_input
    from subpixmap.scenes.lattices import largest_pixels

    bands = model.card.bands
    pixels = largest_pixels(items, bands)
    check_input(
        model.card,
        bands=bands,
        resolution=request.resolution,
        pixels=pixels,
        level=request.level,
        force=request.force,
    )


def _require_season(request: Request, planned: Plan) -> None:
    """Refuse `--months 11-2` in a folder of an earlier version, which used both ends of a calendar year."""
    old, new = planned.recipe.months, parse_months(request.months)
    if over_new_year(new) and old == tuple(sorted(new)):
        months = ",".join(map(str, old))
        raise Refused(
            f"{request.folder} holds calendar years with the months {months}, but --months {request.months} is a "
            f"season across the turn of the year. Write --months {months} to continue the folder, or use another --out"
        )


def _require_offsets(request: Request, kept: Sequence[Item]) -> None:
    """Refuse an offset rule that the locked items contradict; it applies to newly searched items only."""
    wanted = {"subtract": -1000, "none": 0}.get(request.offset_rule)
    if other := [item for item in kept if wanted is not None and item.offset_dn != wanted]:
        first = other[0]
        raise Refused(
            f"--offset-rule {request.offset_rule}: {len(other)} items of {request.folder} are locked with another "
            f"offset ({first.id}: {first.offset_dn}, {first.offset_reason}); leave the option out, or add --refresh "
            f"{first.period} to decide again"
        )


def _require_clear(request: Request, items: Sequence[Item]) -> None:
    """Refuse a cloud limit that leaves no item at all; periods that it empties are shown with the plan."""
    from subpixmap.mapping.footprints import is_usable

    if items and not any(is_usable(item, request.max_cloud) for item in items):
        least = min(items, key=lambda item: item.cloud_cover or 0)
        raise InputError(
            f"--max-cloud {request.max_cloud:g} leaves none of {len(items)} items: the clearest, {least.id}, has "
            f"{least.cloud_cover:g} % clouds; raise the limit, or leave the option out (clouds are masked pixel by "
            "pixel anyway)"
        )


def periods_of(request: Request) -> list[Period]:
    """Periods of the request; seasons that last the whole year in the folder still do."""
    from subpixmap.mapping.plan import read_plan

    there = read_plan(request.folder).periods if (request.folder / runpaths.PLAN).is_file() else ()
    return make_periods(request.years, request.every, parse_months(request.months), whole=last_whole(there))


def known_periods(request: Request) -> list[Period]:
    """Periods of the request and of its folder."""
    from subpixmap.mapping.plan import read_plan

    by_label = {period.label: period for period in periods_of(request)}
    if request.every != "scene" and (request.folder / runpaths.PLAN).is_file():
        by_label |= {period.label: period for period in read_plan(request.folder).periods}
    return list(by_label.values())


def _demo(request: Request) -> Request:
    """The request with the demo country in place of the word `demo`."""
    country = demo.demo_country(parse_years(request.years), quiet=request.quiet)
    return replace(
        request,
        region=str(country / "region.geojson"),
        out=request.folder,
        source=(str(country / "catalog.json"),),
        admin=request.admin or country / "admin.parquet",
    )


def _with_model(request: Request) -> Request:
    """The request with a model at a URL replaced by its cached file; a folder keeps its own model."""
    from subpixmap.mapping.plan import read_plan
    from subpixmap.model.travel import local_copy

    if request.model is None:
        return request
    there = (request.folder / runpaths.PLAN).is_file()
    known = read_plan(request.folder).recipe.model_sha256 if there else None
    return replace(request, model=str(local_copy(request.model, known=known)))


def _require_names(request: Request) -> None:
    """Refuse a model, an object or a file of units that does not exist."""
    from subpixmap.model.card import read_stored
    from subpixmap.region.geoboundaries import is_geoboundaries
    from subpixmap.region.resolve import given_units

    cards = [read_stored(name).card for name in _model_names(request)]
    if request.spread:
        cards[0].members_apart()
    for name in request.objects:
        if not any(name in card.objects for card in cards):
            counted = ", ".join(dict.fromkeys(one for card in cards for one in card.objects))
            raise InputError(f"--object {name!r} is unknown to model {cards[0].name!r}; it counts {counted}")
    for card in cards:
        _mask(request, card)
    if request.is_demo and request.admin and not is_geoboundaries(request.admin):
        columns = {name: getattr(request, name) for name in ("id_column", "name_column", "parent_column")}
        given_units(request.admin, **columns, layer=request.layer, encoding=request.encoding)


def _model_names(request: Request) -> Sequence[str]:
    """The requested model, or the default models in order of preference."""
    return DEFAULT_MODELS if request.model is None else (request.model,)


def _mask(request: Request, card: Card) -> MaskRule:
    """The cloud mask: as in the model's card or as requested; refused if it cannot be made."""
    from subpixmap.mapping.plan import chosen_objects
    from subpixmap.model.clouds import require_network
    from subpixmap.scenes.clouds import MaskRule

    rule = MaskRule.stated(card.mask, chosen_objects(card, request.objects))
    rule = replace(rule, by=request.mask or rule.by)
    require_network(card.bands, rule, request.level)
    return rule


def _load_models(request: Request) -> list[Model]:
    from subpixmap.model.checkpoint import load_model

    return [load_model(name) for name in _model_names(request)]


def _arithmetic(request: Request) -> Arithmetic:
    """Device, backend and precision: as requested, else as in the folder."""
    import torch

    from subpixmap.mapping.plan import read_plan
    from subpixmap.model.backends import Arithmetic, require_here

    asked = {"backend": request.backend, "precision": request.precision}
    device = request.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and request.backend != "openvino" else "cpu"
    if (request.folder / runpaths.PLAN).is_file():
        recipe = read_plan(request.folder).recipe
        there = recipe.arithmetic
        require_here(recipe.numerics)
        if device == there.device and all(value in (None, getattr(there, name)) for name, value in asked.items()):
            return there
        asked = {name: value or getattr(there, name) for name, value in asked.items()}
    return Arithmetic.chosen(**asked, device=device)  # type: ignore[arg-type]
