"""Start JupyterHub for this course: ``python -m cnlab.grading.hub``, which is `make hub`.

    make hub HUB_ARGS=--demo                    root: an instructor and two students, made for this run
    make hub HUB_ARGS="--instructor alice"      root: users of this machine, with their own passwords
    make hub                                    not root: a hub for you alone, instructor and student in one

Further arguments go to JupyterHub.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Thread

from cnlab.clock import wait_until
from cnlab.errors import CnlabError, MissingFeature
from cnlab.grading.hub.demonstration import demonstration
from cnlab.grading.hub.place import LABS, Owner, Place, owner_called, prepare
from cnlab.linux import syscalls

GRADING = LABS.with_name("grading")
CONFIG = GRADING / "jupyterhub_config.py"
PROXY = GRADING / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
DEMO_USERS = ("instructor", "student1", "student2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hub until Ctrl-C; its exit code, or 1 with one clear line."""
    options, rest = _parser().parse_known_args(argv)
    try:
        _require_proxy()
        with _settings(options) as (settings, greeting):
            command = [sys.executable, "-m", "jupyterhub", f"--config={options.config}", *rest]
            return _run(command, settings, lambda: _greet(options, greeting))
    except CnlabError as error:
        print(f"hub: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cnlab.grading.hub", description="JupyterHub for this course.")
    parser.add_argument("--demo", action="store_true", help="make users for this run (root)")
    parser.add_argument("--users", default=",".join(DEMO_USERS), help="of --demo; the first one teaches")
    parser.add_argument("--instructor", default=os.environ.get("CNLAB_INSTRUCTOR", ""), help="who teaches")
    parser.add_argument("--place", type=Path, help="where course and exchange lie; root: /srv/cnlab")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; the next two are used inside")
    parser.add_argument("--config", type=Path, default=CONFIG)
    return parser


@contextlib.contextmanager
def _settings(options: argparse.Namespace) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Make place and users ready; give the environment that jupyterhub_config.py reads, and what to say."""
    port = {"CNLAB_HUB_PORT": str(options.port)}
    if options.demo:
        if os.geteuid():
            raise MissingFeature(
                "root", "--demo makes system users", hint="start it without --demo, for you alone"
            )
        users = options.users.split(",")
        with demonstration(users) as (place, passwords):
            prepare(place, owner=owner_called(users[0]), labs=LABS)
            greeting = [f"{name:12} password {password}" for name, password in passwords.items()]
            yield {**_of(place, users[0]), **port, "CNLAB_STUDENTS": ",".join(users[1:])}, greeting
    elif os.geteuid() == 0:
        if not options.instructor:
            hint = "--instructor NAME, a user of this machine; or --demo, which makes three for a try"
            raise MissingFeature("instructor", "root starts a hub for others", hint=hint)
        place = Place(options.place or Path("/srv/cnlab"))
        prepare(place, owner=owner_called(options.instructor), labs=LABS)
        yield {**_of(place, options.instructor), **port}, [f"{options.instructor} teaches"]
    else:
        place = Place(options.place or GRADING)
        prepare(place, owner=Owner(os.getuid(), os.getgid()), labs=LABS)
        password = secrets.token_urlsafe(24)
        greeting = [
            "not root, so this hub serves you alone: you are instructor and student in one, no limits",
            "are enforced, and times of submissions are your own. As root it serves a class.",
            f"{getpass.getuser()} password {password}",
        ]
        yield {**_of(place, getpass.getuser()), **port, "CNLAB_HUB_PASSWORD": password}, greeting


def _greet(options: argparse.Namespace, greeting: Sequence[str]) -> None:
    """Say who may come in, and where, when the hub answers there: all that it logs before would hide it.

    Another configuration may have another address; it is not waited for.
    """
    if options.config == CONFIG:
        wait_until(lambda: _answers(options.port), timeout_s=600, poll_s=0.2, what="the hub to answer")
        greeting = [*greeting, f"ready at http://127.0.0.1:{options.port}; Ctrl-C ends it"]
    print(*(f"hub: {line}" for line in greeting), sep="\n", flush=True)


def _answers(port: int) -> bool:
    with (
        contextlib.suppress(OSError, HTTPException),
        contextlib.closing(HTTPConnection("127.0.0.1", port)) as proxy,
    ):
        proxy.request("GET", "/hub/health")
        return proxy.getresponse().status == 200
    return False


def _of(place: Place, instructor: str) -> dict[str, str]:
    return {"CNLAB_HUB_PLACE": f"{place.root}", "CNLAB_INSTRUCTOR": instructor}


def _require_proxy() -> None:
    if not PROXY.is_file() or not shutil.which("node"):
        raise MissingFeature(
            "configurable-http-proxy", f"no {PROXY} or no node to run it", hint="python3 bootstrap.py --hub"
        )


def _run(command: Sequence[str], settings: dict[str, str], greet: Callable[[], None]) -> int:
    """Run the hub to its end, and greet meanwhile; it ends with us, however we do.

    It is told to end once: a second signal would break off its own tidying up.
    """
    hub = subprocess.Popen(
        command,
        env=os.environ | settings,
        cwd=Path(settings["CNLAB_HUB_PLACE"], "jupyterhub"),
        start_new_session=True,  # Ctrl-C comes to us alone
        close_fds=False,  # what the guard of a demonstration waits for
        preexec_fn=lambda: syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    Thread(target=greet, daemon=True).start()
    told: list[int] = []

    def tell(number: int, frame: object) -> None:
        if not told:
            told.append(number)
            hub.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, tell)
    code = hub.wait()
    return 0 if told else code


if __name__ == "__main__":
    sys.exit(main())
