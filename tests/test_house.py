"""House rules that a machine can check (DESIGN sections 2 and 8)."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

ROOMS = ("schemas", "model_ops", "tasks", "flows", "deploy")
HEAVY = {"vllm", "ray", "torch", "trl", "transformers", "datasets", "peft", "accelerate"}
HEAVY_ON_IMPORT = {"vllm", "ray", "torch", "trl", "transformers", "datasets"}
PREFECT_ROOMS = {"tasks", "flows", "deploy"}
MAX_FUNCTION, MAX_FILE, MEDIAN_FUNCTION = 60, 350, 12
ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported(node: ast.AST) -> Iterator[str]:
    """Top packages that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.split(".")[0]


def at_import_time(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: not those inside functions."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for inner in ("body", "orelse", "finalbody"):
            yield from at_import_time(getattr(node, inner, []))


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Name and length of every function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@each_source
def test_a_room_imports_only_rooms_to_its_left(path: Path) -> None:
    allowed = ROOMS[: ROOMS.index(room_of(path)) + 1]
    named = {name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)}
    assert named & set(ROOMS) <= set(allowed)
    assert "prefect" not in named or room_of(path) in PREFECT_ROOMS
    assert "tests" not in named


@each_source
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    for node in at_import_time(ast.parse(path.read_text()).body):
        assert not HEAVY & set(imported(node)), f"{path}:{node.lineno}"


@each_source
def test_files_and_functions_are_small_and_modules_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_FILE
    assert [(name, size) for name, size in functions(tree) if size > MAX_FUNCTION] == []
    assert not text.strip() or ast.get_docstring(tree), "a module docstring is missing"


@pytest.mark.slow
def test_the_median_function_is_short() -> None:
    sizes = [size for path in SOURCES for _, size in functions(ast.parse(path.read_text()))]
    assert median(sizes) <= MEDIAN_FUNCTION


def test_names_say_what_a_module_is() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "data", "info", "common", "misc"}
    assert [path for path in SOURCES if path.stem in vague] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_target() -> None:
    said = subprocess.run(["make", "--no-print-directory", "help"], text=True, capture_output=True,
                          check=True, cwd=ROOT)
    listed = {line.split()[0] for line in said.stdout.splitlines()}
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines()
                 if line.startswith(".PHONY:"))
    assert listed == set(phony.split()[1:])


@pytest.mark.skipif(not (ROOT / "flows" / "__init__.py").exists(), reason="flows/ is not there yet")
def test_importing_the_flows_loads_no_engine(child_env: Callable[[], dict[str, str]]) -> None:
    code = f"import sys, flows; print(*sorted(set(sys.modules) & set({sorted(HEAVY_ON_IMPORT)!r})))"
    loaded = subprocess.run([sys.executable, "-c", code], env=child_env(), text=True,
                            capture_output=True, check=True, cwd=ROOT).stdout.split()
    assert loaded == []
