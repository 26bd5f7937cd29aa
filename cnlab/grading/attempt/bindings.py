"""The names that a cell of the course's binds and uses: what it binds is never asked of the student.

Interface: `bound_names` are there when the cell has run, `read_names` are those it uses; `needs` says whether
it uses any that neither it nor others bind.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator

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


def needs(source: str, defined: Collection[str]) -> bool:
    """Whether a cell uses a name that is no builtin, not its own and not in `defined`, or nobody can tell."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return True
    return not read_names(source) <= {*dir(builtins), *stored_names(source), *defined}


def stored_names(source: str) -> set[str]:
    """Return the names that a cell binds anywhere in it, as arguments and within functions too."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return set()
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


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
