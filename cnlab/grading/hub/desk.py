"""The hub's desk: takes in what students submit, and tells them when work is due.

Interface: ``python -m cnlab.grading.hub.desk PLACE``, a service of JupyterHub, until SIGTERM.

It acts as the instructor, so that it can read and copy no more than the instructor may; as root it only
removes what students owned of submissions that have been taken in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cnlab.grading.hub import duedates
from cnlab.grading.hub.place import Place
from cnlab.grading.steps import arrivals
from cnlab.grading.steps.arrivals import GONE, REFUSED, STAGED, Refused

LOOK_EVERY_S = 1.0
_log = logging.getLogger("desk")


def main() -> int:
    """Look after the exchange of the place named on the command line."""
    logging.basicConfig(level=logging.INFO, format="desk: %(message)s")
    place = Place(Path(sys.argv[1]))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if os.geteuid() == 0:
        os.setgroups([])
    while True:
        look_after(place)
        if signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, LOOK_EVERY_S):
            return 0


def look_after(place: Place) -> None:
    """Take in what has arrived, publish the due dates, remove what is no longer needed."""
    owner = place.inbound.stat()
    with acting_as(owner.st_uid, owner.st_gid):
        lock = arrivals.lock(place.inbound, wait=False)
    if lock is None:  # the instructor is collecting
        return
    with lock:
        for name in os.listdir(place.inbound):
            if name.startswith((GONE, STAGED)):  # what students owned, and what one that was killed had begun
                shutil.rmtree(place.inbound / name, ignore_errors=True)
        with acting_as(owner.st_uid, owner.st_gid):
            take_in_all(place.inbound)
            duedates.publish(place.course / "gradebook.db", place.shelf)


def take_in_all(inbound: Path) -> None:
    """Take in every submission that is complete; put aside what is none."""
    for name in sorted(os.listdir(inbound)):
        if name.startswith((GONE, REFUSED, STAGED)):
            continue
        try:
            if arrivals.is_complete(inbound / name, time.time()):
                _take_in(inbound, name)
        except Refused as error:
            _log.warning("refused: %s", error)
            arrivals.put_aside(inbound, name, REFUSED)
        except FileNotFoundError:
            continue  # it is being changed
        except OSError as error:
            _log.warning("cannot take in %r: %s", name, error)


def _take_in(inbound: Path, name: str) -> None:
    if arrivals.read_arrival(inbound, name).is_received:
        return
    if arrival := arrivals.receive(inbound, name):
        _log.info("%s handed in %s at %s", arrival.student, arrival.assignment, arrival.at)


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Be that user for the kernel's checks; does nothing for who is not root."""
    if os.geteuid():
        yield
        return
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


if __name__ == "__main__":
    sys.exit(main())
