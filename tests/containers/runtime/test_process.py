"""What is granted of what a process asks for."""

from cnlab.containers.runtime.process import CapabilityMasks
from cnlab.linux.capability_names import mask_of, names_in

ALL = (1 << 41) - 1


def test_capabilities_are_cut_to_what_can_be_granted():
    """And each that is not is named once, however often it was asked for."""
    wanted = {name: ["CAP_CHOWN", "CAP_SYS_RESOURCE"] for name in ("bounding", "permitted", "effective")}
    masks = CapabilityMasks(wanted, grantable=ALL & ~mask_of("CAP_SYS_RESOURCE"))

    assert ({"CAP_CHOWN"}, {"CAP_CHOWN"}, ["CAP_SYS_RESOURCE"]) == (
        names_in(masks.bounding),
        names_in(masks.effective),
        masks.refused,
    )


def test_effective_capability_must_be_permitted():
    """The kernel would refuse the whole set."""
    masks = CapabilityMasks({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]}, grantable=ALL)

    assert (0, ["CAP_KILL"]) == (masks.effective, masks.refused)


def test_ambient_capability_must_be_permitted_and_inheritable():
    """See capabilities(7): no capability is ever ambient if it is not both."""
    sets = {name: ["CAP_KILL", "CAP_CHOWN"] for name in ("bounding", "permitted", "ambient")}
    masks = CapabilityMasks(sets | {"inheritable": ["CAP_KILL"]}, grantable=ALL)

    assert ({"CAP_KILL"}, ["CAP_CHOWN"]) == (names_in(masks.ambient), masks.refused)


def test_capability_that_nobody_knows_is_refused_and_not_fatal():
    """“Runtimes SHOULD NOT fail if the configuration requests capabilities that cannot be granted.”"""
    assert ["CAP_NOSUCH"] == CapabilityMasks({"bounding": ["CAP_NOSUCH"]}, grantable=ALL).refused
