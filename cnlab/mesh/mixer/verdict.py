"""What a policy in Rego comes to: a verdict on a request, or a refusal of the policy itself."""

from dataclasses import dataclass

from cnlab.errors import InvalidValue

PACKAGE = "mesh"
LIMIT_S = 0.4
"""How long an evaluation may have the processor; a usual one takes a thousandth of it."""


class InvalidRego(InvalidValue):
    """A policy that cannot be used; the message says which, in which line, and what the parser says."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a policy, and how it came about."""

    is_allowed: bool
    reason: str
    is_error: bool = False


TOO_SLOW = Verdict(False, f"no verdict within {LIMIT_S:g} s of processor time", is_error=True)
