"""The files and folders of a run folder: every name is spelled here, and nowhere else.

In: nothing. Out: names relative to the run folder OUT, used as `out / runpaths.PLAN`. They work on a disk and in an
object store.
"""

from __future__ import annotations

PLAN = "plan.json"
"""The recipe and its id, region, periods, grid, blocks, model, versions."""
ITEMS = "items.parquet"
"""The lock: the items that are read."""
MAP = "map.zarr"
"""Zarr v3, one group per UTM zone, named by its EPSG code."""
LEDGER = "ledger"
"""One record per block and period."""
UNITS = "units.parquet"
"""The units that are counted in, with the source and version of their boundaries."""

COUNTS_CSV = "counts.csv"
COUNTS_PARQUET = "counts.parquet"
"""A row per unit, object and period."""
SERIES_PARQUET = "series.parquet"
"""What may be compared over the periods."""
ACCOUNTS = "accounts.json"
"""What lies outside the units, and whether all adds up."""
TREND_CSV = "trend.csv"
TREND_PARQUET = "trend.parquet"
"""A row per unit and object."""
CHANGES_CSV = "changes.csv"
ESTIMATES_CSV = "estimates.csv"
TABLES = "tables.json"
"""What every column of every table means."""
SAMPLE = "sample"
"""Designs and labelled samples."""
SAMPLE_DESIGN = "sample/design.json"
"""How the sample was drawn: seed, strata, sizes of the frame, the map it was drawn from."""
SAMPLE_CELLS = "sample/cells.parquet"
"""The drawn cells with what the map says of them. Interpreters must not see it."""
SAMPLE_FRAME = "sample/frame.parquet"
"""Cells and map totals of the whole frame, by unit, stratum, period and object."""
SAMPLE_SHEET = "sample/cells.gpkg"
SAMPLE_CSV = "sample/cells.csv"
SAMPLE_KML = "sample/cells.kml"
"""The drawn cells, ready to be labelled."""
SAMPLE_LABELLED = "sample/labelled.parquet"
"""Labelled cells, checked."""
SAMPLE_IMPORT = "sample/labelled.json"
"""What was imported: the file, blank rows, agreement of the interpreters."""
SAMPLE_RULES = "sample/estimate.json"
"""Options of `estimate`; a new count estimates with them again."""

REPORT = "report.html"
MANIFEST = "manifest.json"
"""Hashes of all other files, written last."""
LOG = "run.log"
LOCK = "run.lock"
"""Names the live run that holds the folder."""
CHOICES = "choices.json"
"""Options of `count` and `trend` that later recounts keep; absent where they are the defaults."""
EXPORT = "export"
"""Where `export` writes by default."""

COUNTED = (COUNTS_CSV, COUNTS_PARQUET, SERIES_PARQUET, ACCOUNTS, TABLES, CHOICES)
"""What `count` writes, besides units that are given to it."""
TRENDED = (TREND_CSV, TREND_PARQUET, CHANGES_CSV, TABLES, CHOICES)
"""What `trend` writes."""
SAMPLED = (SAMPLE_DESIGN, SAMPLE_CELLS, SAMPLE_FRAME, SAMPLE_LABELLED, SAMPLE_IMPORT)
"""What estimates are made from, besides the counts; people write into the sheets of a sample."""
EXPORTED = (ITEMS, UNITS, COUNTS_PARQUET, TREND_PARQUET, CHANGES_CSV, MAP)
"""What exports are made from, besides the plan and the ledger."""
LISTED = (PLAN, ITEMS, UNITS, *COUNTED, TREND_CSV, TREND_PARQUET, CHANGES_CSV, ESTIMATES_CSV, REPORT)
"""Files that the manifest lists, besides those of SAMPLE and the metadata of MAP; other files are their owner's."""


def record_name(block_id: str, period: str) -> str:
    """File of a block's ledger record, in LEDGER; the time of a scene loses its colons."""
    return f"{block_id}_{period.replace(':', '')}.json"


def failure_name(block_id: str, period: str) -> str:
    """File in LEDGER that says why a block could not be mapped; the record of the block replaces it."""
    return f"{block_id}_{period.replace(':', '')}.failed"


def shards_name(block_id: str, period: str) -> str:
    """File in LEDGER: hashes of shards that a count has proven, beside a record of an earlier version."""
    return f"{block_id}_{period.replace(':', '')}.shards"
