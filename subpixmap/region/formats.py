"""Identifies the format of a vector file by its bytes, so that GDAL only opens known formats.

GDAL chooses a driver by the content, whatever the file name, and some drivers read other files, contact servers or run
pipelines on request of the file. So the format is checked here before GDAL opens the file, and GDAL reads it without
network.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import sqlite3
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyogrio

from subpixmap.errors import InputError

FORMATS = "GeoPackage, GeoParquet, GeoJSON, Shapefile (also zipped), FlatGeobuf, KML, GML, GPX or MapInfo"
"""Readable formats, in words."""

MOST_UNPACKED = 2**32
"""Bytes of all files of an archive."""
_MOST_RATIO, _LARGE = 200, 2**28
"""Unpacked bytes for one of an archive that are refused in a large one: it is made to exhaust whoever opens it."""

# Texts that make a GDAL driver follow instructions in the file. Drivers look for these texts anywhere near its
# beginning.
_FOLLOWED = {
    rb"<OGR\w*DataSource": "it is an OGR VRT or a service description, which refers to other files or servers",
    rb"<VRTDataset": "it is a GDAL VRT, which refers to other files",
    rb"gdal_streamed_alg": "it is a pipeline of GDAL, not data",
    rb"<!ENTITY": "it defines entities of XML",
}
_LINKED_CRS = re.compile(rb'"crs"\s*:\s*\{[^}]{0,2000}?"(?:href|url)"\s*:', re.IGNORECASE)
_ROOT = re.compile(rb"\A(?:\s|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*>)*<(?:[\w.-]+:)?([\w.-]+)", re.DOTALL)
_GML_ROOTS = (b"FeatureCollection", b"SpatialDataSet", b"CityModel")
_CALLS = re.compile(r"\b(?:gdal_\w+|ogr_\w+|load_extension|readfile|writefile|fileio_\w+)\s*\(", re.IGNORECASE)
_VIRTUAL = re.compile(r"create\s+virtual\s+table\b.*?\busing\s+(\w+)", re.IGNORECASE | re.DOTALL)
_INDEXES = ("rtree", "rtree_i32", "fts3", "fts4", "fts5")
_HEAD = 65536
_IN_ARCHIVES = (".shp", ".gpkg", ".geojson", ".fgb", ".kml", ".gml", ".gpx", ".topojson", ".tab", ".mif", ".json")

_NO_NETWORK = {"GDAL_HTTP_PROXY": "0.0.0.0:0", "GDAL_HTTPS_PROXY": "0.0.0.0:0", "GML_DOWNLOAD_SCHEMA": "NO"}
_reading = threading.RLock()


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Block network access of GDAL's vector reader by a proxy that does not exist."""
    with _reading:
        before = {name: pyogrio.get_gdal_config_option(name) for name in _NO_NETWORK}
        pyogrio.set_gdal_config_options(_NO_NETWORK)
        try:
            yield
        finally:
            pyogrio.set_gdal_config_options(before)


def gdal_source(path: Path) -> str:
    """The path for GDAL of a vector file, or of the single data set in an archive.

    Raises
    ------
    InputError
        The file is of no known format, or of one that names other files or servers; or an archive holds no data set,
        several, or far more than its size says.
    """
    path = path.resolve()
    with path.open("rb") as file:
        if not (head := file.read(_HEAD)):
            raise InputError(f"{path.name} is empty")
        if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
            return _in_archive(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            require_known(path.name, head, content)
    if head.startswith(b"SQLite format 3\0"):
        with contextlib.closing(_database(path)) as database:
            _require_plain_tables(path.name, database)
    return str(path)


def require_known(name: str, head: bytes, content: bytes | mmap.mmap) -> None:
    """Refuse a file whose first bytes are of no known format, or whose text a driver of GDAL would follow.

    Parameters
    ----------
    name
        For messages.
    head, content
        The first 64 KiB, and all of it.
    """
    if head.startswith((b"\x00\x00\x27\x0a", b"fgb", b"SQLite format 3\0")):
        return
    for pattern, reason in _FOLLOWED.items():
        if re.search(pattern, content, re.IGNORECASE):
            raise InputError(f"{name} is refused: {reason}; give {FORMATS}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x1e")
    if text.startswith(b"{"):
        if _LINKED_CRS.search(content):
            raise InputError(
                f"{name} has its coordinate reference system as a link, which is not followed: write its EPSG code "
                "instead"
            )
    elif text.startswith(b"<"):
        _require_known_xml(name, text)
    elif not re.match(rb"version\s+\d|!table\b", text, re.IGNORECASE) or b"type seamless" in text.lower():
        raise InputError(f"{name} is refused: it is none of {FORMATS}{_told(name)}")


def _told(name: str) -> str:
    """Advice for common file types, by file name."""
    kind = PurePosixPath(name).suffix.lower()
    if kind in (".csv", ".txt", ".tsv", ".xlsx", ".ods"):
        return "; a table has no outlines: join it with polygons first"
    return "; open it in a GIS and write the layer as GeoPackage" if kind else ""


def _require_known_xml(name: str, text: bytes) -> None:
    root = match[1] if (match := _ROOT.match(text)) else b"?"
    if root in (b"kml", b"gpx") or (root in _GML_ROOTS and b"opengis.net/gml" in text):
        return
    raise InputError(f"{name} is refused: its XML begins with <{root.decode('ascii', 'replace')}>, not KML, GML or GPX")


def _require_plain_tables(name: str, database: sqlite3.Connection, content: bytes | None = None) -> None:
    """Refuse a GeoPackage whose schema reaches outside: virtual tables of other files, functions of GDAL."""
    try:
        if content is not None:
            database.deserialize(content)
        schema = [(str(one), str(sql or "")) for one, sql in database.execute("select name, sql from sqlite_master")]
    except (sqlite3.Error, UnicodeError, ValueError) as error:
        raise InputError(f"{name} is a damaged GeoPackage ({error})") from error
    if "gpkg_contents" not in {one.lower() for one, _ in schema}:
        raise InputError(f"{name} is an SQLite database, but not a GeoPackage")
    for one, sql in schema:
        virtual = _VIRTUAL.search(sql)
        if _CALLS.search(sql) or (virtual and virtual[1].lower() not in _INDEXES):
            raise InputError(f"{name} is refused: its table {one} refers to data outside the file")


def _database(path: Path) -> sqlite3.Connection:
    """Read-only; neither a journal beside it nor a lock is touched."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def require_table(path: Path, layer: str | None) -> None:
    """Refuse a layer of a GeoPackage that is a view: a query in the file decides how long it takes."""
    with path.open("rb") as file:
        if not layer or file.read(15) != b"SQLite format 3":
            return
    with contextlib.closing(_database(path)) as database:
        found = database.execute("select 1 from sqlite_master where type = 'view' and name = ?", (layer,)).fetchone()
    if found:
        raise InputError(f"{path.name}: layer {layer} is a view; save its rows as a table")


def _in_archive(path: Path) -> str:
    """The one data set of an archive, as GDAL names it; Shapefiles in one folder are layers of one data set."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
            _require_modest(path, files)
            chosen = _data_sets(path, [one.filename for one in files])
            for name in chosen:
                _require_known_member(path, archive, name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path.name} cannot be unpacked ({error})") from error
    folder = str(PurePosixPath(chosen[0]).parent).replace(".", "", 1) if len(chosen) > 1 else chosen[0]
    return f"/vsizip/{{{path}}}/{folder}"


def _require_modest(path: Path, files: list[zipfile.ZipInfo]) -> None:
    unpacked = sum(one.file_size for one in files)
    if unpacked > MOST_UNPACKED or (unpacked > _LARGE and unpacked > _MOST_RATIO * path.stat().st_size):
        raise InputError(f"{path.name} unpacks to {unpacked / 1e9:,.1f} GB: unpack it, and give the file inside")


def _data_sets(path: Path, names: list[str]) -> list[str]:
    """Names of the data sets in an archive: Shapefiles of one folder, or one file of another format."""
    if any(".gdb/" in name.lower() for name in names):
        raise InputError(
            f"{path.name} holds an Esri file geodatabase: export its layer as GeoPackage, and give that file"
        )
    by_kind: dict[str, list[str]] = {}
    for name in names:
        by_kind.setdefault(PurePosixPath(name).suffix.lower(), []).append(name)
    found = next((by_kind[kind] for kind in _IN_ARCHIVES if kind in by_kind), [])
    folders = {PurePosixPath(name).parent for name in found}
    if len(folders) > 1 or (len(found) > 1 and ".shp" not in by_kind):
        raise InputError(f"{path.name} contains several files ({', '.join(found[:3])}): unpack it and give one")
    if not found and ".zip" in by_kind:
        raise InputError(f"{path.name} contains another archive, {by_kind['.zip'][0]}: unpack it and give that")
    if not found:
        raise InputError(
            f"{path.name} contains no file with polygons or points: {', '.join(names[:5]) or 'it is empty'}"
        )
    return found


def _require_known_member(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    info = archive.getinfo(name)
    if "}" in name or "{" in name or ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise InputError(f"{path.name} holds {name!r}: unpack it and give that")
    with archive.open(info) as member:
        head = member.read(_HEAD)
        if head.startswith(b"\x00\x00\x27\x0a"):
            return
        if info.file_size > _LARGE:
            raise InputError(f"{path.name} holds a large file: unpack {name} and give that")
        content = head + member.read(_LARGE)
    require_known(f"{path.name}/{name}", head, content)
    if head.startswith(b"SQLite format 3\0"):
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            _require_plain_tables(f"{path.name}/{name}", database, content)
