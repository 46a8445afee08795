"""Look at a run folder, at checkpoints and at regions: status, verify (and repair), models, regions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from subpixmap import runpaths
from subpixmap.errors import VerificationFailed
from subpixmap.verbs import console
from subpixmap.verbs.count import count, report, trend
from subpixmap.verbs.run import map_planned

log = logging.getLogger("subpixmap")


def status(out: Path) -> None:
    """Show how far a run is: blocks done by period, what failed and why, rate and time left."""
    from subpixmap.mapping.verify import status as status_of

    console.show_status(status_of(out))


def verify(
    out: Path, *, repair: bool = False, model: str | None = None, workers: int | None = None, quiet: bool = False
) -> None:
    """Hash everything again and raise what is damaged; with `repair`, first make it again."""
    from subpixmap.mapping import verify as checks

    result = checks.verify(out)
    if result.damaged and repair:
        if any(damage.what == runpaths.CHOICES for damage in result.damaged):
            raise VerificationFailed(
                f"{out / runpaths.CHOICES} is damaged or lost, and nothing else says which options it held: remove it, "
                "then run `subpixmap count` and `subpixmap trend` with their options again"
            )
        for damage in result.damaged:
            log.warning("repairing %s", damage)
        checks.take_back(out, result.damaged)
        map_planned(out, model=model, workers=workers, quiet=quiet)
        count(out, quiet=True)
        trend(out, quiet=True)
        report(out, quiet=True)
        result = checks.verify(out)
    result.require_sound()
    if not quiet:
        missing = f"; {result.missing} are not mapped yet" if result.missing else ""
        print(f"sound: {result.blocks} blocks x periods and {result.files} files are unchanged{missing}")


def models(names: Sequence[str] = ()) -> None:
    """Show checkpoints, the shipped ones if none is named."""
    from subpixmap.model.checkpoint import load_model, shipped_models

    for name in names or shipped_models():
        console.show_model(name, load_model(name))


def regions(country: str | None = None) -> None:
    """Show the countries that `--region` knows, or the first-level units of one."""
    from subpixmap.region import region_names

    for name in region_names(country):
        print(name)
