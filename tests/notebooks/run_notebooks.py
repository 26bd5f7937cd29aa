"""Run notebooks by papermill, two at a time, each twice in a row.

``python run_notebooks.py RESULTS NOTEBOOK...`` runs each notebook as it is, and again with the solution of
each exercise in its stub's place. Below RESULTS it leaves the notebooks with their outputs (``as-it-is`` and
``solved``) and ``cache``, where the book finds the outputs of the first round. It prints a JSON list of runs.

See: "Execute a notebook" in papermill's documentation; "Command-Line Interface" in jupyter-cache's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import nbformat
import papermill
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

WORKERS = 2
TIMEOUT_S = 300  # for a kernel to start, and for a cell: who comes to it hangs, also on a slow machine
FONTS = Path(sys.prefix, "var/matplotlib")  # a list that matplotlib makes loudly where there is none
PAPERMILL_MARK = "papermill-error-cell-tag"


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def solve(notebook: NotebookNode) -> NotebookNode:
    """Put each solution in the place of its stub, the exercise above it; nothing in between may fail then."""
    since_stub: list[NotebookNode] = []
    for cell in notebook.cells:
        if "exercise" in tags(cell):
            since_stub = [cell]
        elif "solution" in tags(cell):
            since_stub[0].source, cell.source = cell.source, ""
            for earlier in since_stub:
                earlier.metadata.tags = [tag for tag in tags(earlier) if tag != "raises-exception"]
        else:
            since_stub.append(cell)
    return notebook


def unannounced_error(notebook: NotebookNode) -> str:
    """Return the first error in a cell that is not tagged as one that raises."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" and "raises-exception" not in tags(cell):
                return f"{output.ename}: {output.evalue}\nin the cell\n{cell.source}"
    return ""


def own_places(notebook: NotebookNode, results: Path) -> dict[str, str]:
    """Return where IPython and matplotlib put files of their own in an ordinary kernel, which writes at home.

    What a private kernel writes there is gone with it, and it has a font cache that was made ahead."""
    if notebook.metadata.kernelspec.name == "cnlab":
        return {}
    return {name: str(results / name.lower()) for name in ("IPYTHONDIR", "MPLCONFIGDIR")}


def run(path: Path, result: Path, directory: Path) -> dict[str, object]:
    """Run one notebook in `directory` and write it with its outputs, and nothing else new, to `result`."""
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    with (
        mock.patch.dict(os.environ, own_places(notebook, result.parents[1])),
        contextlib.suppress(PapermillExecutionError),  # raised for announced errors too: judged below
    ):
        papermill.execute_notebook(
            path,
            result,
            cwd=directory,
            progress_bar=False,
            start_timeout=TIMEOUT_S,
            execution_timeout=TIMEOUT_S,
            coalesce_streams=True,
        )
    seconds = time.monotonic() - started
    executed = nbformat.read(result, as_version=4)
    executed.cells = [cell for cell in executed.cells if PAPERMILL_MARK not in tags(cell)]
    for cell, executed_cell in zip(notebook.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = executed_cell.outputs, executed_cell.execution_count
    notebook.metadata.language_info = executed.metadata.get("language_info", {})
    nbformat.write(notebook, result)
    return {
        "notebook": path.stem,
        "round": result.parent.name,
        "seconds": seconds,
        "error": unannounced_error(notebook),
    }


def main(results: Path, paths: list[Path]) -> list[dict[str, object]]:
    """Run all notebooks as they are, then all of them solved; keep the first outputs for the book."""
    for name in ("as-it-is", "solved", "solutions"):
        (results / name).mkdir(parents=True)
    if FONTS.is_dir():
        shutil.copytree(FONTS, results / "mplconfigdir")
    for path in paths:
        nbformat.write(solve(nbformat.read(path, as_version=4)), results / "solutions" / path.name)
    jobs = [(path, results / "as-it-is" / path.name, path.parent) for path in paths]
    jobs += [
        (results / "solutions" / path.name, results / "solved" / path.name, path.parent) for path in paths
    ]
    with ProcessPoolExecutor(WORKERS) as pool:
        runs = list(pool.map(run, *zip(*jobs, strict=True)))
    cache = get_cache(results / "cache")
    for path, done in zip(paths, runs, strict=False):
        notebook = nbformat.read(results / "as-it-is" / path.name, as_version=4)
        bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": done["seconds"]})
        cache.cache_notebook_bundle(bundle, check_validity=False)
    return runs


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
