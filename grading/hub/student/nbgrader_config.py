"""nbgrader's settings in a student's server: where the exchange is, and nothing of the instructor's."""

import os

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

c.CourseDirectory.course_id = "cnlab"
c.Exchange.root = os.environ["CNLAB_EXCHANGE"]
