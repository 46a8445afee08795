"""Verbs that only look answer at once: they load no library that they do not need. `--help` loads next to none."""

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from subpixmap import __version__
from subpixmap.cli.main import EXAMPLES
from subpixmap.region.names import region_codes, region_names
from subpixmap.region.resolve import resolve_region

HEAVY = {"torch", "dask", "distributed", "stackstac", "matplotlib", "geopandas", "xarray", "rasterio", "pandas"}
_RUN = """
import sys
sys.argv[0] = "subpixmap"
from subpixmap.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def loaded_by(*arguments: object) -> tuple[set[str], float]:
    """Top-level modules that a command loads, and seconds of CPU time that it takes; the best of three."""
    fastest, modules = float("inf"), set[str]()
    for _ in range(3):  # the first one compiles, and another process may fill the caches of the processor
        command = [sys.executable, "-c", _RUN, *map(str, arguments)]
        seconds, said = _run(*command)
        modules = set(ast.literal_eval(said.strip().splitlines()[-1]))
        fastest = min(fastest, seconds)
        if fastest < 0.8:
            break
    return modules, fastest


def cpu_of(*command: str) -> float:
    """Seconds of CPU time of a command, the best of three."""
    return min(_run(*command)[0] for _ in range(3))


def _run(*command: str) -> tuple[float, str]:
    """Seconds of CPU time of a command, and its stderr."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def test_help_of_every_command_loads_nothing_heavy() -> None:
    """All in one process: what one of them loads, stays loaded."""
    names = [example.split()[: 1 + example.startswith("sample ")] for example in EXAMPLES.values()]
    code = f"""
import sys, time
from typer.testing import CliRunner
from subpixmap.cli.main import app
slowest = 0.0
for words in {names}:
    before = time.process_time()
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, words
    slowest = max(slowest, time.process_time() - before)
print((sorted({{name.split(".")[0] for name in sys.modules}}), slowest))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, slowest = ast.literal_eval(done.stdout)
    assert not HEAVY & set(modules)
    assert slowest < 0.5  # beside the start of Python and the imports, which tests/test_house.py measures


@pytest.mark.parametrize("arguments", [("models",), ("regions",), ("regions", "philippines")], ids=" ".join)
def test_models_and_regions_answer_within_a_second(arguments: tuple[str, ...]) -> None:
    modules, seconds = loaded_by(*arguments)
    assert not HEAVY & modules
    assert seconds < 1


def test_status_answers_within_a_second(country: Path, stand_in: Path, tmp_path: Path) -> None:
    from subpixmap.verbs.request import Request
    from subpixmap.verbs.run import plan

    source, out = (str(country / "catalog.json"),), tmp_path / "out"
    request = Request(region=str(country / "region.geojson"), years="2020", source=source, model=str(stand_in), out=out)
    plan(request)
    modules, seconds = loaded_by("status", out)
    assert not (HEAVY - {"rasterio"}) & modules
    # Under a second on a free core. Other work slows the imports of libraries down alike, which are half of it.
    assert seconds < max(1, 3 * cpu_of(sys.executable, "-c", "import zarr, pyproj, shapely"))


def test_what_regions_lists_is_one_place_each_and_has_a_code(
    subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert subpixmap("regions", "philippines") == 0
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(set(lines)) == len(region_names("phl"))
    codes = region_codes("philippines")
    assert {"Philippines/Palawan", "Philippines/PH.CB", "Philippines/PH.cebu"} <= set(codes) == set(lines)
    assert "Philippines/Cebu" not in codes  # a province and a city
    for name in ("Philippines/Palawan", "Philippines/PH.CB"):
        region = resolve_region(name)
        assert list(region.units.unit_id) == [codes[name].code]


def test_the_version_is_told(subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert subpixmap("--version") == 0
    assert capsys.readouterr().out == f"subpixmap {__version__}\n"


def test_a_shell_completes_commands_and_options() -> None:
    """As the script does that `--install-completion` leaves."""
    code = "from subpixmap.cli.main import app; app(prog_name='subpixmap')"
    for words, expected in {"subpixmap mod": "models", "subpixmap plan --max-sc": "--max-scenes"}.items():
        asked = {"_SUBPIXMAP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
        assert done.stdout.split() == [expected]


@pytest.mark.parametrize("group", [[], ["sample"]])
def test_the_list_of_commands_fits_into_80_columns(group: list[str]) -> None:
    """Every command says what it does in one whole line."""
    from typer.testing import CliRunner

    from subpixmap.cli.main import app

    told = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "80"}).output
    commands = told[told.index("Commands:") :].splitlines()
    assert not [line for line in commands if line.rstrip().endswith("...") or len(line) > 80]
