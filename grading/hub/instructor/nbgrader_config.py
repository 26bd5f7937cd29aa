"""nbgrader's settings in the instructor's server, on top of ``grading/nbgrader_config.py``."""

import os

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

c.Exchange.root = os.environ["CNLAB_EXCHANGE"]
c.CourseDirectory.source_directory = os.environ["CNLAB_SOURCE"]

# What the desk has taken in belongs to the instructor; it has checked whose it was.
c.ExchangeCollect.check_owner = False
