"""A file of polygons, points or pixels cannot choose what GDAL does: no other file is read, no server is asked."""

import contextlib
import json
import socket
import sqlite3
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

from subpixmap.errors import InputError
from subpixmap.estimation.labels import read_sheet
from subpixmap.reference.points import read_points
from subpixmap.region.resolve import resolve_region
from subpixmap.region.units import read_area, read_units

BOX = shapely.geometry.mapping(shapely.box(0, 0, 1, 1))
ASKS = ("escaped.geojson", "schema.gml")
"""They may be read, but nothing is asked."""
READERS: list[Callable[[Path], Any]] = [
    read_units,
    read_area,
    read_points,
    read_sheet,
    lambda p: resolve_region(str(p)),
]


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server on this machine, and what was asked of it."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                asked.append(client.recv(200))
                client.sendall(b"HTTP/1.0 404 no\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/x.geojson", asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def geojson(**more: Any) -> str:
    feature = {"type": "Feature", "properties": {"unit_id": "a"}, "geometry": BOX}
    return json.dumps({"type": "FeatureCollection", "features": [feature], **more})


def attacks(url: str, secret: Path) -> dict[str, str]:
    layer = '<OGRVRTLayer name="secret"><SrcDataSource>{}</SrcDataSource></OGRVRTLayer>'
    vrt = f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>"
    wfs = "SERVICE=WFS&amp;VERSION=1.0.0&amp;REQUEST=DescribeFeatureType&amp;TYPENAME=a"
    pipeline = {"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read FILE"}
    return {
        "vrt.geojson": vrt.format(secret),
        "vrt_of_a_server.gpkg": vrt.format(f"/vsicurl/{url}"),
        "vrt_behind_kml.kml": "<kml/>" + vrt.format(secret),
        "raster_vrt.json": f"<VRTDataset><SourceFilename>{secret}</SourceFilename></VRTDataset>",
        "service.geojson": f"<OGRWFSDataSource><URL>{url}</URL></OGRWFSDataSource>",
        "pipeline.json": json.dumps(pipeline).replace("FILE", str(secret)),
        "pipeline_of_a_server.geojson": json.dumps(pipeline).replace("FILE", url),
        "link.geojson": geojson(crs={"type": "link", "properties": {"href": url}}),
        "url.geojson": geojson(crs={"type": "url", "properties": {"url": url}}),
        "capabilities.gml": f'<WFS_Capabilities xmlns:xlink="x"><a xlink:href="{url}"/></WFS_Capabilities>',
        "entity.kml": f'<!DOCTYPE kml [<!ENTITY e SYSTEM "{url}">]><kml><name>&e;</name></kml>',
        "schema.gml": '<wfs:FeatureCollection xmlns:wfs="http://www.opengis.net/wfs" xmlns:gml="http://www.opengis.net/gml"'
        f' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://foo {url}?{wfs}">'
        "<gml:featureMember><a><unit_id>a</unit_id></a></gml:featureMember></wfs:FeatureCollection>",
        "escaped.geojson": geojson(crs={"type": "link", "properties": {"href": url}}).replace("href", "hr\\u0065f"),
    }  # fmt: skip


@pytest.mark.parametrize("name", attacks("", Path()))
def test_no_file_of_polygons_reads_another_file_or_asks_a_server(
    tmp_path: Path, listener: tuple[str, list[bytes]], name: str
) -> None:
    url, asked = listener
    (secret := tmp_path / "secret.geojson").write_text(geojson())
    (path := tmp_path / name).write_text(attacks(url, secret)[name])
    (zipped := tmp_path / "zipped.zip").touch()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(path, name)
    for one in (path, zipped):
        for read in READERS:
            with contextlib.nullcontext() if name in ASKS else pytest.raises(InputError) as caught:
                with contextlib.suppress(InputError) if name in ASKS else contextlib.nullcontext():
                    read(one)
            assert caught is None or "\n" not in str(caught.value)
            assert asked == []


def test_a_network_link_of_kml_is_not_followed(tmp_path: Path, listener: tuple[str, list[bytes]]) -> None:
    url, asked = listener
    ring = "<outerBoundaryIs><LinearRing><coordinates>0,0 1,0 1,1 0,0</coordinates></LinearRing></outerBoundaryIs>"
    (path := tmp_path / "a.kml").write_text(
        f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document><NetworkLink><Link><href>{url}</href></Link>'
        f"</NetworkLink><Placemark><name>a</name><Polygon>{ring}</Polygon></Placemark></Document></kml>"
    )
    assert len(read_area(path)) == 1
    assert asked == []


@pytest.mark.parametrize(
    "statement",
    [
        "create virtual table t using VirtualOGR('/etc/hostname')",
        "create virtual table t using VirtualShape('/etc/hostname', 'utf-8', 4326)",
        "create view t as select gdal_get_pixel_value('/vsicurl/http://127.0.0.1/a.tif', 1, 'pixel', 0, 0) as n",
        "create table t (a text, b as (load_extension(a)))",
    ],
)
def test_the_schema_of_a_geopackage_does_not_reach_outside(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "u.gpkg"
    gpd.GeoDataFrame({"unit_id": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(path, layer="units")
    assert len(read_units(path)) == 1
    database = sqlite3.connect(path)
    database.execute("pragma writable_schema = on")
    kind = "view" if statement.startswith("create view") else "table"
    database.execute("insert into sqlite_master values (?, 't', 't', 0, ?)", (kind, statement))
    database.commit()
    database.close()
    with zipfile.ZipFile(tmp_path / "u.zip", "w") as archive:
        archive.write(path, "u.gpkg")
    for one in (path, tmp_path / "u.zip"):
        with pytest.raises(InputError, match=r"its table t refers to data outside|damaged"):
            read_units(one)


def test_a_layer_that_is_a_query_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.gpkg"
    gpd.GeoDataFrame({"unit_id": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(path, layer="units")
    database = sqlite3.connect(path)
    database.execute("create view v as select * from units, units as b, units as c")
    database.commit()
    database.close()
    assert len(read_units(path, layer="units")) == 1
    with pytest.raises(InputError, match="layer v is a view"):
        read_units(path, layer="v")


def test_archives_say_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subpixmap.region.formats._LARGE", 2**20)

    def pack(name: str, **members: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(member.replace("__", "."), data)
        return tmp_path / name

    inner = pack("inner.zip", a__geojson=geojson().encode()).read_bytes()
    expected = {
        pack("nested.zip", inner__zip=inner): r"contains another archive, inner\.zip: unpack it",
        pack("gdb.zip", **{"a__gdb/a00000001__gdbtable": b"x"}): r"file geodatabase: export its layer as GeoPackage",
        pack("two.zip", a__geojson=geojson().encode(), b__geojson=geojson().encode()): r"several files \(a\.geojson",
        pack("none.zip", a__txt=b"x"): r"contains no file with polygons or points: a\.txt",
        pack("empty.zip"): "contains no file",
        pack("bomb.zip", a__geojson=b"\0" * 2**22): r"unpacks to 0\.0 GB",
        pack("torn.zip", a__geojson=geojson().encode()): "cannot be unpacked",
    }
    torn = (tmp_path / "torn.zip").read_bytes()
    (tmp_path / "torn.zip").write_bytes(torn[:-30])
    (folder := tmp_path / "b.gdb").mkdir()
    expected[folder] = "file geodatabase: export its layer"
    expected[tmp_path] = "is a folder"
    for path, message in expected.items():
        for read in READERS[:4]:
            with pytest.raises(InputError, match=message):
                read(path)
    assert len(read_area(tmp_path / "inner.zip")) == 1
    with_notes = pack("notes.zip", a__geojson=geojson().encode(), readme__txt=b"x", b__json=b"{}")
    assert len(read_units(with_notes)) == 1


def test_a_zipped_geopackage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "u.gpkg"
    gpd.GeoDataFrame({"unit_id": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(path)
    with zipfile.ZipFile(tmp_path / "u.zip", "w") as archive:
        archive.write(path, "folder/u.gpkg")
    assert read_units(tmp_path / "u.zip").unit_id.tolist() == ["a"]


def test_a_raster_does_not_name_its_overviews(tmp_path: Path, listener: tuple[str, list[bytes]]) -> None:
    """A tag of a GeoTIFF may name any file or server as its overview, which GDAL opens when a small copy is read."""
    from subpixmap.scenes.items import Asset
    from subpixmap.scenes.reader import ReadFailed, read_overview

    url, asked = listener
    path, transform = tmp_path / "B04.tif", rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint16", crs=32633, transform=transform
    ) as file:
        file.write(np.ones((1, 64, 64), "uint16"))
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{url}")
    asset = Asset(str(path), tuple(transform)[:6], (64, 64))
    with pytest.raises((InputError, ReadFailed), match="overviews"):
        read_overview(asset, (8, 8), 32633)
    assert asked == []
