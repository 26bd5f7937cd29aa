"""A place where a student's code runs and can do no harm, made of the course's own parts.

Interface: ``with Sandbox(limits, files=…) as box: student = box.start(program)`` in a process with one
thread; ``fork_tester(box.reference)``, and ``join(box.reference)`` in the child. `require_parts` says no
where the host refuses a part.

See: namespaces(7), cgroups(7), landlock(7), seccomp(2), and the modules here for what each part does.
"""

from cnlab.grading.sandbox.birth import warm_up
from cnlab.grading.sandbox.box import Reference, Sandbox, Student
from cnlab.grading.sandbox.filesystem import HOME
from cnlab.grading.sandbox.parts import Flavour, parts, require_parts
from cnlab.grading.sandbox.tester import fork as fork_tester
from cnlab.grading.sandbox.tester import join

__all__ = [
    "HOME",
    "Flavour",
    "Reference",
    "Sandbox",
    "Student",
    "fork_tester",
    "join",
    "parts",
    "require_parts",
    "warm_up",
]
