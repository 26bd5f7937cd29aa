"""The instructor's course: nbgrader's settings, directories and gradebook, and the cells as written.

Interface: ``Course.load()`` finds the settings as nbgrader does; `Course.master` gives a notebook with its
hidden tests; ``with course.gradebook() as gradebook`` opens nbgrader's own.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnlab.errors import CnlabError
from cnlab.grading.job import Role
from cnlab.grading.steps.repair import Master, MasterCell

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from nbgrader.api import Gradebook
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config

SETTINGS = "nbgrader_config.py"
DESK = Path(__file__).resolve().parents[3] / "grading"


class CourseError(CnlabError):
    """The course is not as grading needs it; the message says what to do."""


@dataclass(frozen=True)
class Course:
    """A course's directories and settings; `config` is for nbgrader's own classes."""

    config: "Config"
    coursedir: "CourseDirectory"

    @classmethod
    def load(cls, directory: Path | None = None) -> "Course":
        """Read the settings that nbgrader would read in `directory`.

        By default that is the working directory if it has an `nbgrader_config.py`, else the checkout's
        `grading`.

        Raises:
            CourseError: there are no settings, or they cannot be read to their end.
        """
        from nbgrader.apps.baseapp import NbGrader

        _find_programs_of_nbgrader()
        here = directory or (Path.cwd() if Path(SETTINGS).exists() else DESK)
        if not here.is_dir():
            raise CourseError(f"there is no directory {here}")
        if not (here / SETTINGS).is_file():
            raise CourseError(f"there is no {SETTINGS} in {here}: --course names the directory that has one")
        with contextlib.chdir(here):
            app = NbGrader()
            app.log_level = 40  # ERROR: what nbgrader remarks on its way is not what we say
            app.raise_config_file_errors = True
            try:
                app.initialize([])
            except Exception as error:  # whatever is written there; half of it would be other settings
                raise CourseError(f"{_place_of(error, here / SETTINGS)}: {_said_by(error)}") from error
            return cls(app.config, app.coursedir)

    @property
    def root(self) -> Path:
        """The directory that holds `submitted`, `autograded` and the gradebook."""
        return Path(self.coursedir.root)

    @property
    def course_id(self) -> str:
        """The course's name in the exchange."""
        return str(self.coursedir.course_id)

    @property
    def db_url(self) -> str:
        """Where nbgrader's gradebook is, in SQLAlchemy's words."""
        return str(self.coursedir.db_url)

    def source(self, assignment: str) -> Path:
        """Where the assignment lies as it was written."""
        return self._directory(self.coursedir.source_directory, ".", assignment)

    def release(self, assignment: str) -> Path:
        """Where the students' version lies."""
        return self._directory(self.coursedir.release_directory, ".", assignment)

    def submitted(self, student: str, assignment: str) -> Path:
        """Where a submission lies as it was collected."""
        return self._directory(self.coursedir.submitted_directory, student, assignment)

    def autograded(self, student: str, assignment: str) -> Path:
        """Where a submission lies when it has run."""
        return self._directory(self.coursedir.autograded_directory, student, assignment)

    def feedback(self, student: str, assignment: str) -> Path:
        """Where the pages for a student lie."""
        return self._directory(self.coursedir.feedback_directory, student, assignment)

    def _directory(self, step: str, student: str, assignment: str) -> Path:
        return Path(os.path.normpath(self.coursedir.format_path(step, student, assignment)))

    @property
    def private(self) -> Path:
        """Where we keep what nbgrader has no place for."""
        return self.root / ".cnlab"

    def runs(self, assignment: str) -> Path:
        """Where the journals of an assignment lie."""
        return self.private / "runs" / assignment

    def students(self, assignment: str, step: str = "submitted") -> list[str]:
        """Return who has something for the assignment at this step, sorted."""
        places = {
            "submitted": self.submitted,
            "autograded": self.autograded,
            "feedback": self.feedback,
        }
        template = places[step]("*", assignment)
        parts = template.parts
        at = parts.index("*")
        top = Path(*parts[:at])
        names = os.listdir(top) if top.is_dir() else []
        return sorted(name for name in names if self._has(places[step](name, assignment)))

    @staticmethod
    def _has(place: Path) -> bool:
        return place.is_dir() and not place.is_symlink()

    @contextlib.contextmanager
    def gradebook(self) -> "Iterator[Gradebook]":
        """Open nbgrader's gradebook.

        Raises:
            CourseError: it is locked, or is none.
        """
        from nbgrader.api import Gradebook

        self.root.mkdir(parents=True, exist_ok=True)
        with self.readable_gradebook(), Gradebook(self.db_url, self.course_id) as gradebook:
            yield gradebook

    @contextlib.contextmanager
    def readable_gradebook(self) -> Iterator[None]:
        """Say in one line what is wrong with the gradebook, where a block cannot read or write it."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            is_locked = "locked" in reason
            cure = ": close the other program that writes to it, and try again" if is_locked else ""
            raise CourseError(
                f"the gradebook {self._gradebook_file or 'of nbgrader'}: {reason}{cure}"
            ) from error

    def require_gradebook(self) -> None:
        """Go on only if there is a gradebook; opening it would make an empty one.

        Raises:
            CourseError: there is none.
        """
        if self._gradebook_file and not self._gradebook_file.is_file():
            raise CourseError(
                f"there is no gradebook {self._gradebook_file}: run `cnlab grade release` first"
            )

    @property
    def _gradebook_file(self) -> Path | None:
        """The file of the gradebook, where it is not on a server."""
        from sqlalchemy import make_url

        url = make_url(self.db_url)
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    def masters(self, assignment: str) -> tuple[Master, ...]:
        """Return the assignment's notebooks as they were released, with their hidden tests.

        Raises:
            CourseError: it was not released, or not in this state.
        """
        with self.gradebook() as gradebook:
            rows = [row for row in gradebook.assignments if row.name == assignment]
            if not rows or not rows[0].notebooks:
                raise CourseError(
                    f"the gradebook has no assignment `{assignment}`: run `cnlab grade release {assignment}`"
                )
            return tuple(self._master(assignment, notebook) for notebook in rows[0].notebooks)

    def _master(self, assignment: str, row: Any) -> Master:
        """Join the gradebook's cells, which have the hidden tests, to the released notebook's order."""
        import nbformat

        path = self.release(assignment) / f"{row.name}.ipynb"
        again = f"run `cnlab grade release {assignment}`"
        if not path.is_file():
            raise CourseError(f"there is no {path}: {again}")
        released = nbformat.read(path, as_version=4)
        _require_python(released, path)
        stored = {cell.name: cell for cell in row.source_cells}
        cells = tuple(_master_cell(cell, stored.get(_grade_id(cell))) for cell in released.cells)
        unknown = stored.keys() ^ {cell.grade_id for cell in cells if cell.grade_id}
        if unknown:
            raise CourseError(
                f"{path} and the gradebook do not have the same cells ({', '.join(sorted(unknown))}): {again}"
            )
        metadata = json.loads(json.dumps(released.metadata))
        if row.kernelspec and (kernelspec := json.loads(row.kernelspec)):
            metadata["kernelspec"] = kernelspec
        return Master(row.name, cells, metadata)


def _find_programs_of_nbgrader() -> None:
    """Put our Python's directory on the PATH: nbgrader calls `alembic` by name when it makes a gradebook."""
    own = os.path.dirname(sys.executable)
    if own not in os.get_exec_path():
        os.environ["PATH"] = os.pathsep.join([own, *os.get_exec_path()])


def _place_of(error: BaseException, settings: Path) -> str:
    """Return the line of the settings at which an error arose."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _is(frame.filename, settings)
    ]
    if isinstance(error, SyntaxError) and error.filename and _is(error.filename, settings):
        lines.append(error.lineno)
    return f"{settings}, line {lines[-1]}" if lines else str(settings)


def _is(filename: str, settings: Path) -> bool:
    return Path(filename).resolve() == settings.resolve()


def _said_by(error: BaseException) -> str:
    text = (error.msg if isinstance(error, SyntaxError) else str(error)).partition("\n")[0]
    return f"{type(error).__name__}: {text}"


def _grade_id(cell: "NotebookNode") -> str:
    claims = cell.metadata.get("nbgrader", {})
    is_known = any(claims.get(kind) for kind in ("grade", "solution", "locked", "task"))
    return str(claims.get("grade_id", "")) if is_known else ""


def _master_cell(cell: "NotebookNode", stored: Any) -> MasterCell:
    metadata = json.loads(json.dumps(cell.metadata))
    if stored is None:
        role: Role = "student" if cell.cell_type == "code" else "text"
        return MasterCell(role, cell.cell_type, cell.source, cell.source, cell.get("id", ""))
    metadata["nbgrader"]["checksum"] = stored.checksum
    return MasterCell(
        role=role_of(stored.cell_type, metadata["nbgrader"]),
        cell_type=stored.cell_type,
        source=stored.source,
        released=cell.source,
        id=cell.get("id", ""),
        grade_id=stored.name,
        metadata=metadata,
    )


def role_of(cell_type: str, claims: dict[str, Any]) -> Role:
    """Say what a cell of the course is there for."""
    if cell_type != "code":
        return "text"
    if claims.get("solution"):
        return "student"
    return "test" if claims.get("grade") else "setup"


def _require_python(notebook: "NotebookNode", path: Path) -> None:
    kernelspec = notebook.metadata.get("kernelspec", {})
    language = kernelspec.get("language", "python")
    if language != "python":
        raise CourseError(
            f"{path} is written in {language}; only Python is run here: use `nbgrader autograde` for it"
        )


def notebooks_in(masters: Sequence[Master]) -> list[str]:
    """Return the names of the notebooks' files."""
    return [f"{master.name}.ipynb" for master in masters]
