"""Settings of the hub on Kubernetes that are code; Zero to JupyterHub gets them beside values.yaml.

    helm upgrade --install hub jupyterhub/jupyterhub --values grading/hub/values.yaml
        --set-file hub.extraConfig.cnlab=grading/hub/kubernetes.py

On Kubernetes every user's container would run as the same user id, and nbgrader's exchange could not tell who
has handed in what. Here each has an id of their own, with a name in ``/etc/passwd``; the instructor's is the
first, so that the desk, a container beside the hub, can be the instructor too. Nothing runs as root.

The chart runs this file in its own jupyterhub_config.py, where `c` is the configuration and `get_config`
reads values.yaml.
"""

from pathlib import Path

FIRST_UID = 100_000
CHECKOUT = "/opt/cnlab"  # where the image has this repository
PLACE = "/srv/cnlab"  # where the volume that all share is mounted
HOME = "/home/jovyan"
NAMES = Path("/srv/jupyterhub/passwd")  # which the desk reads; on the volume of the hub's database

instructor = get_config("custom.instructor")  # noqa: F821 - the chart defines both
c.Authenticator.admin_users = {instructor}  # noqa: F821
# An address; and to its end (\Z), for the hub only matches the begin.
c.Authenticator.username_pattern = r"[a-z0-9_][a-z0-9_.-]{0,63}@[a-z0-9.-]{1,63}\Z"  # noqa: F821


def only_verified(authenticator, handler, authentication):
    """Let nobody in by an address that the provider or LMS has not verified."""
    said = authentication["auth_state"] or {}
    claims = said.get("oauth_user", said)
    return authentication if claims.get("email_verified", True) in (True, "true") else None


def write_name(name, uid, names=NAMES):
    """Remember whose a user id is, in the form of passwd(5), and return the line."""
    line = f"{name}:x:{uid}:{uid}::{HOME}:/bin/bash\n"
    others = [old for old in names.read_text().splitlines(True) if old != line] if names.exists() else []
    unfinished = names.with_suffix(".part")
    unfinished.write_text("".join([*others, line]))
    unfinished.rename(names)
    return line


def become_somebody(spawner, names=NAMES):
    """Give a user's container an id, a name, the exchange, and the instructor's the course."""
    is_teaching = spawner.user.name == instructor
    uid = FIRST_UID + (0 if is_teaching else spawner.user.id)
    line = write_name(spawner.user.name, uid, names)
    spawner.uid = spawner.gid = spawner.fs_gid = uid
    settings = f"{CHECKOUT}/grading/hub"
    own = f"{settings}/instructor:{CHECKOUT}/grading" if is_teaching else f"{settings}/student"
    spawner.environment = {
        **spawner.environment,
        "CNLAB_EXCHANGE": f"{PLACE}/exchange",
        "JUPYTER_CONFIG_PATH": f"{own}:{settings}/all",
        "JUPYTER_PATH": f"{settings}/share",
    }
    mounts = {
        "cnlab-exchange": {"name": "cnlab", "mountPath": f"{PLACE}/exchange", "subPath": "exchange"},
        "cnlab-passwd": {"name": "passwd", "mountPath": "/etc/passwd", "subPath": "passwd", "readOnly": True},
    }
    if is_teaching:
        spawner.environment |= {"CNLAB_COURSE": f"{PLACE}/course", "CNLAB_SOURCE": f"{PLACE}/course/source"}
        spawner.notebook_dir = f"{PLACE}/course"
        mounts["cnlab-course"] = {"name": "cnlab", "mountPath": f"{PLACE}/course", "subPath": "course"}
    spawner.volume_mounts = by_name(spawner.volume_mounts) | mounts
    spawner.volumes = by_name(spawner.volumes) | {
        "cnlab": {"name": "cnlab", "persistentVolumeClaim": {"claimName": "cnlab"}},
        "cnlab-passwd": {"name": "passwd", "emptyDir": {}},
    }
    naming = name_container(spawner.image, uid, line)
    spawner.init_containers = by_name(spawner.init_containers) | {"cnlab-name": naming}


def by_name(parts):
    """Return parts of a pod by name, as the chart gives most of them from release 4.3 on; else in order."""
    if isinstance(parts, dict):
        return dict(parts)
    return {f"{place:03}": part for place, part in enumerate(parts)}


def name_container(image, uid, line):
    """Return the container that writes ``/etc/passwd`` with one more name before the user's starts."""
    return {
        "name": "name",
        "image": image,
        "command": ["sh", "-c", 'cat /etc/passwd > /new/passwd && printf %s "$NEW_USER" >> /new/passwd'],
        "env": [{"name": "NEW_USER", "value": line}],
        "volumeMounts": [{"name": "passwd", "mountPath": "/new"}],
        "securityContext": {"runAsUser": uid, "runAsGroup": uid, "allowPrivilegeEscalation": False},
    }


c.Authenticator.post_auth_hook = only_verified  # noqa: F821
c.KubeSpawner.pre_spawn_hook = become_somebody  # noqa: F821
