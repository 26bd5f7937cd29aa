"""The picture of how long stopping takes."""

from cnlab.widgets.picture import GREEN, RED
from cnlab.widgets.stopping import Stop, draw_stops


def test_signal_is_told_as_the_exit_code_an_engine_reports():
    """Engines and shells report 128 plus the signal; Python reports it negative."""
    assert Stop(1.0, -9).told == "1.00 s, exit 137, killed"
    assert Stop(0.01, -15).told == "0.01 s, exit 143"
    assert Stop(0.02, 0).told == "0.02 s, exit 0"


def test_killed_processes_are_red():
    """The picture separates who went from who had to be killed."""
    figure = draw_stops({"deaf": Stop(1.0, -9), "polite": Stop(0.1, 0)}, grace_s=1).figure
    (axes,) = figure.axes
    from matplotlib.colors import to_hex

    assert [RED, GREEN] == [to_hex(bar.get_facecolor()) for bar in axes.patches]
