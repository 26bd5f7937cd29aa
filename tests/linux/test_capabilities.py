import subprocess
from pathlib import Path

import pytest

from cnlab.errors import InvalidValue
from cnlab.linux import syscalls
from cnlab.linux.capabilities import NAMES, drop, drop_bounding, has, mask_of, names_in, of

from .conftest import OWN


def test_names_stand_at_their_number():
    """The position is the bit, as in the kernel's capability.h."""
    assert NAMES.index("CAP_SYS_ADMIN") == 21
    assert NAMES[0] == "CAP_CHOWN"
    assert NAMES[-1] == "CAP_CHECKPOINT_RESTORE"


def test_every_capability_of_this_kernel_has_a_name():
    """A newer kernel may bring one; then the list grows."""
    assert len(NAMES) > int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def test_mask_and_names_are_two_ways_to_write_a_set():
    """/proc shows masks in hexadecimal, people read names."""
    assert mask_of("CAP_CHOWN", "CAP_SYS_ADMIN") == 0x200001
    assert names_in(0x200001) == {"CAP_CHOWN", "CAP_SYS_ADMIN"}


def test_bit_without_a_name_is_not_lost():
    """A set shown with one capability too few is worse than an ugly name."""
    assert names_in(1 << 50) == {"CAP_50"}


def test_unknown_name_is_told():
    """`SYS_ADMIN` without its prefix is the usual slip."""
    with pytest.raises(InvalidValue, match="unknown capability 'SYS_ADMIN'"):
        has("SYS_ADMIN")


def test_own_sets_are_those_the_call_returns():
    """/proc and capget(2) must agree."""
    effective, permitted, inheritable = syscalls.capget()

    assert of().effective == names_in(effective)
    assert of().permitted == names_in(permitted)
    assert of().inheritable == names_in(inheritable)


def test_process_that_is_gone_has_no_capabilities(gone):
    """As everywhere: one line with its number."""
    with pytest.raises(ProcessLookupError, match=f"no process {gone}"):
        of(gone)


@pytest.mark.needs_mntns
def test_dropped_capability_is_missed_by_the_kernel(inside):
    """Root without CAP_SYS_ADMIN may not mount."""

    def mount_without() -> None:
        drop("CAP_SYS_ADMIN")
        try:
            syscalls.mount("none", "/tmp", "tmpfs")
        except PermissionError as error:
            print(has("CAP_SYS_ADMIN"), error.strerror)

    assert inside(mount_without) == "False mount(tmpfs `none` to `/tmp`): Operation not permitted\n"


@pytest.mark.needs_mntns
def test_bounding_set_limits_what_comes_after_execve(inside):
    """What the process holds stays until then; its programs never get it."""

    def drop_and_look() -> None:
        before = of().effective
        drop_bounding("CAP_CHOWN")
        assert of().effective == before
        program = ["sh", "-c", "grep -E 'Cap(Eff|Bnd)' /proc/$$/status"]
        for line in subprocess.check_output(program, text=True).splitlines():
            print("CAP_CHOWN" in names_in(int(line.split()[1], 16)))

    assert inside(drop_and_look, new=()) == "False\nFalse\n"


@pytest.mark.needs_userns
def test_new_user_namespace_comes_with_all_capabilities(inside):
    """That is what makes containers without root possible."""

    def look() -> None:
        print(*sorted(of().effective))

    everything = names_in((1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1)

    assert set(inside(look, new=() if OWN else ("user",)).split()) == everything
