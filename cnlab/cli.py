"""The command `cnlab`.

Each sub-command is a function that imports what it needs when it is called, so that ``cnlab`` starts at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
WELCOME = "notebooks/00-welcome.ipynb"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 all well, 1 not, 2 used wrongly."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if options.command == "lab":
        return lab(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "grade":
        return grade(options)
    return doctor(as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    from cnlab.grading.steps import command

    parser = argparse.ArgumentParser(
        prog="cnlab", description="From Containers to Functions, a course that you run."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    table = commands.add_parser("doctor", help="show what this machine can do, and how to get the rest")
    table.add_argument("--json", action="store_true", help="print it for programs")
    commands.add_parser("lab", help="open the course in JupyterLab; further arguments are JupyterLab's")
    command.add_arguments(
        commands.add_parser("grade", help="release, collect and grade labs, for instructors")
    )
    return parser


def doctor(*, as_json: bool) -> int:
    """Print what this machine can do; 1 when the notebooks lack something."""
    from cnlab import doctor as examination

    checks = examination.examine()
    if as_json:
        print(examination.to_json(checks))
    else:
        print(examination.to_text(checks, **examination.terminal(sys.stdout)))
    return 0 if examination.is_ready(checks) else 1


def grade(options: argparse.Namespace) -> int:
    """Do a step of grading."""
    from cnlab.grading.steps import command

    return command.main(options)


def lab(arguments: Sequence[str]) -> int:
    """Become JupyterLab, opened on the welcome notebook; returns only when there is none."""
    if not (CHECKOUT / WELCOME).is_file():
        print(f"cnlab lab: no {WELCOME} in {CHECKOUT}: run it from a checkout of the course", file=sys.stderr)
        return 1
    options = [f"--ServerApp.root_dir={CHECKOUT}", f"--LabApp.default_url=/lab/tree/{WELCOME}"]
    options.append("--LabApp.extension_manager=readonly")  # it would list what an index far away offers
    if os.geteuid() == 0:
        options.append("--allow-root")  # the notebooks' own root lives in a private kernel, whoever starts it
    command = [sys.executable, "-m", "jupyterlab", *options, *arguments]
    os.execve(sys.executable, command, _lab_environment())


def _lab_environment() -> dict[str, str]:
    """Return JupyterLab's environment: what it and its helpers keep stays inside the checkout."""
    own = Path(sys.prefix, "var")
    kept = {
        "IPYTHONDIR": own / "ipython",
        "JUPYTER_CONFIG_DIR": own / "jupyter/config",
        "JUPYTER_DATA_DIR": own / "jupyter/data",
        "NPM_CONFIG_CACHE": own / "npm",
    }
    # a terminal in JupyterLab finds jupyter, nbgrader and cnlab on its PATH
    path = os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()])
    return {**{name: str(place) for name, place in kept.items()}, **os.environ, "PATH": path}
