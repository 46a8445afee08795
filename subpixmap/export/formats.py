"""A run folder -> its counts, trends or map in another format. Uses the existing counts: nothing is counted again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from subpixmap import runpaths
from subpixmap.errors import InputError
from subpixmap.export.dictionary import write_dictionary
from subpixmap.export.licence import licence_text, write_licence
from subpixmap.export.polygons import DRIVERS, write_with_polygons
from subpixmap.files import is_remote, path_of
from subpixmap.runfolder import RunFolder
from subpixmap.tables import CHANGES, COUNTS, TREND, Columns, rounded, write_csv

FORMATS = ("csv", "xlsx", *DRIVERS, "pmtiles", "cog", "stac")


def export_run(run: RunFolder, format: str, *, to: Path | None = None) -> list[Path]:
    """Write the counts and trends of a run, or its map, in another format.

    Parameters
    ----------
    run
        With counts.
    format
        `csv` (with tables.json) or `xlsx` (a sheet for each table and one for the columns): the rows of counts.parquet
        and, if there, of trend.parquet and changes.csv, rounded; `geoparquet`, `gpkg` or `geojson`: counts and trend
        with all digits and the polygons of the units (a GeoPackage holds both tables as layers); `pmtiles`: the units
        with their totals as vector tiles for a map on the web; `cog`: the map as rasters; `stac`: a catalogue of
        rasters and tables. LICENCE-AND-CITATION.txt stands beside all of them.
    to
        Folder for the files; OUT/export when not given.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        An unknown format, a folder that is not on a disk, or a run without counts.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format!r} is unknown; choose {', '.join(FORMATS)}")
    folder = path_of(to) if to is not None else run.path / runpaths.EXPORT
    if is_remote(folder):
        raise InputError(f"{folder}: files can only be exported to a local disk; give --to FOLDER")
    if format == "cog":
        from subpixmap.export.cogs import export_cogs

        return [*export_cogs(run, folder), write_licence(run, folder)]
    if format == "stac":
        from subpixmap.export.stac import export_stac

        return [*export_stac(run, folder), write_licence(run, folder)]
    if format == "pmtiles":
        return [_write_tiles(run, folder), write_licence(run, folder)]
    licence = write_licence(run, folder)
    if format in DRIVERS:
        given = {name: table for name, (table, _) in _tables(run).items() if name != "changes"}
        return [*write_with_polygons(given, run.units.table, folder, format), licence]
    if format == "csv":
        return [*_write_csvs(run, folder), write_dictionary(folder), licence]
    from subpixmap.export.workbook import write_workbook

    return [write_workbook(_tables(run), licence_text(run), folder / "counts.xlsx"), licence]


def _tables(run: RunFolder) -> dict[str, tuple[pd.DataFrame, Columns]]:
    """Name -> rows and columns of the tables that the run has."""
    there = {"counts": (run.counts, COUNTS), "trend": (run.trend, TREND), "changes": (run.changes, CHANGES)}
    return {name: (table, columns) for name, (table, columns) in there.items() if table is not None}


def _write_tiles(run: RunFolder, folder: Path) -> Path:
    from subpixmap.export.pmtiles import write_pmtiles

    name = f"{run.plan.region_name}: {', '.join(run.plan.objects)}"
    about = f"Totals of the map by unit, no estimates. Licences and citation: {' '.join(licence_text(run).split())}"
    return write_pmtiles(run.counts, run.trend, run.units.table, folder / "counts.pmtiles", name=name, about=about)


def _write_csvs(run: RunFolder, folder: Path) -> list[Path]:
    return [
        write_csv(rounded(table, columns), folder / f"{name}.csv", columns)
        for name, (table, columns) in _tables(run).items()
    ]
