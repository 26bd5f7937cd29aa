import json
import os
import subprocess
import tempfile

import pytest

from cnlab.containers.build import BuildError, Cache, build
from cnlab.containers.build.dockerfile import DockerfileError
from cnlab.containers.images import base_images
from cnlab.containers.images.image import unpack
from cnlab.containers.images.layer import read_entries
from cnlab.containers.images.layout import Layout
from cnlab.linux.mounts import read_mountinfo

pytestmark = pytest.mark.needs_root

APP = """\
FROM busybox
WORKDIR /app
COPY requirements.txt .
RUN sort requirements.txt > sorted.txt
COPY . .
CMD ["cat", "sorted.txt"]
"""


@pytest.fixture
def layout(tmp_path):
    layout = Layout.create(tmp_path / "layout")
    base_images.busybox(layout)
    return layout


@pytest.fixture
def context(tmp_path):
    root = tmp_path / "context"
    root.mkdir()
    (root / "Dockerfile").write_text(APP)
    (root / "requirements.txt").write_text("b\na\n")
    (root / "main.py").write_text("print('hello')\n")
    return root


def run(context, layout, *lines, base="busybox", **options):
    """Build from these instructions."""
    return build(context, layout, dockerfile="\n".join([f"FROM {base}", *lines, ""]), **options)


def read(image, tmp_path, path):
    root = tmp_path / f"root-{image.digest[7:19]}"
    if not root.exists():
        unpack(image, root)
    return (root / path).read_text()


def entries(build, step):
    """Return what the layer of a step holds."""
    layer = next(layer for layer in build.image.layers if layer.diff_id == build.steps[step].diff_id)
    with build.image.layout.open_blob(layer.descriptor) as file:
        return {entry.path: entry for entry in read_entries(file)}


def cached(build):
    return [step.is_cached for step in build.steps]


def test_each_step_that_changes_files_is_a_layer(context, layout):
    """And only those: a config has no files."""
    done = build(context, layout, tag="app:1")

    assert [True, True, True, True, True, False] == [step.layer_size > 0 for step in done.steps]
    assert 5 == len(done.image.layers)
    assert ["app/requirements.txt"] == [path for path in entries(done, 2) if path != "app"]
    assert ["app/sorted.txt"] == [path for path in entries(done, 3) if path != "app"]
    assert {"app:1", "busybox:latest"} <= set(layout.tags())


def test_second_build_is_the_first_one_without_work(context, layout):
    """Every step is found, and the image is the same to the byte."""
    first, second = (build(context, layout) for _ in range(2))

    assert [True, *[False] * 5] == cached(first)
    assert [True] * 6 == cached(second)
    assert first.image.digest == second.image.digest


def test_change_of_a_file_redoes_what_comes_after_its_copy(context, layout):
    """Which is why what changes often is copied late."""
    build(context, layout)
    (context / "main.py").write_text("print('changed')\n")
    second = build(context, layout)
    (context / "requirements.txt").write_text("c\n")
    third = build(context, layout)

    assert [True, True, True, True, False, False] == cached(second)
    assert [True, True, False, False, False, False] == cached(third)


def test_without_the_cache_the_same_input_gives_the_same_bytes(context, layout, tmp_path):
    """Times are clamped, so a build can be checked by doing it again, elsewhere."""
    other = Layout.create(tmp_path / "other")
    base_images.busybox(other)
    os.utime(context / "main.py", (1, 1))

    first, again = build(context, layout), build(context, layout, no_cache=True)
    assert first.image.digest == again.image.digest == build(context, other).image.digest


def test_cache_that_was_cleared_finds_nothing(context, layout):
    """To see what a build costs."""
    build(context, layout)
    Cache(layout).clear()

    assert [True, *[False] * 5] == cached(build(context, layout))


def test_run_sees_environment_directory_and_user(context, layout):
    """What ENV, ARG, WORKDIR and USER have set."""
    done = run(
        context,
        layout,
        "ARG VERSION=1",
        'ENV NAME=ann GREETING="hello $NAME$VERSION"',
        "WORKDIR /srv",
        "WORKDIR app",
        "USER nobody",
        'RUN echo "$NAME $GREETING $VERSION $(pwd) $(id -u):$(id -g)"',
        build_args={"VERSION": "2"},
    )

    assert "ann hello 2 2 /srv/app 65534:65534\n" == done.steps[-1].output
    assert ["NAME=ann", "GREETING=hello 2"] == done.image.config["config"]["Env"][1:]


def test_argument_decides_only_from_the_run_that_sees_it(context, layout):
    """It is in no file and no config, so the steps before it stay."""
    lines = ("RUN true > /a", "ARG V=1", "RUN echo $V > /b")
    run(context, layout, *lines)
    second = run(context, layout, *lines, build_args={"V": "2"})

    assert [True, True, True, False] == cached(second)


def test_run_has_no_network_and_none_of_our_processes(context, layout):
    """A build that needs nothing from outside gives the same image everywhere."""
    done = run(context, layout, "RUN ip -o link; ps; hostname")

    assert "eth0" not in done.steps[-1].output
    assert 3 >= len([line for line in done.steps[-1].output.splitlines() if " root " in line])


def test_removed_file_is_a_whiteout_and_stays_in_the_layer_below(context, layout):
    """Deleting makes an image larger: the secret is still there for who looks."""
    done = run(context, layout, "RUN echo secret > /secret", "RUN rm /secret")

    assert "file" == entries(done, 1)["secret"].kind
    assert {"secret": "whiteout"} == {path: entry.kind for path, entry in entries(done, 2).items()}


def test_run_that_changes_nothing_makes_no_layer(context, layout):
    """Nor does a directory that is there already."""
    done = run(context, layout, "RUN true", "WORKDIR /tmp")

    assert [0, 0] == [step.layer_size for step in done.steps[1:]]
    assert [None, True, True] == [entry.get("empty_layer") for entry in done.image.history]


def test_only_the_last_stage_is_in_the_image(context, layout, tmp_path):
    """Tools stay behind; what they made is copied."""
    dockerfile = (
        "FROM busybox AS build\nRUN mkdir /out && echo made > /out/result && chown 5:6 /out/result\n"
        "FROM busybox AS unused\nRUN false\n"
        "FROM scratch\nCOPY --from=build /out/ /\nCOPY --from=busybox /bin/sh /bin/\n"
    )
    done = build(context, layout, dockerfile=dockerfile)

    assert "made\n" == read(done.image, tmp_path, "result")
    assert ["build", "build", "2", "2", "2"] == [step.stage for step in done.steps]
    assert (5, 6) == (entries(done, 3)["result"].uid, entries(done, 3)["result"].gid)
    assert 2 == len(done.image.layers)
    assert entries(done, 4)["bin/sh"].size > 1_000_000, "a link named as the source is followed"


def test_copies_belong_to_root_or_to_who_is_named(context, layout):
    """Not to whoever built: his number is somebody else in the image."""
    os.chown(context / "main.py", 12345, 12345)
    done = run(
        context,
        layout,
        "COPY main.py /a",
        "COPY --chown=nobody main.py /b",
        "COPY --chown=1:2 --chmod=600 main.py /c",
        "COPY --chown=nobody:nogroup main.py /d",
    )
    owners = [(one.uid, one.gid, one.mode) for one in (entries(done, n)[p] for n, p in enumerate("abcd", 1))]

    assert [(0, 0, 0o644), (65534, 65534, 0o644), (1, 2, 0o600), (65534, 65534, 0o644)] == owners


def test_base_image_may_be_an_argument(context, layout):
    """One file, several bases."""
    dockerfile = "ARG BASE=nothing\nFROM $BASE\nARG BASE\nRUN echo $BASE\n"
    done = build(context, layout, dockerfile=dockerfile, build_args={"BASE": "busybox"})

    assert "busybox\n" == done.steps[-1].output


def test_dockerignore_keeps_files_out_and_the_cache_warm(context, layout):
    """A log that grows while one builds is no reason to build again."""
    (context / ".dockerignore").write_text("*.log\n")
    for content in ("one", "two"):
        (context / "build.log").write_text(content)
        done = run(context, layout, "COPY . /app/")

    assert [True, True] == cached(done)
    assert "app/build.log" not in entries(done, 1)


def test_steps_are_told_as_they_end(context, layout):
    """A picture can grow while the build runs."""
    seen = []
    done = build(context, layout, on_step=seen.append)

    assert list(done.steps) == seen
    assert [1, 2, 3, 4, 5, 6] == [step.number for step in seen]
    assert "RUN sort requirements.txt > sorted.txt" == seen[3].text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["COPY no.txt /"], "Dockerfile:2: COPY no.txt /: the context has no no.txt"),
        (["RUN true", "RUN echo why; exit 3"], "Dockerfile:3: RUN echo why; exit 3: exit code 3"),
        (["USER bob", "RUN true"], "Dockerfile:3: RUN true: user 'bob': "),
        (["COPY --from=nobody /a /"], "Dockerfile:2: COPY --from=nobody /a /: "),
        (
            ["COPY main.py /etc/passwd/x"],
            "Dockerfile:2: COPY main.py /etc/passwd/x: /etc/passwd is no directory",
        ),
        (['RUN ["no-such-program"]'], 'Dockerfile:2: RUN ["no-such-program"]: '),
    ],
)
def test_step_that_fails_says_where_and_why(context, layout, lines, message):
    """The line, the instruction, the reason, on one line."""
    with pytest.raises(BuildError) as caught:
        run(context, layout, *lines)

    assert str(caught.value).startswith(message)


def test_output_of_a_failed_run_is_in_the_notes(context, layout):
    """A notebook shows notes below the message."""
    with pytest.raises(BuildError) as caught:
        run(context, layout, "RUN echo this is why >&2; false")

    assert ["this is why"] == caught.value.__notes__


def test_missing_base_image_is_told_with_those_there_are(context, layout):
    """It is looked for in the layout only."""
    with pytest.raises(
        BuildError, match=r"Dockerfile:1: FROM debian: .*has no image 'debian'.*busybox:latest"
    ):
        run(context, layout, base="debian")


def test_unknown_instruction_is_refused_before_anything_is_done(context, layout):
    """The first line may take an hour."""
    seen = []
    with pytest.raises(DockerfileError, match="Dockerfile:3: unknown instruction ADD"):
        run(context, layout, "RUN sleep 60", "ADD a b", on_step=seen.append)

    assert [] == seen


def test_failed_build_leaves_nothing_behind(context, layout, tmp_path, monkeypatch):
    """No mount, no unpacked layer, no half image under the tag; the steps before it are cached."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    with pytest.raises(BuildError):
        run(context, layout, "RUN echo a > /a", "RUN false", tag="app:1")

    assert [] == [mount for mount in read_mountinfo() if mount.mount_point.startswith(str(tmp_path))]
    assert before == set(tmp_path.iterdir())
    assert "app:1" not in layout.tags()
    assert [True, True] == cached(run(context, layout, "RUN echo a > /a"))


def test_build_from_the_cache_needs_no_mount(context, layout, monkeypatch):
    """It only looks things up."""
    first = build(context, layout)
    monkeypatch.setattr("cnlab.containers.build.builder.temporary_store", None)

    assert first.image.digest == build(context, layout).image.digest


@pytest.mark.needs_programs("skopeo")
def test_skopeo_reads_what_we_built(context, layout):
    """Straight from the layout."""
    done = build(context, layout, tag="app:1")
    command = ["skopeo", "inspect", f"oci:{layout.path}:app:1"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    assert done.image.digest == said["Digest"]
    assert [layer.descriptor.digest for layer in done.image.layers] == said["Layers"]
