"""Runtime specification, runtime.md: scope, state, lifecycle, errors, warnings and operations.

Each docstring quotes the sentence that the test holds the runtime to.
"""

import json
import os
import signal
import subprocess

import pytest

from cnlab.containers import runtime
from cnlab.containers.runtime.errors import (
    ContainerExists,
    HookFailed,
    InvalidConfig,
    NoSuchContainer,
    WrongStatus,
)
from cnlab.errors import InvalidValue

pytestmark = pytest.mark.needs_root

HOOKS_OF_CREATE = ("prestart", "createRuntime", "createContainer")


# Scope of a container


def test_scope_entity_that_creates_a_container_can_use_all_operations_on_it(box):
    """“The entity using a runtime to create a container MUST be able to use the operations defined in this
    specification against that same container.”"""
    box.create("sleep", "100")
    box.start()
    box.kill()
    code = box.wait()
    box.delete()

    assert -signal.SIGKILL == code


# State


def test_state_has_the_required_properties(box):
    """“This operation MUST return the state of a container as specified in the State section.”"""
    box.config["annotations"] = {"org.example.key": "value"}
    box.create("sleep", "100")

    state = box.state()

    assert {
        "ociVersion": "1.2.1",
        "id": box.id,
        "status": "created",
        "pid": state["pid"],
        "bundle": str(box.bundle),
        "annotations": {"org.example.key": "value"},
    }.items() <= state.items()


def test_state_pid_is_the_container_process(box):
    """“pid is the ID of the container process.”"""
    box.create("sleep", "100")
    box.start()

    with open(f"/proc/{box.pid}/cmdline") as file:
        assert "sleep\x00100\x00" == file.read()


def test_state_id_must_be_unique(box):
    """“This MUST be unique across all containers on this host.”"""
    box.create()

    with pytest.raises(ContainerExists, match=box.id):
        box.create()


def test_state_status_goes_from_created_to_running_to_stopped(box):
    """“The value MAY be one of: creating, created, running, stopped.”"""
    box.create("sh", "-c", "read line < /dev/zero; sleep 100")
    seen = [box.status]
    box.start()
    seen.append(box.status)
    box.kill()
    box.wait()
    seen.append(box.status)

    assert ["created", "running", "stopped"] == seen


def test_state_status_of_its_own_names_only_a_new_state(box):
    """“Additional values MAY be defined by the runtime, however, they MUST be used to represent new runtime
    states not defined above.”"""
    box.create("sleep", "100")
    box.start()
    runtime.pause(box.id, root=box.root)
    paused = box.status
    runtime.resume(box.id, root=box.root)

    assert ("paused", "running") == (paused, box.status)


def test_state_stopped_container_has_no_pid(box):
    """The pid is required when the status is created or running; afterwards it may mean another process."""
    box.run("true")

    assert 0 == box.state()["pid"]


# Lifecycle


def test_lifecycle_02_create_fails_if_the_environment_cannot_be_made(box):
    """“If the runtime is unable to create the environment specified in the config.json, it MUST generate an
    error.”"""
    box.config["mounts"].append({"destination": "/data", "type": "nosuchfs", "source": "none"})

    with pytest.raises(OSError, match="nosuchfs"):
        box.create()


def test_lifecycle_02_program_must_not_run_at_create(box):
    """“The user-specified program (from process) MUST NOT be run at this time.”"""
    box.create("touch", "/ran")
    before = (box.rootfs / "ran").exists()
    box.start()
    box.wait()

    assert (False, True) == (before, (box.rootfs / "ran").exists())


def test_lifecycle_02_later_changes_of_config_json_must_not_affect_the_container(box):
    """“Any updates to config.json after this step MUST NOT affect the container.”"""
    box.create("echo", "first")
    box.config["hooks"] = {"poststart": [box.hook("exit 1")]}
    box.process["args"] = ["echo", "second"]
    box.write()
    box.start()
    box.wait()

    assert "first\n" == box.said


@pytest.mark.parametrize("name", HOOKS_OF_CREATE)
def test_lifecycle_03_to_05_hooks_of_create_must_be_invoked(box, name):
    """“The prestart/createRuntime/createContainer hooks MUST be invoked by the runtime.”"""
    box.config["hooks"] = {name: [box.hook(f"echo here > {box.bundle}/log")]}
    box.create()

    assert "here\n" == (box.bundle / "log").read_text()


@pytest.mark.parametrize("name", HOOKS_OF_CREATE)
def test_lifecycle_03_to_05_failing_hook_must_stop_the_container(box, name):
    """“If any hook fails, the runtime MUST generate an error, stop the container, and continue the
    lifecycle at step 12”: it is destroyed, and its poststop hooks run."""
    box.config["hooks"] = {
        name: [box.hook("echo no network >&2; exit 3")],
        "poststop": [box.hook(f"echo stopped > {box.bundle}/log")],
    }

    with pytest.raises(HookFailed, match="exit code 3: no network"):
        box.create()

    assert ("stopped\n", True) == ((box.bundle / "log").read_text(), box.is_gone())


def test_lifecycle_07_start_container_hooks_must_be_invoked(box):
    """“The startContainer hooks MUST be invoked by the runtime.”"""
    box.config["hooks"] = {"startContainer": [{"path": "/bin/touch", "args": ["touch", "/tmp/hooked"]}]}
    box.create("ls", "/tmp")
    before = (box.rootfs / "tmp/hooked").exists()
    box.start()
    box.wait()

    assert (False, "hooked\n") == (before, box.said)


def test_lifecycle_07_failing_start_container_hook_must_stop_the_container(box):
    """“If any startContainer hook fails, the runtime MUST generate an error, stop the container.”"""
    box.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "exit 5"]}]}
    box.create("touch", "/ran")

    with pytest.raises(HookFailed, match="exit code 5"):
        box.start()
    box.wait()

    assert ("stopped", False) == (box.status, (box.rootfs / "ran").exists())


def test_lifecycle_08_start_must_run_the_program(box):
    """“The runtime MUST run the user-specified program, as specified by process.”"""
    assert "hello\n" == box.run("echo", "hello")


def test_lifecycle_09_poststart_hooks_must_be_invoked(box):
    """“The poststart hooks MUST be invoked by the runtime.”"""
    box.config["hooks"] = {"poststart": [box.hook(f"echo here > {box.bundle}/log")]}
    box.run("true")

    assert "here\n" == (box.bundle / "log").read_text()


def test_lifecycle_09_failing_poststart_hook_must_only_be_warned_of(box):
    """“If any poststart hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle
    continue as if the hook had succeeded”: so up to 1.2.1; only 1.3.0 stops the container."""
    box.config["hooks"] = {"poststart": [box.hook("exit 6"), box.hook(f"echo here > {box.bundle}/log")]}
    box.create("sleep", "100")
    box.start()

    assert "exit code 6" in box.warnings[0]
    assert ("here\n", "running") == ((box.bundle / "log").read_text(), box.status)


def test_lifecycle_09_failing_poststart_hook_is_in_the_log(box, tmp_path):
    """“Log a warning” is meant literally: the caller of the command finds it in its log."""
    box.config["hooks"] = {"poststart": [box.hook("exit 6")]}
    box.process["args"] = ["sleep", "100"]
    box.write()
    box.command("create", box.id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, capture_output=False)
    done = box.command("--log", f"{tmp_path}/log", "start", box.id)

    assert (0, "") == (done.returncode, done.stderr)
    assert "level=warning" in (tmp_path / "log").read_text()
    assert "exit code 6" in (tmp_path / "log").read_text()


def test_lifecycle_12_delete_must_undo_what_create_did(box):
    """“The container MUST be destroyed by undoing the steps performed during create phase.”"""
    box.run("true")
    box.delete()

    assert box.is_gone()


def test_lifecycle_13_poststop_hooks_must_be_invoked(box):
    """“The poststop hooks MUST be invoked by the runtime.”"""
    box.config["hooks"] = {"poststop": [box.hook(f"echo here > {box.bundle}/log")]}
    box.run("true")
    box.delete()

    assert "here\n" == (box.bundle / "log").read_text()


def test_lifecycle_13_failing_poststop_hook_must_only_be_warned_of(box):
    """“If any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle
    continue as if the hook had succeeded.”"""
    box.config["hooks"] = {"poststop": [box.hook("exit 7"), box.hook(f"echo here > {box.bundle}/log")]}
    box.run("true")
    box.delete()

    assert "exit code 7" in box.warnings[0]
    assert ("here\n", True) == ((box.bundle / "log").read_text(), box.is_gone())


# Errors and warnings


@pytest.mark.parametrize(
    "fault",
    [
        {"root": {"path": "nowhere"}},
        {"hostname": "x" * 70},
        {"mounts": [{"destination": "/data", "source": "/nowhere", "options": ["bind"]}]},
        {"hooks": {"createRuntime": [{"path": "/nowhere"}]}},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_errors_must_leave_everything_as_if_never_attempted(box, fault):
    """“Generating an error MUST leave the state of the environment as if the operation were never
    attempted.”"""
    descriptors = os.listdir("/proc/self/fd")
    box.config |= fault

    with pytest.raises((OSError, InvalidConfig, HookFailed)):
        box.create()

    assert (True, descriptors) == (box.is_gone(), os.listdir("/proc/self/fd"))


def test_warnings_must_not_change_the_flow_of_the_operation(box):
    """“Logging a warning does not change the flow of the operation; it MUST continue.”"""
    box.process["capabilities"]["bounding"].append("CAP_NOSUCH")
    box.run("echo", "hello")

    assert ("hello\n", 1) == (box.said, len(box.warnings))


# Operations: state


def test_query_state_must_fail_without_an_id(box):
    """“This operation MUST generate an error if it is not provided the ID of a container.”"""
    done = box.command("state")

    assert (1, "cnlab-runtime: state: needs the id of a container\n") == (done.returncode, done.stderr)


def test_query_state_of_a_container_that_does_not_exist_must_fail(box):
    """“Attempting to query a container that does not exist MUST generate an error.”"""
    with pytest.raises(NoSuchContainer, match="does not exist"):
        box.state()


# Operations: create


def test_create_must_fail_without_an_id(box):
    """“This operation MUST generate an error if it is not provided a path to the bundle and the container
    ID.”"""
    box.write()

    assert 1 == box.command("create").returncode


def test_create_must_fail_without_a_bundle(box, tmp_path):
    """The working directory is the bundle unless another is given, and here it is none."""
    done = box.command("create", box.id, cwd=tmp_path)

    assert 1 == done.returncode
    assert "a bundle is a directory with config.json" in done.stderr


def test_create_with_an_id_that_is_taken_must_fail_and_leave_the_other_alone(box):
    """“If the ID provided is not unique, the implementation MUST generate an error and a new container MUST
    NOT be created.”"""
    box.create("sleep", "100")
    pid = box.pid
    with pytest.raises(ContainerExists):
        box.create("true")

    assert (pid, "created") == (box.pid, box.status)


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "two words", "new\nline", "x" * 2000])
def test_create_with_an_invalid_id_must_fail(box, name):
    """“… or is not valid in any other way, the implementation MUST generate an error.”"""
    box.write()

    with pytest.raises(InvalidValue, match="invalid container id"):
        runtime.create(name, str(box.bundle), root=box.root)


def test_create_must_apply_everything_but_the_program(box):
    """“All of the properties configured in config.json except for process MUST be applied.”"""
    box.create("sleep", "100")
    with open(f"/proc/{box.pid}/mountinfo") as file:
        mounted = {line.split()[4] for line in file}

    assert {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"} <= mounted


def test_create_must_fail_if_a_property_cannot_be_applied(box):
    """“If the runtime cannot apply a property as specified in the configuration, it MUST generate an error
    and a new container MUST NOT be created.”"""
    box.linux["sysctl"] = {"net.ipv4.no_such_setting": "1"}

    with pytest.raises(OSError, match=r"linux\.sysctl"):
        box.create()

    assert box.is_gone()


# Operations: start


def test_start_must_fail_without_an_id(box):
    """“This operation MUST generate an error if it is not provided the container ID.”"""
    assert 1 == box.command("start").returncode


def test_start_of_a_container_that_is_not_created_must_fail_without_effect(box):
    """“Attempting to start a container that is not created MUST have no effect on the container and MUST
    generate an error.”"""
    box.create("sleep", "100")
    box.start()
    with pytest.raises(WrongStatus, match="running state"):
        box.start()

    assert "running" == box.status


def test_start_of_a_stopped_container_must_fail(box):
    """“Attempting to start a container that is not created … MUST generate an error.”"""
    box.run("true")

    with pytest.raises(WrongStatus, match="stopped state"):
        box.start()


def test_start_must_fail_without_process(box):
    """“This operation MUST generate an error if process was not set.”"""
    del box.config["process"]
    box.create()

    with pytest.raises(WrongStatus, match="has no process"):
        box.start()

    assert "created" == box.status


# Operations: kill


def test_kill_must_fail_without_an_id(box):
    """“This operation MUST generate an error if it is not provided the container ID.”"""
    assert 1 == box.command("kill").returncode


def test_kill_must_send_the_signal_to_the_container_process(box):
    """“This operation MUST send the specified signal to the container process.”"""
    box.create("sh", "-c", "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.01; done")
    box.start()
    box.wait_for(lambda: "ready" in box.said, "the trap to be set")
    box.kill("USR1")

    assert (9, "ready\ncaught\n") == (box.wait(), box.said)


def test_kill_reaches_a_container_that_is_only_created(box):
    """It is neither created nor running that makes kill an error."""
    box.create("sleep", "100")
    box.kill("KILL")

    assert -signal.SIGKILL == box.wait()


def test_kill_of_a_stopped_container_must_fail(box):
    """“Attempting to send a signal to a container that is neither created nor running MUST have no effect
    on the container and MUST generate an error.”"""
    box.run("true")

    with pytest.raises(WrongStatus, match="container not running"):
        box.kill()


# Operations: delete


def test_delete_must_fail_without_an_id(box):
    """“This operation MUST generate an error if it is not provided the container ID.”"""
    assert 1 == box.command("delete").returncode


@pytest.mark.parametrize("is_started", [False, True], ids=["created", "running"])
def test_delete_of_a_container_that_is_not_stopped_must_fail_without_effect(box, is_started):
    """“Attempting to delete a container that is not stopped MUST have no effect on the container and MUST
    generate an error.”"""
    box.create("sleep", "100")
    if is_started:
        box.start()
    before = box.state()

    with pytest.raises(WrongStatus, match="is not stopped"):
        box.delete()

    assert before == box.state()


def test_delete_must_delete_what_create_made(box):
    """“Deleting a container MUST delete the resources that were created during the create step.”"""
    box.run("true")
    before = box.is_gone()
    box.delete()

    assert (False, True) == (before, box.is_gone())


def test_delete_must_not_delete_what_others_made(box, tmp_path):
    """“Resources associated with the container, but not created by this container, MUST NOT be deleted.”"""
    (tmp_path / "data").mkdir()
    box.config["mounts"].append(
        {"destination": "/data", "source": str(tmp_path / "data"), "options": ["bind"]}
    )
    box.run("touch", "/data/kept")
    box.delete()

    assert (tmp_path / "data/kept").exists()
    assert (box.rootfs / "bin/busybox").exists()


def test_delete_makes_the_id_free_for_another_container(box):
    """“Once a container is deleted its ID MAY be used by a subsequent container.”"""
    box.run("echo", "one")
    box.delete()

    assert "one\ntwo\n" == box.run("echo", "two")


def test_state_in_json_is_what_the_command_prints(box):
    """“When serialized in JSON, the format MUST adhere to the JSON Schema schema/state-schema.json.”"""
    box.create()
    state = json.loads(box.command("state", box.id).stdout)

    types = {"ociVersion": str, "id": str, "status": str, "pid": int, "bundle": str}
    assert types == {name: type(state[name]) for name in types}
