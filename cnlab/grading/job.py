"""What is run, and what came of it: plain data that names no path and can go to another machine as JSON."""

import base64
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from cnlab.grading.limits import Event

Role = Literal["student", "setup", "test", "text"]
Status = Literal["ok", "failed", "timeout", "died", "skipped"]
HIDDEN_MARKS = ("BEGIN HIDDEN TESTS", "END HIDDEN TESTS")
"""What nbgrader looks for in the lines around hidden tests, unless a course says otherwise."""


@dataclass(frozen=True)
class Job:
    """One submission to run; its notebook is repaired, so that its cells are those that count.

    `roles` has for each cell its role and its grade id, or ``""``. `files` lie beside the notebook, by their
    relative names. `limits` are those of `cnlab.grading.limits.Limits` as a dict; what is left out has its
    default. `accept` names parts of the sandbox that the instructor lets go where the host refuses them.

    The rest is the instructor's, for the checks: `imports` are import statements that run before them,
    `modules` the texts of modules beside the notebook, `names` those builtins that a task is to define anew,
    `hidden_marks` what stands in the first and in the last line of hidden tests.
    `options` may have ``preload``, a list of modules to have imported before the first job.
    """

    key: str
    notebook: str
    roles: tuple[tuple[Role, str], ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    machine: Literal["host", "cnlab"] = "host"
    flavour: Literal["plain", "root"] = "plain"
    accept: tuple[str, ...] = ()
    imports: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    hidden_marks: tuple[str, str] = HIDDEN_MARKS
    options: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        """Spell it as JSON; the files in base64."""
        files = {name: base64.b64encode(data).decode() for name, data in self.files.items()}
        return json.dumps(_fields(self) | {"files": files})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["files"] = {name: base64.b64decode(data) for name, data in fields["files"].items()}
        fields["roles"] = tuple((role, grade_id) for role, grade_id in fields["roles"])
        return cls(**fields | {name: tuple(fields[name]) for name in ("accept", "names", "hidden_marks")})


@dataclass(frozen=True)
class CellResult:
    """How one code cell went; `message` is one line in plain words, empty if all was well.

    `line` of the cell is where it failed, or 0. The first `shown` outputs of a check came of the part that
    students see, the others of its hidden tests.
    """

    index: int
    grade_id: str
    status: Status
    message: str = ""
    wall_s: float = 0.0
    line: int = 0
    shown: int = 0


@dataclass(frozen=True)
class Result:
    """What came of a job: the notebook with its outputs, and how each of its code cells went.

    `usage` has ``cpu_s`` and ``memory_peak_bytes``. A job is tried again once, in a fresh sandbox, when time
    or the machine may have been at fault: `attempts` is then 2, and `notes` says why. `error` is not empty
    where the job could not be run to its end.
    """

    key: str
    notebook: str
    cells: tuple[CellResult, ...] = ()
    events: tuple[Event, ...] = ()
    usage: Mapping[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    attempts: int = 1
    notes: tuple[str, ...] = ()
    error: str = ""

    def to_json(self) -> str:
        """Spell it as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["cells"] = tuple(CellResult(**cell) for cell in fields["cells"])
        fields["events"] = tuple(Event(**event) for event in fields["events"])
        return cls(**fields | {"notes": tuple(fields["notes"])})


def _fields(data: Job) -> dict[str, object]:
    return {item.name: getattr(data, item.name) for item in dataclasses.fields(data)}
