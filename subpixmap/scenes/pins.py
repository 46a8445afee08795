"""Versions of files: size, ETag and time of change. Imagery that has changed is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from subpixmap.errors import Refused
from subpixmap.scenes.hrefs import redact


class Changed(Refused):
    """A file has changed since it was recorded; results of both versions must not mix."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A version of a file; unknown fields are None."""

    size: int | None = None
    """Bytes."""
    etag: str | None = None
    """Size or ETag as stated by its server."""
    modified: str | None = None
    """Time of change as stated by its server, or ISO 8601 with nanoseconds for a local file."""

    def to_json(self) -> dict[str, Any]:
        """The known fields as plain values; `from_json` reads them."""
        return {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Pin:
        """The pin of `to_json`."""
        return cls(**{name: raw.get(name) for name in _FIELDS})

    def difference(self, now: Pin) -> str:
        """The difference between two versions in words; empty if all fields known in both agree."""
        for name, words in (("size", "size"), ("etag", "ETag"), ("modified", "time of change")):
            before, after = getattr(self, name), getattr(now, name)
            if None not in (before, after) and before != after:
                return f"its {words} was {before} and is {after}"
        return ""


_FIELDS = tuple(field.name for field in fields(Pin))


def require_unchanged(href: str, before: Pin | None, now: Pin | None) -> None:
    """Refuse a file that differs from its recorded version (pin); without a pin, accept it.

    Raises
    ------
    Changed
        The message names the file, what differs, and what to do.
    """
    if before is not None and now is not None and (why := before.difference(now)):
        raise Changed(
            f"{redact(href)} has changed since its version was recorded: {why}; restore the file, or map its period "
            "again with --refresh"
        )
