"""Passwords and tokens of a catalogue are used, but nobody finds them in what a run leaves behind or says."""

import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subpixmap.mapping.plan import read_plan, write_plan
from subpixmap.runfolder import RunFolder
from subpixmap.scenes import access, http
from subpixmap.scenes.hrefs import redact_urls, unsigned
from subpixmap.scenes.hrefs import resolve as absolute
from subpixmap.scenes.items import Asset, items_sha256, read_lock, write_lock
from subpixmap.scenes.reader import open_raster
from subpixmap.scenes.static import read_local
from tests.helpers import stac_server

SIGNATURES = ["sv=2026-01-01&se=2026-02-01&sig=SECRETONE%3D", "X-Amz-Credential=SECRETA&X-Amz-Signature=SECRETTWO"]


class Signing:
    """A server of the small country: its catalogue wants a password and a token, its files the signature of today."""

    def __init__(self, server: stac_server.StacServer, country: Path) -> None:
        self.server, self.signature, self.items = server, SIGNATURES[0], list(read_local(country))
        self.country, server.files, server.fault = country, country, self.answer
        self.source = server.url.replace("://", "://user:SECRETPASSWORD@") + "/private.json?token=SECRETTOKEN"
        self.down = False

    def answer(self, server: Any, method: str, path: str, body: Any) -> Any:
        if self.down:
            return 500, {}, b"failed for user:SECRETPASSWORD@ and ?token=SECRETTOKEN"
        if path.startswith("/private.json"):
            allowed = "Authorization" in server.headers[-1] and path.endswith("?token=SECRETTOKEN")
            return server.json(self.collection()) if allowed else (401, {}, b"")
        return None if path.endswith(self.signature) else (403, {}, b"")

    def collection(self) -> dict[str, Any]:
        features = []
        for item, base in self.items:
            assets = {}
            for name, asset in item["assets"].items():
                path = Path(absolute(asset["href"], base)).relative_to(self.country)
                assets[name] = asset | {"href": f"{self.server.url}/{path}?{self.signature}"}
            features.append(item | {"assets": assets})
        return {"type": "FeatureCollection", "features": features}


@pytest.fixture(scope="module")
def signing(country: Path) -> Iterator[Signing]:
    with stac_server.serve() as server:
        yield Signing(server, country)


@pytest.fixture(scope="module")
def command(country: Path, stand_in: Path) -> list[Any]:
    units = ["--region", country / "region.geojson", "--admin", country / "admin.parquet"]
    return ["run", *units, "--model", stand_in, "--object", "coconut", "--workers", 0, "--max-scenes", 1]


def found_in(folder: Path) -> str:
    """Files of a folder that hold a secret; those that are packed are unpacked by their own reader below."""
    return subprocess.run(["grep", "-rl", "SECRET", folder], capture_output=True, text=True).stdout


def test_a_run_keeps_no_secret_and_asks_for_new_ones(
    signing: Signing, command: list[Any], tmp_path: Path, subpixmap: Callable[..., int], capfd: Any, caplog: Any
) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    asked = [*command, "--source", signing.source]
    assert subpixmap(*asked, "--years", 2020, "--out", out) == 0
    folder = RunFolder.open(out)
    before = items_sha256(folder.items)
    assert folder.plan.sources == (f"{signing.server.url}/private.json",)
    assert all(
        asset.needs_signature and "?" not in asset.href for item in folder.items for asset in item.assets.values()
    )
    # Another day, other signatures: the same items, and those of the lock are asked for again.
    signing.signature = SIGNATURES[1]
    shutil.copytree(out, again)
    for record in (again / "ledger").rglob("*.json"):
        record.unlink()
    assert subpixmap("map", again, "--model", command[6]) == 2
    assert "--source" in capfd.readouterr().err
    assert subpixmap(*asked, "--years", 2020, "--out", again, "--verbose") == 0
    assert (again / "counts.csv").read_bytes() == (out / "counts.csv").read_bytes()
    assert subpixmap(*asked, "--years", "2020-2021", "--out", out) == 0
    now = RunFolder.open(out)
    assert items_sha256(item for item in now.items if item.period == "2020") == before
    for kind in ("csv", "stac", "xlsx"):
        assert subpixmap("export", out, "--format", kind, "--to", tmp_path / kind) == 0
    assert "SECRET" not in repr([read_lock(path) for path in (out / "items.parquet", tmp_path / "stac/items.parquet")])
    said = capfd.readouterr()
    assert "SECRET" not in said.out + said.err + caplog.text
    assert not found_in(tmp_path)


@pytest.mark.parametrize("source", ["password", "no scheme", "wrong"])
def test_errors_tell_no_secret(
    signing: Signing, command: list[Any], source: str, tmp_path: Path, subpixmap: Any, capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(http, "RETRIES", 0)
    url = {
        "password": signing.source,
        "no scheme": "htps://user:SECRETPASSWORD@host.example/?token=SECRETTOKEN",
        "wrong": signing.source.replace("private", "other"),
    }[source]
    signing.down = source == "password"
    try:
        assert subpixmap(*command, "--source", url, "--years", 2020, "--out", tmp_path / "run", "--verbose") in (2, 3)
    finally:
        signing.down = False
    said = capfd.readouterr()
    assert "Traceback" in said.err
    assert "SECRET" not in said.out + said.err
    assert not found_in(tmp_path)


@pytest.mark.parametrize("option", ["--region", "--admin", "--model"])
def test_a_url_in_another_option_tells_no_secret(option: str, tmp_path: Path, subpixmap: Any, capfd: Any) -> None:
    url = "https://user:SECRETPASSWORD@host.example/units.gpkg?token=SECRETTOKEN"
    asked = {"--region": "120,10,120.01,10.01", option: url}
    words = [word for pair in asked.items() for word in pair]
    ended = subpixmap("run", *words, "--years", 2020, "--out", tmp_path / "run", "--verbose")
    assert ended in ((2, 3) if option == "--model" else (2,))  # a model may lie at an address: this one does not exist
    said = capfd.readouterr()
    assert "SECRET" not in said.out + said.err


ASSET = Asset("https://host.example/B04.tif", (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0), (300, 300))


def test_a_netrc_gives_the_password_to_us_and_to_gdal(
    signing: Signing, country: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password SECRETPASSWORD\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = next(country.rglob("*.tif"))

    def ask(server: Any, method: str, path: str, body: Any) -> Any:
        return None if "Authorization" in server.headers[-1] else (401, {"WWW-Authenticate": "Basic"}, b"")

    monkeypatch.setattr(signing.server, "fault", ask)
    url = f"{signing.server.url}/{path.relative_to(country)}"
    assert http.get_bytes(url, 0, 4, trusted=True)[0] == path.read_bytes()[:4]
    asset = replace(ASSET, href=url)
    with access.gdal_env(asset), open_raster(url, access.gdal_path(url)) as raster:
        assert raster.count


@pytest.mark.parametrize(
    ("href", "kept"),
    [
        ("https://user:SECRET@host.example/a/B04.tif", "https://host.example/a/B04.tif"),
        ("https://host.example/B04.tif?sv=1&sig=SECRET", "https://host.example/B04.tif"),
        ("https://host.example/B04.tif?versionId=7&X-Amz-Signature=SECRET", "https://host.example/B04.tif?versionId=7"),
        ("https://host.example/B04.tif?unknown=SECRET#SECRET", "https://host.example/B04.tif"),
        ("https://host.example/B 04%20.tif", "https://host.example/B 04%20.tif"),
        ("s3://bucket/B04.tif", "s3://bucket/B04.tif"),
        ("/data/what?.tif", "/data/what?.tif"),
    ],
)
def test_what_a_lock_keeps_of_an_href(href: str, kept: str) -> None:
    assert unsigned(href) == kept


def test_a_signature_travels_to_workers_and_nowhere_else() -> None:
    asset = replace(ASSET, needs_signature=True, signed=f"{ASSET.href}?sig=SECRET")
    assert pickle.loads(pickle.dumps(asset)).signed == asset.signed
    assert "SECRET" not in repr(asset)
    assert access.gdal_path(access.signed_href(asset)) == f"/vsicurl/{ASSET.href}?sig=SECRET"


def test_messages_lose_queries_and_passwords_and_nothing_else() -> None:
    text = "what? 'https://me:SECRET@h.example/a?b=SECRET' and https:/me:SECRET@h.example, mail me@h.example"
    assert redact_urls(text) == "what? 'https://h.example/a' and https:/h.example, mail me@h.example"


def test_a_lock_of_before_keeps_its_hash_and_is_exported_without_its_signatures(
    signing: Signing, command: list[Any], tmp_path: Path, subpixmap: Any
) -> None:
    out = tmp_path / "run"
    signing.signature = SIGNATURES[0]
    assert subpixmap("plan", *command[1:], "--source", signing.source, "--years", 2020, "--out", out) == 0
    old = []
    for item in read_lock(out / "items.parquet"):
        signed = {b: f"{a.href}?{SIGNATURES[0]}" for b, a in item.assets.items()}
        assets = {b: replace(a, href=signed[b], needs_signature=False) for b, a in item.assets.items()}
        old.append(replace(item, assets=assets))
    write_lock(out / "items.parquet", old)
    plan = read_plan(out)
    (out / "plan.json").unlink()
    write_plan(out, replace(plan, sources=(signing.source,)))
    assert "SECRET" in (out / "plan.json").read_text()
    kept = read_lock(out / "items.parquet")
    assert items_sha256(kept) == items_sha256(old)
    assert access.signed_href(kept[0].assets["SCL"]).endswith(SIGNATURES[0])
    assert "SECRET" not in repr(RunFolder.open(out).plan.sources)
    from subpixmap.export.stac import _copy

    for name in ("items.parquet", "plan.json"):
        _copy(out / name, tmp_path / name)
    assert "SECRET" not in repr(read_lock(tmp_path / "items.parquet"))
    assert "SECRET" not in (tmp_path / "plan.json").read_text()
