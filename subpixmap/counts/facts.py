"""Reads the information about a map for its tables: model, periods, items, software, units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from subpixmap.errors import InputError
from subpixmap.mapping.ledger import read_record
from subpixmap.mapping.plan import ModelInfo
from subpixmap.periods import Period
from subpixmap.runfolder import RunFolder
from subpixmap.scenes.lattices import coarse_bands, largest_pixels


@dataclass(frozen=True)
class Facts:
    """Information about the map of the rows."""

    model: ModelInfo
    """Objects, their measure, and the evidence of the model."""
    objects: tuple[str, ...]
    """In the order of the map."""
    periods: tuple[Period, ...]
    """In the order of the map."""
    resolution: float
    """Metres."""
    unlike_card: bool
    """Whether --force accepted input that does not match the model's card: another resolution, or larger pixels."""
    items_sha256: Mapping[str, str]
    """Period label -> hash of its locked items."""
    run_id: str
    software_version: str
    boundary_source: str | None = None
    boundary_version: str | None = None
    max_obs: int = 10
    """Largest number of acquisitions of a block and period."""
    assign_nearest: bool = False
    """Whether objects up to 1 km outside all units are counted in the nearest unit."""
    spread: int = 0
    """Number of networks whose counts are stored separately in the map."""
    unobserved: frozenset[str] = frozenset()
    """Labels of periods without any observed pixel; the other periods are compared without them."""

    @property
    def px_ha(self) -> float:
        """Hectares of a pixel."""
        return self.resolution**2 / 1e4

    def of_part(self, objects: Sequence[str], periods: Sequence[str]) -> Facts:
        """The facts of some objects and periods (labels), in that order.

        Raises
        ------
        InputError
            An object or period that the run does not have.
        """
        by_label = {period.label: period for period in self.periods}
        for wanted, there in ((objects, self.objects), (periods, by_label)):
            if missing := [one for one in wanted if one not in there]:
                raise InputError(
                    f"the map has {missing[0]!r}, which its run does not have; the run has {', '.join(there)}"
                )
        return replace(self, objects=tuple(objects), periods=tuple(by_label[label] for label in periods))


def read_facts(
    folder: RunFolder,
    *,
    boundary_source: str | None = None,
    boundary_version: str | None = None,
    assign_nearest: bool = False,
) -> Facts:
    """The facts of a run that is counted in units from this source."""
    plan = folder.plan
    return Facts(
        model=plan.model,
        objects=plan.objects,
        periods=plan.periods,
        resolution=plan.recipe.resolution,
        unlike_card=is_unlike_card(folder),
        items_sha256=folder.items_sha256,
        run_id=plan.run_id,
        software_version=plan.versions["subpixmap"],
        boundary_source=boundary_source,
        boundary_version=boundary_version,
        max_obs=plan.recipe.max_scenes,
        assign_nearest=assign_nearest,
        spread=plan.recipe.spread,
        unobserved=unobserved_periods(folder),
    )


def unobserved_periods(folder: RunFolder) -> frozenset[str]:
    """Labels of finished periods without any observed pixel: no acquisition, or only clouds."""
    blocks = [one.block.id for zone in folder.plan.zones.values() for one in zone.blocks]
    return frozenset(
        period.label
        for period in folder.plan.periods
        if all((block, period.label) in folder.done for block in blocks)
        and not any(
            _observed_px(folder, block, period.label) for block in blocks
        )  # stops at the first block with an observed pixel
    )


def _observed_px(folder: RunFolder, block: str, period: str) -> int:
    record = read_record(folder.path, block, period)
    return record.observed_px if record is not None else 0


def is_unlike_card(folder: RunFolder) -> bool:
    """Whether resolution, sensor, level or pixel size of a run differ from its model's card."""
    recipe, model = folder.plan.recipe, folder.plan.model
    coarse = coarse_bands(largest_pixels(folder.items, recipe.bands), model.resolution)
    here, there = ((one.resolution, one.sensor, one.level) for one in (recipe, model))
    return here != there or bool(coarse)
