"""The notebooks are run once for all tests here: twice in a row by a student, on the private kernel."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from student import Student

from cnlab.clock import wait_until
from cnlab.linux.mounts import Mount, read_mountinfo
from cnlab.linux.namespaces import namespaces_of

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LABS = sorted((ROOT / "labs").glob("*/*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    """Each notebook there is."""
    return request.param


@pytest.fixture(params=NOTEBOOKS + LABS, ids=lambda path: path.stem)
def notebook_or_lab(request: pytest.FixtureRequest) -> Path:
    """Each notebook and each lab's source there is."""
    return request.param


@pytest.fixture(scope="session")
def all_notebooks() -> list[Path]:
    """Every notebook there is."""
    return NOTEBOOKS


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the work of a student could leave on a machine."""

    processes: frozenset[int]
    namespaces: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[Path]
    files: frozenset[Path]

    def since(self, before: Footprint) -> dict[str, frozenset[object]]:
        """Return what is there now and was not `before`."""
        new = {field.name: getattr(self, field.name) - getattr(before, field.name) for field in fields(self)}
        return {name: things for name, things in new.items() if things}


def footprint(student: Student, results: Path) -> Footprint:
    """Look what there is of `student` now, `results` aside.

    Where the student is an ordinary user, that user's other programs have files and groups elsewhere."""
    processes = frozenset(student.processes())
    mounts = read_mountinfo()
    trees = [Path(mount.mount_point) for mount in mounts if mount.fs_type in ("cgroup", "cgroup2")]
    open_to_all = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    if not student.is_stand_in:
        trees, open_to_all = [], []
    return Footprint(
        processes=processes,
        namespaces=frozenset(namespaces(processes)),
        mounts=frozenset(
            f"{mount.source} on {mount.mount_point}" for mount in mounts if _is_of(student, mount)
        ),
        cgroups=frozenset(belongings(student, trees)),
        files=frozenset(
            path
            for path in belongings(student, [student.home, *open_to_all])
            if not path.is_relative_to(results)
        ),
    )


def namespaces(processes: Iterable[int]) -> Iterator[str]:
    """The namespaces that these processes are in; one that has ended is in none."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            yield from map(str, namespaces_of(pid).values())


def _is_of(student: Student, mount: Mount) -> bool:
    """Whether it is at home, or of a file system that the student serves; root may mount elsewhere."""
    serves = student.is_stand_in and f"user_id={student.uid}" in mount.super_options
    return serves or Path(mount.mount_point).is_relative_to(student.home)


def belongings(student: Student, places: list[Path]) -> Iterator[Path]:
    """Find all files and directories of the student below `places`."""
    for place in places:
        for above, directories, files in os.walk(place):
            for path in (Path(above, name) for name in [*directories, *files]):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # others come and go there
                    if path.lstat().st_uid == student.uid:
                        yield path


@dataclass(frozen=True, slots=True)
class Runs:
    """What came of running every notebook twice."""

    results: Path
    runs: list[dict[str, object]]
    before: Footprint
    after: Footprint

    def of(self, notebook: Path) -> list[dict[str, object]]:
        return [run for run in self.runs if run["notebook"] == notebook.stem]

    def executed(self, notebook: Path, name: str = "as-it-is") -> NotebookNode:
        return nbformat.read(self.results / name / notebook.name, as_version=4)


@pytest.fixture(scope="session")
def reader() -> Iterator[Student]:
    """The student who runs the notebooks and builds the book."""
    with Student() as student:
        yield student


@pytest.fixture(scope="session")
def runs(reader: Student) -> Runs:
    """Every notebook run twice in the student's own copy of the course, and what that left behind."""
    results = reader.home / "results"
    copies = [reader.home / "notebooks" / path.name for path in NOTEBOOKS]
    reader.run(["mkdir", "notebooks", ".ipython"])  # the latter is made by IPython's first start
    reader.run(["cp", *map(str, NOTEBOOKS), "notebooks"])
    before = footprint(reader, results)
    script = Path(__file__).parent / "run_notebooks.py"
    done = reader.run([sys.executable, str(script), str(results), *map(str, copies)], check=False)
    assert done.returncode == 0, done.stderr
    with contextlib.suppress(TimeoutError):  # what is still there then is what the test shows
        wait_until(lambda: not footprint(reader, results).since(before), timeout_s=60)
    return Runs(results, json.loads(done.stdout), before, footprint(reader, results))


@pytest.fixture(scope="session")
def book(reader: Student, runs: Runs) -> Path:
    """The book, rendered by the student from what the notebooks gave in their first run."""
    pages = reader.home / "book" / "html"
    cache, doctrees = runs.results / "cache", reader.home / "doctrees"
    settings = ["-D", f"nb_execution_cache_path={cache}", "-d", str(doctrees)]
    sphinx = [sys.executable, "-m", "sphinx", "-W", "-b", "html", *settings]
    done = reader.run([*sphinx, str(ROOT / "notebooks"), str(pages)], check=False)
    assert done.returncode == 0, done.stderr
    return pages


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where pictures are kept for people to look at."""
    directory = ROOT / "build" / "pictures"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
