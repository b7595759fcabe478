"""The map of the package, held against its imports: a module imports only from layers below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flask_executor_typed

PACKAGE = Path(flask_executor_typed.__file__).parent

# From the bottom up. A package counts as one module; its own modules may import each other.
LAYERS: tuple[set[str], ...] = (
    {"callables", "cli", "errors"},
    {"runtime"},
    {"signals", "signing"},
    {"config"},
    {"context"},
    {"carriers", "helpers"},
    {"futures"},
    {"calls", "stores"},
    {"after_commit", "after_response", "loops", "options"},
    {"async_views", "backends", "map"},
    {"engines"},
    {"app_state", "jobs"},
    {"executor"},
    {"current_job", "web"},
    {"doctor", "testing"},
    {"pytest_plugin"},
    {"__init__"},
)

TREES = {path: ast.parse(path.read_text("utf-8"), str(path)) for path in PACKAGE.rglob("*.py")}


def module_of(path: Path) -> str:
    """``errors`` for ``errors.py``, ``backends`` for every file under ``backends/``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def layer_of(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if module in layer)


def absolute_names(path: Path, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What an import statement imports, each with its full name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    prefix = node.module or ""
    if node.level:
        package = (PACKAGE.name, *path.relative_to(PACKAGE).parent.parts)
        package = package[: len(package) - node.level + 1]
        prefix = ".".join((*package, prefix) if prefix else package)
    yield from (f"{prefix}.{alias.name}" for alias in node.names)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(TREES[path]):  # everywhere: in functions and under TYPE_CHECKING too
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from absolute_names(path, node)


def own_imports(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    names = (name.split(".") for name in imports(path))
    known = {module_of(path) for path in TREES}
    return {
        parts[1] if len(parts) > 1 and parts[1] in known else "__init__"
        for parts in names
        if parts[0] == PACKAGE.name
    }


def modules_where(found: Callable[[ast.AST], bool]) -> set[str]:
    return {module_of(path) for path, tree in TREES.items() if any(map(found, ast.walk(tree)))}


def dotted(node: ast.AST) -> str:
    """``threading.Thread`` for the expression of that name, ``""`` for anything that is no name."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def test_every_module_has_exactly_one_layer() -> None:
    placed = sorted(module for layer in LAYERS for module in layer)
    assert placed == sorted({module_of(path) for path in TREES})


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_lower_layers(path: Path) -> None:
    module = module_of(path)
    beside_or_above = {
        imported
        for imported in own_imports(path)
        if imported != module and layer_of(imported) >= layer_of(module)
    }
    assert beside_or_above == set()


def test_a_relative_import_is_resolved_from_the_package_of_its_file() -> None:
    statement = ast.parse("from ..errors import NoAppError").body[0]
    assert isinstance(statement, ast.ImportFrom)
    assert list(absolute_names(PACKAGE / "backends" / "process.py", statement)) == [
        "flask_executor_typed.errors.NoAppError"
    ]


ROOMS = [
    "async_views",
    "calls",
    "context",
    "doctor",
    "engines",
    "futures",
    "loops",
    "runtime",
    "web",
]


@pytest.mark.parametrize("package", ROOMS)
def test_modules_of_a_package_import_only_those_before_them_in_its_map(package: str) -> None:
    folder = PACKAGE / package
    the_map = ast.get_docstring(TREES[folder / "__init__.py"]) or ""
    order = ", ".join(re.findall(r"^- ([a-z_, ]+):", the_map, re.MULTILINE)).split(", ")
    assert sorted(order) == sorted(path.stem for path in folder.glob("[!_]*.py"))
    prefix = f"{PACKAGE.name}.{package}."
    for number, module in enumerate(order):
        names = imports(folder / f"{module}.py")
        within = {name.split(".")[2] for name in names if name.startswith(prefix)}
        assert within <= set(order[:number]), module


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_that_are_imported_by_name_are_in_lower_layers_too(path: Path) -> None:
    module = module_of(path)
    for node in ast.walk(TREES[path]):
        if not (isinstance(node, ast.Call) and dotted(node.func).endswith("import_module")):
            continue
        text = ast.unparse(node.args[0])
        assert not text.startswith(("'.", "__package__", "f'{__package__}")), text
        if "__name__" in text:  # a module of the same room
            assert path.name == "__init__.py"
        elif PACKAGE.name in text:
            imported = text.strip("'\"").split(".")[1]
            assert layer_of(imported) < layer_of(module), text


def importers_of(*roots: str) -> set[str]:
    return {
        module_of(path)
        for path in TREES
        if any(f"{name}.".startswith(f"{root}.") for name in imports(path) for root in roots)
    }


def test_only_loops_and_async_views_know_asgirefs_insides() -> None:
    assert importers_of("asgiref") <= {"async_views", "callables", "loops"}
    names = {name for name in imports(PACKAGE / "callables.py") if name.startswith("asgiref")}
    assert names == {"asgiref.sync.iscoroutinefunction"}


def test_only_loops_makes_event_loops() -> None:
    assert modules_where(lambda node: dotted(node) == "asyncio.new_event_loop") == {"loops"}
    assert modules_where(lambda node: dotted(node) == "asyncio.run") == set()


def test_only_runtime_starts_threads() -> None:
    def makes_a_thread(node: ast.AST) -> bool:
        called = [node.func] if isinstance(node, ast.Call) else []
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        return any(dotted(each) in {"threading.Thread", "Thread"} for each in [*called, *bases])

    assert modules_where(makes_a_thread) == {"runtime"}
    assert importers_of("_thread") == set()


def test_only_runtime_registers_exit_and_fork_hooks() -> None:
    hooks = {"threading._register_atexit", "atexit.register", "os.register_at_fork"}
    assert modules_where(lambda node: dotted(node) in hooks) == {"runtime"}


def test_only_runtime_reads_and_hides_the_running_loop_by_its_private_names() -> None:
    names = {"_get_running_loop", "_set_running_loop"}
    assert modules_where(lambda node: getattr(node, "attr", "") in names) == {"runtime"}
    assert modules_where(lambda node: getattr(node, "name", "") in names) == set()  # imported


def test_only_loops_looks_into_the_stacks_of_threads() -> None:
    assert modules_where(lambda node: dotted(node) == "sys._current_frames") == {"loops"}


def test_only_backends_makes_pools() -> None:
    pools = {"ThreadPoolExecutor", "ProcessPoolExecutor"}

    def names_a_pool(node: ast.AST) -> bool:
        return dotted(node).rpartition(".")[2] in pools

    assert modules_where(names_a_pool) <= {"backends", "runtime"}  # of daemons, for asyncio
    assert importers_of("multiprocessing", "concurrent.futures.process") <= {"backends"}


def test_only_backends_and_signing_unpickle() -> None:
    assert importers_of("pickle", "marshal", "shelve") == {"backends", "signing"}


def test_only_stores_talk_to_databases() -> None:
    assert importers_of("sqlite3", "redis") == {"stores"}


@pytest.mark.parametrize("library", ["celery", "distributed"])
def test_only_the_engines_room_knows_the_libraries_of_engines(library: str) -> None:
    named = {
        module_of(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and dotted(node.func) == "import_module"
        and ast.unparse(node.args[0]).startswith(f"'{library}")
    }
    assert named == {"engines"}


def test_only_after_commit_imports_sqlalchemy() -> None:
    assert importers_of("sqlalchemy") == {"after_commit"}


def test_only_executor_touches_app_extensions() -> None:
    assert modules_where(lambda node: getattr(node, "attr", None) == "extensions") == {"executor"}


def test_only_context_knows_the_private_names_of_flasks_contexts() -> None:
    def private(node: ast.AST) -> bool:
        names = (getattr(node, name, None) for name in ("attr", "id", "value"))
        return any(name in {"_cv_app", "_cv_request", "_cv_tokens"} for name in names)

    assert modules_where(private) == {"context"}
    assert importers_of("flask.globals", "flask.ctx") == {"context"}


def test_only_jobs_and_web_wrap_the_functions_of_users() -> None:
    wrappers = {"functools.update_wrapper", "functools.wraps"}
    assert modules_where(lambda node: dotted(node) in wrappers) == {"jobs", "web"}


def test_only_signals_makes_signals() -> None:
    assert modules_where(lambda node: dotted(node).endswith("_namespace.signal")) == {"signals"}
    assert importers_of("blinker") <= {"signals", "futures", "calls"}  # the others: types only


def test_only_errors_defines_exceptions() -> None:
    def is_exception(node: ast.AST) -> bool:
        return isinstance(node, ast.ClassDef) and any(
            dotted(base).endswith(("Error", "Exception", "Warning")) for base in node.bases
        )

    assert modules_where(is_exception) == {"errors"}


def test_public_names_are_those_that_init_lists_and_nothing_else() -> None:
    public = {name for name in vars(flask_executor_typed) if not name.startswith("_")}
    modules = {module_of(path) for path in TREES}
    exported = set(flask_executor_typed.__all__)
    assert public - (modules - exported) == exported
    assert list(flask_executor_typed.__all__) == sorted(flask_executor_typed.__all__)
