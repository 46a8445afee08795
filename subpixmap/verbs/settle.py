"""A request and a region -> the items that are read, frozen once per period; what is refused or missing is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.errors import InputError
from subpixmap.periods import Period

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model
    from subpixmap.region import Region
    from subpixmap.scenes.items import Item
    from subpixmap.verbs.run import Job, Request

log = logging.getLogger("subpixmap")


def ask_items(
    request: Request, region: Region, models: Sequence[Model]
) -> tuple[Model, list[Item], tuple[str, ...], dict[str, str]]:
    """The model that the items fit, the frozen items of all periods, periods that were asked for, refused items.

    Only periods that the folder does not have, or that are refreshed, ask the catalogue.
    """
    from subpixmap.mapping.plan import read_plan
    from subpixmap.scenes.cube import common_bands
    from subpixmap.scenes.fallback import lock_sources
    from subpixmap.scenes.items import read_lock, read_notes
    from subpixmap.scenes.source import find_by_source, preferred

    new, known, noted = request.periods(), [], {}
    if (request.folder / "plan.json").is_file():
        planned = read_plan(request.folder)
        models = [model for model in models if model.sha256 == planned.recipe.model_sha256] or models
        have = [p for p in planned.periods if p.label not in request.refresh]
        new = [p for p in new if not any(p.start <= q.start <= p.end for q in have)]
        labels = {p.label for p in new}
        known = [item for item in read_lock(request.folder / "items.parquet") if item.period not in labels]
        noted = read_notes(request.folder / "items.parquet").get("refused", {})
    by_source = find_by_source(request.source, region.geometry, new, collection=request.collection) if new else {}
    found = preferred(by_source)
    if not found and not known:
        raise InputError(f"no item of {', '.join(request.source)} touches region {region.name} in {request.years}")
    model = models[0]
    if len(models) > 1:
        offered = set(common_bands(found, least=0.5))  # a single item that lacks a band is refused, not followed
        model = next((one for one in models if offered >= set(one.card.bands)), model)
    refused: dict[str, str] = {}
    locked = lock_sources(
        by_source,
        new,
        model.card.bands,
        offset_rule=request.offset_rule,
        refused=refused,
        allow_partial=request.allow_partial,
    )
    asked_again = {str(item.get("id")) for items in by_source.values() for item in items}
    noted = {name: why for name, why in noted.items() if name not in asked_again}
    return model, known + locked, tuple(p.label for p in new), dict(sorted((noted | refused).items()))


def known_periods(request: Request) -> list[Period]:
    """Periods of the request, and those that its folder has."""
    from subpixmap.mapping.plan import read_plan

    found = {period.label: period for period in request.periods()}
    if request.every != "scene" and (request.folder / "plan.json").is_file():
        found |= {period.label: period for period in read_plan(request.folder).periods}
    return list(found.values())


def made_from_other_items(out: Path, items: Sequence[Item], labels: Sequence[str]) -> list[Path]:
    """Ledger records of blocks of these periods that were made from other items."""
    from subpixmap.mapping.ledger import read_records, record_path
    from subpixmap.scenes.items import items_sha256

    digests = {label: items_sha256(item for item in items if item.period == label) for label in labels}
    return [
        record_path(out, *key)
        for key, record in (read_records(out).items() if digests else ())
        if digests.get(record.period, record.items_sha256) != record.items_sha256
    ]


def log_lock(job: Job) -> None:
    """What was asked for, refused and not found, into the log."""
    if job.asked:
        lacks = job.lacks.lines() if job.lacks else {}
        log.info("locked", extra={"periods": list(job.asked), "refused": len(job.refused)} | lacks)
        for name, why in job.refused.items():
            log.warning("item refused", extra={"item": name, "reason": why})
