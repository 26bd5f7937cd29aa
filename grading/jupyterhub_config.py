"""The hub of this course on one machine: `make hub`. The files in hub/ add what production needs.

`cnlab.grading.hub` starts it and says by the environment where things are:

    CNLAB_HUB_PLACE      directory with course/, exchange/ and jupyterhub/
    CNLAB_INSTRUCTOR     the user who teaches
    CNLAB_STUDENTS       users who learn, by commas; without it all members of the group CNLAB_STUDENTS_GROUP
    CNLAB_HUB_PASSWORD   set when the hub is not root's: it then serves its own user alone, by this password
    CNLAB_HUB_PORT       the hub's address is http://127.0.0.1:PORT; PORT+1 and PORT+2 are used inside

Every user is a user of this machine and runs their own JupyterLab under their own user id, so the kernel
keeps them apart, and nbgrader's exchange can tell by a file's owner who has handed it in.

See: https://jupyterhub.readthedocs.io, "Configuration reference".
"""

import os
import sys
from pathlib import Path

from cnlab.grading.hub.place import COURSE_ID, Place

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

grading = Path(__file__).resolve().parent
place = Place(Path(os.environ["CNLAB_HUB_PLACE"]))
instructor = os.environ["CNLAB_INSTRUCTOR"]
students = set(filter(None, os.environ.get("CNLAB_STUDENTS", "").split(",")))
port = int(os.environ.get("CNLAB_HUB_PORT", "8000"))

# Addresses. Only the proxy is to be seen from outside, when a file in hub/ says so; the rest is inside.
c.JupyterHub.bind_url = f"http://127.0.0.1:{port}"
c.JupyterHub.hub_port = port + 1
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{port + 2}"
c.ConfigurableHTTPProxy.command = [
    *("setpriv", "--pdeathsig", "TERM"),  # a hub that dies takes its proxy along
    "node",
    f"{grading}/node_modules/configurable-http-proxy/bin/configurable-http-proxy",
]

# What the hub keeps, in a directory that only it can enter.
c.JupyterHub.db_url = f"sqlite:///{place.state}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = f"{place.state}/cookie_secret"
c.ConfigurableHTTPProxy.pid_file = f"{place.state}/proxy.pid"

# Who may come in: users of this machine with their own passwords.
c.Authenticator.admin_users = {instructor}
c.Authenticator.allowed_users = students | {instructor}
if "CNLAB_HUB_PASSWORD" in os.environ:
    c.JupyterHub.authenticator_class = "shared-password"
    c.SharedPasswordAuthenticator.admin_password = os.environ["CNLAB_HUB_PASSWORD"]
else:
    c.JupyterHub.authenticator_class = "pam"
    if not students:
        c.PAMAuthenticator.allowed_groups = {os.environ.get("CNLAB_STUDENTS_GROUP", "students")}

# Each user's JupyterLab, limited where the hub is root; what a student leaves running ends with it.
c.JupyterHub.spawner_class = "cnlab.grading.hub.spawner.GroupSpawner"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.default_url = "/lab"
c.Spawner.http_timeout = 180  # seconds until a server answers: at the start of a class all begin at once
c.Spawner.mem_limit = os.environ.get("CNLAB_STUDENT_MEMORY", "2G")
c.Spawner.cpu_limit = float(os.environ.get("CNLAB_STUDENT_CPUS", "1"))
c.GroupSpawner.pids_limit = 512
c.GroupSpawner.unlimited_users = {instructor}


def for_teaching(value, otherwise=""):
    """Make a setting that the instructor's server gets, and the students' get `otherwise`."""
    return lambda spawner: f"{value if spawner.user.name == instructor else otherwise}"


def open_course(spawner):
    """Let the instructor's JupyterLab show the course: formgrader opens nothing beside it."""
    if spawner.user.name == instructor:
        spawner.notebook_dir = f"{place.course}"


c.Spawner.pre_spawn_hook = open_course
c.Spawner.environment = {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]),
    "CNLAB_EXCHANGE": f"{place.exchange}",
    "CNLAB_COURSE": for_teaching(place.course),
    "CNLAB_SOURCE": for_teaching(place.source),
    # nbgrader's settings, and which of its extensions are on: settings named first win
    "JUPYTER_CONFIG_PATH": for_teaching(
        f"{grading}/hub/instructor:{grading}:{grading}/hub/all", f"{grading}/hub/student:{grading}/hub/all"
    ),
    "JUPYTER_PATH": f"{grading}/hub/share",
}

# The desk takes submissions in and publishes due dates.
c.JupyterHub.services = [
    {
        "name": "desk",
        "command": [sys.executable, "-m", "cnlab.grading.hub.desk", f"{place.root}"],
    }
]
c.JupyterHub.load_groups = {f"formgrade-{COURSE_ID}": {"users": [instructor]}}
