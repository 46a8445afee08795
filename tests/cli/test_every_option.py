"""Every option of every command, typed with a value that is not its default: it reaches the verb, or it is refused.

The table names all options; one that is declared and stands in no row fails the test. What the verbs do with what
reaches them is tested with the verbs.
"""

from collections.abc import Callable
from typing import Any

import pytest
import typer.main

from subpixmap.cli.main import app
from subpixmap.verbs import calibrate, count, detect, doctor, look, run, sample, simulate, suggest, teach

RUN = "run --region 1,2,3,4 --years 2020"
TOTALS = "plots.gpkg --total-column palms --image-date 2021"
LABELLED = "points.gpkg --labelled areas.gpkg --image-date 2021"
MOVES = {
    "--every": "month",
    "--months": "3-5",
    "--out": "folder",
    "--object": "car",
    "--source": "cdse",
    "--collection": "c",
    "--level": "L1C",
    "--offset-rule": "none",
    "--refresh": "2020",
    "--model": "demo-s2",
    "--admin": "u.gpkg",
    "--resolution": "20",
    "--block": "256",
    "--max-scenes": "5",
    "--min-obs": "2",
    "--max-cloud": "0",
    "--mask": "both",
    "--spread": "",
    "--scheduler": "tcp://a",
    "--workers": "0",
    "--probe": "",
    "--price": "core-hour=0.04,gb-month=0.02",
    "--device": "cuda",
    "--backend": "torch",
    "--precision": "bfloat16",
    "--allow-partial": "",
    "--force": "",
    "--yes": "",
    "--quiet": "",
}
COLUMNS = {
    "--id-column": "a",
    "--name-column": "b",
    "--parent-column": "c",
    "--layer": "d",
    "--encoding": "cp1252",
}
LABELS = {
    "--crs": "EPSG:32650",
    "--object": "car",
    "--object-column": "kind",
    "--layer": "palms",
    "--labelled-layer": "plots",
    "--encoding": "cp1252",
    "--where": "x>1",
    "--definition": "car=vehicle",
    "--measure": "occupancy",
    "--border": "3",
    "--box": "20",
    "--max-per-pixel": "5",
    "--totals": "t.gpkg",
    "--total-column": "car=cars",
    "--totals-layer": "plots",
    "--correct-shift": "",
}
OF_TOTALS = (
    "--layer",
    "--encoding",
    "--definition",
    "--measure",
    "--max-per-pixel",
    "--totals",
    "--total-column",
    "--totals-layer",
)
SAMPLES = {
    "--within-days": "10",
    "--level": "L1C",
    "--months": "3-5",
    "--max-scenes": "5",
    "--split-by": "tile",
    "--tile": "32",
    "--folds": "3",
    "--test": "a",
    "--calibrate": "b",
    "--test-years": "2020",
    "--seed": "5",
    "--mask": "both",
}
TRAINS = {
    "--steps": "7",
    "--members": "3",
    "--turns": "",
    "--patience": "9",
    "--mixed": "",
    "--compile": "",
    "--device": "cuda",
}
MAKES = {
    "--bands": "B02,B08",
    "--baselines": "mean",
    "--evidence": "simulated",
    "--width": "16",
    "--mid": "8",
    "--blocks": "3",
}
QUIET = {"--quiet": ""}
IMAGERY = {"--source": "cdse", "--collection": "c"}

# Command line -> options that reach the verb in it, with a value that is not the default.
OBEYED: dict[str, dict[str, str]] = {
    RUN: {**MOVES, "--region": "5,6,7,8", "--years": "2021", "--dry-run": ""},
    f"{RUN} --admin u.gpkg": COLUMNS,
    "plan --region 1,2,3,4 --years 2020": {**MOVES, "--region": "5,6,7,8", "--years": "2021"},
    "plan --region 1,2,3,4 --years 2020 --admin u.gpkg": COLUMNS,
    "map out": {"--model": "a", "--scheduler": "tcp://a", "--workers": "0", "--allow-partial": "", **QUIET},
    "count out": {
        "--admin": "u.gpkg",
        "--assign-nearest": "",
        "--scheduler": "tcp://a",
        "--workers": "0",
        "--allow-partial": "",
        **QUIET,
    },
    "count out --admin u.gpkg": COLUMNS,
    "trend out": {"--steady-within": "0.1", "--level": "0.9", "--unchanged": "a", "--background": "", **QUIET},
    "report out": QUIET,
    "export out --format csv": {"--to": "there", **QUIET},
    "export out": {"--format": "cog"},
    "sample design out": {
        "--cell": "200",
        "--n": "50",
        "--by": "lowest",
        "--target-cv": "5",
        "--periods": "2018,2023",
        "--object": "car",
        "--interpreters": "2",
        "--omission": "0.2",
        "--map-error": "0.3",
        "--pilot": "",
        "--seed": "5",
        "--model": "a",
        **QUIET,
    },
    "sample import out l.gpkg": {"--assume-disjoint": "", "--model": "a", **QUIET},
    "estimate out": {
        "--level": "0.9",
        "--estimator": "ratio",
        "--min-cells": "40",
        "--max-cv": "0.2",
        "--rake": "",
        "--unseen": "0.05",
        "--change": "2018,2023",
        **QUIET,
    },
    "calibrate demo-s2 -o m.safetensors": {"--reference": "ref", "--sample": "out", **IMAGERY, **QUIET},
    "calibrate demo-s2": {"--output": "n.safetensors"},
    "suggest out -o a.gpkg": {
        "--n": "9",
        "--side": "160",
        "--by": "share",
        "--period": "2020",
        "--object": "car",
        "--labelled": "areas.gpkg",
        "--looks": "50",
        "--seed": "5",
        "--model": "a",
        **QUIET,
    },
    "suggest out": {"--output": "b.gpkg"},
    "verify out": {"--repair": "", **QUIET},
    "verify out --repair": {"--model": "a", "--workers": "0"},
    "simulate country": {
        "--seed": "8",
        "--size-km": "3",
        "--years": "2020",
        "--objects": "car",
        "--acquisitions": "2",
        "--center": "1,2",
        "--world": "shifted",
        "--dialect": "planetary-computer",
        **QUIET,
    },
    f"reference {LABELLED} -o ref": {
        **{name: value for name, value in LABELS.items() if name != "--correct-shift"},
        "--resolution": "20",
        "--source": "cdse",
        **QUIET,
    },
    f"reference {LABELLED} -o ref --source cdse": {
        "--collection": "c",
        "--within-days": "10",
        "--level": "L1C",
        "--correct-shift": "",
    },
    "reference p.gpkg -o ref": {"--labelled": "a.gpkg --image-date 2021", "--image-date": "2021 --labelled a.gpkg"},
    f"reference {LABELLED}": {"--output": "other"},
    f"reference {TOTALS} -o ref": {name: LABELS[name] for name in OF_TOTALS},
    "detect-train a.tif l.csv": {"--output": "e.safetensors"},
    "detect-train a.tif l.csv -o d.safetensors": {
        "--labelled": "areas.gpkg",
        "--object": "car",
        "--as": "tree",
        "--object-column": "kind",
        "--layer": "palms",
        "--size": "8",
        "--resolution": "0.1",
        "--image-date": "2021",
        "--weights": "w.safetensors",
        "--steps": "7",
        "--batch": "2",
        "--crop": "64",
        "--tile": "96",
        "--held-out": "0.2",
        "--test": "a",
        "--distance": "2",
        "--channels": "16",
        "--evidence": "simulated",
        "--seed": "5",
        "--device": "cuda",
        **QUIET,
    },
    "detect a.tif --model d.safetensors -o p.parquet": {
        "--image-date": "2021",
        "--window": "256",
        "--score": "0.4",
        "--scheduler": "tcp://a",
        "--workers": "0",
        "--device": "cuda",
        **QUIET,
    },
    "detect a.tif -o p.parquet": {"--model": "e.safetensors"},
    "detect a.tif --model d.safetensors": {"--output": "q.parquet"},
    "detect-evaluate p.parquet r.gpkg": {
        "--labelled": "areas.gpkg",
        "--distance": "2",
        "--cell": "25",
        "--output": "m.json",
        **QUIET,
    },
    "detect-review p.parquet -o r.gpkg --images a.tif": {
        "--images": "b.tif",
        "--n": "9",
        "--cell": "50",
        "--seed": "5",
        **QUIET,
    },
    "detect-review p.parquet --images a.tif": {"--output": "s.gpkg"},
    "detect-review r.gpkg -o folder": {"--finish": ""},
    "train --reference ref --source cdse -o m.safetensors": {
        **SAMPLES,
        **TRAINS,
        **MAKES,
        "--collection": "c",
        **QUIET,
    },
    "train -o m.safetensors": {
        "--reference": "ref --source cdse",
        "--source": "cdse --reference ref",
        "--simulated": "demo-s2",
    },
    "train --simulated demo-s2 -o m.safetensors": {
        "--cache": "c",
        "--workers": "1",
        "--seed": "5",
        **TRAINS,
        "--mixed": "--no-mixed",
        "--compile": "--no-compile",
        **QUIET,
    },
    "train --simulated demo-s2": {"--output": "n.safetensors"},
    "evaluate demo-s2": {
        "--reference": "ref",
        "--source": "cdse",
        "--collection": "c",
        "--split": "all",
        "--land-cover": "l.tif",
        "--force": "",
        "--baselines": "mean",
        "--output": "m.json",
        **QUIET,
    },
    "evaluate demo-s2 --simulated 4": {
        "--simulated": "5",
        "--world": "shifted",
        "--places": "9",
        "--objects": "car",
        "--cache": "c",
        "--workers": "1",
    },
    f"learn {LABELLED} -o m.safetensors": {**LABELS, **SAMPLES, **TRAINS, **MAKES, **IMAGERY, **QUIET},
    "learn p.gpkg -o m.safetensors": {
        "--labelled": "a.gpkg --image-date 2021",
        "--image-date": "2021 --labelled a.gpkg",
    },
    f"learn {LABELLED}": {"--output": "n.safetensors"},
    f"learn {TOTALS} -o m.safetensors": {name: LABELS[name] for name in OF_TOTALS},
    "doctor": {"--out": "folder", "--source": "cdse", "--device": "cpu", "--json": ""},
}

# Command line -> options that are refused in it, by name: they would do nothing there.
REFUSED: dict[str, dict[str, str]] = {
    RUN: {**COLUMNS, "--years": "2021 --years 2022", "--resolution": "20 --resolution 30"},
    "run --region demo --years 2020": {"--source": "earth-search", "--collection": "c"},
    "plan --region Demo --years 2020": {"--source": "earth-search", "--collection": "c"},
    f"{RUN} --scheduler tcp://a": {"--workers": "2"},
    "map out --scheduler tcp://a": {"--workers": "2"},
    "count out": {**COLUMNS, "--assign-nearest": "--no-assign-nearest"},
    "count out --scheduler tcp://a": {"--workers": "2"},
    "trend out": {"--level": "0.9 --level 0.8"},
    "verify out": {"--model": "a", "--workers": "0"},
    f"reference {LABELLED} -o ref": {
        "--collection": "c",
        "--within-days": "10",
        "--level": "L1C",
        "--correct-shift": "",
    },
    f"reference {TOTALS} -o ref --source cdse": {k: v for k, v in LABELS.items() if k not in OF_TOTALS},
    f"learn {TOTALS} -o m.safetensors": {k: v for k, v in LABELS.items() if k not in OF_TOTALS},
    "detect a.tif --model d.safetensors -o p.parquet --scheduler tcp://a": {"--workers": "2"},
    "detect-review r.gpkg -o folder --finish": {"--images": "a.tif", "--n": "9", "--cell": "50", "--seed": "5"},
    "train --reference ref --source cdse -o m.safetensors": {"--cache": "c", "--workers": "1"},
    "train --simulated demo-s2 -o m.safetensors": {
        **{name: value for name, value in SAMPLES.items() if name != "--seed"},
        **MAKES,
        **IMAGERY,
    },
    "evaluate demo-s2 --reference ref --source cdse": {
        "--world": "shifted",
        "--places": "9",
        "--objects": "car",
        "--cache": "c",
        "--workers": "1",
    },
    "evaluate demo-s2 --simulated 4": {**IMAGERY, "--split": "all", "--land-cover": "l.tif", "--force": ""},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the verbs, as text."""
    found: list[str] = []

    def listen(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: found.append(f"{name} {args} {sorted(kwargs.items(), key=str)}")

    for module, names in {
        run: ("run", "plan", "map_planned"),
        count: ("count", "trend", "report", "export"),
        look: ("status", "verify", "models", "regions"),
        doctor: ("doctor",),
        simulate: ("simulate",),
        calibrate: ("calibrate",),
        sample: ("design_sample", "import_labels", "estimate"),
        suggest: ("suggest",),
        detect: ("train_detector", "detect", "evaluate_detections", "review_detections", "finish_review"),
        teach: ("reference", "train", "train_simulated", "evaluate", "learn"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, listen(name))
    return found


def typed(line: str, option: str, value: str) -> list[str]:
    """The command line with an option; one that stands in it already is replaced."""
    words = line.split()
    if value.startswith("--no-"):
        return [*words, value]
    if option in words and option not in value:
        at = words.index(option)
        del words[at : at + 2]
    return [*words, option, *value.split(" ")] if value else [*words, option]


def rows(table: dict[str, dict[str, str]]) -> list[Any]:
    return [pytest.param(line, options, id=line.replace(" ", "_")) for line, options in table.items()]


@pytest.mark.parametrize(("line", "options"), rows(OBEYED))
def test_an_option_reaches_the_verb(
    line: str, options: dict[str, str], subpixmap: Callable[..., int], asked: list[str]
) -> None:
    subpixmap(*line.split())
    without = asked.pop() if asked else ""
    for option, value in options.items():
        assert subpixmap(*typed(line, option, value)) == 0, option
        assert asked.pop() != without, f"{option} is lost"


@pytest.mark.parametrize(("line", "options"), rows(REFUSED))
def test_an_option_of_no_use_is_refused_by_name(
    line: str,
    options: dict[str, str],
    subpixmap: Callable[..., int],
    asked: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for option, value in options.items():
        words = [*line.split(), option, *value.split()]
        assert subpixmap(*words) == 2, option
        assert option in capsys.readouterr().err
        assert not asked


def test_no_option_is_missing_in_the_table() -> None:
    """`--verbose` is of `main`; -h is of the parser."""
    commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for name, group in list(commands.items()):
        if hasattr(group, "commands"):
            del commands[name]
            commands |= {f"{name} {second}": command for second, command in group.commands.items()}
    declared = {
        (name, max((text for text in one.opts if text.startswith("--")), key=len))
        for name, command in commands.items()
        for one in command.params
        if one.param_type_name == "option"
    }
    tried = {
        (name, option)
        for line, options in OBEYED.items()
        for name in commands
        if f"{line} ".startswith(f"{name} ")
        for option in options
    }
    assert {one for one in declared if one[1] not in ("--verbose", "--help")} == tried
