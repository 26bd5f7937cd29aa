"""Push and pull: move an image, and only those blobs of it that the other side has not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cnlab.containers.images.descriptor import Descriptor, Platform
from cnlab.containers.images.image import Image
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.reference import Reference
from cnlab.containers.registry.client import Client
from cnlab.errors import InvalidImage

Fate = Literal["exists", "mounted", "uploaded", "downloaded"]
OnBlob = Callable[[Descriptor, Fate], None]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a push did."""

    digest: str  # of the manifest or index, by which anybody can pull just this
    blobs: tuple[tuple[Descriptor, Fate], ...]

    @property
    def uploaded(self) -> int:
        """The bytes of blobs that had to be sent."""
        return sum(descriptor.size for descriptor, fate in self.blobs if fate == "uploaded")


def push(
    image: Image | tuple[Layout, Descriptor],
    name: str,
    *,
    credentials: tuple[str, str] | None = None,
    mount_from: str = "",
    chunk_size: int | None = None,
    client: Client | None = None,
    on_blob: OnBlob = lambda descriptor, fate: None,
) -> Transfer:
    """Send an image to the registry that `name` begins with: blobs first, what points at them last.

    Args:
        image: an image; or a layout and an index in it, with all the platforms that are there.
        name: ``registry/repository:tag``.
        credentials: user and password.
        mount_from: another repository of that registry, from which blobs may be had without sending them.
        chunk_size: send blobs in chunks of so many bytes rather than in one request.
        client: the connection to use; by default one for this push.
        on_blob: called with each blob and what became of it.
    """
    reference = Reference.parse(name)
    layout, root = image if isinstance(image, tuple) else (image.layout, image.manifest_descriptor)
    blobs: list[tuple[Descriptor, Fate]] = []

    def send_blob(to: Client, blob: Descriptor) -> None:
        fate = _send_blob(to, reference.repository, layout, blob, mount_from, chunk_size)
        blobs.append((blob, fate))
        on_blob(blob, fate)

    def send_manifest(to: Client, descriptor: Descriptor, tag: str) -> str:
        data = layout.read_blob(descriptor)
        content = layout.read_json(descriptor)
        for child in map(Descriptor.from_json, content.get("manifests", ())):
            send_manifest(to, child, child.digest)
        for part in (content.get("config"), *content.get("layers", ())):
            if part is not None:
                send_blob(to, Descriptor.from_json(part))
        return to.put_manifest(reference.repository, tag, data, descriptor.media_type)

    with client or Client(reference.registry, credentials=credentials) as connection:
        digest = send_manifest(connection, root, reference.tag_or_digest)
    return Transfer(digest, tuple(blobs))


def _send_blob(
    client: Client, repository: str, layout: Layout, blob: Descriptor, mount_from: str, chunk_size: int | None
) -> Fate:
    if client.has_blob(repository, blob.digest):
        return "exists"
    if mount_from and client.mount(repository, blob.digest, mount_from):
        return "mounted"
    with layout.open_blob(blob) as file:
        client.upload(repository, file, blob, chunk_size=chunk_size)
    return "uploaded"


def pull(
    name: str,
    layout: Layout,
    *,
    platform: Platform | None = None,
    credentials: tuple[str, str] | None = None,
    tag: str | None = None,
    client: Client | None = None,
    on_blob: OnBlob = lambda descriptor, fate: None,
) -> Image:
    """Fetch an image into a layout, and verify every byte of it.

    Args:
        name: ``registry/repository:tag``, or ``registry/repository@digest``.
        layout: where it goes; blobs that are there are not fetched.
        platform: which image of a multi-platform index; by default the one for this machine.
        credentials: user and password.
        tag: its name in the layout; by default ``repository:tag``.
        client: the connection to use; by default one for this pull.
        on_blob: called with each blob and what became of it.

    Raises:
        RegistryError: the registry has no such image, or does not let us.
        InvalidImage: what came is not what the digests say, or not for this platform.
    """
    reference = Reference.parse(name)
    with client or Client(reference.registry, credentials=credentials) as connection:
        descriptor, data = connection.manifest(reference.repository, reference.tag_or_digest)
        layout.add_blob(data, descriptor.media_type, expected=descriptor)
        if descriptor.is_index:
            descriptor = _choose(layout, descriptor, platform or Platform.here(), name)
            _, data = connection.manifest(reference.repository, descriptor.digest)
            layout.add_blob(data, descriptor.media_type, expected=descriptor)
        manifest = layout.manifest(descriptor)
        for part in map(Descriptor.from_json, (manifest["config"], *manifest["layers"])):
            fate: Fate = "exists" if layout.has_blob(part.digest) else "downloaded"
            if fate == "downloaded":
                with connection.open_blob(reference.repository, part.digest) as stream:
                    layout.add_blob(stream, part.media_type, expected=part)
            on_blob(part, fate)
    layout.tag(tag or f"{reference.repository}:{reference.tag}".removesuffix(":"), descriptor)
    return Image(layout, descriptor)


def _choose(layout: Layout, index: Descriptor, platform: Platform, name: str) -> Descriptor:
    children = [Descriptor.from_json(child) for child in layout.read_json(index)["manifests"]]
    for child in children:
        if child.is_manifest and child.platform is not None and child.platform.satisfies(platform):
            return child
    offered = ", ".join(str(child.platform) for child in children) or "none"
    raise InvalidImage(f"{name} has no image for {platform}; it has {offered}")
