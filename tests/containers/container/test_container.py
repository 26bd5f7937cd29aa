"""Containers from Python: what runs in them, what they may, and that Docker would say the same."""

from __future__ import annotations

import contextlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import control_groups

from cnlab.clock import wait_until
from cnlab.containers.container import Container, ContainerError, find, run
from cnlab.containers.images import base_images
from cnlab.containers.images.image import Image
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.snapshot import SnapshotStore
from cnlab.containers.network import Network
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.linux.idmaps import IdMap
from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.namespaces import namespaces_of
from cnlab.linux.processes import read_process

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return base_images.busybox(Layout.create(tmp_path_factory.mktemp("layout")))


@pytest.fixture
def sleeper(image: Image) -> Iterator[Container]:
    """A container that waits for its end."""
    with Container(image, ["sleep", "1000"], init=True) as container:
        wait_until(
            lambda: len(container.top()["Processes"]) == 2, timeout_s=60, what="the init program's child"
        )
        yield container


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the containers of this test have all their files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_of(container: Container, place: Path) -> list[str]:
    """What is there of a container that should be gone."""
    mounts = [mount.mount_point for mount in read_mountinfo() if mount.mount_point.startswith(str(place))]
    groups = control_groups(container.id)
    states = [str(path) for path in Path("/run").glob(f"**/{container.id}")]
    return [*mounts, *groups, *states, *map(str, place.glob("cnlab-container-*"))]


def test_run_returns_what_the_command_said(image):
    """As `client.containers.run` does: standard output alone."""
    assert b"hello\n" == run(image, ["sh", "-c", "echo hello; echo aside >&2"])


def test_command_that_fails_is_an_error_with_its_status_and_last_words(image):
    with pytest.raises(ContainerError) as caught:
        run(image, ["sh", "-c", "echo 'no such file' >&2; exit 3"])

    assert caught.value.exit_status == 3
    assert caught.value.__notes__ == ["no such file"]


@pytest.mark.parametrize("user", [2**32 - 1, 2**32, "-1", "0:4294967295"])
def test_user_who_cannot_be_is_refused(image, sleeper, user):
    """The kernel would leave the process root, or cut the number: to begin with, and beside it."""
    for attempt in (lambda: run(image, ["id"], user=user), lambda: sleeper.exec_run(["id"], user=user)):
        with pytest.raises(InvalidValue, match=r"not in|expected a number from 0 to 4294967294"):
            attempt()


def test_container_has_its_own_process_1_host_name_and_files(image):
    with Container(image, ["sh", "-c", "echo $$; hostname; ls /"]) as container:
        container.wait()
        pid, hostname, *files = container.logs().decode().split()

    assert (pid, hostname) == ("1", container.short_id)
    assert "bin" in files
    assert "work" not in files


def test_environment_directory_and_user_are_as_told(image):
    said = run(
        image,
        ["sh", "-c", "echo $COLOUR; pwd; id -u; id -g"],
        environment={"COLOUR": "green"},
        working_dir="/etc",
        user="1000:1001",
    )

    assert said.split() == [b"green", b"/etc", b"1000", b"1001"]


def test_program_that_is_not_in_the_image_is_an_error_and_leaves_nothing(image, place):
    container = Container(image, ["nonesuch"], store=SnapshotStore(place / "store"))
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError, match="nonesuch"), container:
        pass

    assert left_of(container, place) == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_block_that_fails_leaves_nothing(image, place):
    """Half of all first attempts end so."""
    container = Container(image, ["sleep", "1000"], tmpfs={"/run": ""}, store=SnapshotStore(place / "store"))
    with contextlib.suppress(ZeroDivisionError), container:
        there, pid = left_of(container, place), container.pid
        container.exec_run(["touch", "/made"])
        raise ZeroDivisionError

    assert len(there) > 3
    assert left_of(container, place) == []
    assert not Path(f"/proc/{pid}").exists()


def test_created_is_not_started(image):
    """Between the two all is there but the program: this is when a network is attached."""
    with Container(image, ["sh", "-c", "echo ran"], start=False) as container:
        assert (container.status, container.logs()) == ("created", b"")
        container.start()
        container.wait()

        assert (container.status, container.logs()) == ("exited", b"ran\n")


def test_exec_run_is_in_the_same_namespaces(sleeper):
    """And sees process 1, which is the init program that was asked for."""
    result = sleeper.exec_run(
        ["sh", "-c", "readlink /proc/self/ns/pid; readlink /proc/self/ns/mnt; cat /proc/1/comm"]
    )
    theirs = namespaces_of(sleeper.pid)

    assert result.exit_code == 0
    assert result.output.decode().split() == [
        f"pid:[{theirs['pid'].inode}]",
        f"mnt:[{theirs['mnt'].inode}]",
        "docker-init",
    ]


def test_exec_run_takes_environment_directory_and_user(sleeper):
    result = sleeper.exec_run(
        ["sh", "-c", "echo $A; pwd; id -u; exit 5"], environment=["A=1"], workdir="/etc", user=33
    )

    assert (5, [b"1", b"/etc", b"33"]) == (result.exit_code, result.output.split())


def test_terminal_is_one(image):
    """Programs ask isatty(3) before they use colours; lines end as a terminal ends them."""
    with Container(image, ["sh", "-c", "tty; stty size"], tty=True) as container:
        container.wait()

    assert container.logs() == b"/dev/pts/0\r\n24 80\r\n"


def test_exec_run_can_have_a_terminal_too(sleeper):
    assert sleeper.exec_run("tty", tty=True).output.startswith(b"/dev/pts/")
    assert sleeper.exec_run("tty").exit_code == 1


def test_stop_asks_first(sleeper):
    """128 + 15: the init program passes SIGTERM on."""
    sleeper.stop(timeout=30)

    assert sleeper.wait() == {"StatusCode": 143}


def test_stop_kills_who_does_not_listen(image):
    """The kernel keeps signals without a handler from a process 1."""
    with Container(image, ["sleep", "1000"]) as container:
        container.stop(timeout=0.1)

        assert container.wait() == {"StatusCode": 137}


def test_wait_has_an_end(sleeper):
    with pytest.raises(TimeoutError):
        sleeper.wait(timeout=0.05)


def test_started_again_it_has_its_files_and_a_new_process(image):
    """`docker start` of a container that has exited."""
    with Container(image, ["sh", "-c", "echo ran >> /log; cat /log"]) as container:
        container.wait()
        container.restart()
        container.wait()

        assert container.logs().split() == [b"ran", b"ran", b"ran"]


def test_paused_is_not_running(sleeper):
    sleeper.pause()
    assert sleeper.status == "paused"
    sleeper.unpause()
    assert sleeper.status == "running"
    assert sleeper.exec_run("true").exit_code == 0


def test_memory_limit_is_the_kernels(image):
    """Beyond it the out-of-memory killer comes, and 137 is all one is told."""
    with Container(image, ["sh", "-c", "head -c 64m /dev/zero | tail -c 64m"], mem_limit="16m") as container:
        assert container.stats()["memory_stats"]["limit"] == 16 << 20
        assert container.wait() == {"StatusCode": 137}


def test_limits_change_while_it_runs(image):
    with Container(image, ["sleep", "1000"], mem_limit="16m", pids_limit=10) as container:
        container.update(mem_limit="32m", pids_limit=20)
        stats = container.stats()

    assert stats["memory_stats"]["limit"] == 32 << 20
    assert stats["pids_stats"]["limit"] == 20


def test_update_without_a_limit_is_refused(sleeper):
    with pytest.raises(InvalidValue, match="expected limits"):
        sleeper.update(hostname="other")


def test_top_shows_its_processes_with_our_numbers(sleeper):
    top = sleeper.top()

    assert top["Titles"] == ["UID", "PID", "PPID", "CMD"]
    assert ["0", str(sleeper.pid), str(os.getpid()), "/sbin/docker-init -- sleep 1000"] in top["Processes"]


def test_volume_is_shared_and_can_be_read_only(image, tmp_path):
    (tmp_path / "given").write_text("from here")
    command = ["sh", "-c", "cat /both/given; echo back > /both/made; touch /ro/no 2>&1 || true"]
    said = run(image, command, volumes=[f"{tmp_path}:/both", f"{tmp_path}:/ro:ro"])

    assert b"from here" in said
    assert b"Read-only file system" in said
    assert (tmp_path / "made").read_text() == "back\n"


def test_read_only_root_leaves_what_is_mounted_writable(image):
    said = run(
        image,
        ["sh", "-c", "touch /x 2>&1; touch /run/y && echo yes"],
        read_only=True,
        tmpfs={"/run": "size=64k"},
    )

    assert said == b"touch: /x: Read-only file system\nyes\n"


def test_containers_of_one_image_do_not_see_each_others_files(image):
    with Container(image, ["sleep", "1000"]) as one, Container(image, ["sleep", "1000"]) as two:
        one.exec_run(["touch", "/made"])

        assert two.exec_run(["ls", "/made"]).exit_code == 1


def test_what_was_changed_is_told_and_becomes_an_image(image, tmp_path):
    """`docker commit`, for whom a Dockerfile is too long."""
    with Container(image, ["sh", "-c", "echo new > /srv.txt; rm /etc/group"]) as container:
        container.wait()
        changes = {change["Path"]: change["Kind"] for change in container.diff()}
        made = container.commit(image.layout, name="changed:latest")

    assert changes == {"/etc": 0, "/etc/group": 2, "/srv.txt": 1}
    assert run(made, ["sh", "-c", "cat /srv.txt; ls /etc/group || true"]) == b"new\n"


def test_capability_can_be_taken_and_given(image):
    """chown(2) asks for one that Docker grants, mount(2) for one that it does not."""
    assert run(image, ["sh", "-c", "chown 5 /etc/passwd && echo may"]) == b"may\n"
    assert run(image, ["sh", "-c", "chown 5 /etc/passwd || echo may not"], cap_drop=["CHOWN"]) == b"may not\n"
    mount = ["sh", "-c", "mount -t tmpfs t /mnt && echo may || echo may not"]
    assert run(image, ["sh", "-c", f"mkdir -p /mnt; {mount[2]}"]) == b"may not\n"
    assert run(image, ["sh", "-c", f"mkdir -p /mnt; {mount[2]}"], cap_add=["SYS_ADMIN"]) == b"may\n"


def test_no_new_privileges_reaches_the_kernel(image):
    said = run(image, ["grep", "NoNewPrivs", "/proc/self/status"], security_opt=["no-new-privileges"])

    assert said.split() == [b"NoNewPrivs:", b"1"]


def test_device_is_there_when_asked_for(image):
    """`/dev` is the container's own, and the device cgroup knows the rest."""
    assert b"crw" in run(image, ["ls", "-l", "/dev/full"])
    said = run(
        image, ["sh", "-c", "head -c 0 /dev/port || true; ls /dev"], devices=["/dev/zero:/dev/nothing:r"]
    )

    assert b"nothing" in said.split()


def test_root_in_a_user_namespace_is_nobody_here(image):
    """What it writes, and what it is, belongs to an id without power outside."""
    command = ["sh", "-c", "id -u; touch /made; sleep 1000"]
    with Container(image, command, id_map=[IdMap(0, 100_000, 65_536)]) as container:
        wait_until(lambda: (container.rootfs / "made").exists(), timeout_s=60)
        uid, owner = read_process(container.pid).uid, (container.rootfs / "made").stat().st_uid

    assert container.logs() == b"0\n"
    assert (uid, owner) == (100_000, 100_000)


def test_containers_of_a_network_know_each_other_by_name_and_publish_ports(image):
    def fetch(port):
        with (
            contextlib.suppress(OSError),  # the server does not listen yet
            urllib.request.urlopen(f"http://127.0.0.1:{port}/passwd", timeout=10) as answer,
        ):
            return answer.read()

    with Network(f"test{os.getpid()}") as network:
        command = ["httpd", "-f", "-h", "/etc"]
        with Container(image, command, name="web", network=network, ports={"80/tcp": None}) as web:
            port = web.attachment.ports[0].host_port
            outside = wait_until(lambda: fetch(port), timeout_s=60, what="the server to answer")
            inside = run(image, ["wget", "-qO-", "http://web/passwd"], network=network)
            settings = web.attrs["NetworkSettings"]

    assert inside == outside
    assert inside.startswith(b"root:")
    assert settings["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}]}


def test_container_can_join_the_network_of_another(image, sleeper):
    """A Pod is several containers in one network namespace."""
    with Container(image, ["sleep", "1000"], network_mode=f"container:{sleeper.name}") as other:
        ours, theirs = namespaces_of(other.pid), namespaces_of(sleeper.pid)

    assert ours["net"] == theirs["net"]
    assert ours["pid"] != theirs["pid"]


def test_name_is_taken_once(image, sleeper):
    with (
        pytest.raises(InvalidValue, match="already: choose another name"),
        Container(image, name=sleeper.name),
    ):
        pass

    assert find(sleeper.short_id) is sleeper


def test_running_container_is_removed_by_force_only(sleeper):
    with pytest.raises(InvalidValue, match="is running: stop it before"):
        sleeper.remove()
    pid = sleeper.pid
    sleeper.remove(force=True)

    assert not Path(f"/proc/{pid}").exists()


def test_user_who_is_not_root_is_told_where_to_be(image, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingFeature, match="root: ") as caught, Container(image):
        pass

    assert "Cloud Native Lab" in caught.value.__notes__[0]


def test_twenty_containers_at_once_do_their_work(image):
    """Each is cloned beside the threads that read what the others say."""
    with contextlib.ExitStack() as stack:
        all_ = [stack.enter_context(Container(image, ["sh", "-c", f"echo {n}"])) for n in range(20)]
        for container in all_:
            container.wait()

        assert [container.logs().decode().strip() for container in all_] == [str(n) for n in range(20)]
