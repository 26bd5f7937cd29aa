"""Images as one tar file, which ``docker load`` and ``skopeo`` read, and what they write.

`save` writes an archive that is both at once: an OCI image layout, and a docker-archive by a
``manifest.json`` that points at the same blobs. `load` reads either.

See: OCI image-spec, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem
Changeset Format".
"""

import os
from collections.abc import Mapping
from typing import BinaryIO

from cnlab.containers.image import Image
from cnlab.containers.layout import Layout


def save(images: Mapping[str, Image], archive: str | os.PathLike[str] | BinaryIO) -> None:
    """Write images and the names they shall have, such as ``busybox:latest``; the same bytes each time."""
    raise NotImplementedError


def load(archive: str | os.PathLike[str] | BinaryIO, layout: Layout) -> dict[str, Image]:
    """Read all images of an archive into `layout`, tag them, and return them by name.

    Raises:
        InvalidImage: it is no archive of images, or one that lies about a digest or a path.
    """
    raise NotImplementedError
