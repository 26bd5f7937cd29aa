r"""Words of a Dockerfile: split at blanks, quotes undone, ``$variables`` replaced.

The rules are a shell's, less all that runs something: no ``$(command)``, no ``*``.

See: "Environment replacement" in the Dockerfile reference.
"""

import re
from collections.abc import Mapping

from cnlab.errors import InvalidValue

_WORD = re.compile(r"""(?: \\. | '[^']*' | "(?:\\.|[^"\\])*" | [^\s'"\\] | \\$ )+ """, re.VERBOSE | re.DOTALL)
_PIECE = re.compile(
    r"""
    \\(?P<escaped>.)
    | '(?P<single>[^']*)'
    | "(?P<double>(?:\\.|[^"\\])*)"
    | \$(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | \$\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<operator>[-+])(?P<word>[^}]*))?\}
    | (?P<plain>[^\\'"$]+ | .)
    """,
    re.VERBOSE | re.DOTALL,
)


def split(text: str) -> list[str]:
    """Cut `text` at blanks outside of quotes; the words keep their quotes for `expand`.

    Raises:
        InvalidValue: a quote is not closed.
    """
    words = _WORD.findall(text)
    rest = _WORD.sub("", text).strip()
    if rest:
        raise InvalidValue(f"the quote {rest[0]} is not closed")
    return words


def expand(word: str, variables: Mapping[str, str]) -> str:
    """Replace variables outside of single quotes, then take away one layer of quotes and backslashes.

    ``${name:-word}`` is `word` where the variable is unset or empty, ``${name:+word}`` where it is not. An
    unset variable is empty.

    Raises:
        InvalidValue: a ``${`` that says something else.
    """
    return "".join(_expand_piece(match, variables) for match in _PIECE.finditer(word))


def _expand_piece(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if (inner := match["double"]) is not None:
        # between double quotes a single quote is a character, and a backslash escapes only " $ and itself
        inner = re.sub(r"\\([\"$\\])|\\", lambda m: m[0] if m[1] else r"\\", inner).replace("'", r"\'")
        return expand(inner, variables)
    if match["braced"] is not None:
        value = variables.get(match["braced"], "")
        if match["operator"] is None or (match["operator"] == "-" and value):
            return value
        return expand(match["word"], variables) if value or match["operator"] == "-" else ""
    if match["name"] is not None:
        return variables.get(match["name"], "")
    if match["plain"] == "$" and match.string.startswith("${", match.start()):
        said = match.string[match.start() :].partition("}")[0] + "}"
        raise InvalidValue(f"{said} is not understood; write ${{name}}, ${{name:-word}} or ${{name:+word}}")
    return match["escaped"] or match["single"] or match["plain"] or ""
