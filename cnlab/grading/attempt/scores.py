"""The number that a check ends in, which nbgrader takes for its score.

See: nbgrader's `get_partial_grade`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cnlab.grading import scoring


def lost_of(outputs: Sequence[dict[str, Any]]) -> str:
    """Return what a check with parts has printed of the first that failed; nothing if none did."""
    texts = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    return next((line for line in texts.splitlines() if line.startswith(scoring.LOST)), "")[:500]


def fault_of_score(outputs: Sequence[dict[str, Any]], points: float | None) -> str:
    """Say why the value that a check ended in cannot be its score; nothing if it can, or is none."""
    if points is None:
        return ""
    for output in outputs:
        if output["output_type"] == "execute_result":
            try:
                score = float(output["data"].get("text/plain", ""))
            except ValueError:
                return ""
            is_one = math.isfinite(score) and 0 <= score <= points
            return "" if is_one else f"expected a score between 0 and {points:g}, got {score:g}"
    return ""
