import pytest

from cnlab.containers.build.image_config import argument_vector, configured, environment, workdir
from cnlab.containers.build.instructions import Cmd, Copy, Entrypoint, Env, Expose, Label, User, Workdir

HERE = (1, "")
BASE = {"Env": ["PATH=/bin", "A=1"], "Cmd": ["sh"], "WorkingDir": "/srv", "Labels": {"a": "1"}}


@pytest.mark.parametrize(
    ("instruction", "field", "expected"),
    [
        (Env(*HERE, (("A", "2"), ("B", "x=y"))), "Env", ["PATH=/bin", "A=2", "B=x=y"]),
        (Label(*HERE, (("b", "2"),)), "Labels", {"a": "1", "b": "2"}),
        (Workdir(*HERE, "app"), "WorkingDir", "/srv/app"),
        (Workdir(*HERE, "/app"), "WorkingDir", "/app"),
        (User(*HERE, "1000:100"), "User", "1000:100"),
        (Expose(*HERE, ("80/tcp",)), "ExposedPorts", {"80/tcp": {}}),
        (Cmd(*HERE, ("a", "b")), "Cmd", ["a", "b"]),
        (Cmd(*HERE, "a | b"), "Cmd", ["/bin/sh", "-c", "a | b"]),
        (Entrypoint(*HERE, ("a",)), "Entrypoint", ["a"]),
    ],
)
def test_instruction_changes_its_field(instruction, field, expected):
    """And what was there before is kept where the fields are lists of things."""
    assert expected == configured(BASE, instruction)[field]


def test_instruction_that_is_not_about_the_config_leaves_it():
    """COPY changes files."""
    assert BASE == configured(BASE, Copy(*HERE, ("a",), "b"))


def test_config_before_is_not_changed():
    """Each step has its own; the cache and the stages depend on it."""
    before = {"Labels": {}, "Env": []}
    configured(before, Label(*HERE, (("a", "1"),)))
    configured(before, Env(*HERE, (("a", "1"),)))

    assert {"Labels": {}, "Env": []} == before


def test_entrypoint_drops_the_command_of_the_base_image():
    """``sh`` was meant to be run, not to be an argument of the new program."""
    entrypoint = Entrypoint(*HERE, ("web",))

    assert "Cmd" not in configured(BASE, entrypoint, keep_cmd=False)
    assert ["sh"] == configured(BASE, entrypoint, keep_cmd=True)["Cmd"]


def test_shell_form_needs_a_shell():
    """Which is why it fails in an image without one."""
    assert ("/bin/sh", "-c", "a $b") == argument_vector("a $b")
    assert ("a", "$b") == argument_vector(("a", "$b"))


def test_image_without_a_word_has_defaults():
    """Engines write null where they have nothing to say."""
    assert ({}, "/") == (environment({"Env": None}), workdir({"WorkingDir": ""}))
