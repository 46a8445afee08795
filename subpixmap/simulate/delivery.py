"""How an acquisition is delivered: which items of it exist, with which baseline, and what was done to the offset.

ESA adds 1000 to every digital number from baseline 04.00 on. Earth Search has taken it away again from most items, and
says so in a flag; the Planetary Computer serves what ESA delivers. Reprocessed scenes have a new baseline, whatever
their date.
"""

from __future__ import annotations

from dataclasses import dataclass

from subpixmap.simulate.sensor import Acquisition

DIALECTS = ("earth-search", "planetary-computer")
REPROCESSED = "05.00"
OFFSET = 1000
"""Number that ESA adds to digital numbers since baseline 04.00."""


@dataclass(frozen=True)
class Delivery:
    """One item per tile of an acquisition."""

    acquisition: int
    """Index into the schedule."""
    baseline: str
    sequence: int
    """0, or 1 for the reprocessed version of the same scene."""
    offset_dn: int
    """Number that was added to 10000 x reflectance: 0 or 1000."""
    harmonised: bool
    """Whether the catalogue took ESA's offset away (Earth Search's `boa_offset_applied`)."""

    @property
    def has_offset(self) -> bool:
        """Whether ESA adds an offset at this baseline."""
        return self.baseline >= "04.00"


def deliveries(dates: list[Acquisition], dialect: str) -> list[Delivery]:
    """All deliveries in time order.

    The second acquisition, if from before 2022, is delivered twice: as it was, and reprocessed with the offset in its
    digital numbers. In the Earth Search dialect the first acquisition with the offset keeps it, flagged as such.
    """
    sent = []
    kept_offset = False
    for number, date in enumerate(dates):
        offset = date.baseline >= "04.00"
        harmonised = offset and dialect == "earth-search"
        if harmonised and not kept_offset:
            harmonised, kept_offset = False, True
        sent.append(Delivery(number, date.baseline, 0, OFFSET if offset and not harmonised else 0, harmonised))
        if number == 1 and not offset:
            sent.append(Delivery(number, REPROCESSED, 1, OFFSET, False))
    return sent
