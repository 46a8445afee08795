"""Estimates of a whole country: 1,647 units in six periods, from a sample of 3,000 cells."""

import json
import resource
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subpixmap.estimation.results import estimate_all
from subpixmap.estimation.sheets import DrawnSample
from subpixmap.estimation.strata import FAR

UNITS, PARENTS, PERIODS, CELLS = 1560, 87, [str(year) for year in range(2018, 2024)], 3000
STRATA = [FAR, "predicted, class 1 of 3", "predicted, class 2 of 3", "predicted, class 3 of 3"]


def country(rng: np.random.Generator) -> tuple[DrawnSample, pd.DataFrame, pd.DataFrame]:
    """A sample, its labels and the counts, without a map."""
    ids = [f"p{i}" for i in range(PARENTS)] + [f"u{i}" for i in range(UNITS)]
    parent: list[Any] = [None] * PARENTS + [f"p{i % PARENTS}" for i in range(UNITS)]
    stratum = np.repeat(np.arange(4), CELLS // 4)
    unit = rng.integers(UNITS, size=CELLS)
    held = [json.dumps([f"p{one % PARENTS}", f"u{one}"]) for one in unit]
    size = 20_000
    cells = pd.DataFrame(
        {
            "cell_id": [f"32651-p10-r{i:06d}-c000000" for i in range(CELLS)],
            "units": held,
            "stratum": stratum,
            "segment": np.arange(CELLS) // 2,
            "segment_cells": size,
            "object": "coconut",
        }
    )
    mean = rng.gamma(1.0, 5.0 * stratum)
    parts: list[pd.DataFrame] = []
    labels: list[pd.DataFrame] = []
    frames: list[pd.DataFrame] = []
    share = rng.dirichlet(np.ones(UNITS), 4)
    for period in PERIODS:
        mapped = mean * rng.uniform(0.8, 1.2, CELLS)
        parts.append(cells.assign(period=period, mapped=mapped))
        counted = rng.poisson(mapped).astype(float)
        labels.append(parts[-1][["cell_id", "period", "object"]].assign(n_objects=counted))
        for h in range(4):
            number = np.maximum(share[h] * size * CELLS / 8, 1).astype(int)
            low = pd.DataFrame({"unit_id": ids[PARENTS:], "cells": number, "mapped": number * 5.0 * h})
            high = (
                low.assign(unit_id=np.array(parent[PARENTS:]))
                .groupby("unit_id", as_index=False)[["cells", "mapped"]]
                .sum()
            )
            whole = pd.DataFrame({"unit_id": ["REGION"], "cells": low.cells.sum(), "mapped": low.mapped.sum()})
            frames.append(pd.concat([whole, high, low]).assign(stratum=h, period=period, object="coconut"))
    frame = pd.concat(frames, ignore_index=True)
    frame["counted"] = frame["mapped"]
    record = {"strata": [{"stratum": name, "unit_id": None, "mapped": True} for name in STRATA]}
    totals = frame.groupby(["unit_id", "period"])["mapped"].sum()
    rows = [(one, one, up, "coconut", period, totals[one, period]) for one, up in zip(ids, parent, strict=True)
            for period in PERIODS]  # fmt: skip
    counts = pd.DataFrame(rows, columns=["unit_id", "unit_name", "parent_id", "object", "period", "map_total"])
    return DrawnSample(record, pd.concat(parts, ignore_index=True), frame), pd.concat(labels), counts


@pytest.mark.slow
def test_a_country_is_estimated_in_a_minute_and_a_gigabyte() -> None:
    sample, labels, counts = country(np.random.default_rng(0))
    started = time.process_time()
    table = estimate_all(sample, labels, counts)
    seconds, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{UNITS + PARENTS} units x {len(PERIODS)} periods: {len(table)} rows, {seconds:.1f} s, {peak:.2f} GB")
    assert (table[table.unit_id == "REGION"].n_ref == CELLS).all()
    assert peak < 1
