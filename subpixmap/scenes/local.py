"""STAC items of this machine: an ItemCollection, a static catalogue, a stac-geoparquet, or a folder of L2A products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from subpixmap.errors import InputError
from subpixmap.scenes.static import read_static


def read_local(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Items with the file that each was read from (relative hrefs start there).

    Raises
    ------
    InputError
        The path holds no STAC.
    """
    if path.suffix == ".SAFE" or (path.is_dir() and any(path.glob("*.SAFE"))):
        from subpixmap.scenes.safe import read_safe

        products = [path] if path.suffix == ".SAFE" else sorted(path.glob("*.SAFE"))
        return ((read_safe(product), str(product / "item.json")) for product in products)
    if path.is_dir():
        found = [path / name for name in ("catalog.json", "collection.json") if (path / name).exists()]
        if not found:
            raise InputError(
                f"source {path} is a folder without catalog.json or .SAFE products: it is no STAC catalogue"
            )
        path = found[0]
    if path.suffix in (".parquet", ".geoparquet"):
        return ((item, str(path)) for item in _read_geoparquet(path))
    return read_static(os.path.abspath(path))


def _read_geoparquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet
    import stac_geoparquet.arrow as stac_arrow

    try:
        return [_without_none(item) for item in stac_arrow.stac_table_to_items(pyarrow.parquet.read_table(path))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"source {path} is no stac-geoparquet ({error})") from None


def _without_none(value: Any) -> Any:
    """A table gives every item all fields; those that an item did not have are None there."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
