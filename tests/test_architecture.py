"""The house rules that can be read off the source: who imports whom, and what is done in one place only.

The tests read the text of the modules and never import them, but for the one that looks at what a start loads.
A rule that needs an exception gets it here, in the table of the rule, where it can be seen.
"""

import ast
import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("schema", "eventlog", "subscribers", "projections", "cli")
"""From the bottom up: a folder imports from itself and from those before it."""

TOP = len(LAYERS) - 1
TESTING = "eventlog/testing/"
"""For the tests of services: above everything, and imported by nothing of ours."""

FACADE = "eventlog/__init__.py"
SAMPLES = ("cli/demo/app.py",)
"""Shipped to be copied and read by users: written as they would, against the facade."""
LINES_MAX = 500
FILES_COUNTED = {".py", ".sql", ".toml", ".mako", ".md"}
FOLDERS_NOT_OURS = {"build", "dist", "node_modules", "htmlcov"}

IMPORTED_ONLY_IN = {
    "psycopg": ("eventlog/postgres*.py",),
    "psycopg_pool": ("eventlog/postgres.py",),
    "sqlite3": ("eventlog/sqlite*.py",),
    "click": ("cli/*",),
    "pytest": ("eventlog/testing/plugin.py",),
    "prometheus_client": ("subscribers/metrics.py", "cli/metrics_server.py"),
    "opentelemetry": ("subscribers/traces.py",),
}
LOADED_WHEN_USED = {
    "alembic": ("schema/migrat*", "schema/target.py"),
    "rich": ("cli/output*", "cli/progress*"),
    "prometheus_client": ("subscribers/metrics.py",),
    "opentelemetry": ("subscribers/traces.py",),
}
"""Imported inside functions, but for these files, which nothing may import at the top that runs at every start."""

USED_ONLY_IN = {
    ("print", "sys.exit", "exit", "quit", "SystemExit"): ("cli/*",),
    (
        "time.time",
        "time.time_ns",
        "time.monotonic",
        "time.monotonic_ns",
        "time.perf_counter",
        "time.perf_counter_ns",
        "time.sleep",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
    ): ("eventlog/clock.py",),
    (
        "threading.Thread",
        "threading.Timer",
        "concurrent.futures.ThreadPoolExecutor",
        "concurrent.futures.ProcessPoolExecutor",
        "concurrent.futures.thread.ThreadPoolExecutor",
        "_thread.start_new_thread",
    ): (
        "cli/completion.py",
        "eventlog/doorbell.py",
        "subscribers/worker.py",
        "subscribers/heartbeat.py",
        "subscribers/handler_threads.py",
        "cli/demo/*",
    ),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One name that a module imports: `from a.b import c` is the name `a.b.c`, taken from `a.b`."""

    module: str
    name: str
    line: int
    at_start: bool
    """Whether it runs when the module is imported, not when a function is called or a type is checked."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of the five folders."""

    path: str
    tree: ast.Module

    @property
    def layer(self) -> int:
        return TOP if self.path.startswith(TESTING) else LAYERS.index(self.path.split("/")[0])

    def imports(self) -> tuple[Import, ...]:
        return _all_imports(self)


@functools.cache
def modules() -> tuple[Module, ...]:
    found = tuple(
        Module(path=path.relative_to(ROOT).as_posix(), tree=ast.parse(path.read_text(), str(path)))
        for layer in LAYERS
        for path in project_files(ROOT / layer)
        if path.suffix == ".py"
    )
    assert {module.layer for module in found} == set(range(len(LAYERS))), "a folder has no modules: was it moved?"
    return found


def project_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, each once: the links back to the folders are not followed, nor is what tools made."""
    for directory, names, files in os.walk(folder):
        names[:] = [
            name for name in names if not name.startswith((".", "__pycache__")) and name not in FOLDERS_NOT_OURS
        ]
        names[:] = [name for name in names if not name.endswith(".egg-info")]
        yield from (Path(directory, name) for name in sorted(files))


def test_imports_go_down_the_table_of_folders_only() -> None:
    upward = [
        f"{module.path}:{found.line} imports {found.module}"
        for module in modules()
        for found in module.imports()
        if module.path != FACADE and (layer := _layer_of(found)) is not None and layer > module.layer
    ]
    assert not upward


def test_nothing_inside_imports_the_facade() -> None:
    """`from eventlog import append` is the submodule when there is an `eventlog/append.py`, and else a re-export."""
    through_the_facade = [
        f"{module.path}:{found.line} imports {found.name}"
        for module in modules()
        for found in module.imports()
        if module.path not in (FACADE, *SAMPLES) and _is_facade(found)
    ]
    assert not through_the_facade


def test_the_folders_are_imported_by_their_installed_names() -> None:
    bare_or_relative = [
        f"{module.path}:{found.line} imports {found.module}"
        for module in modules()
        for found in module.imports()
        if found.module.startswith(".") or (_root(found) in LAYERS and _root(found) != "eventlog")
    ]
    assert not bare_or_relative


@pytest.mark.parametrize("library", IMPORTED_ONLY_IN)
def test_a_library_is_imported_in_its_own_files_only(library: str) -> None:
    elsewhere = [
        f"{module.path}:{found.line}"
        for module in _outside(IMPORTED_ONLY_IN[library])
        for found in module.imports()
        if _root(found) == library
    ]
    assert not elsewhere


@pytest.mark.parametrize("library", LOADED_WHEN_USED)
def test_a_slow_library_is_imported_where_it_is_used(library: str) -> None:
    at_start = [
        f"{module.path}:{found.line}"
        for module in _outside(LOADED_WHEN_USED[library])
        for found in module.imports()
        if found.at_start and _root(found) == library
    ]
    assert not at_start


def test_starting_the_command_line_loads_no_slow_library() -> None:
    """Help and the completion of commands need no database; `status` needs one, and nothing that runs handlers."""
    program = "import sys, eventlog.cli.main as _; print(*sys.modules); import eventlog.cli.status_command"
    command = [sys.executable, "-c", f"{program}; print(*sys.modules)"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    at_start, by_status = map(str.split, process.stdout.splitlines())
    assert {*LOADED_WHEN_USED, "sqlalchemy"}.isdisjoint(at_start)
    assert {*LOADED_WHEN_USED, "sqlalchemy.orm", "eventlog.subscribers.worker"}.isdisjoint(by_status)


@pytest.mark.parametrize("names", USED_ONLY_IN, ids=lambda names: names[0])
def test_a_deed_of_one_place_is_done_nowhere_else(names: tuple[str, ...]) -> None:
    elsewhere = [
        f"{module.path}:{line} uses {name}"
        for module in _outside(USED_ONLY_IN[names])
        for name, line in _uses(module)
        if name in names
    ]
    assert not elsewhere


def test_every_module_says_what_it_is() -> None:
    tests = (path for path in project_files(ROOT / "tests") if path.suffix == ".py")
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in tests}
    trees |= {module.path: module.tree for module in modules()}
    assert not [path for path, tree in trees.items() if not ast.get_docstring(tree)]


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in project_files(ROOT)
        if path.suffix in FILES_COUNTED and path.name not in ("CHANGELOG.md", "cli.md")
    }
    assert not {path: length for path, length in lengths.items() if length > LINES_MAX}


def test_the_uses_of_a_name_are_found_however_it_was_imported() -> None:
    text = """
        import time
        import datetime as clock
        from time import sleep as rest
        from threading import Thread

        def tick(now=time.monotonic):
            rest(1)
            Thread(target=clock.datetime.now)
            print(self.time.sleep, thread.exit())
            raise SystemExit
    """
    tree = ast.parse(f"if True:{text}")
    names = {name for name, _ in _uses(Module(path="eventlog/example.py", tree=tree))}
    expected = {"time.monotonic", "time.sleep", "threading.Thread", "datetime.datetime.now", "print", "SystemExit"}
    assert {name for rule in USED_ONLY_IN for name in rule} & names == expected


def _outside(patterns: Iterable[str]) -> list[Module]:
    return [module for module in modules() if not any(fnmatch(module.path, pattern) for pattern in patterns)]


@functools.cache
def _all_imports(module: Module) -> tuple[Import, ...]:
    return tuple(_imports(module.tree.body, at_start=True))


def _imports(statements: Iterable[ast.AST], *, at_start: bool) -> Iterator[Import]:
    for statement in statements:
        match statement:
            case ast.Import():
                for alias in statement.names:
                    yield Import(module=alias.name, name=alias.name, line=statement.lineno, at_start=at_start)
            case ast.ImportFrom():
                source = "." * statement.level + (statement.module or "")
                for alias in statement.names:
                    name = f"{source}.{alias.name}"
                    yield Import(module=source, name=name, line=statement.lineno, at_start=at_start)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports(ast.iter_child_nodes(statement), at_start=False)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from _imports(statement.body, at_start=False)
                yield from _imports(statement.orelse, at_start=at_start)
            case _:
                yield from _imports(ast.iter_child_nodes(statement), at_start=at_start)


def _root(found: Import) -> str:
    return found.module.split(".")[0]


def _layer_of(found: Import) -> int | None:
    """The folder that an import reaches; None for other people's modules."""
    first, *rest = found.name.split(".")
    if first != "eventlog":
        return None
    if rest and rest[0] == "testing":
        return TOP
    return LAYERS.index(rest[0] if rest and rest[0] in LAYERS else "eventlog")


def _is_facade(found: Import) -> bool:
    if found.module != "eventlog":
        return False
    submodule = ROOT / found.name.replace(".", "/")
    return found.name == "eventlog" or not (submodule.is_dir() or submodule.with_suffix(".py").is_file())


@functools.cache
def _uses(module: Module) -> list[tuple[str, int]]:
    """Every name a module mentions, in full: `from time import sleep` makes `sleep` mean `time.sleep`."""
    meanings = {"print": "print", "exit": "exit", "quit": "quit", "SystemExit": "SystemExit"}
    for node in ast.walk(module.tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    root = alias.name.split(".")[0]
                    meanings[alias.asname or root] = alias.name if alias.asname else root
            case ast.ImportFrom(level=0):
                meanings |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return [
        (".".join([meanings[first], *rest]), node.lineno)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name | ast.Attribute)
        for first, *rest in [ast.unparse(node).split(".")]
        if first in meanings
    ]
