"""Imports go one way, as DESIGN.md draws it; read from the source, so that a lazy import counts too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cnlab"
GROUND = {"errors", "host", "clock"}
BELOW = {
    "errors": set(),
    "clock": set(),
    "host": {"errors"},
    "linux": GROUND,
    "machine": GROUND | {"linux"},
    "unikernels": GROUND | {"linux"},
    "containers": GROUND | {"linux"},
    "orchestration": GROUND | {"linux", "containers"},
    "apps": GROUND | {"linux", "containers"},
    "mesh": GROUND | {"linux", "containers", "orchestration", "apps"},
    "serverless": GROUND | {"linux", "containers", "orchestration", "apps"},
}
TOP = {"cli", "doctor", "widgets", "grading"}
"""These may import everything below them; nobody below imports them."""


def layer_of(module: str) -> str:
    """Return the part of the package that ``cnlab.x.y`` belongs to."""
    return module.split(".")[1] if "." in module else ""


def imports_of(tree: ast.Module) -> set[str]:
    """Return the modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected absolute imports: a relative one hides where it goes"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in found if module.startswith("cnlab.")}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_module_imports_only_what_is_below_it(file):
    """Who reads a layer needs to know only the layers below."""
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = {layer_of(module) for module in imports_of(ast.parse(file.read_text()))} - {own, "__version__"}
    allowed = set(BELOW) if own in TOP else BELOW.get(own, set())
    if own in {"cli", "doctor"}:
        allowed = allowed | TOP

    assert used <= allowed, f"{file.name} imports {sorted(used - allowed)}, which is not below {own!r}"


def test_every_part_of_the_package_has_its_place():
    """A new part is first drawn, then built."""
    parts = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES} - {"__init__"}

    assert parts <= set(BELOW) | TOP


def test_import_that_goes_up_is_seen():
    """The check itself must be able to fail: also inside a function, and in both spellings."""
    up = "def f():\n    from cnlab import widgets\n    import cnlab.cli\n"

    assert {layer_of(module) for module in imports_of(ast.parse(up))} == {"widgets", "cli"}
