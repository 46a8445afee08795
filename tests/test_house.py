"""The rules of the house: who may import whom, how large a module may grow, how fast the command line answers."""

import ast
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / "subpixmap"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Data flows down this list; a stage imports only what stands above it.
STAGES = ["scenes", "reference", "model", "mapping", "counts", "report"]
GROUND = {"errors", "files", "machine", "periods", "grid", "region"}
HEAVY = {"torch", "dask", "distributed", "stackstac", "matplotlib", "geopandas", "xarray", "rasterio", "pandas"}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_stage_imports_only_what_stands_above_it(path: Any) -> None:
    stage = stage_of(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("subpixmap.")}
    if stage in STAGES:
        allowed = GROUND | set(STAGES[: STAGES.index(stage) + 1])
        # The training set of the shipped demo checkpoints is the simulator's.
        allowed |= {"simulate"} if stage == "model" else set()
    elif stage in GROUND:
        allowed = GROUND
    elif stage == "simulate":
        allowed = GROUND | {"simulate"}
    else:
        return
    assert ours <= allowed, f"{stage} imports {sorted(ours - allowed)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_small(path: Any) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_the_command_line_imports_nothing_heavy_at_the_top() -> None:
    top = {name.split(".")[0] for name in imports(PACKAGE / "cli" / "main.py", top_level_only=True)}
    assert not top & HEAVY


def test_only_one_module_calls_stackstac() -> None:
    callers = {str(p.relative_to(PACKAGE)) for p in MODULES if any(i.startswith("stackstac.stack") for i in imports(p))}
    users = {str(p.relative_to(PACKAGE)) for p in MODULES if "stackstac.stack(" in p.read_text()}
    assert callers | users == {"scenes/cube.py"}


def test_help_loads_nothing_heavy_and_answers_quickly() -> None:
    code = "import sys, subpixmap.cli.main; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(ast.literal_eval(loaded))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "subpixmap", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0
