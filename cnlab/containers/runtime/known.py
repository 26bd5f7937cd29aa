"""What this runtime knows, whatever this machine allows, but for what is called "supported".

See: runtime-spec, features.md and features-linux.md.
"""

from __future__ import annotations

from cnlab.containers.runtime import config, mount_options
from cnlab.containers.runtime.namespaces import FLAGS
from cnlab.linux import seccomp
from cnlab.linux.capability_names import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def features() -> dict[str, Any]:
    """Return the features structure."""
    return {
        "ociVersionMin": config.VERSION_MIN,
        "ociVersionMax": config.VERSION_MAX,
        "hooks": list(config.HOOKS),
        "mountOptions": sorted(mount_options.NAMES),
        "linux": {
            "namespaces": list(FLAGS),
            "capabilities": list(NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": sorted(set(seccomp.ACTIONS) - {"SCMP_ACT_NOTIFY"}),
                "operators": sorted(seccomp.OPERATORS),
                "archs": sorted(seccomp.ARCHITECTURES),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.supported_flags()),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
    }
