"""The map of the course."""

from cnlab.widgets.course_map import describe_course, draw_course, notebooks_here, stems


def test_course_has_nineteen_notebooks_numbered_in_reading_order():
    """The number of a notebook is its place."""
    assert [f"{number:02}" for number in range(19)] == [stem[:2] for stem in stems()]


def test_only_files_that_exist_are_here_to_open(tmp_path):
    """The map must not promise a notebook that cannot be opened."""
    (tmp_path / "01-namespaces.ipynb").touch()
    (tmp_path / "scratch.ipynb").touch()

    assert notebooks_here(tmp_path) == {"01-namespaces"}


def test_boxes_of_notebooks_here_are_filled():
    """A reader tells at a glance what can be opened."""
    (axes,) = draw_course(frozenset({"00-welcome", "02-cgroups"})).figure.axes
    filled = [patch for patch in axes.patches if patch.get_facecolor() == patch.get_edgecolor()]

    assert len(filled) == 2
    assert len(axes.patches) == 19


def test_alternative_text_says_what_can_be_opened():
    """Filled and empty boxes mean nothing to a screen reader."""
    assert describe_course(frozenset({"00-welcome"})).endswith("Here to open: 00-welcome.")
