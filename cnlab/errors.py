"""What can go wrong in `cnlab`, apart from the kernel saying no.

    CnlabError
    ├── MissingFeature            this machine cannot do what was asked, whoever asks
    ├── InvalidValue(ValueError)  an argument that no machine would accept
    ├── InvalidImage(ValueError)  bytes that are not the image, layer or archive they should be
    └── MachineError              the private kernel did not start, or ended

The kernel saying no is an `OSError` with its errno; see `cnlab.linux.syscalls`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the container runtime imports this file at each start; `typing` would slow it down
if TYPE_CHECKING:
    from collections.abc import Callable


class CnlabError(Exception):
    """Base of all errors that a rule of ours raises."""


class MissingFeature(CnlabError):  # noqa: N818 - reads as the claim it makes
    """This machine lacks `feature`; `reason` says how that was found out, `hint` what to do about it."""

    def __init__(self, feature: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{feature}: {reason}")
        self.feature = feature
        self.reason = reason
        self.hint = hint
        if hint:
            self.add_note(f"Hint: {hint}")

    def __reduce__(self) -> tuple[Callable[..., MissingFeature], tuple[str, str, str]]:
        """Let it be pickled: an exception is otherwise rebuilt from its message alone."""
        return _missing_feature, (self.feature, self.reason, self.hint)


def _missing_feature(feature: str, reason: str, hint: str) -> MissingFeature:
    return MissingFeature(feature, reason, hint=hint)


class InvalidValue(CnlabError, ValueError):  # noqa: N818
    """An argument is not one of the values that make sense here; the message lists those that do."""


class InvalidImage(CnlabError, ValueError):  # noqa: N818
    """Bytes of an image break a rule of its specification, or a limit; the message says which, and where."""


class MachineError(CnlabError):
    """The private kernel could not be started, or it ended when it should not have."""
