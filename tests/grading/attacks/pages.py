"""Outputs and answers that become scripts where a person reads them: in feedback, and in the formgrader.

There they would run as the instructor, who may change any mark.
"""

from __future__ import annotations

import json

import nbformat
from grading.attacks.attack import Submission, attack

RUNS = "an active element of the student's is in a page that the instructor opens"

SCRIPT = "<script>alert('pwned-by-student')</script>"
HANDLERS = (
    "<img src=x onerror=\"alert('pwned-by-student')\"><svg onload=\"alert('pwned-by-student')\"></svg>"
    "<iframe srcdoc=\"<script>alert('pwned-by-student')</script>\"></iframe>"
    "<a href=\"javascript:alert('pwned-by-student')\">x</a>"
    "<object data=\"javascript:alert('pwned-by-student')\"></object>"
    "<form action=\"javascript:alert('pwned-by-student')\"><button>x</button></form>"
    "<meta http-equiv=refresh content=\"0;url=javascript:alert('pwned-by-student')\">"
    "<base href='https://pwned-by-student.example/'><style>body{display:none} /* pwned-by-student */</style>"
)


@attack(RUNS)
def script_in_html_output(by: Submission) -> None:
    """Display HTML with scripts, handlers and frames."""
    by.run(f"from IPython.display import HTML, display\ndisplay(HTML({SCRIPT + HANDLERS!r}))")


@attack(RUNS)
def script_as_javascript_output(by: Submission) -> None:
    """Display JavaScript, a picture of vectors with a script, LaTeX, widgets and types nobody knows."""
    data = {
        "application/javascript": "alert('pwned-by-student')",
        "image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'>{SCRIPT}</svg>{HANDLERS}",
        "text/latex": f"$\\href{{javascript:alert('pwned-by-student')}}{{x}}$ {SCRIPT}",
        "text/markdown": SCRIPT + HANDLERS + "[x](javascript:alert('pwned-by-student'))",
        "image/png": "\"><script>alert('pwned-by-student')</script>",
        "application/vnd.jupyter.widget-view+json": {
            "model_id": "</script><script>alert('pwned-by-student')</script>"
        },
        "application/vnd.jupyter.widget-state+json": {"state": f"</script>{SCRIPT}"},
    }
    for kind, value in data.items():
        by.run(f"from IPython.display import display\ndisplay({{{kind!r}: {value!r}}}, raw=True)")


@attack(RUNS)
def script_in_texts(by: Submission) -> None:
    """Print, raise and name things so that a page that forgets to escape runs them."""
    by.run(f"print({SCRIPT!r}); sys.stderr.write({HANDLERS!r})")
    by.run(f"raise type({SCRIPT!r}, (Exception,), {{}})({HANDLERS!r})")
    by.answer("shout", f"return {SCRIPT!r}")
    by.answer("square", f"raise ValueError({HANDLERS!r})")
    by.answer("mean", f"print({SCRIPT!r})\nraise type({SCRIPT!r}, (Exception,), {{}})('x')")
    by.run("print('\\x1b]8;;javascript:alert(1)\\x07x\\x1b]8;;\\x07 \\x1b[38;5;1\"onmouseover=alert(1)m')")


@attack(RUNS)
def script_in_markdown(by: Submission) -> None:
    """Write scripts into the answer that a person has to grade, and into cells of one's own."""
    text = (
        SCRIPT
        + HANDLERS
        + "\n\n[x](javascript:alert('pwned-by-student')) ![x](x\"onerror=\"alert('pwned-by-student'))"
    )
    by.cell("essay").source = text
    by.notebook.cells.append(nbformat.v4.new_markdown_cell(text))
    by.notebook.cells.append(
        nbformat.v4.new_raw_cell(text, metadata={"raw_mimetype": "text/html", "format": "text/html"})
    )
    by.run("pass")


@attack(RUNS)
def script_in_metadata(by: Submission) -> None:
    """Put scripts into titles, languages, tags, attachments and the state of widgets."""
    bad = f"</script></title></style>{SCRIPT}"
    by.notebook.metadata |= {
        "title": bad, "authors": [{"name": bad}],
        "language_info": {"name": bad, "pygments_lexer": bad, "mimetype": bad, "file_extension": bad},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"x": bad}, "version_major": 2}},
    }  # fmt: skip
    by.run("1")
    by.notebook.cells[-2].metadata["tags"] = [bad.replace(",", "")]
    by.cell("essay")["attachments"] = {bad: {"image/png": bad}}
    by.cell("essay").source = f"![{bad}](attachment:{bad})"


@attack(RUNS)
def script_in_stored_outputs(by: Submission) -> None:
    """Hand in outputs with scripts in cells that are not run: text, raw, and in those of checks."""
    output = nbformat.v4.new_output("display_data", data={"text/html": SCRIPT + HANDLERS})
    for task in ("check-mean", "mean", "check-answer"):
        by.cell(task).outputs = [output]
    by.cell("essay")["outputs"] = [output]
    by.raw = json.dumps(by.notebook).encode()


@attack(RUNS)
def script_in_file_names(by: Submission) -> None:
    """Name files so that a page which lists them runs something."""
    by.files["<img src=x onerror=alert('pwned-by-student')>.csv"] = b"x"
    by.files["=cmd|' pwned-by-student'!A0.csv"] = b"x"
