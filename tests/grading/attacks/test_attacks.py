"""What clever students try: no attack changes a mark, reads what it must not, or survives.

Those that try the sandbox are graded in one run by an instructor who is root, and so has all of it on every
host, and most by one without privileges, each in a world of its own. A wrong answer earns nothing, however
it is given, and honest students beside are not hurt.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from grading.attacks import formgrader, pages
from grading.attacks.assignment import NAME, TASKS
from grading.attacks.attack import Attack, known_attacks
from grading.attacks.desk import HONEST, Desk, breaches, secrets_in
from grading.attacks.world import World

ATTACKS = known_attacks()
ON_THE_SANDBOX = ("channels", "exhausting", "forbidden_calls", "reading", "started_programs", "surviving")
BY_WHOM = {
    "nobody": {
        name: attack for name, attack in ATTACKS.items() if attack.area not in ("exhausting", "as_root")
    },
    "root": {name: attack for name, attack in ATTACKS.items() if attack.area in ON_THE_SANDBOX},
    "nobody, in a private kernel": {
        name: attack for name, attack in ATTACKS.items() if attack.area == "as_root"
    },
}
EACH = [(whom, name) for whom, attacks in BY_WHOM.items() for name in attacks]
PAGES = sorted(value.name for value in vars(pages).values() if isinstance(value, Attack))
FULL = {name: float(task.points) for name, task in TASKS.items()}

pytestmark = [pytest.mark.needs_root, pytest.mark.slow, pytest.mark.timeout(600)]
each_attack = pytest.mark.parametrize(("graded", "name"), EACH, indirect=["graded"])
each_run = pytest.mark.parametrize("graded", BY_WHOM, indirect=True)


@dataclass(frozen=True)
class Graded:
    """What came of a run: marks, and what there was in the world before and after it."""

    desk: Desk
    points: dict[str, dict[str, float | None]]
    before: dict[str, list[str]]
    after: dict[str, list[str]]


@contextlib.contextmanager
def _graded_by(whom: str) -> Iterator[Graded]:
    kernel = "cnlab" if "kernel" in whom else "python3"
    with World(is_root=whom == "root") as world, Desk(world, kernel=kernel) as desk:
        desk.hand_in(desk.release(), list(BY_WHOM[whom].values()))
        before = world.census()
        desk.cnlab("autograde", NAME, "--jobs=2", *_accepted(world), check=False)
        desk.cnlab("feedback", NAME, check=False)
        yield Graded(desk, desk.points(), before, world.census())


@pytest.fixture(scope="module")
def runs() -> Iterator[Callable[[str], Graded]]:
    """Each run when it is asked for first."""
    with contextlib.ExitStack() as stack:
        yield cache(lambda whom: stack.enter_context(_graded_by(whom)))


@pytest.fixture
def graded(runs: Callable[[str], Graded], request: pytest.FixtureRequest) -> Graded:
    """The run that the test is about."""
    return runs(request.param)


def _accepted(world: World) -> list[str]:
    """What this host refuses to an instructor without privileges, who has to say that it may be missing."""
    code = "from cnlab.grading.sandbox import parts; print(*(name for name, why in parts().items() if why))"
    missing = world.run([sys.executable, "-P", "-c", code]).stdout.split()
    return [f"--accept={','.join(missing)}"] if missing else []


def test_there_are_many_attacks() -> None:
    """At least forty were promised."""
    assert len(ATTACKS) >= 40


@each_attack
def test_attack_changes_no_mark(graded: Graded, name: str) -> None:
    """It earns what an honest student would with the same answers."""
    attack = ATTACKS[name]
    honest = {task: FULL[task] if task in attack.earns else 0.0 for task in graded.desk.tasks}
    got = graded.points.get(name) or dict.fromkeys(honest, 0.0)
    more = {task: points for task, points in got.items() if points is None or points > honest[task]}

    assert more == {}, f"{attack.tries} Success: {attack.succeeds_if}."
    assert attack.may_lose or got == honest, graded.desk.journal(name)


@each_attack
def test_attack_neither_reads_nor_does_what_it_must_not(graded: Graded, name: str) -> None:
    """Whatever it could read or do, it says in its outputs."""
    attack = ATTACKS[name]

    assert breaches(graded.desk.outputs(name)) == [], f"{attack.tries} Success: {attack.succeeds_if}."


@each_attack
def test_attacker_is_shown_no_secret(graded: Graded, name: str) -> None:
    """Neither the outputs of own cells nor the page of feedback have a word of hidden checks or of others."""
    own = "channel" if name in ("leave-a-message", "soil-the-machine") else ""
    shown = graded.desk.feedback(name) + graded.desk.own_outputs(name)

    assert secrets_in(shown, graded.desk.known, without=(own,)) == []


@each_attack
def test_attacker_is_told_what_came_of_it(graded: Graded, name: str) -> None:
    """There are marks, or a reason why there are none; and a page."""
    journal = graded.desk.journal(name)

    assert name in graded.points or journal["error"]
    assert "<html" in graded.desk.feedback(name)


@each_run
def test_honest_students_beside_are_not_hurt(graded: Graded) -> None:
    """Full marks, though graded between fork bombs."""
    full = {task: FULL[task] for task in graded.desk.tasks}

    assert {name: graded.points.get(name) for name in HONEST} == {name: full for name in HONEST}


@each_run
def test_nothing_survives(graded: Graded) -> None:
    """What is there when all is graded was there before."""
    left = {kind: sorted(set(graded.after[kind]) - set(there)) for kind, there in graded.before.items()}

    assert {kind: things for kind, things in left.items() if things} == {}


@pytest.mark.parametrize("graded", ["nobody"], indirect=True)
def test_no_script_of_a_student_runs_before_the_instructor(graded: Graded) -> None:
    """Formgrader shows outputs and answers; a script in them could change every mark."""
    shown = json.loads(graded.desk.python(str(formgrader.__file__), *PAGES).stdout)

    assert {name: active for name in PAGES if (active := formgrader.active_content(shown[name]))} == {}


@pytest.mark.parametrize("graded", ["nobody"], indirect=True)
def test_no_script_of_a_student_is_in_feedback(graded: Graded) -> None:
    """The instructor looks at it too."""
    found = {name: formgrader.active_content(graded.desk.feedback(name)) for name in PAGES}

    assert {name: active for name, active in found.items() if active} == {}
