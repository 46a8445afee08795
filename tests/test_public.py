"""The public API: typed, lazy, and the same names for editors, for type checkers and at run time."""

import ast
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import subpixmap

PACKAGE = Path(subpixmap.__file__).parent


def test_editors_see_the_names_that_exist_at_run_time_in_the_same_order() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == subpixmap._PUBLIC
    assert [alias.name for node in imports for alias in node.names] == list(subpixmap._PUBLIC) == subpixmap.__all__
    assert (PACKAGE / "py.typed").is_file()


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """A submodule that is imported becomes an attribute of its package."""
    for info in pkgutil.walk_packages([str(PACKAGE)], "subpixmap."):
        if not info.name.endswith("__main__"):
            import_module(info.name)
    for name, home in subpixmap._PUBLIC.items():
        value = getattr(subpixmap, name)
        assert not isinstance(value, ModuleType), name
        assert value is getattr(import_module(home), name)


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import subpixmap; print(sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {name.split(".")[0] for name in ast.literal_eval(loaded)} <= {"subpixmap", *sys.stdlib_module_names}


def test_the_version_is_written_once() -> None:
    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^dynamic = \["version"\]$', project, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", subpixmap.__version__)
