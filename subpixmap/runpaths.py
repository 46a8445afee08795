"""Names of all files and folders of a run folder, defined only here.

In: nothing. Out: names relative to the run folder OUT, used as `out / runpaths.PLAN`. They work on a disk and in an
object store.
"""

from __future__ import annotations

PLAN = "plan.json"
"""The recipe and its id, region, periods, grid, blocks, model, versions."""
ITEMS = "items.parquet"
"""The locked items."""
MAP = "map.zarr"
"""Zarr v3, one group per UTM zone, named by its EPSG code."""
LEDGER = "ledger"
"""One record per block and period."""
UNITS = "units.parquet"
"""The units of the counts, with the source and version of their boundaries."""

COUNTS_CSV = "counts.csv"
COUNTS_PARQUET = "counts.parquet"
"""A row per unit, object and period."""
SERIES_PARQUET = "series.parquet"
"""Values comparable between periods."""
ACCOUNTS = "accounts.json"
"""Counts outside the units, and checks that all sums agree."""
TREND_CSV = "trend.csv"
TREND_PARQUET = "trend.parquet"
"""A row per unit and object."""
CHANGES_CSV = "changes.csv"
ESTIMATES_CSV = "estimates.csv"
TABLES = "tables.json"
"""The meaning of every column of every table."""
SAMPLE = "sample"
"""Designs and labelled samples."""
SAMPLE_DESIGN = "sample/design.json"
"""The design of the sample: seed, strata, sizes of the frame, and its map."""
SAMPLE_CELLS = "sample/cells.parquet"
"""The drawn cells with their map values. Interpreters must not see it."""
SAMPLE_FRAME = "sample/frame.parquet"
"""Cells and map totals of the whole frame, by unit, stratum, period and object."""
SAMPLE_SHEET = "sample/cells.gpkg"
SAMPLE_CSV = "sample/cells.csv"
SAMPLE_KML = "sample/cells.kml"
"""The drawn cells, ready to be labelled."""
SAMPLE_LABELLED = "sample/labelled.parquet"
"""Labelled cells, checked."""
SAMPLE_IMPORT = "sample/labelled.json"
"""The record of the import: file, blank rows, agreement of interpreters."""
SAMPLE_RULES = "sample/estimate.json"
"""Options of `estimate`, used again after a new count."""

REPORT = "report.html"
MANIFEST = "manifest.json"
"""Hashes of all other files, written last."""
LOG = "run.log"
LOCK = "run.lock"
"""The owner of the folder while a run is live."""
CHOICES = "choices.json"
"""Options of `count` and `trend` that later recounts keep; absent where they are the defaults."""
EXPORT = "export"
"""Default folder of `export`."""

COUNTED = (COUNTS_CSV, COUNTS_PARQUET, SERIES_PARQUET, ACCOUNTS, TABLES, CHOICES)
"""Files of `count`, except given units."""
TRENDED = (TREND_CSV, TREND_PARQUET, CHANGES_CSV, TABLES, CHOICES)
"""What `trend` writes."""
SAMPLED = (SAMPLE_DESIGN, SAMPLE_CELLS, SAMPLE_FRAME, SAMPLE_LABELLED, SAMPLE_IMPORT)
"""Inputs of estimates, except counts; the sheets of a sample are edited by users."""
EXPORTED = (ITEMS, UNITS, COUNTS_PARQUET, TREND_PARQUET, CHANGES_CSV, MAP)
"""Inputs of exports, except plan and ledger."""
LISTED = (PLAN, ITEMS, UNITS, *COUNTED, TREND_CSV, TREND_PARQUET, CHANGES_CSV, ESTIMATES_CSV, REPORT)
"""Files listed in the manifest, with those of SAMPLE and the metadata of MAP; others belong to users."""


def record_name(block_id: str, period: str) -> str:
    """File of a block's ledger record, in LEDGER; the time of a scene loses its colons."""
    return f"{block_id}_{period.replace(':', '')}.json"


def failure_name(block_id: str, period: str) -> str:
    """File in LEDGER with the reason of a failed block; removed when the block is recorded."""
    return f"{block_id}_{period.replace(':', '')}.failed"


def shards_name(block_id: str, period: str) -> str:
    """File in LEDGER: hashes of shards checked by a count, for a record of an earlier version."""
    return f"{block_id}_{period.replace(':', '')}.shards"
