"""Starting services as processes, and what is left when they, or we, are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from apps.wire import start

from cnlab import host
from cnlab.apps import Deployment, Program, Service, bookinfo
from cnlab.apps.application import Instance
from cnlab.apps.languages import NotCompiled
from cnlab.apps.launcher import NotStarted, ProcessLauncher
from cnlab.clock import wait_until

PARENT = """
import sys, time
from cnlab.apps import Deployment, bookinfo
shop = Deployment(bookinfo(4)).__enter__()
print(*(running.pid for running in shop.instances), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_services_end_with_whoever_started_them(number):
    """A notebook's kernel is killed without a warning, and must leave nothing behind."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(number)

    assert len(pids) == 6
    wait_until(lambda: not any(is_alive(pid) for pid in pids), timeout_s=30, what="the services to end")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_service_outlives_the_thread_that_asked_for_it(launcher):
    """PR_SET_PDEATHSIG means the thread that forked, not the process: it must not be a passing one."""
    started = []
    thread = threading.Thread(target=lambda: started.append(start(launcher, "ratings")))
    thread.start()
    thread.join()

    assert started[0].is_running
    with pytest.raises(TimeoutError):
        wait_until(lambda: not started[0].is_running, timeout_s=0.2)


@pytest.mark.as_student
def test_application_runs_without_any_right():
    """As on Binder: no root, no port below 1024, no address configured."""
    with Deployment(bookinfo(4)) as shop:
        assert shop.get("/productpage").status == 200


@pytest.mark.as_student
def test_nothing_is_left_in_any_directory():
    """Neither compiled programs nor logs, also while all runs: who is killed cannot clean up."""
    places = [Path.home(), Path(os.environ["TMPDIR"])]
    before = [sorted(place.iterdir()) for place in places]
    with Deployment(bookinfo(4)) as shop:
        assert shop.instances[0].log != ""
        assert [sorted(place.iterdir()) for place in places] == before


def test_source_tree_stays_clean(launcher):
    """No compiled Python, no compiled C beside the programs."""
    tree = Path(bookinfo().service("ratings").program.source).parents[1]
    before = set(tree.rglob("*"))
    for service in ("ratings", "details", "reviews"):
        start(launcher, service)

    assert set(tree.rglob("*")) == before


def without(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """Let this machine lack some programs."""
    found = host.find_program
    monkeypatch.setattr(host, "find_program", lambda name: None if name in programs else found(name))


def test_twin_takes_the_place_where_a_language_is_missing(monkeypatch):
    """Binder may lack a compiler; the application runs all the same and says what it did."""
    without(monkeypatch, "gcc", "node")
    with Deployment(bookinfo(12)) as shop:
        assert shop.get("/api/page").json()["errors"] == {}
        assert {running.language for running in shop.instances} == {"Python"}
        assert "no program gcc here: ratings.py takes the place of ratings.c" in shop.notes
        assert "no program node here: details.py takes the place of details.js" in shop.notes
        assert len(shop.notes) == 7


def test_twin_takes_the_place_of_a_language_that_does_not_work(monkeypatch, tmp_path):
    """Debian's Node.js does not find its parts where it was only unpacked."""
    broken = tmp_path / "node"
    broken.write_text("#!/bin/sh\necho Cannot load externalized builtin >&2\nexit 134\n")
    broken.chmod(0o755)
    found = host.find_program
    monkeypatch.setattr(host, "find_program", lambda name: broken if name == "node" else found(name))
    with Deployment(bookinfo(2)) as shop:
        assert shop.get("/details/0", to="details").status == 200
        assert shop.notes == (
            f"{broken} does not work (Cannot load externalized builtin): "
            "details.py takes the place of details.js",
        )


def test_twins_answer_as_the_originals_do(mall, monkeypatch):
    """Whoever calls them must not notice."""
    names = [service.name for service in mall.application.services if service.program.twin]
    original = {name: mall.get(f"/{name}/0", to=name).json() for name in names}
    without(monkeypatch, "gcc", "node")
    with Deployment(bookinfo(12)) as shop:
        twins = {name: shop.get(f"/{name}/0", to=name).json() for name in names}

    original["shipping"].pop("parcels"), twins["shipping"].pop("parcels")
    assert original == twins


@pytest.mark.needs_programs("gcc", "node")
def test_nothing_is_noted_where_all_languages_are_here(shop):
    """The note is for the exception."""
    assert shop.notes == ()


def instance_of(source: Path, program: Program) -> Instance:
    return Instance(Service(source.stem, program))


@pytest.mark.needs_programs("gcc")
def test_program_that_does_not_compile_is_said_with_the_first_error(launcher, tmp_path):
    """The compiler's words, not a page of them."""
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return nothing; }\n")
    instance = instance_of(source, Program(source, "C"))

    with pytest.raises(NotCompiled, match=r"broken\.c does not compile: .*broken\.c:1:25: error: .*nothing"):
        launcher.start(instance, {"LISTEN": "127.0.0.1:0"})


def test_program_that_ends_at_once_is_said_with_its_last_words(launcher, tmp_path):
    """Whatever it was: the log has it."""
    source = tmp_path / "mute.py"
    source.write_text("import sys\nsys.exit('the dog ate my configuration')\n")
    running = launcher.start(instance_of(source, Program(source)), {"LISTEN": "127.0.0.1:1"})

    with pytest.raises(NotStarted, match=r"^mute-v1-0: the dog ate my configuration$"):
        running.wait_ready()


def test_program_that_never_serves_is_given_up(launcher, tmp_path):
    """A waiting notebook needs an end, too."""
    source = tmp_path / "lazy.py"
    source.write_text("import time\ntime.sleep(60)\n")
    running = launcher.start(instance_of(source, Program(source)), {"LISTEN": "127.0.0.1:1"})

    with pytest.raises(NotStarted, match=r"lazy-v1-0: no sign of life at 127\.0\.0\.1:1"):
        running.wait_ready(timeout_s=0.2)


def test_killed_service_is_not_running(launcher):
    """Chaos is part of the course."""
    running = start(launcher, "ratings")
    running.kill()

    assert (running.is_running, running.returncode) == (False, -signal.SIGKILL)
    assert "ratings-v1 serves" in running.log


def test_service_can_be_stopped_twice(launcher):
    """By hand, and again at the end of the block."""
    running = start(launcher, "ratings")
    running.stop()
    running.stop()

    assert running.returncode == 0


def test_launcher_can_start_again_after_it_was_closed():
    """A `with` block in a cell that is run twice."""
    launcher = ProcessLauncher()
    for _ in range(2):
        start(launcher, "ratings")
        launcher.close()


def test_language_is_swapped_and_nobody_notices():
    """Democratisation of language choice: the teams who call it change nothing."""
    application = bookinfo(4)
    details = application.service("details")
    with Deployment(application) as before:
        old = before.get("/api/page").json()["details"]
    with Deployment(application.replacing(replace(details, program=details.program.as_twin()))) as after:
        assert after.get("/api/page").json()["details"] == old
        assert "Python" in [running.language for running in after.instances if running.name == "details-v1-0"]


def test_deployment_that_does_not_start_leaves_nothing():
    """Half an application is none."""
    launcher = ProcessLauncher()
    broken = replace(bookinfo(2).service("details"), program=Program(Path("/nowhere/nothing.py")))

    with pytest.raises(NotStarted, match=r"details-v1-0: .*nothing\.py"):
        Deployment(bookinfo(2).replacing(broken), launcher=launcher).__enter__()
    assert [running for running in launcher.started if running.is_running] == []
    launcher.close()
