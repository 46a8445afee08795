"""The products of one scene -> those to read: of the newest processing baseline all parts into which it was cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from subpixmap.periods import Period
from subpixmap.scenes import dialect


class Product(NamedTuple):
    """One product of a scene; where several have data, the greatest counts."""

    baseline: str
    id: str
    raw: dict[str, Any]
    period: Period

    @property
    def name(self) -> str:
        """The product's own name, which catalogues share, or the item's."""
        return str(dialect.properties(self.raw).get("s2:product_uri") or self.id).removesuffix(".SAFE")


def newest(products: Sequence[Product]) -> list[Product]:
    """The products of the newest baseline, each once: where a datastrip ends, a scene is cut into two products.

    They are read in this order, and a later one only where the earlier ones have no data: the same scene twice costs
    nothing.
    """
    newest = max(product.baseline for product in products)
    by_name: dict[str, Product] = {}
    for product in sorted((one for one in products if one.baseline == newest), key=lambda one: one.id, reverse=True):
        by_name.setdefault(product.name, product)
    return list(by_name.values())
