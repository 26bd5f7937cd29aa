import pytest

from cnlab.containers.build.dockerfile import DockerfileError, parse, resolve
from cnlab.containers.build.instructions import (
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Label,
    User,
    Workdir,
)


def only(text):
    """Return the one instruction after FROM."""
    (instruction,) = parse(f"FROM scratch\n{text}\n").stages[0].instructions
    return instruction


def test_stage_begins_with_each_from():
    """A multi-stage build is several images, of which one is kept."""
    found = parse("ARG v=1\nFROM busybox:$v AS Build\nRUN make\nFROM scratch\nCOPY --from=build /a /a\n")

    assert [
        From(2, "FROM busybox:$v AS Build", "busybox:$v", "build"),
        From(4, "FROM scratch", "scratch"),
    ] == [stage.base for stage in found.stages]
    assert (Arg(1, "ARG v=1", "v", "1"),) == found.arguments


def test_continued_line_is_one_instruction_without_its_comments():
    """A comment, or an empty line, in the middle of a command does not end the command."""
    found = only("RUN one && \\\n  # why two\n\n  two \\\n  && three")

    assert (2, "one &&   two   && three") == (found.line, found.command)


def test_exec_form_is_json_and_shell_form_is_anything_else():
    """The exec form needs no shell in the image; ``[ -e x ]`` is a command of the shell, not JSON."""
    assert ("a", "b c") == only('RUN ["a", "b c"]').command
    assert '[ -e x ] && echo "y"' == only('RUN [ -e x ] && echo "y"').command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("copy a b c/", Copy(2, "COPY a b c/", ("a", "b"), "c/")),
        ('COPY ["a b", "c"]', Copy(2, 'COPY ["a b", "c"]', ("a b",), "c")),
        (
            "COPY --from=build --chown=1:2 --chmod=755 a b",
            Copy(2, "COPY --from=build --chown=1:2 --chmod=755 a b", ("a",), "b", "build", "1:2", "755"),
        ),
        ('ENV a=1 b="2 3"', Env(2, 'ENV a=1 b="2 3"', (("a", "1"), ("b", '"2 3"')))),
        ("ENV a b c", Env(2, "ENV a b c", (("a", "b c"),))),
        ("LABEL a.b=c", Label(2, "LABEL a.b=c", (("a.b", "c"),))),
        ("EXPOSE 80 53/udp", Expose(2, "EXPOSE 80 53/udp", ("80/tcp", "53/udp"))),
        ("WORKDIR /a b", Workdir(2, "WORKDIR /a b", "/a b")),
        ("USER ann:staff", User(2, "USER ann:staff", "ann:staff")),
        ("ARG a", Arg(2, "ARG a", "a", None)),
        ("ENTRYPOINT exec a", Entrypoint(2, "ENTRYPOINT exec a", "exec a")),
        ('CMD ["a"]', Cmd(2, 'CMD ["a"]', ("a",))),
    ],
)
def test_instruction_is_read(text, expected):
    """Each has its own grammar; keywords are written in either case."""
    assert expected == only(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Dockerfile:1: there is no instruction; a Dockerfile begins with FROM image"),
        ("RUN x", "Dockerfile:1: no stage has begun; a Dockerfile begins with FROM image"),
        ("FROM a b", "Dockerfile:1: FROM: expected an image; write FROM image, or FROM image AS stage"),
        (
            "FROM a\n\nRUN",
            'Dockerfile:3: RUN stands alone; write RUN command, or RUN ["program", "argument"]',
        ),
        ("FROM a\nADD x y", "Dockerfile:2: unknown instruction ADD; use COPY"),
        (
            "FROM a\nCMD ['b']",
            'Dockerfile:2: CMD: the exec form is JSON, with double quotes; write CMD ["program"',
        ),
        ("FROM a\nCMD []", "Dockerfile:2: CMD: the exec form is a JSON array of strings, and not empty"),
        ("FROM a\nCOPY b", "Dockerfile:2: COPY: a source and a destination are needed; write COPY source..."),
        ("FROM a\nCOPY b c d", "Dockerfile:2: COPY: several sources need a directory as destination: d/"),
        ("FROM a\nCOPY --link b c", "Dockerfile:2: COPY: unknown option --link"),
        ("FROM a\nCOPY --chmod=u+x b c", "Dockerfile:2: COPY: --chmod=u+x is not an octal mode such as 0755"),
        ("FROM a\nENV b", "Dockerfile:2: ENV: b has no value; write ENV name=value ..."),
        ("FROM a\nENV b=c d", "Dockerfile:2: ENV: d is not name=value; a value with blanks needs quotes"),
        ("FROM a\nEXPOSE http", "Dockerfile:2: EXPOSE: http is not a port; write EXPOSE 80 or EXPOSE 53/udp"),
        ("FROM a\nRUN cat <<EOF\nhi\nEOF", "Dockerfile:2: RUN has a here-document, which is not known here"),
    ],
)
def test_error_says_where_and_what_to_do(text, message):
    """Half an image is worse than none, and a line number is what one looks for."""
    with pytest.raises(DockerfileError) as caught:
        parse(text)

    assert str(caught.value).startswith(message)


def test_variables_are_replaced_only_where_docker_does():
    """In RUN the shell of the image does it, with the variables of that moment."""
    env = {"app": "web"}

    assert "/srv/web" == resolve(only("WORKDIR /srv/$app"), env).path
    assert (("path", "web:web"),) == resolve(only("ENV path=${app}:$app"), env).variables
    assert "echo $app" == resolve(only("RUN echo $app"), env).command


def test_variable_of_the_same_line_has_its_old_value():
    """All of an instruction sees what was set before it."""
    assert (("a", "new"), ("b", "old")) == resolve(only("ENV a=new b=$a"), {"a": "old"}).variables
