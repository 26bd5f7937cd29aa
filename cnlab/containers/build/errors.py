"""What can go wrong while building."""

from cnlab.errors import CnlabError


class BuildError(CnlabError):
    """A step failed: ``file:line: instruction: why``; the end of what it said is in the notes."""
