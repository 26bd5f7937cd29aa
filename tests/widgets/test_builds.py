"""Bars of what building cost."""

from types import SimpleNamespace

from cnlab.containers.build import Build, Step
from cnlab.widgets.builds import draw_builds


def a_build(*steps: tuple[str, float, bool]) -> Build:
    return Build(
        SimpleNamespace(),
        tuple(
            Step(number, "0", text, number, is_cached, seconds)
            for number, (text, seconds, is_cached) in enumerate(steps, start=1)
        ),
    )


BUILDS = {
    "first": a_build(("FROM busybox", 0.0, True), ("RUN make", 3.0, False), ("COPY . /", 1.0, False)),
    "again": a_build(("FROM busybox", 0.0, True), ("RUN make", 0.0, True), ("COPY . /", 1.0, False)),
}


def test_steps_stand_end_to_end_and_a_step_keeps_its_colour():
    """Comparing two bars is comparing the same colours."""
    (axes,) = draw_builds(BUILDS).figure.axes
    bars = [bar for container in axes.containers for bar in container]
    copies = [bar for bar in bars if bar.get_width() == 1.0]

    assert [bar.get_x() for bar in copies] == [3.0, 0.0]
    assert len({bar.get_facecolor() for bar in copies}) == 1


def test_words_give_the_seconds_of_what_was_done():
    """They are all that a screen reader has."""
    expected = (
        "Bars in seconds, one a build. first: RUN make 3.0 s, COPY . / 1.0 s done, 4.0 s in all; "
        "again: COPY . / 1.0 s done, 1.0 s in all."
    )

    assert expected == draw_builds(BUILDS).alt


def test_bar_says_how_many_steps_came_from_the_cache():
    """What takes no time has no width."""
    (axes,) = draw_builds(BUILDS).figure.axes
    said = [text.get_text().strip() for text in axes.texts]

    assert "2 of 3 steps from the cache" in said
