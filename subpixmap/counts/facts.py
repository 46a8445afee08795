"""A run folder -> what every row of its tables says about the map: model, periods, items, software, units."""

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
    """What the rows say about the map they come from."""

    model: ModelInfo
    """What is counted, how it is measured, and what the model has been measured on."""
    objects: tuple[str, ...]
    """In the order of the map."""
    periods: tuple[Period, ...]
    """In the order of the map."""
    resolution: float
    """Metres."""
    unlike_card: bool
    """The input was unlike the model's card, and forced: another resolution, or files with larger pixels."""
    items_sha256: Mapping[str, str]
    """Period label -> hash of its locked items."""
    run_id: str
    software_version: str
    boundary_source: str | None = None
    boundary_version: str | None = None
    max_obs: int = 10
    """Most acquisitions of a block and period."""
    assign_nearest: bool = False
    """What lies outside all units, within 1 km of one, is counted in the nearest."""
    spread: int = 0
    """Networks whose counts the map keeps apart."""
    unobserved: frozenset[str] = frozenset()
    """Labels of periods in which the whole map observed nothing: the other periods are compared without them."""

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
                raise InputError(f"the map holds {missing[0]!r}, and its run does not; it has {', '.join(there)}")
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
    """Labels of the periods that are done and in which no block observed a pixel: no acquisition, or clouds alone."""
    blocks = [one.block.id for zone in folder.plan.zones.values() for one in zone.blocks]
    return frozenset(
        period.label
        for period in folder.plan.periods
        if all((block, period.label) in folder.done for block in blocks)
        and not any(_observed_px(folder, block, period.label) for block in blocks)  # stops at the first that saw any
    )


def _observed_px(folder: RunFolder, block: str, period: str) -> int:
    record = read_record(folder.path, block, period)
    return record.observed_px if record is not None else 0


def is_unlike_card(folder: RunFolder) -> bool:
    """Whether resolution, sensor or level of a run, or the pixels of its files, are not those of its model's card."""
    recipe, model = folder.plan.recipe, folder.plan.model
    coarse = coarse_bands(largest_pixels(folder.items, recipe.bands), model.resolution)
    here, there = ((one.resolution, one.sensor, one.level) for one in (recipe, model))
    return here != there or bool(coarse)
