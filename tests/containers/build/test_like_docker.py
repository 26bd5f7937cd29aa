"""Docker builds the same Dockerfiles: whether ours means the same is for it to say."""

import json
import stat

import pytest
from dockerd import private_dockerd

from cnlab.containers.build import build
from cnlab.containers.images import archive, base_images
from cnlab.containers.images.image import unpack
from cnlab.containers.images.layout import Layout

pytestmark = pytest.mark.needs_root

DOCKERFILE = r"""
ARG BASE=busybox
FROM $BASE AS build
ARG NAME=ann
ENV GREETING="hello $NAME" PATH=$PATH:/opt/bin LITERAL='$NAME' ESCAPED=\$NAME
WORKDIR /src
COPY --chown=1:2 app/ .
RUN mkdir -p /out/bin && cp main.py /out/bin/ && echo "$GREETING from $NAME" > /out/greeting \
    # a comment within
    && ln -s bin/main.py /out/link && chmod 4711 /out/bin/main.py && chown 5:6 /out/greeting
USER nobody
RUN id -u > /tmp/who; pwd >> /tmp/who

FROM ${BASE:-x} AS unused
RUN true

FROM busybox
LABEL one=1 two="2 three"
LABEL four 4 five
ENV OLD style value
COPY --from=build /out /srv/
COPY --from=build --chown=7 /out/greeting /owned/deep/
COPY --chown=8:9 app /owned/app
COPY --from=build /tmp/who /tmp/who
COPY ["with blank.txt", "/docs/"]
COPY app/*.txt README.md /docs/
COPY app /app
COPY README.md /app/renamed
COPY link /linked
RUN rm -r /home && mkdir /home && touch /home/new && rm /etc/nsswitch.conf
WORKDIR /srv
WORKDIR bin
EXPOSE 80 53/udp
USER 1000:1000
CMD ["first"]
ENTRYPOINT ["cat"]
CMD ["/srv/greeting"]
"""


@pytest.fixture(scope="module")
def engine():
    with private_dockerd() as engine:
        yield engine


@pytest.fixture
def layout(tmp_path, engine):
    layout = Layout.create(tmp_path / "layout")
    archive.save({"busybox:latest": base_images.busybox(layout)}, tmp_path / "busybox.tar")
    engine.docker("load", "--input", str(tmp_path / "busybox.tar"))
    return layout


@pytest.fixture
def context(tmp_path):
    root = tmp_path / "context"
    for name in (
        "app/main.py",
        "app/a.txt",
        "app/lib/b.txt",
        "app/lib/skip.log",
        "README.md",
        "with blank.txt",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    (root / "app/lib/b.txt").chmod(0o640)
    (root / "link").symlink_to("README.md")
    (root / ".dockerignore").write_text("**/*.log\n.dockerignore\n")
    (root / "Dockerfile").write_text(DOCKERFILE)
    return root


def files_of(root):
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        target = path.readlink() if path.is_symlink() else None
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, target, content)
    return found


def built_by_docker(engine, context, directory):
    """Build with Docker and read the image that it saves."""
    engine.docker("build", "--network=none", "--tag=theirs:1", str(context))
    engine.docker("save", "--output", f"{directory}/theirs.tar", "theirs:1")
    return archive.load(directory / "theirs.tar", Layout.create(directory / "theirs"))["theirs:1"]


def test_docker_builds_the_same_files_and_config(engine, layout, context, tmp_path):
    """Owners, permissions, links, contents; variables, labels, ports, who runs what where."""
    ours = build(context, layout).image
    theirs = built_by_docker(engine, context, tmp_path)

    roots = [unpack(image, tmp_path / name) for image, name in ((ours, "ours-root"), (theirs, "theirs-root"))]
    assert files_of(roots[1]) == files_of(roots[0])
    names = ("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "Labels", "ExposedPorts")
    configs = [{name: image.config["config"].get(name) for name in names} for image in (ours, theirs)]
    assert configs[1] == configs[0]


def test_docker_runs_what_we_built_and_tells_its_history(engine, layout, context, tmp_path):
    """The image has the id that we gave it, and each instruction is in its history."""
    done = build(context, layout)
    archive.save({"app:1": done.image}, tmp_path / "app.tar")
    engine.docker("load", "--input", str(tmp_path / "app.tar"))
    said = engine.docker("run", "--rm", "--network=none", "app:1").stdout
    shown = engine.docker("history", "--no-trunc", "--format={{json .}}", "app:1").stdout
    image_id = engine.docker("images", "--no-trunc", "--quiet", "app:1").stdout.strip()
    history = [json.loads(line)["CreatedBy"] for line in shown.splitlines()]

    assert "hello ann from ann\n" == said
    assert done.image.id == image_id
    last_stage = [step.text for step in done.steps if step.stage == "2"]
    assert last_stage[:0:-1] == history[:-1]
