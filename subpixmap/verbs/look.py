"""Inspect run folders, checkpoints and regions: status, verify (and repair), models, regions.

They run within a second, so each imports what it needs when called.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap import runpaths
from subpixmap.errors import VerificationFailed

if TYPE_CHECKING:
    from subpixmap.mapping.verify import Damage

log = logging.getLogger("subpixmap")


def status(out: Path) -> None:
    """Show the progress of a run: blocks done per period, failures with reasons, rate and time left."""
    from subpixmap.mapping.verify import status as status_of
    from subpixmap.verbs import console

    console.show_status(status_of(out))


def verify(
    out: Path, *, repair: bool = False, model: str | None = None, workers: int | None = None, quiet: bool = False
) -> None:
    """Check all files against their hashes and raise if any is damaged; `repair` restores them first."""
    from subpixmap.mapping import verify as checks
    from subpixmap.verbs.job import hold

    result = checks.verify(out)
    if result.damaged and repair:
        with hold(out):
            result = checks.verify(out)  # check again: another process may have repaired it before we locked the folder
            _repair(out, result.damaged, model=model, workers=workers, quiet=quiet)
            result = checks.verify(out)
    result.require_sound()
    if not quiet:
        missing = f"; {result.missing} are not mapped yet" if result.missing else ""
        print(f"all checks passed: {result.blocks} blocks x periods and {result.files} files are unchanged{missing}")


def _repair(out: Path, damaged: Sequence[Damage], *, model: str | None, workers: int | None, quiet: bool) -> None:
    """Map damaged blocks again, and rewrite the tables and the report."""
    from subpixmap.mapping.verify import take_back
    from subpixmap.verbs.count import count, report, trend
    from subpixmap.verbs.run import map_planned

    if any(one.what == runpaths.CHOICES for one in damaged):
        raise VerificationFailed(
            f"{out / runpaths.CHOICES} is damaged or lost and cannot be restored: remove it, then run `subpixmap "
            "count` and `subpixmap trend` with your options again"
        )
    for one in damaged:
        log.warning("repairing %s", one)
    take_back(out, damaged)
    map_planned(out, model=model, workers=workers, quiet=quiet)
    count(out, quiet=True)
    trend(out, quiet=True)
    report(out, quiet=True)


def models(names: Sequence[str] = ()) -> None:
    """Show checkpoints, the shipped ones if none is named."""
    from subpixmap.model.card import read_stored, shipped_models
    from subpixmap.model.travel import local_copy
    from subpixmap.verbs import console

    for name in names or shipped_models():
        console.show_checkpoint(name, read_stored(local_copy(name)))


def regions(country: str | None = None) -> None:
    """Show the countries that `--region` accepts, or the first-level units of one, with their codes."""
    from subpixmap.region.names import region_codes

    found = region_codes(country)
    width = max(map(len, found), default=0)
    for name, place in found.items():
        print(f"{name:<{width}}  {place.code}" + ("" if name.endswith(place.name) else f"  {place.name}"))
