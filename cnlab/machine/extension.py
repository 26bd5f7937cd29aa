"""A Jupyter server extension: the first machine boots while the browser still loads the page.

From then on the server keeps one machine booted ahead; see `SpareMachines`. Enabled by
``jupyter_server_config.json`` beside this file, which the package installs below ``etc/jupyter``.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cnlab.machine.provisioner import PrivateKernelProvisioner, SpareMachines

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Tell Jupyter what to load; it calls this when it lists its extensions."""
    return [{"module": "cnlab.machine.extension"}]


def _load_jupyter_server_extension(server: "ServerApp") -> None:
    """Boot a machine for the directory that holds the notebooks; Jupyter calls this when it starts."""
    spares = SpareMachines.instance(parent=server)
    if "limit" not in server.config.SpareMachines:
        spares.limit = 1
    if os.environ.get("CNLAB_MACHINE", "uml") == "uml":
        root = Path(server.root_dir).resolve()
        memory_mib = PrivateKernelProvisioner(parent=server).memory_mib
        spares.refill((str(root / "notebooks" if (root / "notebooks").is_dir() else root), memory_mib))
