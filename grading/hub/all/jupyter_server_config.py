"""Settings of every user's server at the hub."""

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

# formgrader is a frame inside JupyterLab
c.ServerApp.tornado_settings = {"headers": {"Content-Security-Policy": "frame-ancestors 'self'"}}
# no login shell, whose profile would forget where cnlab and nbgrader are
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash"]}
