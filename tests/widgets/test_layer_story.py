"""What became of each file in a stack of layers."""

from cnlab.containers.images.layer import Entry
from cnlab.widgets.layer_story import LayerContents, Version, rows, shown_bytes, stored_bytes, tell, versions


def entry(path: str, kind: str = "file", size: int = 10) -> Entry:
    return Entry(path, kind, 0o644, 0, 0, size if kind == "file" else 0, 0)


def layers(*contents: list[Entry]) -> list[LayerContents]:
    return [LayerContents(f"step {number}", 100, tuple(own)) for number, own in enumerate(contents, start=1)]


def seen(stack: list[LayerContents], count: int | None = None) -> list[tuple[str, int]]:
    """The visible files of the lowest `count` layers, and which layer they are from."""
    upto = len(stack) if count is None else count
    return [(version.path, version.layer) for version in versions(stack) if version.is_visible(upto)]


def test_upper_layer_replaces_a_file_of_a_lower_one():
    """Both are stored; one is seen."""
    stack = layers([entry("etc/motd")], [entry("etc/motd", size=5)])

    assert [("etc/motd", 2)] == seen(stack)
    assert [("etc/motd", 1)] == seen(stack, 1)


def test_whiteout_hides_a_file_and_all_below_a_directory():
    """A whiteout names a path, whatever is there."""
    stack = layers([entry("a/b"), entry("a/c/d"), entry("ab")], [entry("a", "whiteout")])

    assert [("ab", 1)] == seen(stack)


def test_opaque_directory_keeps_what_its_own_layer_brings():
    """It speaks of lower layers only, wherever it stands in the archive."""
    stack = layers([entry("a/old"), entry("b")], [entry("a/new"), entry("a", "opaque")])

    assert [("a/new", 2), ("b", 1)] == seen(stack)


def test_whiteout_beside_a_new_file_of_that_name_hides_the_lower_one_only():
    """Some tools delete and bring in one layer."""
    stack = layers([entry("a")], [entry("a"), entry("a", "whiteout")])

    assert [("a", 2)] == seen(stack)


def test_file_in_the_place_of_a_directory_hides_what_was_in_it():
    """One name has one meaning."""
    stack = layers([entry("a/b")], [entry("a", "symlink")])

    assert [("a", 2)] == seen(stack)


def test_directory_in_the_place_of_a_file_hides_it_and_none_beside_another_directory():
    """Directories merge."""
    stack = layers([entry("a"), entry("b/c")], [entry("a", "directory"), entry("b", "directory")])

    assert [("b/c", 1)] == seen(stack)


def test_bytes_are_stored_for_ever_and_seen_until_something_hides_them():
    """This is why a later rm makes no image smaller."""
    story = versions(layers([entry("big", size=1000)], [entry("big", "whiteout")]))

    assert (1000, 1000, 0) == (stored_bytes(story, 1), shown_bytes(story, 1, 1), shown_bytes(story, 1, 2))


def test_rows_gather_quiet_files_and_single_out_those_with_a_story():
    """Three hundred links of one program are one fact."""
    quiet = [entry(f"bin/{number}") for number in range(300)]
    story = versions(layers([*quiet, entry("etc/motd"), entry("etc/hosts")], [entry("etc/motd", "whiteout")]))

    assert ["bin/… 300 files", "etc/hosts", "etc/motd"] == [row.name for row in rows(story)]


def test_words_tell_what_each_layer_deletes_and_replaces():
    """They are all that a terminal shows."""
    stack = layers([entry("a"), entry("b")], [entry("a", "whiteout"), entry("b", size=7)])
    expected = [
        "Layer 1, step 1: 20 bytes in files, 0 of them still seen.",
        "Layer 2, step 2: 7 bytes in files, 7 of them still seen.",
        "  deletes a",
        "  replaces b",
    ]

    assert expected == tell(stack, versions(stack)).splitlines()


def test_version_is_visible_from_its_layer_to_the_one_that_hides_it():
    """The slider asks for every height of the stack."""
    version = Version("a", layer=2, size=1, hidden_by=4)

    assert [False, True, True, False] == [version.is_visible(height) for height in (1, 2, 3, 4)]
