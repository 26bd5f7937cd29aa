"""Who looks after which layer."""

from cnlab.widgets.ownership import LAYERS, RUNGS, draw_ownership


def test_bare_metal_leaves_everything_to_the_team_and_a_function_only_the_logic():
    """The two ends of the ladder carry the sentence of the course."""
    assert frozenset(LAYERS) == RUNGS[0].yours
    assert frozenset({"business logic"}) == RUNGS[-1].yours


def test_unikernel_has_a_kernel_of_its_own_and_no_tools_beside_it():
    """A unikernel is no small container: its kernel is linked in, and there is no shell to log in to."""
    unikernel = next(rung for rung in RUNGS if rung.name == "unikernel")

    assert unikernel.owner("kernel") == "you"
    assert unikernel.owner("operating system tools") == "nobody"


def test_alternative_text_counts_the_layers():
    """The counts are what the picture is for."""
    assert "bare metal 6, virtual machine 5, container 4, unikernel 4, function 1" in draw_ownership().alt
