"""Put what a worker sends back into the notebook that was run.

Interface: `finished_notebook`, `unreadable_notebook`. Only outputs and execution counts are taken; cells,
metadata and their order stay as the trusted side made them.
"""

import json
from collections.abc import Mapping
from typing import Any

import nbformat
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbgrader.preprocessors import IgnorePattern, LimitOutput

from cnlab.errors import CnlabError
from cnlab.grading.job import Result
from cnlab.grading.steps.display import harmless
from cnlab.grading.steps.repair import Repaired


class InvalidResult(CnlabError, ValueError):  # noqa: N818 - reads as the claim it makes
    """What a worker sent back is not what it was asked for."""


def finished_notebook(repaired: Repaired, result: Result, config: Any) -> dict[str, Any]:
    """Return the notebook with its outputs, changed as nbgrader's settings ask for.

    Raises:
        InvalidResult: the cells are others than those that were to be run.
    """
    ran = json.loads(result.notebook)["cells"]
    if [cell["cell_type"] for cell in ran] != [cell["cell_type"] for cell in repaired.notebook["cells"]]:
        raise InvalidResult("the worker sent back another notebook than it was given")
    notebook = repaired.notebook
    for cell, source in zip(notebook["cells"], ran, strict=True):
        if cell["cell_type"] == "code":
            outputs = [harmless(output) for output in source.get("outputs", ())]
            cell["outputs"] = [output for output in outputs if output is not None]
            count = source.get("execution_count")
            cell["execution_count"] = count if isinstance(count, int) else None
    return _as_configured(notebook, config)


def _as_configured(notebook: dict[str, Any], config: Any) -> dict[str, Any]:
    nodes = nbformat.from_dict(notebook)
    for kind in (IgnorePattern, ClearMetadataPreprocessor, LimitOutput):
        preprocessor = kind(config=config)
        if preprocessor.enabled:
            nodes, _ = preprocessor.preprocess(nodes, {})
    return dict(nodes)


def unreadable_notebook(repaired: Repaired, why: str) -> dict[str, Any]:
    """Return the notebook that stands for one that cannot be read: every check fails and says so."""
    notebook = repaired.notebook
    for cell, (role, _) in zip(notebook["cells"], repaired.roles, strict=True):
        if role == "test":
            cell["outputs"] = [
                {"output_type": "error", "ename": "NotGraded", "evalue": why, "traceback": [why]}
            ]
    notebook["cells"].insert(0, _says(why))
    return notebook


def _says(why: str) -> Mapping[str, Any]:
    text = f"**This notebook could not be graded:** {why}"
    return {"cell_type": "markdown", "id": "not-graded", "metadata": {}, "source": text}
