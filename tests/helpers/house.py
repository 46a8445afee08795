"""What a package is made of, read from its source: its modules, what each imports, and how large it is."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method: its name, the lines of its body (without its docstring) and its number of parameters."""

    name: str
    line: int
    body: int
    parameters: int


@dataclass(frozen=True)
class Module:
    """A module by its name inside the package, such as `counts.sums`; `counts.__init__` is the room's own file."""

    name: str
    package: str
    text: str = field(repr=False)

    @property
    def room(self) -> str:
        """The folder, or the name of a module that stands alone."""
        return self.name.split(".")[0]

    @property
    def lines(self) -> int:
        """Lines of the file."""
        return len(self.text.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> set[str]:
        """Dotted names of all that is imported, at the top, inside functions and under `TYPE_CHECKING`."""
        return set(self._imports(self.tree))

    @cached_property
    def run_time_imports(self) -> set[str]:
        """The same without what stands under `if TYPE_CHECKING`."""
        typing_only = {
            child
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for part in node.body
            for child in ast.walk(part)
        }
        return set(self._imports(self.tree, without=typing_only))

    @property
    def functions(self) -> list[Function]:
        """Every function, also those inside classes and functions."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, FunctionNode))
        return [Function(node.name, node.lineno, _body_lines(node), _parameters(node)) for node in nodes]

    def _imports(self, tree: ast.AST, without: Iterable[ast.AST] = ()) -> Iterator[str]:
        left_out = set(without)
        for node in ast.walk(tree):
            if node in left_out:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                yield from (f"{base}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
                if isinstance(node.args[0], ast.Constant):
                    yield str(node.args[0].value)

    def _absolute(self, node: ast.ImportFrom) -> str:
        """`from ..grid import x` -> the package's `grid`."""
        if not node.level:
            return node.module or ""
        here = [self.package, *self.name.split(".")][: -node.level]
        return ".".join([*here, *([node.module] if node.module else [])])


def read_package(folder: Path) -> dict[str, Module]:
    """All modules of a package, by name."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        modules[name] = Module(name, folder.name, path.read_text(encoding="utf-8"))
    return modules


def graph_of(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Which modules of the package each module imports."""
    return {
        name: {one for asked in module.imports if (one := _module_of(asked, module.package, modules))} - {name}
        for name, module in modules.items()
    }


def wrong_imports(modules: Mapping[str, Module], order: Sequence[str], wings: Sequence[set[str]]) -> list[str]:
    """Imports of a room that does not stand below the importing one, or of the other wing; rooms without a place."""
    place = {room: i for i, room in enumerate(order)}
    wrong = [f"{module.name}: no such room" for module in modules.values() if module.room not in place]
    for name, imported in graph_of(modules).items():
        mine = modules[name].room
        for other in sorted(imported):
            theirs = modules[other].room
            if mine == theirs or mine not in place or theirs not in place:
                continue
            crosses = any(mine in wing and theirs in end for wing in wings for end in wings if wing is not end)
            if place[theirs] < place[mine] or crosses:
                wrong.append(f"{name} imports {other}")
    return wrong


def cycles(modules: Mapping[str, Module]) -> list[list[str]]:
    """Groups of modules that import each other, directly or over others."""
    graph = graph_of(modules)
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(sorted(group) for group in groups)


def arrows(modules: Mapping[str, Module], rooms: Iterable[str]) -> set[tuple[str, str]]:
    """Which of some rooms imports which, without the imports that follow from others (the transitive reduction)."""
    drawn = set(rooms)
    graph: dict[str, set[str]] = {room: set() for room in drawn}
    for name, imported in graph_of(modules).items():
        if (mine := modules[name].room) in drawn:
            graph[mine] |= {modules[other].room for other in imported} & drawn - {mine}
    return {
        (room, other)
        for room, imported in graph.items()
        for other in imported
        if not any(other in _reachable(graph, between) for between in imported - {other})
    }


def large_rooms(modules: Mapping[str, Module], limit: int, limits: Mapping[str, int]) -> list[str]:
    """Rooms that hold too many modules; `__init__.py` is not counted."""
    rooms: dict[str, int] = {}
    for module in modules.values():
        if "." in module.name and not module.name.endswith("__init__"):
            rooms[module.room] = rooms.get(module.room, 0) + 1
    return [f"{room}: {number} modules" for room, number in rooms.items() if number > limits.get(room, limit)]


def long_modules(modules: Mapping[str, Module], limit: int) -> list[str]:
    """Modules with too many lines."""
    return [f"{module.name}: {module.lines} lines" for module in modules.values() if module.lines > limit]


def long_bodies(modules: Mapping[str, Module], limit: int) -> list[str]:
    """Functions with too many lines, their docstrings not counted."""
    return [
        f"{module.name}:{one.line} {one.name}: {one.body} lines"
        for module in modules.values()
        for one in module.functions
        if one.body > limit
    ]


def parameters_of_nine_tenths(modules: Mapping[str, Module], without: Iterable[str]) -> int:
    """The number of parameters that nine tenths of the functions do not exceed; some names are left out."""
    public = set(without)
    numbers = sorted(
        one.parameters for module in modules.values() for one in module.functions if one.name not in public
    )
    return numbers[int(0.9 * (len(numbers) - 1))]


def users_of(modules: Mapping[str, Module], libraries: Iterable[str]) -> set[str]:
    """Modules that import one of some libraries at run time."""
    wanted = set(libraries)
    return {
        module.name for module in modules.values() if wanted & {name.split(".")[0] for name in module.run_time_imports}
    }


def _module_of(asked: str, package: str, modules: Mapping[str, Module]) -> str | None:
    """The module that `package.room.module.name` stands for; None for what belongs to another package."""
    head, *rest = asked.split(".")
    if head != package:
        return None
    for k in range(len(rest), -1, -1):
        name = ".".join(rest[:k])
        for candidate in (name, f"{name}.__init__" if name else "__init__"):
            if candidate in modules:
                return candidate
    return None


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        if (one := waiting.pop()) not in reached:
            reached.add(one)
            waiting += graph[one]
    return reached


def _body_lines(node: FunctionNode) -> int:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _parameters(node: FunctionNode) -> int:
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))
