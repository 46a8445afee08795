"""The rules of the house: who may import whom, how large a module may grow, how fast the command line answers."""

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import subpixmap
from tests.helpers import house

PACKAGE = Path(__file__).parents[1] / "subpixmap"
HEAVY = {"torch", "dask", "distributed", "stackstac", "matplotlib", "geopandas", "xarray", "rasterio", "pandas"}

ENGINE = ["export", "estimation", "trends", "counts", "runfolder", "mapping"]
SCHOOL = ["training", "detection", "reference"]
GROUND = ["runpaths", "tables", "geozarr", "grid", "periods", "files", "progress", "machine", "html", "sizes", "errors"]
ORDER = [
    *("__main__", "__init__", "cli", "verbs", "report"),
    *ENGINE,
    *SCHOOL,
    *("model", "scenes", "region", "simulate"),
    *GROUND,
]
"""From the top down: a room imports only rooms that stand below it. The two wings do not import each other."""

DASK = {
    "machine",  # asks Dask how many cores and how much memory a container really has
    "scenes.cube",  # lazy reflectance
    "model.predict",  # lazy counts of every acquisition
    "mapping.cluster",  # starts or reaches a cluster
    "mapping.pool",  # hands blocks to workers
    "mapping.run",  # drives them
    "mapping.store",  # a map is opened as lazy arrays
    "counts.sums",  # sums blocks on workers
}


@pytest.fixture(scope="module")
def modules() -> dict[str, house.Module]:
    return house.read_package(PACKAGE)


def test_a_room_imports_only_what_stands_below_it(modules: dict[str, house.Module]) -> None:
    assert not house.wrong_imports(modules, ORDER, [set(ENGINE), set(SCHOOL)])


def test_no_modules_import_each_other(modules: dict[str, house.Module]) -> None:
    assert not house.cycles(modules)


def test_rooms_stay_small(modules: dict[str, house.Module]) -> None:
    assert not house.large_rooms(modules, 20, {"scenes": 22, "simulate": 22})


def test_modules_stay_small(modules: dict[str, house.Module]) -> None:
    assert not house.long_modules(modules, 400)


def test_functions_stay_small(modules: dict[str, house.Module]) -> None:
    assert not house.long_bodies(modules, 45)
    assert house.parameters_of_nine_tenths(modules, without=subpixmap.__all__) <= 5


def test_no_room_bears_the_name_of_a_public_function(modules: dict[str, house.Module]) -> None:
    """After first use `subpixmap.trend` would be the module."""
    assert not {module.room for module in modules.values()} & set(subpixmap.__all__)


def test_only_a_few_modules_touch_dask(modules: dict[str, house.Module]) -> None:
    assert house.users_of(modules, ("dask", "distributed", "dask_cuda")) <= DASK


def test_only_one_module_calls_stackstac(modules: dict[str, house.Module]) -> None:
    callers = {one.name for one in modules.values() if any(i.startswith("stackstac.stack") for i in one.imports)}
    assert callers | {one.name for one in modules.values() if "stackstac.stack(" in one.text} == {"scenes.cube"}


def test_the_page_of_the_house_draws_the_imports_as_they_are(modules: dict[str, house.Module]) -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^  (\w+) --> (\w+)$", page, re.MULTILINE))
    rooms = {module.room for module in modules.values()} - {"__main__", "__init__"}
    assert drawn == house.arrows(modules, rooms - set(GROUND))
    assert rooms <= set(re.findall(r"`(\w+)`", page)), "a room that the page does not name"
    modules_of_rooms = {name for name in modules if not name.endswith("__")}
    named = {name for name in re.findall(r"`(\w+\.\w+)`", page) if name.split(".")[0] in rooms}
    assert named <= modules_of_rooms, "a module that is gone"


# The checker itself: a package with one fault each -------------------------------------------------------------------


def package(folder: Path, files: dict[str, str]) -> dict[str, house.Module]:
    for name, text in files.items():
        path = folder / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.read_package(folder / "toy")


@pytest.mark.parametrize(
    "line",
    [
        "from toy.top.a import x",
        "import toy.top.a",
        "from toy.top import a",
        "from ..top import a",
        "def f():\n    from toy.top.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.top.a import x",
        "from importlib import import_module\nimport_module('toy.top.a')",
    ],
)
def test_an_import_upwards_is_found_wherever_it_stands(tmp_path: Path, line: str) -> None:
    toy = package(tmp_path, {"top/a.py": "from toy.base.c import y", "base/b.py": line, "base/c.py": "import os"})
    assert house.wrong_imports(toy, ["top", "base"], []) == ["base.b imports top.a"]
    assert house.wrong_imports(toy, ["base", "top"], []) == ["top.a imports base.c"]


def test_wings_and_rooms_without_a_place_are_found(tmp_path: Path) -> None:
    toy = package(tmp_path, {"left/a.py": "from toy.right.b import x", "right/b.py": "", "base.py": "", "odd.py": ""})
    assert house.wrong_imports(toy, ["left", "right", "base"], [{"left"}, {"right"}]) == [
        "odd: no such room",
        "left.a imports right.b",
    ]


def test_arrows_that_follow_from_others_are_left_out(tmp_path: Path) -> None:
    files = {"a/x.py": "from toy import b, c", "b/x.py": "from toy.c import x", "c/x.py": "", "b/__init__.py": ""}
    toy = package(tmp_path, files | {"c/__init__.py": ""})
    assert house.arrows(toy, ["a", "b", "c"]) == {("a", "b"), ("b", "c")}
    assert house.arrows(toy, ["a", "c"]) == {("a", "c")}


def test_a_cycle_is_found_over_several_modules(tmp_path: Path) -> None:
    files = {
        "a.py": "from toy import b",
        "b.py": "def f():\n    from toy.c import x",
        "c.py": "import toy.a",
        "d.py": "from toy import a",
    }
    assert house.cycles(package(tmp_path, files)) == [["a", "b", "c"]]
    assert not house.cycles(package(tmp_path, {"c.py": ""}))


def test_what_grows_too_large_is_found(tmp_path: Path) -> None:
    long = "def f(self, a, b, *, c):\n" + '    """Doc\n    string."""\n' + "    x = 1\n" * 5
    toy = package(tmp_path, {"room/a.py": long, "room/b.py": "def g(): pass", "room/__init__.py": ""})
    assert house.large_rooms(toy, 1, {}) == ["room: 2 modules"]
    assert not house.large_rooms(toy, 1, {"room": 2})
    assert house.long_modules(toy, 7) == ["room.a: 8 lines"]
    assert house.long_bodies(toy, 4) == ["room.a:1 f: 5 lines"]
    assert not house.long_bodies(toy, 5)
    assert house.parameters_of_nine_tenths(toy, without=["g"]) == 3
    assert house.parameters_of_nine_tenths(toy, without=["f"]) == 0


def test_users_of_a_library_are_found_where_they_run_it(tmp_path: Path) -> None:
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dask import array"
    files = {"a.py": "def f():\n    import dask.array", "b.py": typed, "c.py": "from daskless import x"}
    assert house.users_of(package(tmp_path, files), ["dask"]) == {"a"}


# The command line ----------------------------------------------------------------------------------------------------


def test_the_command_line_imports_nothing_heavy_at_the_top(modules: dict[str, house.Module]) -> None:
    for module in (one for one in modules.values() if one.room == "cli"):
        top = ast.Module([node for node in module.tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        names = house.Module(module.name, module.package, ast.unparse(top)).imports
        assert not {name.split(".")[0] for name in names} & HEAVY, module.name


def test_help_loads_nothing_heavy_and_answers_quickly() -> None:
    code = "import sys, subpixmap.cli.main; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(ast.literal_eval(loaded))
    for _ in range(3):  # the first one compiles
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "subpixmap", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if seconds < 0.5:
            return
    raise AssertionError(f"--help took {seconds:.2f} s of CPU time")
