"""Go through a tar archive that arrives in chunks, without ever holding more of it than one chunk.

Interface: iterate over a `TarReader`, and `TarReader.read` the bytes of the member at hand.

No length, number of holes or chain of headers in an archive is taken on trust: each has a limit.

See: "Archive format" in GNU tar's manual, for sparse files.
"""

from collections.abc import Iterator, Mapping

from cnlab.containers.images import tar
from cnlab.containers.images.paths import shown
from cnlab.containers.images.tar import Member
from cnlab.errors import InvalidImage

_MAX_META_BYTES = 1 << 20  # of names and attributes of one member
_MAX_HOLES = 1 << 20


class TarReader:
    """The members of an archive that arrives in chunks, and the bytes of the last one that was asked for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self._left = 0  # bytes of the current member that nobody has read
        self._padding = 0
        self._defaults: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        """Yield the members; bytes of a member that were not read are skipped."""
        while (member := self._next()) is not None:
            yield member
        for _ in self._chunks:  # the digest is of everything, also of what stands behind the end
            pass

    def read(self, length: int) -> Iterator[bytes]:
        """Yield the next `length` bytes of the current member in pieces."""
        if length > self._left:
            raise InvalidImage(f"layer: a sparse file asks for {length} bytes and has {self._left}")
        self._left -= length
        return self._pieces(length)

    def _pieces(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._chunk[self._at : self._at + length]
            if not piece:
                self._refill()
                continue
            self._at += len(piece)
            length -= len(piece)
            yield piece

    def _refill(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise InvalidImage("layer: the archive ends within a member")
        self._chunk, self._at = chunk, 0

    def _block(self) -> bytes | None:
        """Return the next 512 bytes, or None at the end of the file."""
        block = self._chunk[self._at : self._at + tar.BLOCK]
        self._at += len(block)
        while len(block) < tar.BLOCK:
            chunk = next(self._chunks, None)
            if chunk is None:
                if block:
                    raise InvalidImage("layer: the archive ends within a header")
                return None
            self._chunk, self._at = chunk, tar.BLOCK - len(block)
            block += chunk[: self._at]
        return block

    def _begin(self, stored: int) -> None:
        self._left, self._padding = stored, -stored % tar.BLOCK

    def _skip(self) -> None:
        """Go to the end of the current member."""
        length = self._left + self._padding
        if length:
            self._left = self._padding = 0
            for _ in self._pieces(length):
                pass

    def _meta(self, member: Member) -> bytes:
        """Return the bytes of a member that describes the next one."""
        self._begin(member.stored)
        return b"".join(self.read(member.stored))

    def _next(self) -> Member | None:
        records: dict[bytes, bytes] = {}
        sparse_map: list[tuple[int, int]] = []
        meta_bytes = 0
        while True:
            self._skip()
            block = self._block()
            if block is None or not block.strip(b"\0"):
                self._require_end(block, records)
                return None
            member = tar.parse_header(block)
            meta_bytes += member.stored + tar.BLOCK
            if member.type in tar.FILES_OF_AN_IMAGE:
                break
            if max(member.stored, meta_bytes // 4) > _MAX_META_BYTES:
                raise InvalidImage(f"layer: a header of {meta_bytes} bytes; {_MAX_META_BYTES} are allowed")
            if member.type == tar.PAX:
                found, sparse_map = tar.parse_pax(self._meta(member))
                records |= found
            elif member.type == tar.PAX_GLOBAL:
                self._defaults |= tar.parse_pax(self._meta(member))[0]
            elif member.type == tar.GNU_NAME:
                records[b"path"] = self._meta(member).partition(b"\0")[0]
            elif member.type == tar.GNU_LINK:
                records[b"linkpath"] = self._meta(member).partition(b"\0")[0]
            else:
                raise InvalidImage(f"layer: {shown(member.name)}: unknown type {member.type!r} of tar member")
        tar.amend(member, self._defaults | records)
        self._begin(member.stored)
        self._find_holes(member, block, self._defaults | records, sparse_map)
        return member

    def _require_end(self, block: bytes | None, records: Mapping[bytes, bytes]) -> None:
        if records:
            raise InvalidImage("layer: the archive ends after a header that announces a member")
        if block is not None and (self._block() or b"").strip(b"\0"):
            raise InvalidImage("layer: a block of zeros stands between two members")

    def _find_holes(
        self, member: Member, block: bytes, records: Mapping[bytes, bytes], pairs: list[tuple[int, int]]
    ) -> None:
        """Read where the data of a sparse file belong, in any of the four forms that GNU tar has had."""
        if member.type == tar.SPARSE:
            member.data = self._old_gnu_map(block)
            member.size = tar.number(block[483:495])
        elif records.get(b"GNU.sparse.major") == b"1":
            member.data = self._map_before_data()
        elif b"GNU.sparse.map" in records:
            numbers = [tar.decimal(text) for text in records[b"GNU.sparse.map"].split(b",") if text]
            member.data = (
                list(zip(numbers[::2], numbers[1::2], strict=True)) if len(numbers) % 2 == 0 else None
            )
        elif pairs:
            member.data = pairs
        else:
            return
        size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        member.size = member.size if size is None else tar.decimal(size)
        member.name = records.get(b"GNU.sparse.name", member.name)
        _require_sane_map(member, self._left)

    def _old_gnu_map(self, block: bytes) -> list[tuple[int, int]]:
        found = _parse_map(block[386:482])
        is_extended = block[482]
        while is_extended:
            block = self._block() or bytes(tar.BLOCK)
            found += _parse_map(block[:504])
            is_extended = block[504]
            if len(found) > _MAX_HOLES:
                raise InvalidImage(f"layer: a sparse file with more than {_MAX_HOLES} holes")
        return found

    def _map_before_data(self) -> list[tuple[int, int]]:
        """Read decimal lines, their number first, from the blocks before the data."""
        lines: list[bytes] = []
        rest = b""
        while not lines or len(lines) <= 2 * tar.decimal(lines[0]):
            *complete, rest = (rest + b"".join(self.read(tar.BLOCK))).split(b"\n")
            lines += complete
            if lines and tar.decimal(lines[0]) > _MAX_HOLES:
                raise InvalidImage(f"layer: a sparse file with more than {_MAX_HOLES} holes")
        numbers = [tar.decimal(line) for line in lines[1 : 2 * tar.decimal(lines[0]) + 1]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def _parse_map(text: bytes) -> list[tuple[int, int]]:
    pairs = [(text[at : at + 12], text[at + 12 : at + 24]) for at in range(0, len(text), 24)]
    return [(tar.number(offset), tar.number(length)) for offset, length in pairs if offset[0]]


def _require_sane_map(member: Member, stored: int) -> None:
    end = 0
    for offset, length in member.data or ():
        if offset < end or length < 0:
            raise InvalidImage(f"layer: {shown(member.name)}: the parts of a sparse file overlap")
        end = offset + length
    total = sum(length for _, length in member.data or ())
    if member.data is None or end > member.size or total > stored:
        raise InvalidImage(f"layer: {shown(member.name)}: the map of a sparse file does not fit it")
