"""The settings of this course, nbgrader's and ours; both find them by the file's name where they are run.

As the instructor::

    . .venv/bin/activate    # nbgrader calls programs of its own by name
    cd grading
    cnlab grade release lab01-namespaces      # what students get: course/release/lab01-namespaces
    cnlab grade autograde lab01-namespaces    # grades course/submitted/STUDENT/lab01-namespaces
    cnlab grade feedback lab01-namespaces     # course/feedback/STUDENT/lab01-namespaces, as HTML
    nbgrader validate ../labs/lab01-namespaces/lab01-namespaces.ipynb

nbgrader's own commands, `generate_assignment`, `autograde`, `generate_feedback`, and its formgrader work on
the same course. The assignments are the folders of `labs/`, solutions included, or of the directory that
CNLAB_SOURCE names. The gradebook and everything about students lie in `grading/course`, which git ignores,
or in the directory that CNLAB_COURSE names; `make clean` spares both. CNLAB_EXCHANGE names a hub's exchange.

nbgrader's subcommands know no ``--config``. To run them elsewhere, add this directory to JUPYTER_CONFIG_PATH.

See: https://nbgrader.readthedocs.io, "Configuration options".
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

checkout = Path(__file__).resolve().parent.parent
course = Path(os.environ.get("CNLAB_COURSE", checkout / "grading" / "course"))
course.mkdir(parents=True, exist_ok=True)

c.CourseDirectory.course_id = "cnlab"
c.CourseDirectory.root = str(course)
c.CourseDirectory.source_directory = os.environ.get("CNLAB_SOURCE", str(checkout / "labs"))
if "CNLAB_EXCHANGE" in os.environ:
    c.Exchange.root = os.environ["CNLAB_EXCHANGE"]
    c.ExchangeCollect.check_owner = False  # our desk has looked; what it received belongs to the instructor

# Every check has deadlines of its own, so that it fails with a message; this one is for a cell that loops.
c.Execute.timeout = 120  # seconds a cell
c.Execute.startup_timeout = 120  # seconds until a private kernel on a busy machine answers

# What a submission may use, for `cnlab grade`; see cnlab/grading/limits.py for the words and their defaults.
c.Sandbox.limits = {"cell_s": 120, "notebook_s": 900}

# Students write what these pages show. Without scripts they cannot act in the instructor's name.
c.HTMLExporter.sanitize_html = True

# Hidden tests are not in what students see, and are in what the formgrader shows the instructor.
c.GenerateFeedback.preprocessors = [
    "cnlab.grading.steps.display.SealHiddenTests",
    "nbgrader.preprocessors.GetGrades",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
c.HTMLExporter.preprocessors = ["cnlab.grading.steps.display.ShowHiddenTests"]
