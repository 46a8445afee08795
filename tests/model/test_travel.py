"""Models at an address: fetched once, kept by their hash, and refused when they are others than they were."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from subpixmap.errors import InputError, Refused
from subpixmap.model import travel
from subpixmap.model.checkpoint import load_model, save_model
from subpixmap.model.travel import Address, ModelUnreachable, local_copy
from subpixmap.scenes import hrefs, http
from subpixmap.verbs import settle
from subpixmap.verbs.request import Request
from tests.helpers import run_folders, s3_server, stac_server
from tests.helpers.cards import small_card

NAME = "/small.safetensors"


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Files of two models of one card."""
    contents = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        path = tmp_path_factory.mktemp("models") / "small.safetensors"
        save_model(path, small_card().build_net(), small_card())
        contents.append(path.read_bytes())
    return contents[0], contents[1]


@pytest.fixture
def server(two_models: tuple[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of the first model, and an empty cache."""
    monkeypatch.setenv("SUBPIXMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http, "BACKOFF_S", 0.001)
    (tmp_path / "served").mkdir()
    with stac_server.serve() as server:
        server.files = tmp_path / "served"
        (server.files / NAME[1:]).write_bytes(two_models[0])
        yield server


def cached(server: Any) -> list[str]:
    folder = server.files.parent / "cache" / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_second_time_the_cache_is_enough(server: Any) -> None:
    sha256 = load_model(server.url + NAME).sha256
    assert cached(server) == [f"{sha256}.safetensors"]
    server.fault = lambda *_: (500, {}, b"")
    assert load_model(f"{server.url}{NAME}#sha256={sha256.upper()}").sha256 == sha256
    assert load_model(server.url + NAME, known=sha256).sha256 == sha256  # as a run folder asks
    assert server.requests[NAME] > 1
    with pytest.raises(ModelUnreachable, match="HTTP 500"):
        load_model(server.url + NAME)  # nobody says which model it must be
    kept = travel._place(sha256)
    kept.write_bytes(kept.read_bytes()[:-1])  # a damaged copy is none
    with pytest.raises(ModelUnreachable):
        load_model(f"{server.url}{NAME}#sha256={sha256}")
    server.fault = None
    assert load_model(f"{server.url}{NAME}#sha256={sha256}").sha256 == sha256


def test_a_stated_hash_asks_no_server_again(server: Any) -> None:
    sha256 = load_model(server.url + NAME).sha256
    load_model(f"{server.url}{NAME}#sha256={sha256}", known=sha256)
    assert server.requests[NAME] == 1


def test_an_exchanged_model_is_refused(server: Any, two_models: tuple[bytes, bytes]) -> None:
    sha256 = load_model(server.url + NAME).sha256
    travel._place(sha256).unlink()
    (server.files / NAME[1:]).write_bytes(two_models[1])
    with pytest.raises(Refused, match=rf"{sha256[:12]}.*another --out"):
        local_copy(server.url + NAME, known=sha256)
    with pytest.raises(InputError, match="not the one after #"):
        local_copy(f"{server.url}{NAME}#sha256={sha256}")
    with pytest.raises(Refused):
        local_copy(f"{server.url}{NAME}#sha256={'0' * 64}", known=sha256)
    assert cached(server) == []


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ((404, {}, b""), InputError, "HTTP 404"),
        ((403, {}, b""), InputError, "HTTP 403"),
        ((200, {}, b"\x80\x02 a pickle"), InputError, r"small\.safetensors: this is a pickle"),
        ((200, {}, b"<html>"), InputError, r"http://\S+/small\.safetensors: not a complete safetensors file"),
        ((200, {"Content-Encoding": "gzip"}, b"x"), InputError, "encoding 'gzip'"),
        ((200, {}, b"x" * 3001), InputError, "more than 0 MB"),
    ],
)
def test_what_a_server_may_not_send(
    server: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, error: type[Exception], told: str
) -> None:
    monkeypatch.setattr(travel, "MAX_BYTES", 3000)
    server.fault = lambda *_: answer
    with pytest.raises(error, match=told):
        load_model(f"{server.url}{NAME}?token=SECRET")
    assert cached(server) == []


def test_too_large_is_refused_by_what_the_server_states() -> None:
    def never(n: int) -> bytes:
        raise AssertionError("it was read")

    with pytest.raises(InputError, match="more than 200 MB"):
        travel._read(never, travel.MAX_BYTES + 1, Address.parse("https://example.org/a.safetensors"))


def test_endless_and_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address.parse("https://example.org/a.safetensors")
    monkeypatch.setattr(travel, "MAX_BYTES", 10**6)
    with pytest.raises(InputError, match="more than 1 MB"):
        travel._read(lambda n: b"x" * n, None, address)
    pieces = iter([b"abc", b""])
    with pytest.raises(ModelUnreachable, match="3 of 4 bytes"):
        travel._read(lambda n: next(pieces), 4, address)
    monkeypatch.setattr(travel, "ANSWER_S", -1)
    with pytest.raises(ModelUnreachable, match="did not finish"):
        travel._read(lambda n: b"x", None, address)


def test_nobody_answers(server: Any) -> None:
    with pytest.raises(ModelUnreachable, match="could not be downloaded") as caught:
        load_model(f"https://localhost:{server.url.rpartition(':')[2]}/a.safetensors?token=SECRET")  # speaks no TLS
    assert "SECRET" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/a.safetensors",
        "ftp://example.org/a.safetensors",
        "https:///a.safetensors",
        "https://example.org",
        "https://example.org/a.safetensors#sha256=12",
        "https://example.org/a.safetensors#md5=1",
        "s3://bucket",
        "hf://org/repo",
        "hf://org/repo@v1/a.safetensors@v2",
        "https://[example.org/a.safetensors",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError):
        Address.parse(address)


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    start = "https://huggingface.co/org/repo/resolve"
    assert Address.parse("hf://org/repo/a/b.safetensors").url == f"{start}/main/a/b.safetensors"
    assert Address.parse("hf://org/repo/a.safetensors@v1.0").url == f"{start}/v1.0/a.safetensors"
    named = Address.parse(f"hf://org/repo@v1/a.safetensors#sha256={'a' * 64}")
    assert (named.url, named.sha256) == (f"{start}/v1/a.safetensors", "a" * 64)


def test_redirects(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for a public host, localhost for a private one."""
    port = server.url.rpartition(":")[2]
    monkeypatch.setattr(hrefs, "is_private", lambda host: host == "localhost")
    monkeypatch.setattr(hrefs, "leads_to_private", lambda host: host == "localhost")
    goal = {"/moved": NAME, "/inside": f"http://localhost:{port}{NAME}"}
    server.fault = lambda server, method, path, body: (302, {"Location": goal[path]}, b"") if path in goal else None
    load_model(f"http://127.0.0.1:{port}/moved")
    before = server.requests[NAME]
    with pytest.raises(InputError, match="private address"):
        load_model(f"http://127.0.0.1:{port}/inside")
    assert server.requests[NAME] == before
    from requests.exceptions import InvalidSchema

    with pytest.raises(InvalidSchema):
        travel._session("https://example.org/a").get_adapter("http://example.org/a")


def test_object_stores(two_models: tuple[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    from subpixmap.files import path_of

    monkeypatch.setenv("SUBPIXMAP_CACHE", str(tmp_path))
    settings = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something", "AWS_DEFAULT_REGION": "us-east-1"}
    with s3_server.serve() as (address, _):
        for name, value in (settings | {"AWS_ENDPOINT_URL_S3": address}).items():
            monkeypatch.setenv(name, value)
        store = cast(Any, path_of("s3://models-that-travel")).fs
        store.mkdir("models-that-travel")
        store.pipe_file("models-that-travel/a.safetensors", two_models[0])
        sha256 = load_model("s3://models-that-travel/a.safetensors").sha256
        with pytest.raises(InputError, match="no such file"):
            load_model("s3://models-that-travel/b.safetensors")
        monkeypatch.setattr(travel, "MAX_BYTES", 1000)
        with pytest.raises(InputError, match="too large"):
            load_model("s3://models-that-travel/a.safetensors")
    assert load_model(f"s3://models-that-travel/a.safetensors#sha256={sha256}").sha256 == sha256


def test_a_folder_keeps_the_model_it_was_made_with(
    server: Any, two_models: tuple[bytes, bytes], tmp_path: Path, subpixmap: Callable[..., int], capfd: Any
) -> None:
    url, out = server.url + NAME, tmp_path / "run"
    assert subpixmap("models", url) == 0
    sha256 = load_model(url).sha256
    assert sha256 in capfd.readouterr().out
    made = run_folders.make_plan()
    recipe = replace(made.recipe, model_sha256=sha256)
    run_folders.make_run(out, replace(made, recipe=recipe, model=replace(made.model, sha256=sha256)))
    server.fault = lambda *_: (500, {}, b"")
    request = Request(region="1,1,1.1,1.1", years="2018", out=out, source=("local",), model=url)
    assert settle._with_model(request).model == str(travel._place(sha256))  # offline
    server.fault = None
    (server.files / NAME[1:]).write_bytes(two_models[1])
    assert subpixmap("plan", "--region", "1,1,1.1,1.1", "--years", "2018", "--out", out, "--model", url) == 4
    assert subpixmap("map", out, "--model", url, "--workers", 0) == 4
    assert subpixmap("suggest", out, "-o", tmp_path / "areas.gpkg", "--n", 1, "--model", url) == 4
    assert capfd.readouterr().err.count(f"model {url}: sha256 {load_model(url).sha256[:12]} is not that") == 3


def test_every_command_takes_an_address(server: Any, tmp_path: Path, subpixmap: Callable[..., int], capfd: Any) -> None:
    url, out = f"{server.url}/missing.safetensors", tmp_path / "run"
    run_folders.make_run(out, run_folders.make_plan())
    new = tmp_path / "new.safetensors"
    commands: list[list[Any]] = [
        ["run", "--region", "1,1,1.1,1.1", "--years", "2020", "--source", out, "--out", tmp_path / "a", "--model", url],
        ["map", out, "--model", url, "--workers", 0],
        ["suggest", out, "-o", tmp_path / "areas.gpkg", "--n", 1, "--model", url],
        ["sample", "design", out, "--n", 10, "--model", url],
        ["calibrate", url, "--sample", out, "-o", new],
        ["evaluate", url, "--simulated", 1],
        ["models", url],
    ]
    for command in commands:
        assert subpixmap(*command) == 2, command
        assert f"model {url}: the server returned HTTP 404" in capfd.readouterr().err, command
