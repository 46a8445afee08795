"""Options of the command line: each has one default, and each that is declared is obeyed or refused."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from subpixmap.cli import options, reference_options
from subpixmap.cli.main import EXAMPLES
from subpixmap.cli.training_options import CheckpointOptions, TrainingOptions
from subpixmap.reference.points import read_points
from subpixmap.reference.reference import make_reference
from subpixmap.reference.samples import Scheme
from subpixmap.region.units import read_area
from subpixmap.training.config import SIMULATED, TrainConfig
from subpixmap.training.from_reference import learn_from
from subpixmap.verbs import teach
from subpixmap.verbs.request import Labelling, Request, Shape


def names_read(function: Callable[..., Any]) -> set[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: command.__name__)
def test_every_declared_option_is_read(command: Callable[..., None]) -> None:
    """`verbose` has told `main` already when the command begins."""
    declared = set(inspect.signature(command).parameters) - {"verbose"}
    assert declared <= names_read(command)


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


def test_a_group_hands_on_every_option_and_has_the_defaults_of_its_noun() -> None:
    run = options.RunOptions(region="demo", years="2020")
    assert [field.name for field in fields(run)] == [field.name for field in fields(Request)]
    assert run.request() == Request(region="demo", years="2020")
    assert reference_options.SamplingOptions().scheme() == Scheme()
    assert reference_options.LabellingOptions().labelling() == Labelling()
    for recipe in (TrainConfig(), SIMULATED):
        assert TrainingOptions().config(recipe, seed=0) == recipe
    checkpoint = CheckpointOptions().checkpoint()
    assert checkpoint.items() <= defaults(teach.train).items()


def test_a_group_hands_on_what_is_typed() -> None:
    sampling = reference_options.SamplingOptions(
        months="3-5", test=["a"], calibrate=["b", "c"], test_years="2022", seed=3
    )
    scheme = Scheme(months=(3, 4, 5), test=("a",), calibration=("b", "c"), test_years="2022", seed=3)
    assert sampling.scheme() == scheme
    training = TrainingOptions(steps=50, mixed=True, members=2).config(TrainConfig(), seed=4)
    assert (training.steps, training.mixed, training.members, training.seed, training.warmup) == (50, True, 2, 4, 10)
    labelling = reference_options.LabellingOptions(
        definition=["palm = a crown"], objects=["palm,car"], border=3
    ).labelling(20.0)
    assert labelling == Labelling(definitions={"palm": "a crown"}, objects=("palm", "car"), border=3, resolution=20.0)


def test_nouns_of_the_verbs_have_the_defaults_of_the_functions_below() -> None:
    labelling = vars(Labelling()) | {"definitions": None}
    of_totals = {name: labelling.pop(name) for name in ("totals", "total_columns", "totals_layer")}
    assert of_totals == {"totals": None, "total_columns": {}, "totals_layer": None}
    below = defaults(read_points) | defaults(make_reference) | {"labelled_layer": defaults(read_area)["layer"]}
    assert {name: below[name] for name in labelling} == labelling
    assert Shape()._asdict().items() <= defaults(learn_from).items()
    assert defaults(teach.reference)["within_days"] == Scheme().within_days


AREA = ("--labelled", "areas.geojson", "--image-date", "2021", "-o", "ref")
USELESS = {
    "units of a box": (("run", "--region", "1,2,3,4", "--years", "2020", "--id-column", "x"), "--id-column"),
    "two places": (("plan", "--region", "a", "--years", "2020", "--scheduler", "s", "--workers", 2), "--workers"),
    "map": (("map", "{}", "--scheduler", "tcp://x", "--workers", 2), "--workers"),
    "count": (("count", "{}", "--scheduler", "tcp://x", "--workers", 2), "--workers"),
    "column of no file": (("count", "{}", "--name-column", "x"), "--name-column"),
    "verify": (("verify", "{}", "--workers", 2), "--workers"),
    "verify model": (("verify", "{}", "--model", "demo-s2"), "--model"),
    "reference": (("reference", "points.gpkg", *AREA, "--within-days", 10), "--within-days"),
    "train simulated": (("train", "--simulated", "demo-s2", "-o", "m.safetensors", "--bands", "B02"), "--bands"),
    "train": (("train", "--reference", "ref", "--source", "x", "-o", "m.safetensors", "--cache", "c"), "--cache"),
    "evaluate simulated": (("evaluate", "demo-s2", "--simulated", 1, "--split", "all"), "--split"),
    "evaluate": (("evaluate", "demo-s2", "--reference", "ref", "--source", "x", "--world", "shifted"), "--world"),
}


@pytest.mark.parametrize("case", USELESS)
def test_an_option_that_would_do_nothing_is_refused(
    case: str, subpixmap: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, named = USELESS[case]
    assert subpixmap(*(str(one).replace("{}", str(tmp_path)) for one in arguments)) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("report", "{}", "-qv"), True),
        (("report", "{}", "--verbose"), True),
        (("report", "{}", "-q"), False),
        (("regions", "--", "-v"), False),  # the name of a country
    ],
)
def test_a_traceback_is_shown_when_verbose_was_typed_however(
    arguments: tuple[str, ...],
    shown: bool,
    subpixmap: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert subpixmap(*(one.replace("{}", str(tmp_path)) for one in arguments)) == 2
    assert ("Traceback" in capsys.readouterr().err) == shown
