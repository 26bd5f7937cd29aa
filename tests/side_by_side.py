"""Run all tests in parts, several at a time, and say in the end what was not tested and what failed.

Each part is a directory of tests and has a pytest of its own, so that no part sees what another leaves in its
process. A third part on two processors has made no run shorter: each test only took longer.
What a part prints is shown when it has ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BYTES_OF_A_PART = 4 << 30  # two private kernels and a Docker Engine, or labs graded side by side
# These begin first.
LONG = ["tests/labs", "tests/grading", "tests/notebooks", "tests/containers", "tests/mesh"]


def at_a_time(processors: int, memory_bytes: int) -> int:
    """Return how many parts to run side by side on such a machine: two at least."""
    return max(2, min(processors, memory_bytes // BYTES_OF_A_PART))


def of_this_machine() -> int:
    """Return how many parts to run side by side here."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return at_a_time(len(os.sched_getaffinity(0)), memory_bytes)


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


def not_tested(said: str) -> Counter[str]:
    """Return how many tests were skipped, by the reason."""
    skipped = Counter[str]()
    for number, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)", said, re.MULTILINE):
        skipped[reason] += int(number)
    return skipped


def main() -> int:
    """Run all parts, show what each said, and sum up as pytest does."""
    begun, failed, counts, skipped = time.monotonic(), list[str](), Counter[str](), Counter[str]()
    with ThreadPoolExecutor(of_this_machine()) as pool:
        running = {pool.submit(run, part): part for part in parts()}
        try:
            for future in as_completed(running):
                status, said = future.result()
                print(said, flush=True)
                skipped += not_tested(said)
                failed += failures(running[future], status, said)
                for number, word in re.findall(r"(\d+) ([a-z]+)", said.rstrip().rpartition("\n")[2]):
                    counts[word] += int(number)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, which has ended those that ran
    for reason, number in skipped.most_common():
        print(f"not tested: {number}, {reason}")
    print(*failed, sep="\n")
    summary = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    print(f"all parts: {summary} in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
