"""Settings of every user's server at the hub."""

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

c.ServerApp.jpserver_extensions = {"cnlab.grading.hub.duedates": True}
# formgrader is a frame inside JupyterLab
c.ServerApp.tornado_settings = {"headers": {"Content-Security-Policy": "frame-ancestors 'self'"}}
