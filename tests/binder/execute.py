"""Inside the container: execute one notebook on the private kernel; print how long it took and what it used.

It checks first that the container is as tight as a pod: user 1000, no capability, no new privileges.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
import run_notebooks

PEAKS = ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes")


def main(notebook: Path) -> None:
    """Execute `notebook` where it lies, as JupyterLab would."""
    lines = [line.partition(":\t") for line in Path("/proc/self/status").read_text().splitlines()]
    status = {name: value for name, _, value in lines}
    assert (os.getuid(), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (1000, 0, "1")
    with tempfile.TemporaryDirectory() as folder:
        report = run_notebooks.run(notebook, Path(folder, notebook.name), notebook.parent)
    peak = next(int(Path(path).read_text()) for path in PEAKS if Path(path).exists())
    print(json.dumps({**report, "peak_bytes": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
