"""The names that a cell of the course's binds at its top, which are then never asked of the student.

Interface: `bound_names` for a cell, `read_names` for those it uses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

EVERYTHING = "*"
"""Stands for the names of ``from module import *``."""

_INNER = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def bound_names(source: str) -> set[str]:
    """Return the names that are there when the cell has run; none if it is no Python."""
    try:
        return set(_bound(ast.parse(source)))
    except (SyntaxError, ValueError):
        return set()


def read_names(source: str) -> set[str]:
    """Return the names that a cell uses; none if it is no Python."""
    try:
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    except (SyntaxError, ValueError):
        return set()
    return {node.id for node in nodes if isinstance(node.ctx, ast.Load)}


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
        for inner in ast.walk(node):
            yield from inner.names if isinstance(inner, ast.Global) else ()
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, *_INNER)):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)
