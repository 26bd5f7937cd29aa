import pickle

import pytest

from cnlab.errors import CnlabError, InvalidImage, InvalidValue, MachineError, MissingFeature


def test_missing_feature_writes_its_own_message():
    """The parts stay readable for `cnlab doctor`, the whole for people."""
    error = MissingFeature("cgroup2", "no cgroup2 file system is mounted", hint="use the private kernel")

    assert str(error) == "cgroup2: no cgroup2 file system is mounted"
    assert (error.feature, error.hint) == ("cgroup2", "use the private kernel")
    assert error.__notes__ == ["Hint: use the private kernel"]


def test_missing_feature_without_a_hint_has_no_note():
    """An empty hint is no hint."""
    assert not hasattr(MissingFeature("uml", "no program linux.uml"), "__notes__")


@pytest.mark.parametrize("kind", [MissingFeature, InvalidValue, InvalidImage, MachineError])
def test_errors_of_ours_have_one_base(kind):
    """One except clause for all that is not the kernel's."""
    assert issubclass(kind, CnlabError)


def test_invalid_value_is_a_value_error():
    """Python programmers expect one."""
    assert issubclass(InvalidValue, ValueError)


def test_missing_feature_survives_the_way_to_another_process():
    """Graders and notebook runners pass errors between processes."""
    error = MissingFeature("uml", "no program linux.uml", hint="install it")

    copy = pickle.loads(pickle.dumps(error))

    assert str(copy) == str(error)
    assert (copy.feature, copy.reason) == ("uml", "no program linux.uml")
