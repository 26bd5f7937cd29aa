"""nbgrader's settings for this course, which nbgrader finds by their name where it is run.

As the instructor::

    . .venv/bin/activate    # nbgrader calls programs of its own by name
    cd grading
    nbgrader generate_assignment lab01-namespaces   # what students get: course/release/lab01-namespaces
    nbgrader autograde lab01-namespaces             # grades course/submitted/STUDENT/lab01-namespaces
    nbgrader generate_feedback lab01-namespaces     # course/feedback/STUDENT/lab01-namespaces, as HTML
    nbgrader validate ../labs/lab01-namespaces/lab01-namespaces.ipynb

The assignments are the folders of `labs/`, solutions included. The gradebook and everything about students
lie in `grading/course`, which git ignores, or in the directory that CNLAB_COURSE names; `make clean` spares
both.

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
c.CourseDirectory.source_directory = str(checkout / "labs")

# Every check has deadlines of its own, so that it fails with a message; this one is for a cell that loops.
c.Execute.timeout = 120  # seconds a cell
c.Execute.startup_timeout = 120  # seconds until a private kernel on a busy machine answers
