"""The files of a sample: sheets for interpreters, the design record, tables of drawn cells and frame.

In: a design. Out: files in OUT/sample. Sheets are blind: they show outlines, never map values. Rows have random order,
so that their position has no information.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from subpixmap import runpaths
from subpixmap.errors import InputError, VerificationFailed
from subpixmap.estimation.frame import CellGrid, parse_cell_id
from subpixmap.files import make_folder, write_atomic
from subpixmap.grid import Lattice, transformer
from subpixmap.tables import LABELLED, SAMPLE_CELLS, SAMPLE_FRAME, read_table, typed, write_parquet

if TYPE_CHECKING:
    import geopandas as gpd

KEYS = ["cell_id", "period", "object", "interpreter"]
"""Columns that identify a row of the sheet."""
FIELDS = ["n_objects", "image_date", "note"]
"""What interpreters fill."""


@dataclass(frozen=True)
class DrawnSample:
    """A sample stored in a run folder."""

    record: Mapping[str, Any]
    """design.json."""
    cells: pd.DataFrame
    """`tables.SAMPLE_CELLS`."""
    frame: pd.DataFrame
    """`tables.SAMPLE_FRAME`."""

    @property
    def id(self) -> str:
        """Id of the design, in every row of the sheet."""
        return str(self.record["design_id"])


def design_id(record: Mapping[str, Any], cells: pd.DataFrame) -> str:
    """Short hash of a design and its cells."""
    raw = {key: value for key, value in record.items() if key not in ("design_id", "sha256", "software")}
    digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode())
    digest.update("\n".join(cells["cell_id"]).encode())
    return digest.hexdigest()[:12]


def write_sample(out: Path, record: dict[str, Any], cells: pd.DataFrame, frame: pd.DataFrame) -> list[Path]:
    """Write the files of a new sample; returns the files for users."""
    make_folder(out / runpaths.SAMPLE)
    record = record | {"design_id": design_id(record, cells)}
    write_parquet(cells, out / runpaths.SAMPLE_CELLS, SAMPLE_CELLS)
    write_parquet(frame, out / runpaths.SAMPLE_FRAME, SAMPLE_FRAME)
    sheet = make_sheet(record, cells)
    write_gpkg(sheet, out / runpaths.SAMPLE_SHEET)
    plain = sheet.drop(columns="geometry")
    write_atomic(out / runpaths.SAMPLE_CSV, plain.to_csv(index=False).encode())
    write_atomic(out / runpaths.SAMPLE_KML, _kml(sheet).encode())
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    write_atomic(out / runpaths.SAMPLE_DESIGN, (json.dumps(record | {"sha256": digest}, indent=1) + "\n").encode())
    return [out / name for name in (runpaths.SAMPLE_SHEET, runpaths.SAMPLE_KML, runpaths.SAMPLE_DESIGN)]


def read_sample(out: Path) -> DrawnSample:
    """The sample of a run folder.

    Raises
    ------
    InputError
        There is no sample.
    VerificationFailed
        The record was changed.
    """
    path = out / runpaths.SAMPLE_DESIGN
    if not path.is_file():
        raise InputError(f"{path} does not exist; run `subpixmap sample design {out}` first")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        digest = record.pop("sha256")
        if digest != hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest():
            raise ValueError("its hash does not match its content")
    except (ValueError, KeyError, AttributeError) as error:
        raise VerificationFailed(f"{path} is damaged ({error}); design the sample again") from error
    cells = read_table(out / runpaths.SAMPLE_CELLS, SAMPLE_CELLS)
    return DrawnSample(record, cells, read_table(out / runpaths.SAMPLE_FRAME, SAMPLE_FRAME))


def read_labelled(out: Path, *, detected: bool = False) -> pd.DataFrame:
    """The labelled cells of a run folder; with `detected`, also cells counted only by a detector.

    Raises
    ------
    InputError
        No labels were imported.
    """
    path = out / runpaths.SAMPLE_LABELLED
    if not path.is_file():
        raise InputError(f"{path} does not exist; run `subpixmap sample import {out} FILE` first")
    table = read_table(path, LABELLED)
    return table if detected else table[table["n_objects"].notna()].reset_index(drop=True)


def make_sheet(record: Mapping[str, Any], cells: pd.DataFrame) -> gpd.GeoDataFrame:
    """The rows for interpreters, with cell outlines (EPSG:4326)."""
    import geopandas as gpd

    rng = np.random.default_rng(record["seed"])
    ids = cells["cell_id"].drop_duplicates()
    order = pd.Series(rng.permutation(len(ids)), index=ids.to_numpy())
    rows = typed(cells, SAMPLE_CELLS)[["cell_id", "period", "object", "longitude", "latitude", "probability"]]
    parts = [rows.assign(interpreter=str(k + 1)) for k in range(int(record["interpreters"]))]
    sheet = pd.concat(parts, ignore_index=True)
    sheet["order"] = sheet["cell_id"].map(order)
    sheet = sheet.sort_values(["order", "interpreter"], kind="stable", ignore_index=True)
    sheet["n_objects"] = np.nan
    sheet["image_date"] = pd.Series(None, index=sheet.index, dtype=object)
    sheet["note"] = pd.Series(None, index=sheet.index, dtype=object)
    sheet["design"] = record["design_id"]
    outlines = dict(zip(ids, cell_outlines(ids.to_numpy(), lattices_of(record)), strict=True))
    columns = [*KEYS, *FIELDS, "probability", "longitude", "latitude", "design"]
    geometry = gpd.GeoSeries([outlines[one] for one in sheet["cell_id"]], crs=4326)
    return gpd.GeoDataFrame(sheet[columns].astype(dict.fromkeys(KEYS, object)), geometry=geometry)


def lattices_of(record: Mapping[str, Any]) -> dict[int, Lattice]:
    """The lattices that the cells of a design lie on, by EPSG code."""
    return {int(one["epsg"]): Lattice(**one) for one in record["lattices"]}


def cell_outlines(ids: NDArray[Any], lattices: Mapping[int, Lattice]) -> NDArray[np.object_]:
    """Squares of cells, in degrees."""
    outlines = np.empty(len(ids), object)
    for i, one in enumerate(ids):
        epsg, px, row, col = parse_cell_id(str(one))
        bounds = CellGrid(lattices[epsg], px).bounds(np.array([row]), np.array([col]))
        west, south, east, north = (float(value[0]) for value in bounds)
        x, y = transformer(epsg, 4326).transform([west, east, east, west], [south, south, north, north])
        outlines[i] = shapely.Polygon(list(zip(x, y, strict=True)))
    return outlines


def write_gpkg(sheet: gpd.GeoDataFrame, path: Path, *, layer: str = "cells") -> None:
    """Write a GeoPackage with one layer, atomically."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cells.gpkg"
        sheet.to_file(file, layer=layer, driver="GPKG")
        write_atomic(path, file.read_bytes())


def _kml(sheet: gpd.GeoDataFrame) -> str:
    """Outlines for Google Earth, each cell once."""
    out = io.StringIO()
    out.write('<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>\n')
    out.write(
        "<name>cells to label</name><Style id='cell'><LineStyle><color>ff00ffff</color><width>2</width></LineStyle>"
        "<PolyStyle><fill>0</fill></PolyStyle></Style>\n"
    )
    for row in sheet.drop_duplicates("cell_id").itertuples():
        ring = " ".join(f"{x:.8f},{y:.8f}" for x, y in row.geometry.exterior.coords)
        out.write(
            f"<Placemark><name>{escape(str(row.cell_id))}</name><styleUrl>#cell</styleUrl><Polygon><outerBoundaryIs>"
            f"<LinearRing><coordinates>{ring}</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>\n"
        )
    out.write("</Document></kml>\n")
    return out.getvalue()
