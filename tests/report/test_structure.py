"""What the page must hold for everybody, read from its text without a browser."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subpixmap.report.contents import Contents
from subpixmap.report.object_tables import unit_table
from subpixmap.report.page import render
from subpixmap.report.page_tables import Column, make_table
from subpixmap.report.sentences import plural
from subpixmap.scenes.hrefs import for_readers
from tests.report.test_page import make_run, read

CSS = (Path(__file__).parents[2] / "subpixmap" / "report" / "page.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small() -> Contents:
    return make_run(["2020", "2021"])


@pytest.fixture(scope="module")
def page(small: Contents) -> str:
    return render(small)


def test_the_deviation_over_networks_has_a_column_where_it_is_known(small: Contents) -> None:
    def labels(contents: Contents) -> list[str]:
        table, _, _ = unit_table(contents, "coconut", "2021", ["2021"])
        return [column.label for column in table.columns] if table else []

    assert "± networks" not in labels(small)
    assert "± networks" in labels(replace(small, counts=small.counts.assign(sd_over_models=1.5)))


@pytest.fixture(scope="module")
def tags(page: str) -> list[tuple[str, dict[str, Any]]]:
    return read(page).found


# ---- landmarks, keyboard, contrast -----------------------------------------------------------------------------------


def test_landmarks_stand_once(tags: list[tuple[str, dict[str, Any]]]) -> None:
    names = [tag for tag, _ in tags]
    for name in ("main", "header", "footer", "h1", "title"):
        assert names.count(name) == 1, name
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes.get("href") or attributes["xlink:href"] for tag, attributes in tags if tag in ("a", "use")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_all_is_reached_by_keyboard_and_has_a_name(page: str, tags: list[tuple[str, dict[str, Any]]]) -> None:
    for tag, attributes in tags:
        if tag == "img":
            assert attributes["alt"]
        if tag in ("input", "select"):
            assert attributes["aria-label"]
        if "scroll" in attributes.get("class", "").split() or attributes.get("class") == "frame":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
            assert attributes["role"] in ("region", "group")
        assert not attributes.get("aria-hidden") or "tabindex" not in attributes
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert not re.search(r"<(button|th|a)\b[^>]*>\s*</\1>", page)
    assert page.count('<select class="choose"') == 2  # units are chosen from a list, on the map of each object


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(one * 2 for one in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Of WCAG 2: 1 for the same colour, 21 for black on white."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


def test_texts_stand_out_from_their_ground() -> None:
    """Texts in every colour of the page on every ground of the page, at least 4.5 to 1."""
    variables = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", CSS))
    grounds = ["#ffffff", variables["soft"], variables["tint"], "#f5fafa"]
    for name in ("ink", "muted", "faint", "accent"):
        for ground in grounds:
            assert contrast(variables[name], ground) >= 4.5, (name, ground)
    both = [
        (found[1], ground[1])
        for rule in re.findall(r"\{([^{}]*)\}", CSS)
        if (found := re.search(r"(?<![\w-])color: (#[0-9a-f]{3,6})", rule))
        and (ground := re.search(r"background: (#[0-9a-f]{3,6})", rule))
    ]
    assert len(both) >= 4
    for text, ground in both:
        assert contrast(text, ground) >= 4.5, (text, ground)


# ---- without a script, and in print ----------------------------------------------------------------------------------


def test_maps_are_there_without_a_script(page: str, tags: list[tuple[str, dict[str, Any]]]) -> None:
    shown = [attributes["alt"] for tag, attributes in tags if tag == "img" and "hidden" not in attributes]
    assert shown == ["Coconut, pixels, 2021", "Coconut, by unit, 2021", "Car, pixels, 2021", "Car, by unit, 2021"]
    assert 'href="#outlines"' in page
    assert "@media screen { .js .object:not(.active) { display: none; } }" in page  # print shows every object


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_a_sentence_says_how_many_where_and_what_confirms_it(small: Contents, page: str) -> None:
    coconut, car = re.findall(r'<section class="findings".*?</section>', page, re.DOTALL)[0].split("<p>")[1:]
    assert re.match(r"In a simulated country, in 2021 the map shows [\d\u202f]+ coconut palms; ", coconut)
    assert "no reference sample confirms this yet" in coconut
    assert "parked cars on an average date" in car
    real = replace(small, simulated=False, truth=None)
    assert "<p>Not an estimate: in 2021 the map shows" in render(real)
    strange = replace(small, counts=small.counts.assign(ood_frac=0.31))
    assert "31\u202f% of the imagery is unlike the model&#39;s training data" in render(strange)


@pytest.mark.parametrize(
    ("name", "definition", "expected"),
    [
        ("coconut", "coconut palm, planted 4 or more years ago", "coconut palms"),
        ("coconut", "coconut palms of 4 years and more", "coconut palms"),
        ("oil_palm", "", "oil palms"),
        ("tree", "a tree of 3 m or more", "trees"),
        ("car", "car parked in a parking lot at the time of the acquisition", "cars"),
        ("box", "wooden or cardboard containers for fruit", "boxes"),
    ],
)
def test_objects_are_named_in_the_plural(name: str, definition: str, expected: str) -> None:
    assert plural(name, definition) == expected


def test_cells_follow_the_period(small: Contents, page: str) -> None:
    """What a script puts into the table for the last period is what stands there without one."""
    data = json.loads(re.findall(r'class="cells">(.*?)</script>', page, re.DOTALL)[0])
    assert list(data) == ["2020", "2021"]
    row = re.findall(r'<section class="wide" id="coconut-units">.*?<tbody>\s*<tr.*?</tr>', page, re.DOTALL)[0]
    assert re.findall(r'<td class="n">([^<]*)</td>', row) == [one for one in data["2021"][0] if one][:7]
    assert data["2020"] != data["2021"]


def test_every_table_can_be_taken_away(page: str, tags: list[tuple[str, dict[str, Any]]]) -> None:
    n_tables = page.count("<table") - page.count('<table class="months"')
    assert page.count('class="csv"') == page.count(">Link to this table<") == n_tables


def test_one_period_shows_bars_and_no_change() -> None:
    one = render(make_run(["2021"]))
    assert "Region, by period" not in one
    assert 'data-layer="change"' not in one
    assert "since 2021" not in one
    assert "Largest units" in one


# ---- what it keeps to itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/ana/data/catalog.json", "catalog.json"),
        ("file:///Users/ana/catalog.json", "catalog.json"),
        ("C:\\Users\\ana\\units.gpkg", "units.gpkg"),
        ("~/units.gpkg", "units.gpkg"),
        ("../ana/units.gpkg", "units.gpkg"),
        ("ana/units.gpkg", "units.gpkg"),
        ("units.gpkg", "units.gpkg"),
        ("earth-search", "earth-search"),
        ("geoboundaries:PHL:ADM2", "geoboundaries:PHL:ADM2"),
        ("https://me:word@example.org/v1?token=1", "https://example.org/v1"),
        ("s3://bucket/home/catalog.json", "s3://bucket/home/catalog.json"),
    ],
)
def test_sources_are_named_without_folders_and_secrets(source: str, shown: str) -> None:
    assert for_readers(source) == shown


def test_missing_and_small_values_in_cells() -> None:
    columns = (Column("a", "a", "0"), Column("b", "b", "p"), Column("c", "c", "~"), Column("d", "d"))
    table = make_table("t", "T", columns, [{"a": None, "b": 1e-9, "c": 3e-8, "d": None}])
    assert table is not None
    assert table.rows[0].cells == ["–", "< 0.001", "0", ""]
    assert make_table("t", "T", columns, []) is None
