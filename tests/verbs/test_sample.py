"""Design a sample of a run, import its labels, estimate: the files, the numbers, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap import runpaths
from subpixmap.errors import InputError, Refused
from subpixmap.estimation.design import Wish
from subpixmap.estimation.results import COLUMNS, Rules
from subpixmap.mapping.verify import verify
from subpixmap.model.checkpoint import Model, save_model
from subpixmap.model.land import land_json
from subpixmap.report.formatting import number
from subpixmap.runfolder import RunFolder
from subpixmap.tables import COUNTS, ESTIMATES, read_table
from subpixmap.verbs.calibrate import calibrate
from subpixmap.verbs.count import count, report
from subpixmap.verbs.sample import design_sample, estimate, import_labels
from tests.helpers.mapping_data import tiny_model
from tests.helpers.run_folders import PERIODS, make_plan, make_run

MAP_COLUMNS = [name for name in COUNTS if name not in (*COLUMNS, "flag")]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    make_run(out, make_plan())
    count(out, quiet=True)
    return out


@pytest.fixture
def run(counted: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(counted, tmp_path / "out"))


def labels(out: Path, path: Path, *, seed: int = 1) -> gpd.GeoDataFrame:
    """A sheet filled by somebody who counts what the map says, with errors of his own."""
    sheet = gpd.read_file(out / runpaths.SAMPLE_SHEET)
    cells = pd.read_parquet(out / runpaths.SAMPLE_CELLS)
    mapped = sheet[["cell_id", "period", "object"]].merge(cells, how="left")["mapped"].to_numpy(float)
    rng = np.random.default_rng(seed)
    sheet["n_objects"] = rng.poisson(np.maximum(0.8 * mapped, 0.1)).astype(float)
    sheet["image_date"] = sheet["period"] + "-06-01"
    sheet.to_file(path, layer="cells")
    return sheet


@pytest.fixture
def labelled(run: Path, tmp_path: Path) -> Path:
    design_sample(run, Wish(n=120, periods=("2018", "2019")), quiet=True)
    labels(run, tmp_path / "labelled.gpkg")
    return tmp_path / "labelled.gpkg"


def test_from_a_map_to_estimates(run: Path, labelled: Path) -> None:
    before = read_table(run / runpaths.COUNTS_PARQUET, COUNTS)
    import_labels(run, labelled, assume_disjoint=True, quiet=True)
    table = estimate(run, quiet=True)
    counts = read_table(run / runpaths.COUNTS_PARQUET, COUNTS)
    pd.testing.assert_frame_equal(counts[MAP_COLUMNS], before[MAP_COLUMNS])
    palms = counts[counts.object == "coconut"]
    assert palms["estimate"].notna().all()
    assert counts.loc[counts.object == "car", "estimate"].isna().all()
    whole: Any = table[(table.unit_id == "REGION") & table.from_period.isna()].set_index(["period", "estimator"])
    for period in ("2018", "2019"):
        mapped = palms[(palms.period == period) & (palms.unit_id == "REGION")]["map_total_full"].sum()
        chosen: Any = whole.loc[(period, "regression")]
        assert chosen.chosen
        assert chosen.estimate == pytest.approx(0.8 * mapped, rel=0.05)
        assert chosen.ci_low < chosen.estimate < chosen.ci_high
        parts = table[(table.period == period) & (table.estimator == "regression") & table.from_period.isna()]
        assert parts[parts.unit_id != "REGION"].estimate.sum() == pytest.approx(chosen.estimate, rel=1e-9)
    change: Any = table[table.from_period.notna() & table.chosen & (table.unit_id == "REGION")]
    assert len(change) == 1
    total = whole.xs("regression", level="estimator").estimate
    assert change.estimate.iloc[0] == pytest.approx(total["2019"] - total["2018"], rel=1e-9)
    assert verify(run).damaged == ()
    again = read_table(run / runpaths.ESTIMATES_CSV, ESTIMATES)
    pd.testing.assert_frame_equal(again, table.reset_index(drop=True), check_dtype=False)


def test_a_detector_in_all_cells_and_people_in_some(run: Path, labelled: Path, tmp_path: Path) -> None:
    """A detector that finds 80 %, checked in 40 % of the cells: near what all checks say, with a larger error."""
    import_labels(run, labelled, assume_disjoint=True, quiet=True)
    whole = estimate(run, quiet=True)
    sheet, rng = gpd.read_file(labelled), np.random.default_rng(4)
    sheet["n_detected"] = rng.binomial(sheet["n_objects"].astype(int), 0.8)
    order = rng.permutation(len(sheet))
    sheet.loc[order[: int(0.6 * len(sheet))], "n_objects"] = np.nan
    path = tmp_path / "two.gpkg"
    sheet.to_file(path, layer="cells")
    made = import_labels(run, path, assume_disjoint=True, quiet=True)
    assert made.blank == ()
    assert any("people checked" in text for text in made.remarks)
    table = estimate(run, quiet=True)
    assert table["note"].str.contains("two phases").all()
    keys = ["unit_id", "period", "estimator"]
    both = table[table.from_period.isna()].merge(whole[whole.from_period.isna()], on=keys, suffixes=("", "_all"))
    region: Any = both[(both.unit_id == "REGION") & (both.estimator == "regression")]
    assert len(region) == 2
    assert (region.estimate - region.estimate_all).abs().max() < 3 * region.se.max()
    assert (region.se > region.se_all).all()
    sheet.assign(n_detected=-1).to_file(path, layer="cells")
    with pytest.raises(InputError, match=r"n_detected of cell .* give a number of 0 or more"):
        import_labels(run, path, assume_disjoint=True, quiet=True)


def test_the_report_shows_the_intervals(run: Path, labelled: Path) -> None:
    import_labels(run, labelled, assume_disjoint=True, simulated=True, quiet=True)
    table = estimate(run, quiet=True)
    assert table["note"].str.startswith("simulated labels").all()
    page = report(run, quiet=True).read_text(encoding="utf-8")
    row: Any = table[(table.unit_id == "REGION") & table.chosen & (table.period == "2019")].iloc[0]
    assert "Estimates of the region" in page
    assert f"{number(row.ci_low)} to {number(row.ci_high)}" in page
    assert "The labels of this sample are simulated" in page
    assert "240 cells would give about" in page
    units = table[table.chosen & (table.period == "2019") & table.from_period.isna() & (table.unit_id != "REGION")]
    unit: Any
    for unit in units.itertuples():
        known = pd.notna(unit.ci_low) and not unit.suppressed
        assert f"{number(unit.ci_low)} to {number(unit.ci_high)}" in page or not known
    assert 'data-layer="error"' in page
    assert verify(run).damaged == ()


def test_a_new_count_keeps_the_estimates(run: Path, labelled: Path) -> None:
    import_labels(run, labelled, assume_disjoint=True, quiet=True)
    estimate(run, Rules(level=0.9), quiet=True)
    before = (run / runpaths.COUNTS_CSV).read_bytes()
    count(run, quiet=True)
    assert (run / runpaths.COUNTS_CSV).read_bytes() == before
    assert verify(run).damaged == ()


def test_the_same_seed_draws_the_same_cells(run: Path) -> None:
    first = design_sample(run, Wish(n=60, seed=3), quiet=True).cells
    sheet = (run / runpaths.SAMPLE_CSV).read_bytes()
    again = design_sample(run, Wish(n=60, seed=3), quiet=True).cells
    other = design_sample(run, Wish(n=60, seed=4), quiet=True).cells
    pd.testing.assert_frame_equal(first, again)
    assert sheet != (run / runpaths.SAMPLE_CSV).read_bytes()
    assert set(first.cell_id) != set(other.cell_id)


def test_the_sheet_is_blind_and_complete(run: Path) -> None:
    made = design_sample(run, Wish(n=60, interpreters=2), quiet=True)
    sheet = gpd.read_file(run / runpaths.SAMPLE_SHEET)
    assert len(sheet) == 60 * 2
    assert sheet["n_objects"].isna().all()
    assert not {"mapped", "stratum", "segment"} & set(sheet.columns)
    assert sheet.crs.equals("EPSG:4326")
    order = sheet["cell_id"].drop_duplicates().tolist()
    assert order != made.cells["cell_id"].drop_duplicates().tolist()  # not by stratum
    area = sheet.to_crs(32651).geometry.area
    assert np.allclose(area, 1e4, rtol=0.01)
    assert (run / runpaths.SAMPLE_KML).read_text().count("<Placemark>") == 60
    drawn = made.cells.drop_duplicates("cell_id")
    assert (1 / drawn["probability"]).sum() == pytest.approx(made.strata["cells"].sum())


def test_every_unit_gets_cells_of_its_own(run: Path) -> None:
    made = design_sample(run, Wish(n=100, by="lowest"), quiet=True)
    assert set(made.strata["unit_id"]) == {"01", "02"}
    assert made.strata.groupby("unit_id")["drawn"].sum().min() > 30


def test_a_target_decides_the_number_of_cells(run: Path) -> None:
    few = design_sample(run, Wish(target_cv=10), quiet=True)
    many = design_sample(run, Wish(target_cv=3), quiet=True)
    assert few.needed["region"] == few.strata["drawn"].sum() < many.strata["drawn"].sum()
    assert many.expected_cv["coconut"] <= 3
    with pytest.raises(InputError, match="target-cv"):
        design_sample(run, Wish(target_cv=0), quiet=True)


def test_interpreters_are_compared_and_averaged(run: Path, tmp_path: Path) -> None:
    design_sample(run, Wish(n=60, interpreters=2), quiet=True)
    sheet = labels(run, tmp_path / "two.gpkg")
    sheet["n_objects"] = np.where(sheet["interpreter"] == "1", 4.0, 6.0)
    sheet.to_file(tmp_path / "two.gpkg", layer="cells")
    found = import_labels(run, tmp_path / "two.gpkg", assume_disjoint=True, quiet=True)
    assert found.agreement == {"cells": 60, "equal": 0.0, "mean_range": 2.0, "mean_count": 5.0,
                               "totals": {"1": 240.0, "2": 360.0}}  # fmt: skip
    assert (found.table["n_objects"] == 5).all()


def test_small_units_are_synthetic_and_raked(run: Path, labelled: Path) -> None:
    import_labels(run, labelled, assume_disjoint=True, quiet=True)
    table = estimate(run, Rules(min_cells=100, rake=True), quiet=True)
    own: Any = table[table.chosen & table.from_period.isna() & (table.period == "2018")].set_index("unit_id")
    assert own.loc["REGION", "estimator"] == "regression"
    assert (own.loc[["01", "02"], "estimator"] == "synthetic").all()
    assert own.loc[["01", "02"], "ci_low"].isna().all()
    assert own.loc[["01", "02"], "estimate"].sum() == pytest.approx(own.loc["REGION", "estimate"], rel=1e-9)
    counts = read_table(run / runpaths.COUNTS_PARQUET, COUNTS)
    palms = counts[(counts.object == "coconut") & (counts.unit_id == "01")]
    assert palms["flag"].str.endswith("synthetic").all()


def test_blank_is_not_zero(run: Path, labelled: Path) -> None:
    sheet = gpd.read_file(labelled)
    rng = np.random.default_rng(0)
    cells = sheet["cell_id"].drop_duplicates().to_numpy()
    blank = sheet["cell_id"].isin(rng.choice(cells, 8, replace=False))
    sheet.loc[blank, "n_objects"] = np.nan
    sheet.to_file(labelled, layer="cells")
    found = import_labels(run, labelled, assume_disjoint=True, quiet=True)
    assert len(found.blank) == 16
    assert "16 of 240 rows are blank" in found.remarks[0]
    table = estimate(run, quiet=True)
    assert table[(table.unit_id == "REGION") & table.chosen].n_ref.eq(112).all()


def test_too_few_labels_of_a_stratum_are_refused(run: Path, labelled: Path) -> None:
    sheet = gpd.read_file(labelled)
    stratum = pd.read_parquet(run / runpaths.SAMPLE_CELLS).drop_duplicates("cell_id").set_index("cell_id")["stratum"]
    sheet.loc[sheet["cell_id"].map(stratum) == 0, "n_objects"] = np.nan
    sheet.to_file(labelled, layer="cells")
    import_labels(run, labelled, assume_disjoint=True, quiet=True)
    with pytest.raises(InputError, match=r"stratum 0 .* has 0 of"):
        estimate(run, quiet=True)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s: s.drop(columns="cell_id"), "lacks the column cell_id"),
        (lambda s: s.to_crs(32651), "in EPSG:32651, but the sheet must be in EPSG:4326"),
        (lambda s: s.set_geometry(s.geometry.translate(1e-3, 0)), "have changed outlines"),
        (lambda s: pd.concat([s, s.iloc[:1]]), "repeated rows: 2"),
        (lambda s: s.iloc[1:], "missing rows of the sample: 1"),
        (lambda s: s.assign(n_objects=s.n_objects.where(s.index != 3, -1)), "give a number of 0 or more"),
        (
            lambda s: s.assign(n_objects=s.n_objects.astype(str).where(s.index != 3, "many")),
            "give a number of 0 or more",
        ),
        (lambda s: s.assign(n_objects=np.inf), "give a number of 0 or more"),
        (lambda s: s.assign(image_date="last summer"), "write 2021, 2021-03 or"),
        (lambda s: s.assign(image_date="2021-13"), "write 2021, 2021-03 or"),
        (lambda s: s.assign(period=s.period.where(s.index != 3, "2031")), "rows that are not of the sample: 1"),
        (lambda s: s.assign(probability=0.5), "probability of"),
    ],
)
def test_a_sheet_that_was_changed_is_refused(run: Path, labelled: Path, change, error: str) -> None:  # type: ignore[no-untyped-def]
    change(gpd.read_file(labelled)).to_file(labelled, layer="cells")
    with pytest.raises(InputError, match=error):
        import_labels(run, labelled, assume_disjoint=True, quiet=True)
    assert not (run / runpaths.SAMPLE_LABELLED).exists()


def test_a_csv_will_do(run: Path, labelled: Path, tmp_path: Path) -> None:
    first = import_labels(run, labelled, assume_disjoint=True, quiet=True).table
    pd.DataFrame(gpd.read_file(labelled).drop(columns="geometry")).to_csv(tmp_path / "l.csv", index=False)
    second = import_labels(run, tmp_path / "l.csv", assume_disjoint=True, quiet=True).table
    pd.testing.assert_frame_equal(first, second)


def test_a_sample_of_another_map_or_design_is_refused(run: Path, labelled: Path) -> None:
    design_sample(run, Wish(n=120, periods=("2018", "2019"), seed=9), quiet=True)
    with pytest.raises(Refused, match="import the sheet of this design"):
        import_labels(run, labelled, assume_disjoint=True, quiet=True)
    path = run / runpaths.SAMPLE_DESIGN
    import hashlib

    record = json.loads(path.read_text())
    del record["sha256"]
    record["run_id"] = "0" * 64
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record | {"sha256": digest}))
    with pytest.raises(Refused, match="drawn from another map"):
        estimate_with_labels(run)


def estimate_with_labels(run: Path) -> None:
    (run / runpaths.SAMPLE_LABELLED).write_bytes(b"")
    from subpixmap.estimation.sheets import read_sample
    from subpixmap.verbs.sample import _require_same_map

    _require_same_map(RunFolder.open(run), read_sample(run))


def test_a_sample_of_one_year_says_nothing_of_another(run: Path, tmp_path: Path) -> None:
    design_sample(run, Wish(n=100, periods=("2018",)), quiet=True)
    labels(run, tmp_path / "one.gpkg")
    import_labels(run, tmp_path / "one.gpkg", assume_disjoint=True, quiet=True)
    estimate(run, quiet=True)
    counts = read_table(run / runpaths.COUNTS_CSV, COUNTS)
    assert counts.loc[counts.period == "2019", "estimate"].isna().all()
    with pytest.raises(InputError, match="no labels of 2019"):
        estimate(run, changes=[("2018", "2019")], quiet=True)


def test_a_labelled_sample_is_not_overwritten_but_may_guide_the_next(run: Path, labelled: Path) -> None:
    import_labels(run, labelled, assume_disjoint=True, quiet=True)
    estimate(run, quiet=True)
    with pytest.raises(Refused, match="holds a labelled sample"):
        design_sample(run, Wish(n=100), quiet=True)
    made = design_sample(run, Wish(n=100), pilot=True, quiet=True)
    assert made.strata["drawn"].sum() == 100
    assert not (run / runpaths.ESTIMATES_CSV).exists()
    assert read_table(run / runpaths.COUNTS_CSV, COUNTS)["estimate"].isna().all()
    assert verify(run).damaged == ()


def run_with_land(folder: Path, land: list[BaseGeometry] | None) -> tuple[Path, str]:
    """A counted run of a model whose card says this land, and the model's file."""
    model = tiny_model(objects=("coconut", "car"))
    training = {} if land is None else {"land": land_json({"training": land, "calibration": []})}
    return run_with_model(folder, Model.of(model.net, dataclasses.replace(model.card, training=training)))


def run_with_model(folder: Path, model: Model) -> tuple[Path, str]:
    """A counted run of a model, and the model's file."""
    plan = make_plan(periods=PERIODS[:1])
    saved = save_model(folder / "m.safetensors", model.net, model.card)
    recipe = dataclasses.replace(plan.recipe, model_sha256=saved.sha256)
    info = dataclasses.replace(plan.model, name="mine", sha256=saved.sha256)
    make_run(folder / "out", dataclasses.replace(plan, recipe=recipe, model=info))
    count(folder / "out", quiet=True)
    return folder / "out", str(folder / "m.safetensors")


def test_no_cell_lies_on_land_that_taught_the_model(tmp_path: Path) -> None:
    out, model = run_with_land(tmp_path, [shapely.box(119, 10, 120, 11)])
    made = design_sample(out, Wish(n=60), model=model, quiet=True)
    assert json.loads((out / runpaths.SAMPLE_DESIGN).read_text())["taught_cells_left_out"] > 100
    assert (made.cells["longitude"] > 120).all()
    labels(out, tmp_path / "good.gpkg")
    import_labels(out, tmp_path / "good.gpkg", model=model, quiet=True)
    estimate(out, quiet=True)
    (out / runpaths.SAMPLE_LABELLED).unlink()
    made = design_sample(out, Wish(n=60), quiet=True)  # the model's file is not known: nothing can be left out
    west = made.cells.loc[made.cells["longitude"] < 119.999, "cell_id"].iloc[0]
    labels(out, tmp_path / "bad.gpkg")
    with pytest.raises(Refused, match=r"cells of the sample lie on land .*-p10-") as refusal:
        import_labels(out, tmp_path / "bad.gpkg", model=model, assume_disjoint=True, quiet=True)
    assert west[:5] in str(refusal.value)


def test_a_sample_that_calibrates_a_model_does_not_certify_it(tmp_path: Path) -> None:
    out, model = run_with_land(tmp_path, [shapely.box(0, 0, 1, 1)])
    design_sample(out, Wish(n=60), model=model, quiet=True)
    labels(out, tmp_path / "l.gpkg")
    import_labels(out, tmp_path / "l.gpkg", model=model, quiet=True)
    made = calibrate(model, tmp_path / "mine.safetensors", sample=out, quiet=True)
    assert made.card.calibration["coconut"][1] == pytest.approx(0.8, abs=0.1)  # the labels are 0.8 of the map
    assert "car" not in made.card.calibration
    again = tmp_path / "again"
    again.mkdir()
    second, same = run_with_model(again, made)
    design_sample(second, Wish(n=60), quiet=True)  # the same cells: the map and the seed are the same
    labels(second, again / "l.gpkg")
    with pytest.raises(Refused, match="lie on land that the model was trained or calibrated on"):
        import_labels(second, again / "l.gpkg", model=same, quiet=True)
    with pytest.raises(Refused, match="give the model of that map"):
        calibrate(same, tmp_path / "third.safetensors", sample=out, quiet=True)
    with pytest.raises(InputError, match="either --reference"):
        calibrate(model, tmp_path / "third.safetensors", quiet=True)


def test_a_card_that_does_not_say_its_land_is_refused(tmp_path: Path) -> None:
    out, model = run_with_land(tmp_path, None)
    design_sample(out, Wish(n=60), model=model, quiet=True)
    labels(out, tmp_path / "l.gpkg")
    with pytest.raises(InputError, match="give it with --model FILE"):
        import_labels(out, tmp_path / "l.gpkg", quiet=True)
    with pytest.raises(Refused, match="add --assume-disjoint"):
        import_labels(out, tmp_path / "l.gpkg", model=model, quiet=True)
    import_labels(out, tmp_path / "l.gpkg", model=model, assume_disjoint=True, quiet=True)
    assert json.loads((out / runpaths.SAMPLE_IMPORT).read_text())["assume_disjoint"]


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"cell": 33}, "whole number of pixels"),
        ({"n": 1}, "give 2 or more"),
        ({"n": 10**6}, "the frame has only"),
        ({"n": 5}, "strata need"),
        ({"periods": ("1999",)}, "the run has 2018, 2019"),
        ({"objects": ("cow",)}, "the run has coconut, car"),
        ({"objects": ("car",)}, "one image cannot show"),
        ({"by": "7"}, "the units have 1 level"),
        ({"by": "province"}, "the units have 1 level"),
        ({"target_cv": -3.0}, "between 0 and 100"),
        ({"target_cv": 0.001}, "too many"),
    ],
)
def test_wishes_that_cannot_be_met(run: Path, wish: dict, error: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=error):
        design_sample(run, Wish(**wish), quiet=True)
    assert not (run / runpaths.SAMPLE_DESIGN).exists()


def test_rules_that_cannot_hold() -> None:
    for rules, error in [
        ({"level": 1.0}, "--level"), ({"estimator": "best"}, "--estimator"),
        ({"min_cells": 3}, "--min-cells"), ({"max_cv": 0.0}, "--max-cv"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=error):
            Rules(**rules)  # type: ignore[arg-type]
