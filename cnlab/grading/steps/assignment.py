"""All of an assignment that does not depend on who hands it in.

Interface: ``Assignment.load(course, name)``, once a run; `Assignment.job` makes of a repaired notebook what
a worker runs.
"""

import ast
import builtins
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cnlab.grading.job import Job
from cnlab.grading.limits import Limits
from cnlab.grading.steps.course import Course, CourseError
from cnlab.grading.steps.display import hidden_marks
from cnlab.grading.steps.repair import Master, Repaired
from cnlab.grading.steps.submission import Sizes, read_submission

_SIZES = Sizes(file_bytes=100_000_000, total_bytes=200_000_000)  # the instructor's own files
_PRIVATE_KERNEL = "cnlab"


@dataclass(frozen=True)
class Assignment:
    """What was given out; `files` lie beside the notebooks, `sha256` changes with any of it."""

    name: str
    masters: tuple[Master, ...]
    files: Mapping[str, bytes]
    theirs: frozenset[str]  # files that students may hand in changed
    limits: Mapping[str, float]
    needs: Mapping[str, "Needs"]  # by notebook
    hidden_marks: tuple[str, str]
    sha256: str

    @classmethod
    def load(cls, course: Course, name: str) -> "Assignment":
        """Read an assignment that was released.

        Raises:
            CourseError: it was not, or not in this state.
        """
        masters = course.masters(name)
        files, notebooks = _beside(course, name)
        excluded = course.config.Autograde.get("exclude_overwriting", {}).get(name, ())
        limits = Limits.from_dict(_limits(course, name)).to_dict()
        needs = {master.name: _needs(notebooks.get(master.name, {}), master) for master in masters}
        marks = hidden_marks(course.config)
        sha256 = _digest(masters, files, {"limits": limits, "marks": marks}, needs)
        return cls(name, masters, files, frozenset(excluded), limits, needs, marks, sha256)

    @property
    def machine(self) -> Literal["host", "cnlab"]:
        """Where its notebooks run: here, or as root of a private kernel."""
        names = {master.metadata.get("kernelspec", {}).get("name") for master in self.masters}
        return "cnlab" if _PRIVATE_KERNEL in names else "host"

    def files_with(self, submitted: Mapping[str, bytes]) -> dict[str, bytes]:
        """Lay the course's files over those of a submission; where one is in the other's way, it goes."""
        ours = {
            name: data
            for name, data in self.files.items()
            if name not in self.theirs or name not in submitted
        }
        folders = {parent for name in ours for parent in _parents(name)}
        kept = {
            name: data
            for name, data in submitted.items()
            if not name.endswith(".ipynb") and name not in folders and not _parents(name) & ours.keys()
        }
        return kept | ours

    def job(
        self, key: str, notebook: str, repaired: Repaired, files: Mapping[str, bytes], accept: Iterable[str]
    ) -> Job:
        """Return what a worker is given; nothing in it names the student."""
        needs = self.needs[notebook]
        modules = {name[:-3]: data for name, data in self.files.items() if _is_module(name)}
        return Job(
            key=key,
            notebook=json.dumps(repaired.notebook),
            roles=repaired.roles,
            files=files,
            limits=self.limits,
            machine=self.machine,
            flavour="plain" if self.machine == "host" else "root",
            accept=tuple(accept),
            imports=needs.imports,
            names=needs.names,
            hidden_marks=self.hidden_marks,
            modules={name: data.decode(errors="replace") for name, data in modules.items()},
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """What checks rely on: the imports of the course's notebook, and tasks that are named like builtins."""

    imports: str
    names: tuple[str, ...]


def _parents(name: str) -> set[str]:
    return {str(parent) for parent in Path(name).parents} - {"."}


def _is_module(name: str) -> bool:
    return name.endswith(".py") and name[:-3].isidentifier()


def _beside(course: Course, name: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Read the files of the assignment's source, and apart from them its notebooks."""
    source = course.source(name)
    if not source.is_dir():
        return {}, {}
    found = read_submission(source, ignore=course.coursedir.ignore, sizes=_SIZES).files
    files = {path: data for path, data in found.items() if not path.endswith(".ipynb")}
    notebooks = {}
    for path, data in found.items():
        if path.endswith(".ipynb"):
            with contextlib.suppress(ValueError):
                notebooks[path.removesuffix(".ipynb")] = json.loads(data)
    return files, notebooks


def _limits(course: Course, name: str) -> dict[str, Any]:
    """Return the limits that nbgrader_config.py sets; nbgrader's own timeout counts for a cell."""
    timeout = course.config.Execute.get("timeout")
    settings = course.config.Sandbox
    own = {"cell_s": float(timeout)} if timeout else {}
    of_all, of_some = settings.get("limits", {}), settings.get("limits_of", {})
    of_this = of_some.get(name, {}) if isinstance(of_some, Mapping) else of_some
    for setting, value in {"limits": of_all, "limits_of": of_this}.items():
        if not isinstance(value, Mapping):
            raise CourseError(
                f"c.Sandbox.{setting}: {value!r}: expected a dictionary such as {{'cell_s': 120}}"
            )
    return own | dict(of_all) | dict(of_this)


def _needs(source: Mapping[str, Any], master: Master) -> Needs:
    """Look through the instructor's notebook, solutions included."""
    tests = {cell.grade_id for cell in master.cells if cell.role == "test"}
    imports: list[str] = []
    names: set[str] = set()
    for cell in source.get("cells", ()):
        claims = cell.get("metadata", {}).get("nbgrader", {})
        if cell.get("cell_type") != "code" or claims.get("grade_id") in tests:
            continue
        for node in _statements("".join(cell.get("source", ""))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(ast.unparse(node))
            if claims.get("solution"):
                names.update(_defined(node))
    shadowed = sorted(name for name in names if hasattr(builtins, name))
    return Needs("\n".join(dict.fromkeys(imports)), tuple(shadowed))


def _statements(source: str) -> list[ast.stmt]:
    """Parse a cell, IPython's own lines left out."""
    lines = ["" if line.lstrip().startswith(("%", "!", "?")) else line for line in source.splitlines()]
    try:
        return ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError):
        return []


def _defined(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _digest(
    masters: Iterable[Master],
    files: Mapping[str, bytes],
    settings: Mapping[str, object],
    needs: Mapping[str, Needs],
) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for master in masters:
        digest.update(repr((master.name, needs[master.name], dict(master.metadata))).encode())
        for cell in master.cells:
            digest.update(repr((cell.role, cell.grade_id, cell.source, dict(cell.metadata))).encode())
    digest.update(digest_of(files).encode())
    return digest.hexdigest()


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return a digest of names and contents."""
    digest = hashlib.sha256()
    for name in sorted(files):
        encoded = name.encode()
        digest.update(b"%d %d " % (len(encoded), len(files[name])) + encoded + files[name])
    return digest.hexdigest()
