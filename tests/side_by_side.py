"""Run all tests in parts, two at a time, and say in the end what failed.

Each part is a directory of tests and has a pytest of its own, so that no part sees what another leaves in its
process. Many tests wait, or use one processor: two parts at a time take little more than half of the time.
What a part prints is shown when it has ended.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AT_A_TIME = 2
# These begin first.
LONG = ["tests/labs", "tests/grading", "tests/notebooks", "tests/containers", "tests/mesh"]


def parts() -> list[list[str]]:
    """Return what each pytest is to run; every file of tests is in one of them."""
    files = [path.relative_to(ROOT) for path in sorted(ROOT.glob("tests/**/test_*.py"))]
    directories = {str(Path(*file.parts[:2])) for file in files if len(file.parts) > 2}
    short = sorted(directories.difference(LONG))
    return [*([name] for name in LONG + short), [str(file) for file in files if len(file.parts) == 2]]


def run(part: list[str]) -> tuple[int, str]:
    """Run one part; return pytest's exit status and what it said."""
    command = [Path(sys.executable).with_name("pytest"), *part]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def failures(part: list[str], status: int, said: str) -> list[str]:
    """Return a line for each test that failed, or one for a part that ended without naming any."""
    named = re.findall(r"^(?:FAILED|ERROR) .*", said, re.MULTILINE)
    return named or ([f"FAILED {' '.join(part)}: exit status {status}"] if status else [])


def main() -> int:
    """Run all parts, show what each said, and sum up as pytest does."""
    begun, failed, counts = time.monotonic(), list[str](), Counter[str]()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = {pool.submit(run, part): part for part in parts()}
        try:
            for future in as_completed(running):
                status, said = future.result()
                print(said, flush=True)
                failed += failures(running[future], status, said)
                for number, word in re.findall(r"(\d+) ([a-z]+)", said.rstrip().rpartition("\n")[2]):
                    counts[word] += int(number)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, which has ended those that ran
    print(*failed, sep="\n")
    summary = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    print(f"all parts: {summary} in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
