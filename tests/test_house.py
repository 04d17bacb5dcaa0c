"""The house: floors, what is exported, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import escapement

ROOT = Path(__file__).parent.parent

FLOORS = {
    "escapement.words": 1,
    "escapement.providers": 2,
    "escapement.store": 3,
    "escapement.engine": 4,
    "escapement_instrumentation": 5,
    "escapement_exporters": 5,
    "escapement.cli": 6,
    "escapement.demo": 6,
    "escapement.integrations": 6,
    "escapement.__main__": 6,
    "escapement": 6,
    "escapement_dashboards": 6,
}
PACKAGES = {
    "escapement": ROOT / "escapement",
    "escapement_instrumentation": ROOT / "instrumentation" / "escapement_instrumentation",
    "escapement_exporters": ROOT / "exporters" / "escapement_exporters",
    "escapement_dashboards": ROOT / "dashboards" / "escapement_dashboards",
}


def room(module: str) -> str:
    """The longest known room that a module is in; empty for what is not ours."""
    parts = module.split(".")
    rooms = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((found for found in rooms if found in FLOORS), "")


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(part for part in inside if part != "__init__")]), file


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Every module named in an import, wherever it stands in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize(("module", "file"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_room_imports_only_from_floors_below(module: str, file: Path) -> None:
    own = room(module)
    for line, imported in imports(file):
        other = room(imported)
        # The public verbs are a face: they open the floors below, and the other faces may use them.
        if other and other != own and not FLOORS[other] == FLOORS[own] == 6:
            assert FLOORS[other] < FLOORS[own], f"{file}:{line} imports {imported}, from above"


def test_exported_names() -> None:
    assert sorted(escapement.__all__) == [
        "BudgetExceededError",
        "ConfigError",
        "EscapementConfig",
        "EscapementError",
        "EscapementWarning",
        "GuardError",
        "LoopDetectedError",
        "ReplayDivergenceError",
        "StoreError",
        "ToolCall",
        "Trace",
        "TraceImportError",
        "TraceNotFoundError",
        "current",
        "fork",
        "init",
        "open_store",
        "replay",
        "stop",
    ]
    public = {
        name
        for name, value in vars(escapement).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("escapement")
    }
    assert public - set(escapement.__all__) == {"resolve"}


def test_the_error_tree() -> None:
    tree = {
        escapement.ConfigError: escapement.EscapementError,
        escapement.TraceNotFoundError: escapement.EscapementError,
        escapement.ReplayDivergenceError: escapement.EscapementError,
        escapement.GuardError: escapement.EscapementError,
        escapement.LoopDetectedError: escapement.GuardError,
        escapement.BudgetExceededError: escapement.GuardError,
        escapement.StoreError: escapement.EscapementError,
        escapement.TraceImportError: escapement.EscapementError,
    }
    assert {kind: kind.__base__ for kind in tree} == tree


def test_importing_is_light() -> None:
    heavy = (
        "openai",
        "anthropic",
        "httpx",
        "httpx2",
        "opentelemetry",
        "duckdb",
        "pyarrow",
        "rich",
        "typer",
        "genai_prices",
    )
    program = (
        "import sys, escapement\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
        "escapement.current(), escapement.stop()\n"
        "with escapement.init(enabled=False): pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def test_modules_hold_one_idea() -> None:
    crowded = {module: lines for module, file in modules() if (lines := len(file.read_text().splitlines())) > 450}
    assert crowded == {}
    names = {part for module, _ in modules() for part in module.split(".")}
    assert not names & {"utils", "helpers", "manager", "core", "base", "common", "misc"}
