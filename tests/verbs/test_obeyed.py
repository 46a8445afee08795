"""Options that would be lost in silence: obeyed, refused by name, or told."""

from pathlib import Path
from typing import Any

import pytest

from subpixmap.errors import InputError, Refused
from subpixmap.mapping.plan import read_plan
from subpixmap.model.checkpoint import save_model
from subpixmap.scenes.source import find_by_source
from subpixmap.verbs.request import Request
from subpixmap.verbs.run import plan
from tests.helpers import mapping_data, scenes_data

WHERE: dict[str, Any] = {"bands": mapping_data.BANDS, "size_px": 256, "baseline": "02.14"}
CLOUDS = {"2020": (12.0, 40.0), "2021": (35.0, 60.0)}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A plan over a tile of 2.5 km with two items a year, more and less cloudy."""
    folder = tmp_path_factory.mktemp("place")
    model = mapping_data.tiny_model()
    save_model(folder / "tiny.safetensors", model.net, model.card)
    items = []
    for year, covers in CLOUDS.items():
        for month, cover in zip(("03", "06"), covers, strict=True):
            items.append(scenes_data.make_item(folder, start=f"{year}{month}05T021051", **WHERE))
            items[-1]["properties"]["eo:cloud_cover"] = cover
    west, south, *_ = items[0]["bbox"]
    return {
        "region": f"{west + 0.01},{south + 0.01},{west + 0.012},{south + 0.012}",
        "years": "2020-2021",
        "model": str(folder / "tiny.safetensors"),
        "source": (str(scenes_data.write_collection(folder / "items.json", items)),),
        "workers": 0,
        "block": 256,
    }


def test_a_limit_of_clouds_that_leaves_nothing_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--max-cloud 0 .* 4 items.* 12 %") as caught:
        plan(Request(**options, max_cloud=0, out=tmp_path / "out"))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_limit_of_clouds_that_empties_a_period_is_told(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(Request(**options, max_cloud=30, out=tmp_path / "out"))
    assert "--max-cloud 30 leaves out 3 of 4 items, all of 2021" in capsys.readouterr().out
    plan(Request(**options, max_cloud=90, out=tmp_path / "all"))
    assert "--max-cloud 90 leaves out 0 of 4 items\n" in capsys.readouterr().out


def test_a_collection_of_a_file_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--collection sentinel-2-l2a: .*items\.json"):
        plan(Request(**options, collection="sentinel-2-l2a", out=tmp_path / "out"))
    with pytest.raises(InputError, match="--collection c"):
        find_by_source(options["source"], None, [], collection="c")


def test_an_offset_rule_that_the_lock_contradicts_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    """The items are locked once; a rule that is typed later would change nothing."""
    out = tmp_path / "out"
    plan(Request(**options, out=out))
    before = (out / "plan.json").read_bytes()
    with pytest.raises(Refused, match=r"--offset-rule subtract: 4 items.*--refresh 2020"):
        plan(Request(**options, offset_rule="subtract", out=out))
    assert (out / "plan.json").read_bytes() == before
    plan(Request(**options, offset_rule="none", out=out))  # what is locked already
    assert [period.label for period in read_plan(out).periods] == ["2020", "2021"]


@pytest.mark.parametrize("given", [{"source": ("earth-search",)}, {"collection": "c"}])
def test_the_demo_takes_no_other_imagery(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--region demo"):
        Request(region="Demo", years="2020", **given)
    assert Request(region="demo", years="2020").sources == ("earth-search",)
