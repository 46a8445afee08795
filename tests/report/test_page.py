"""The page: what it says and refuses to say, what it is made of, and that odd names cannot break it."""

import html.parser
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr

from subpixmap.grid import Lattice, Window, project
from subpixmap.mapping.plan import ModelInfo
from subpixmap.report import colours, figures
from subpixmap.report import html_images as picture
from subpixmap.report.contents import Contents
from subpixmap.report.downsample import block_means, make_display_grid, read_layers
from subpixmap.report.formatting import compact, number, p_value, percent, rough
from subpixmap.report.page import render
from subpixmap.report.summary import banner, leaves, region_totals, region_truth, roots
from subpixmap.tables import COUNTS, types_of
from subpixmap.trends.unit_trends import trend

LATTICE = Lattice(32650, 10.0)
ODD = ['Sta. Ana, "North"', "Línea\nnueva", "<script>alert(1)</script>", "Niño & Co $x_1$"]
DEFINITIONS = {"coconut": "coconut palms of 4 years and more", "car": "parked cars"}


def island(seed: int = 3, size: int = 600) -> tuple[shapely.Polygon, gpd.GeoDataFrame]:
    """A round island of 6 km in UTM zone 50 with 3 provinces of 4 municipalities each; ids keep a leading zero."""
    rng = np.random.default_rng(seed)
    centre = project(shapely.Point(119.5, 10.5), 4326, 32650)
    angle = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    radius = 2600 * (1 + 0.1 * np.sin(3 * angle + 1) + 0.06 * np.sin(7 * angle))
    coast = shapely.Polygon(np.column_stack([centre.x + radius * np.cos(angle), centre.y + radius * np.sin(angle)]))
    seeds = shapely.MultiPoint(rng.normal([centre.x, centre.y], 1200, (12, 2)))
    cells = shapely.get_parts(shapely.voronoi_polygons(seeds, extend_to=coast))
    cells = sorted((shapely.intersection(cell, coast) for cell in cells), key=lambda cell: cell.centroid.x)
    rows = []
    for i, cell in enumerate(cells):
        name = ODD[i] if i < len(ODD) else f"Municipality {i + 1}"
        rows.append((f"0{i // 4 + 1}{i % 4 + 1:02d}", name, f"0{i // 4 + 1}", cell))
    for p in range(3):
        rows.append((f"0{p + 1}", f"Province {p + 1}", "", shapely.union_all(cells[4 * p : 4 * p + 4])))
    table = gpd.GeoDataFrame(rows, columns=["unit_id", "unit_name", "parent_id", "geometry"], crs=32650)
    return project(coast, 32650, 4326), table.to_crs(4326)


def fake_map(region: shapely.Polygon, periods: list[str], seed: int = 5) -> dict[int, xr.Dataset]:
    """One zone: smooth densities that grow by year, a cloud gap in the first period."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    extent = LATTICE.window(project(region, 4326, 32650).bounds).aligned(256)
    x, y = LATTICE.coords(extent)
    base = gaussian_filter(rng.normal(size=extent.shape), 18)
    base = np.clip(base / base.std(), 0, None) * 0.45
    growth = np.linspace(0.7, 1.1, len(periods))
    count = np.stack([[base * g + rng.normal(0, 0.04, extent.shape) for g in growth], [base * 0.05] * len(periods)])
    n_obs = np.stack([rng.poisson(4, extent.shape) + 1 for _ in periods]).astype(np.uint16)
    gap = gaussian_filter(rng.normal(size=extent.shape), 40)
    n_obs[0][gap > gap.max() * 0.45] = 0
    count = np.where(n_obs == 0, np.nan, count).astype(np.float32)
    coords = {"object": list(DEFINITIONS), "period": periods, "y": y, "x": x}
    return {
        32650: xr.Dataset(
            {"count": (("object", "period", "y", "x"), count), "n_obs": (("period", "y", "x"), n_obs)}, coords
        )
    }


def count_rows(units: gpd.GeoDataFrame, maps: dict[int, xr.Dataset], evidence: str) -> pd.DataFrame:
    """The contract's columns from pixel centres (exact fractions are not what is tested here)."""
    from rasterio.features import geometry_mask

    data = maps[32650]
    window = LATTICE.window((data.x.min().item(), data.y.min().item(), data.x.max().item(), data.y.max().item()))
    transform = LATTICE.transform(Window(window.row, window.col, data.sizes["y"], data.sizes["x"]))
    found = []
    for unit in units.itertuples():
        inside = geometry_mask([project(unit.geometry, 4326, 32650)], data["n_obs"].shape[1:], transform, invert=True)
        area = inside.sum() / 100
        for o, name in enumerate(DEFINITIONS):
            for p, period in enumerate(data.period.values):
                values = data["count"].values[o, p][inside]
                seen = np.isfinite(values)
                total = float(np.nansum(values)) if seen.any() else np.nan
                observed = seen.sum() / 100
                found.append(
                    dict.fromkeys(COUNTS) | {
                        "unit_id": unit.unit_id, "unit_name": unit.unit_name, "parent_id": unit.parent_id,
                        "object": name, "object_definition": DEFINITIONS[name],
                        "measure": "count" if name == "coconut" else "occupancy",
                        "period": period, "period_start": f"{period}-01-01", "period_end": f"{period}-12-31",
                        "map_total": total, "map_total_full": total / observed * area if observed else np.nan,
                        "density_per_ha": total / observed if observed else np.nan, "area_ha": area,
                        "observed_ha": observed, "observed_frac": observed / area,
                        "n_obs_median": float(np.median(data["n_obs"].values[p][inside])), "ood_frac": 0.012,
                        "flag": "partly_observed" if observed / area < 0.9 else None, "evidence": evidence,
                        "boundary_source": "units.parquet", "boundary_version": "sha256:0", "model_id": "demo-s2",
                        "model_sha256": "ab" * 32, "items_sha256": "cd" * 32, "run_id": "0123456789abcdef",
                        "software_version": "0.1.0",
                    }
                )  # fmt: skip
    return pd.DataFrame(found)[list(COUNTS)].astype(types_of(COUNTS))


def followed(counts: pd.DataFrame) -> pd.DataFrame:
    """Trends of these rows, as if every period had seen the same pixels."""
    known = {"common_frac": 0.9, "n_noise_acquisitions": 6, "background_per_ha": 0.0}
    totals = counts["map_total_full"].astype(float)
    series = counts[["unit_id", "object", "period"]].assign(common_total=totals, noise_se=totals.abs() * 0.03, **known)
    return trend(counts, series)


def make_run(periods: list[str] | None = None, *, evidence: str = "simulated", simulated: bool = True) -> Contents:
    """A run as `read_contents` would read it, made without a model."""
    periods = periods or [str(year) for year in range(2018, 2024)]
    region, units = island()
    maps = fake_map(region, periods)
    counts = count_rows(units, maps, evidence)
    noise = counts[["unit_id", "object", "period"]].astype(str).assign(noise_se=counts.map_total.astype(float) * 0.03)
    rng = np.random.default_rng(1)
    truth = counts[counts.object == "coconut"][["unit_id", "object", "period"]].astype(str)
    truth["count"] = counts.map_total_full[truth.index] * rng.normal(1.02, 0.05, len(truth))
    passes = [f"{p[:4]}-{m:02d}-11T02:15:00Z" for p in periods for m in (2, 3, 4, 5, 9, 11)]
    common = {"acquisition": [f"S2A_{t[:10]}" for t in passes], "period": [t[:4] for t in passes]}
    acquisitions = pd.DataFrame(common | {"time": passes, "blocks": 1, "observed_px": 250_000})
    old = [t < "2022" for t in passes]
    items = pd.DataFrame(
        common | {
            "id": [f"S2A_50PQS_{t[:10]}_L2A" for t in passes], "tile": "50PQS", "datetime": passes, "cloud_cover": 12.5,
            "baseline": ["02.14" if early else "05.09" for early in old],
            "offset_dn": [0 if early else -1000 for early in old],
            "offset_reason": ["baseline before 04.00" if early else "not applied yet" for early in old],
        }
    )  # fmt: skip
    return Contents(
        name="demo", geometry=region, periods=tuple(periods), objects=tuple(DEFINITIONS),
        model=ModelInfo("demo-s2", "ab" * 32, evidence, 8, 10.0, DEFINITIONS, {"coconut": "count", "car": "occupancy"}),
        simulated=simulated, counts=counts,
        trend=followed(counts), units=units, series=noise, layers=read_layers(maps, region, size=300),
        acquisitions=acquisitions, items=items,
        provenance={"Region": "demo", "Model": "demo-s2", "Run id": "0123456789abcdef", "Software": "subpixmap 0.1.0"},
        truth=truth if simulated else None, expected_blocks=6, done_blocks=6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run() -> Contents:
    return make_run()


@pytest.fixture(scope="module")
def small() -> Contents:
    """Two periods: quicker to render."""
    return make_run(["2020", "2021"])


@pytest.fixture(scope="module")
def page(run: Contents) -> str:
    return render(run)


# ---- the page --------------------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text; fails on tags that are not closed in order."""

    VOID = ("meta", "img", "input", "br", "path", "circle", "use", "link", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: Any, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: Any, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: Any) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag, f"</{tag}> closes another tag at {self.getpos()}"

    def handle_data(self, data: Any) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_page_needs_no_network(page: str) -> None:
    reader = read(page)
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in reader.found) == 2
    for tag, attributes in reader.found:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name) or "#"
            beside = tag == "a" and value in ("counts.csv", "trend.csv", "changes.csv", "tables.json", "estimates.csv")
            assert beside or value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:60])
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|<link", page)
    assert "default-src 'none'" in page
    assert page.startswith("<!doctype html>")


def test_page_is_the_same_every_time(small: Contents) -> None:
    assert render(make_run(["2020", "2021"])) == render(small)


def test_odd_names_are_shown_and_harm_nothing(page: str) -> None:
    text = " ".join(read(page).words)
    for name in ODD:
        assert " ".join(name.split()) in " ".join(text.split())
    assert "<script>alert" not in page


def test_names_cannot_break_out_of_the_page(small: Contents) -> None:
    """Markup, templates, quotes, line breaks, mathematics, other scripts: all of it is only text."""
    names = [
        "</script><script>1</script>",
        "{{ 7*7 }}",
        "'\" onload=x",
        "a\r\nb\tc",
        "]]>",
        "$\\frac{$",
        "مانيلا",
        "🌴",
    ]
    names += ["%s{}", "&lt;", "<!--", "x" * 300]
    units = small.units.copy()
    units["unit_name"] = names + list(units.unit_name[len(names) :])
    renamed = dict(zip(units.unit_id, units.unit_name, strict=True))
    counts = small.counts.assign(unit_name=small.counts.unit_id.map(renamed)).astype(types_of(COUNTS))
    page = render(replace(small, units=units, counts=counts, trend=followed(counts), name="<b>odd</b> & region"))
    reader = read(page)
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in reader.found) == 2
    assert not any(name.startswith("on") for _, attributes in reader.found for name in attributes)
    shown = {attributes["data-name"] for tag, attributes in reader.found if tag == "path" and "data-name" in attributes}
    assert {name.replace("\r\n", "\n") for name in names} <= {name.replace("\r\n", "\n") for name in shown}


@pytest.mark.parametrize(
    ("evidence", "simulated", "level", "words"),
    [
        ("simulated", True, "note", "Simulated data"),
        ("simulated", False, "warning", "These numbers are not estimates"),
        ("degraded-aerial", False, "warning", "Not validated on Sentinel-2"),
        ("sentinel-2", False, "note", "without confidence intervals"),
    ],
)
def test_banner_says_what_the_numbers_are(
    small: Contents, evidence: str, simulated: bool, level: str, words: str
) -> None:
    told = replace(small, model=replace(small.model, evidence=evidence), simulated=simulated, truth=None)
    assert banner(told).level == level
    page = render(told)
    assert words in page
    assert f'<p class="banner {level}">' in page
    assert ("not an estimate</span>" in page) == (level == "warning")


def test_incomplete_run_says_so(small: Contents, page: str) -> None:
    assert "Incomplete run" not in page
    assert "1 of 6 blocks are missing" in render(replace(small, done_blocks=5))


def test_totals_do_not_count_a_place_twice(run: Contents) -> None:
    """Municipalities lie in provinces: only the top units are summed."""
    assert len(leaves(run.units)) == 12
    assert roots(run.units) == ["01", "02", "03"]
    totals = region_totals(run)
    mine = totals[(totals.object == "coconut") & (totals.period == "2023")].iloc[0]
    rows = run.counts[(run.counts.object == "coconut") & (run.counts.period == "2023")]
    both = rows.map_total.sum()
    assert mine.map_total == pytest.approx(both / 2)
    assert mine.map_total == pytest.approx(rows[rows.unit_id.isin(leaves(run.units))].map_total.sum())


def test_unobserved_is_blank_and_never_zero(small: Contents) -> None:
    run, counts = small, small.counts.copy()
    gone = (counts.unit_id == "0302") & (counts.period == "2021")
    for name in ("map_total", "map_total_full", "density_per_ha", "n_obs_median", "ood_frac"):
        counts.loc[gone, name] = np.nan
    counts.loc[gone, "observed_ha"] = counts.loc[gone, "observed_frac"] = 0.0
    counts.loc[gone, "flag"] = "not_observed"
    page = render(replace(run, counts=counts, trend=followed(counts)))
    row = re.search(r'<tr data-unit="0302">.*?</tr>', page, re.DOTALL)
    cells = re.findall(r'<td class="n">([^<]*)', row[0])  # type: ignore[index]
    assert cells[:3] == ["–", "–", "–"]
    assert "not observed</span>" in row[0]  # type: ignore[index]
    nothing = counts.assign(map_total=np.nan, map_total_full=np.nan, density_per_ha=np.nan, observed_ha=0.0)
    page = render(replace(run, counts=nothing.astype(types_of(COUNTS)), truth=None, trend=None))
    assert "no pixel was observed" in page


def test_truth_is_compared_over_the_top_units(run: Contents, small: Contents, page: str) -> None:
    table = region_truth(run)
    assert table is not None
    assert set(table.object) == {"coconut"}
    assert (table.error.abs() < 0.1).all()
    assert "Mapped against truth" in page
    assert "Mapped against truth" not in render(replace(small, truth=None))


def test_one_unit_one_period_one_object() -> None:
    run = make_run(["2021"])
    units = run.units[run.units.unit_id == "0101"]
    counts = run.counts[(run.counts.unit_id == "0101") & (run.counts.object == "coconut")].reset_index(drop=True)
    single = replace(run, objects=("coconut",), units=units, counts=counts,
                     trend=followed(counts), truth=None)  # fmt: skip
    page = render(single)
    read(page)
    assert 'class="tabs"' not in page
    assert '<input type="range"' not in page


# ---- display layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "factor"), [(8, 8, 4), (9, 7, 4), (5, 5, 1), (3, 11, 5), (2049, 3, 2)])
def test_block_means_are_those_of_numpy(height: int, width: int, factor: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, height, width))
    values[rng.random(values.shape) < 0.3] = np.nan
    found = block_means(xr.DataArray(values), factor)
    for r in range(found.shape[1]):
        for c in range(found.shape[2]):
            part = values[:, r * factor : (r + 1) * factor, c * factor : (c + 1) * factor]
            for o in range(2):
                known = part[o][np.isfinite(part[o])]
                expected = known.mean() if known.size else np.nan
                np.testing.assert_allclose(found[o, r, c], expected, rtol=1e-6)


def constant_zone(epsg: int, region: shapely.Polygon, value: float = 0.5) -> xr.Dataset:
    """A zone's map that holds `value` on every pixel the zone owns."""
    from subpixmap.grid import owned

    lattice = Lattice(epsg, 100.0)
    extent = lattice.window(project(region, 4326, epsg).bounds).aligned(256)
    x, y = lattice.coords(extent)
    mine = owned(lattice, extent)
    count = np.where(mine, value, np.nan).astype(np.float32)[None, None]
    coords = {"object": ["coconut"], "period": ["2021"], "y": y, "x": x}
    return xr.Dataset({"count": (("object", "period", "y", "x"), count),
                       "n_obs": (("period", "y", "x"), mine[None].astype(np.uint16))}, coords)  # fmt: skip


def test_display_of_a_constant_map_is_constant_across_a_zone_seam() -> None:
    region = shapely.segmentize(shapely.box(119.6, 10.0, 120.4, 10.5), 0.01)
    layers = read_layers({epsg: constant_zone(epsg, region) for epsg in (32650, 32651)}, region, size=200)
    assert layers.inside.mean() > 0.9
    np.testing.assert_allclose(layers.density[0, 0][layers.inside], 0.5, rtol=1e-6)  # 0.5 per ha of 100 m pixels
    one = read_layers({32650: constant_zone(32650, region)}, region, size=200)
    assert not np.isfinite(one.density[0, 0][one.inside]).all()  # the other zone's part is missing without it


def test_grid_at_the_date_line_is_narrow() -> None:
    region = shapely.union_all([shapely.box(179.5, -17, 180, -16), shapely.box(-180, -17, -179.5, -16)])
    grid, _ = make_display_grid(region, [32660, 32701], (0.0, 0.0), 10.0, 500)
    assert grid.shape[1] <= 502
    assert grid.step * grid.shape[1] < 120_000


def test_display_keeps_the_total_of_what_it_shows(run: Contents) -> None:
    """Mean density x area over the picture equals the pixels' sum: nothing is smeared or lost."""
    region, _ = island()
    data = fake_map(region, ["2021"])[32650]
    layers = read_layers({32650: data}, region, size=300)
    x0, y0, step = layers.grid.west, layers.grid.north, layers.grid.step
    rows, cols = layers.grid.shape
    inside = data.sel(x=slice(x0, x0 + cols * step), y=slice(y0, y0 - rows * step))
    n = np.isfinite(inside["count"].values[0, 0]).reshape(rows, 2, cols, 2).sum(axis=(1, 3))
    shown = np.nansum(layers.density[0, 0].astype(float) * n * 0.01)
    assert shown == pytest.approx(float(np.nansum(inside["count"].values[0, 0])), rel=1e-5)


# ---- pictures and figures --------------------------------------------------------------------------------------------


def decode(uri: str) -> np.ndarray:
    import base64
    import io

    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image.convert("RGBA"))


def test_picture_shows_three_states() -> None:
    values = np.array([[np.nan, np.nan, 0.0, 5.0, 50.0]])
    inside = np.array([[True, False, True, True, True]])
    pixels = decode(picture.png_uri(values, inside, colours.DENSITY, 10.0))[0]
    assert pixels[0, 3] == 255
    assert tuple(pixels[0, :3]) in picture._HATCH  # not observed
    assert pixels[1, 3] == 0  # outside
    expected = [tuple(np.rint(np.array(colours.DENSITY(v)[:3]) * 255).astype(int)) for v in (0.0, 1.0)]
    assert tuple(pixels[2, :3]) == expected[0]
    assert tuple(pixels[4, :3]) == expected[1]  # clipped for display


@pytest.mark.parametrize("cmap", [colours.DENSITY, colours.CLEAR_OBSERVATIONS])
def test_colours_get_steadily_darker(cmap: Any) -> None:
    linear = cmap(np.linspace(0, 1, 200))[:, :3] ** 2.2
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722]) < 0).all()


def test_figures_work_alone(run: Contents) -> None:
    table = region_totals(run)
    mine = table[table.object == "coconut"]
    for figure in (
        figures.plot_map(run.layers, "coconut", "2018", units=run.units),  # type: ignore[arg-type]
        figures.plot_series(mine),
        figures.plot_series(mine.assign(ci_low=mine.map_total * 0.9, ci_high=mine.map_total * 1.1), observed=False),
        figures.plot_units(run.counts[run.counts.object == "coconut"], run.periods),
        figures.plot_reliability(np.array([1.0, 2, np.nan]), np.array([1.1, np.nan, 3])),
        figures.plot_reliability(np.array([]), np.array([])),
    ):
        text = picture.svg(figure, 'a "figure"')
        assert text.startswith('<svg role="img" aria-label="a &quot;figure&quot;"')
        assert "DejaVu" not in text


def test_limits_are_round() -> None:
    assert figures.nice_limit(np.array([0.0, 1.2, np.nan]), share=1) == 1.5
    assert figures.nice_limit(np.array([87.0]), share=1) == pytest.approx(100)
    assert figures.nice_limit(np.array([np.nan, -1.0])) == 1.0


def test_numbers_are_for_people() -> None:
    assert number(1234567.8) == "1\u202f234\u202f568"
    assert number(-0.0) == number(0) == "0"
    assert number(-0.4) == "\u22120.4"
    assert number(0.004, digits=1) == "0.004"
    assert number(2e-5) == "< 0.001"
    assert number(-2e-5) == "> \u22120.001"
    assert number(-12.34, digits=1) == "\u221212.3"
    assert number(float("nan")) == number(None) == percent(np.nan) == compact(None) == "–"
    assert compact(347_412_000) == "347.41 million"
    assert percent(0.123, sign=True) == "+12\u202f%"
    assert percent(-0.001, sign=True) == "\u22120.1\u202f%"
    assert percent(0.0, sign=True) == "0\u202f%"
    assert p_value(0.0) == p_value(0.0009) == "< 0.001"
    assert p_value(0.0234) == "0.023"
    assert rough(34767) == "34\u202f800"
    assert rough(10916, like=1880) == "10\u202f900"
    assert rough(0.0512) == "0.0512"


# ---- a real run folder -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny run with an untrained network: every file of the contract, made by the stages themselves."""
    from subpixmap.counts.count import count_run, write_counts
    from subpixmap.mapping.run import map_region
    from subpixmap.runfolder import RunFolder
    from subpixmap.scenes.items import write_lock
    from subpixmap.trends.run_trend import trend_of_run, write_trend
    from tests.helpers.mapping_data import tiny

    out = tmp_path_factory.mktemp("run")
    country = tiny(tmp_path_factory.mktemp("scenes"))
    map_region(out, country.plan(), country.items, country.model, workers=0)
    write_lock(out / "items.parquet", country.items)
    country.region.units.to_parquet(out / "units.parquet")
    write_counts(out, count_run(out))
    write_trend(out, trend_of_run(RunFolder.open(out)))
    return out


def test_report_of_a_run_folder(folder: Any) -> None:
    from subpixmap.report import write_report

    path = write_report(folder)  # type: ignore[operator]
    page = path.read_text(encoding="utf-8")
    read(page)
    assert path == folder / "report.html"
    assert (
        "These numbers are not estimates" in page
    )  # a simulated-only model on imagery that is not said to be simulated
    assert write_report(folder).read_text(encoding="utf-8") == page  # type: ignore[operator]
    assert not re.search(r"/(?:home|root|tmp|Users|var)/", page)
    assert re.search(r"Page written on \d{4}-\d\d-\d\d", page)
    assert "Cite as:" in page


def test_what_is_mapped_beyond_the_region_is_in_no_number(folder: Any) -> None:
    """Whole chunks are mapped; the accounts and the page look at the region, which its only unit covers."""
    from subpixmap.counts.accounts import read_accounts
    from subpixmap.mapping.ledger import read_records
    from subpixmap.report import write_report

    accounts = read_accounts(folder / "accounts.json")
    assert accounts["outside"]["area_ha"].tolist() == [0] * 4
    assert accounts["outside"]["map_total"].isna().all()
    assert not [remark for remark in accounts["remarks"] if "unlike the training data" not in remark]
    balance = accounts["balance"].set_index(["object", "period"])
    assert balance["units"].to_numpy() == pytest.approx(balance["map"].to_numpy(), rel=1e-7)
    mapped = sum(one.total["coconut"] for one in read_records(folder).values() if one.period == "2021")
    assert abs(mapped / balance.loc[("coconut", "2021"), "map"] - 1) > 0.05
    assert "Does it add up?" in write_report(folder).read_text(encoding="utf-8")  # type: ignore[operator]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    from subpixmap.errors import InputError
    from subpixmap.report import write_report

    with pytest.raises(InputError, match=r"plan\.json"):
        write_report(tmp_path)  # type: ignore[operator]
