"""The instructor's desk in a world: a course with secrets, submissions, and what grading makes of them."""

from __future__ import annotations

import copy
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from grading.attacks import bystander
from grading.attacks.assignment import NAME, SMALL, TASKS, Known, new_secrets, source_notebook
from grading.attacks.attack import Attack, Submission
from grading.attacks.world import HOME, World
from nbformat import NotebookNode
from student import ROOT

COURSE = HOME / "course"
SETTINGS = """
import os
c = get_config()
load_subconfig({shipped!r})
c.CourseDirectory.root = {course!r}
c.CourseDirectory.source_directory = {course!r} + "/source"
c.Execute.timeout = 1  # for comparisons with nbgrader
c.Sandbox.limits = {limits!r}
"""
LIMITS: dict[str, float] = {  # honest work takes a hundredth of the times
    "cell_s": 1.5, "notebook_s": 12.0, "cpu_s": 6.0, "memory_bytes": 320 << 20, "tmp_bytes": 32 << 20,
    "pids": 64,
}  # fmt: skip
HONEST = (
    "honest",
    "an-honest-one",
    "some-honest-one",
    "zz-honest-one",
)  # between the attackers by their names


class Desk:
    """A course in the `world`; the paths here are those of the instructor."""

    def __init__(self, world: World, *, kernel: str = "python3") -> None:
        self.world = world
        self.kernel = kernel
        self.known = Known(HOME, COURSE, new_secrets())
        self.tasks = SMALL if kernel == "cnlab" else tuple(TASKS)
        self.submitted: list[str] = []

    @property
    def _limits(self) -> dict[str, float]:
        return LIMITS | ({"cell_s": 15.0, "notebook_s": 90.0} if self.kernel == "cnlab" else {})

    def __enter__(self) -> Desk:
        self._plant()
        return self

    def __exit__(self, *exc: object) -> None:
        self._neighbour.kill()
        self._neighbour.wait()

    def _plant(self) -> None:
        words = self.known.secrets
        source = self.known.course / "source" / NAME
        self.path(source).mkdir(parents=True)
        nbformat.write(source_notebook(words, kernel=self.kernel), self.path(source / f"{NAME}.ipynb"))
        shipped = str(ROOT / "grading" / "nbgrader_config.py")
        settings = SETTINGS.format(shipped=shipped, course=str(COURSE), limits=self._limits)
        self.path(COURSE / "nbgrader_config.py").write_text(settings)
        self.path(HOME / "secret.txt").write_text(words["home"])
        self.path(HOME / ".ssh").mkdir()
        self.path(HOME / ".ssh" / "id_rsa").write_text(words["home"])
        os.chmod(self.path(HOME / "secret.txt"), 0o644)
        self._own()
        neighbour = self.world.popen(
            [sys.executable, str(bystander.__file__), words["command"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert neighbour.stdin
        assert neighbour.stdout
        neighbour.stdin.write(json.dumps({name: words[name] for name in ("memory", "socket")}) + "\n")
        neighbour.stdin.flush()
        assert neighbour.stdout.readline() == "ready\n"
        neighbour.stdin.close()
        neighbour.stdout.close()
        self._neighbour = neighbour

    def path(self, inside: Path) -> Path:
        """Where the tests find a file of the instructor's."""
        return self.world.path(inside)

    def _own(self) -> None:
        subprocess.run(
            ["chown", "-hR", f"{self.world.uid}:{self.world.uid}", str(self.path(HOME))], check=True
        )

    def release(self) -> NotebookNode:
        """Make the students' version and return it."""
        self.cnlab("release", NAME)
        release = nbformat.read(self.path(COURSE / "release" / NAME / f"{NAME}.ipynb"), as_version=4)
        self.nbgrader("db", "student", "add", "secretary", "--first-name", self.known.secrets["gradebook"])
        return release

    def hand_in(self, release: NotebookNode, attacks: list[Attack]) -> None:
        """Put the submissions of all attackers, and of honest students, where collecting puts them."""
        for name in HONEST:
            honest = Submission(copy.deepcopy(release), self.known)
            honest.solve(*honest.tasks)
            honest.cell("mean").source += f"\n# {self.known.secrets['other']}"
            self._submit(name, honest)
        for attack in attacks:
            self._submit(attack.name, attack.submission(release, self.known))
        self._own()

    def _submit(self, name: str, made: Submission) -> None:
        directory = self.path(COURSE / "submitted" / name / NAME)
        directory.mkdir(parents=True)
        for file, data in made.files.items():
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (directory / file).write_bytes(data)
        raw = json.dumps(made.notebook).encode() if made.raw is None else made.raw
        (directory / f"{NAME}.ipynb").write_bytes(raw)
        if not (directory / "timestamp.txt").exists():
            (directory / "timestamp.txt").write_text("2026-01-01 00:00:00.000000 UTC")
        made.place(directory)
        self.submitted.append(name)

    def cnlab(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``cnlab grade`` as the instructor, with a token in the environment as hubs have it."""
        return self._run(["cnlab", "grade", *arguments], check)

    def nbgrader(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run nbgrader as the instructor."""
        return self._run(["nbgrader", *arguments], check)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python as the instructor."""
        return self._run([sys.executable, "-P", *arguments], check=True)

    def _run(self, argv: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        env = {"JUPYTERHUB_API_TOKEN": self.known.secrets["environment"], "CNLAB_COURSE": str(COURSE)}
        done = self.world.run(["sh", "-c", f'cd {COURSE} && exec "$@"', "sh", *argv], env=env)
        assert not check or done.returncode == 0, f"{argv}:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done

    def points(self) -> dict[str, dict[str, float | None]]:
        """What the gradebook has for each student and check, a person's part left out."""
        query = """
            SELECT submitted_assignment.student_id, base_cell.name, grade.auto_score, grade.manual_score
            FROM grade
            JOIN base_cell ON base_cell.id = grade.cell_id
            JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
            JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
        """
        database = sqlite3.connect(":memory:")
        database.deserialize(self.path(COURSE / "gradebook.db").read_bytes())
        found: dict[str, dict[str, float | None]] = {}
        for student, check, automatic, manual in database.execute(query):
            assert manual is None, (student, check)
            if check != "essay":
                found.setdefault(student, {})[check.removeprefix("check-")] = automatic
        database.close()
        return found

    def autograded(self, name: str) -> NotebookNode | None:
        """The notebook of a student as it has run, or None."""
        path = self.path(COURSE / "autograded" / name / NAME / f"{NAME}.ipynb")
        return nbformat.read(path, as_version=4) if path.is_file() else None

    def feedback(self, name: str) -> str:
        """The page that a student gets, or nothing."""
        path = self.path(COURSE / "feedback" / name / NAME / f"{NAME}.html")
        return path.read_text(errors="replace") if path.is_file() else ""

    def journal(self, name: str) -> dict[str, Any]:
        """What the run noted about a student."""
        path = self.path(COURSE / ".cnlab" / "runs" / NAME / f"{name}.json")
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def outputs(self, name: str) -> str:
        """All that code of the submission, or code that called it, wrote: for people who grade."""
        notebook = self.autograded(name)
        cells = notebook.cells if notebook else []
        written = [json.dumps([cell.get("outputs", []), cell.metadata.get("cnlab", {})]) for cell in cells]
        return "\n".join([*written, json.dumps(self.journal(name))])

    def own_outputs(self, name: str) -> str:
        """What the student's own cells wrote."""
        notebook = self.autograded(name)
        checks = [f"check-{task}" for task in TASKS]
        cells = notebook.cells if notebook else []
        return "\n".join(
            json.dumps(cell.get("outputs", []))
            for cell in cells
            if cell.metadata.get("nbgrader", {}).get("grade_id") not in checks
        )


def breaches(text: str) -> list[str]:
    """What attacks said that succeeded."""
    return sorted(set(re.findall(r"BREACH [^\n\\\"]*", text)))


def secrets_in(text: str, known: Known, *, without: tuple[str, ...] = ()) -> list[str]:
    """The secrets that a text has, forwards or backwards."""
    return [
        place
        for place, word in known.secrets.items()
        if place not in without and (word in text or word[::-1] in text)
    ]
