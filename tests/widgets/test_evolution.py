"""The chart of the evolution to cloud native."""

from cnlab.widgets.evolution import LANES, draw_evolution


def test_chart_names_every_step_of_the_lecture():
    """The chart is the lecture's; a step that falls out is a term nobody teaches."""
    expected = {
        *("Waterfall", "Agile", "DevOps", "SRE"),
        *("Monolith", "N-tier", "Microservices", "Functions, events"),
        *("Physical servers", "Virtual servers", "Containers", "Unikernels"),
        *("Data center", "Hosted", "Cloud"),
    }

    assert expected == {step.name for lane in LANES for step in lane.steps}


def test_alternative_text_tells_lanes_and_steps():
    """Who cannot see the stairs must still learn their order."""
    assert "Waterfall, Agile, DevOps, SRE" in draw_evolution().alt


def test_every_bar_reaches_today():
    """Nothing replaces what came before: all bars end at the same right edge."""
    (axes,) = draw_evolution().figure.axes
    edges = {round(patch.get_xy()[:, 0].max(), 3) for patch in axes.patches}

    assert edges == {8.95}
