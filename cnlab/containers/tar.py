"""The tar format, as layers use it: headers of 512 bytes, each followed by the file's bytes.

    struct posix_header {
        char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], chksum[8], typeflag,
             linkname[100], magic[6], version[2], uname[32], gname[32], devmajor[8], devminor[8],
             prefix[155], padding[12];
    };                                                          /* numbers are octal digits */

What does not fit is said before: by *pax* records ``LENGTH KEY=VALUE`` (POSIX) or by GNU's members ``L`` and
``K``. `TarReader` yields members, `header` writes them; both keep to what image layers need, and the reader
trusts nothing.

Python's `tarfile` reads the same format; it takes several times as long for each member, and lets a header
ask for as much memory as it likes.

See: pax in POSIX.1-2017, tar(5); "Extended attributes" in OCI image-spec, layer.md.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cnlab.errors import InvalidImage

BLOCK = 512
END = bytes(2 * BLOCK)
FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = (bytes([c]) for c in b"0123456")
XATTR = b"SCHILY.xattr."

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
SPARSE = b"S"
_FILES = (FILE, SPARSE)
_KNOWN = (*_FILES, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO)
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_MAX_META_BYTES = 1 << 20  # of names and attributes of one member
_MAX_HOLES = 1 << 20
_NS = 1_000_000_000


@dataclass(slots=True)
class Member:
    """One member: a header, and what the headers before it said of it."""

    name: bytes
    type: bytes  # one of the constants of this module
    mode: int
    uid: int
    gid: int
    size: int  # bytes of the file, with its holes
    mtime_ns: int  # since 1970
    target: bytes = b""  # of a link
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    stored: int = 0  # bytes that follow in the archive
    data: list[tuple[int, int]] | None = None  # of a sparse file: (offset, length) of what is stored


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
        block = self._chunk[self._at : self._at + BLOCK]
        self._at += len(block)
        while len(block) < BLOCK:
            chunk = next(self._chunks, None)
            if chunk is None:
                if block:
                    raise InvalidImage("layer: the archive ends within a header")
                return None
            self._chunk, self._at = chunk, BLOCK - len(block)
            block += chunk[: self._at]
        return block

    def _begin(self, stored: int) -> None:
        self._left, self._padding = stored, -stored % BLOCK

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
            member = _parse_header(block)
            meta_bytes += member.stored + BLOCK
            if member.type in _KNOWN:
                break
            if max(member.stored, meta_bytes // 4) > _MAX_META_BYTES:
                raise InvalidImage(f"layer: a header of {meta_bytes} bytes; {_MAX_META_BYTES} are allowed")
            if member.type == _PAX:
                found, sparse_map = _parse_pax(self._meta(member))
                records |= found
            elif member.type == _PAX_GLOBAL:
                self._defaults |= _parse_pax(self._meta(member))[0]
            elif member.type == _GNU_NAME:
                records[b"path"] = self._meta(member).rstrip(b"\0")
            elif member.type == _GNU_LINK:
                records[b"linkpath"] = self._meta(member).rstrip(b"\0")
            else:
                raise InvalidImage(
                    f"layer: {_shown(member.name)}: unknown type {member.type!r} of tar member"
                )
        _amend(member, self._defaults | records)
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
        if member.type == SPARSE:
            member.data = self._old_gnu_map(block)
            member.size = _number(block[483:495])
        elif records.get(b"GNU.sparse.major") == b"1":
            member.data = self._map_before_data()
        elif b"GNU.sparse.map" in records:
            numbers = [_decimal(text) for text in records[b"GNU.sparse.map"].split(b",") if text]
            member.data = (
                list(zip(numbers[::2], numbers[1::2], strict=True)) if len(numbers) % 2 == 0 else None
            )
        elif pairs:
            member.data = pairs
        else:
            return
        size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        member.size = member.size if size is None else _decimal(size)
        member.name = records.get(b"GNU.sparse.name", member.name)
        _require_sane_map(member, self._left)

    def _old_gnu_map(self, block: bytes) -> list[tuple[int, int]]:
        found = _parse_map(block[386:482])
        is_extended = block[482]
        while is_extended:
            block = self._block() or bytes(BLOCK)
            found += _parse_map(block[:504])
            is_extended = block[504]
            if len(found) > _MAX_HOLES:
                raise InvalidImage(f"layer: a sparse file with more than {_MAX_HOLES} holes")
        return found

    def _map_before_data(self) -> list[tuple[int, int]]:
        """Read decimal lines, their number first, from the blocks before the data."""
        text = b""
        wanted: int | None = None
        while wanted is None or text.count(b"\n") < wanted:
            text += b"".join(self.read(BLOCK))
            if wanted is None and b"\n" in text:
                wanted = 2 * _decimal(text.split(b"\n", 1)[0]) + 1
                if wanted > 2 * _MAX_HOLES:
                    raise InvalidImage(f"layer: a sparse file with more than {_MAX_HOLES} holes")
        numbers = [_decimal(line) for line in text.split(b"\n")[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def _parse_header(block: bytes) -> Member:
    """Read one header as it stands."""
    (name, mode, uid, gid, size, mtime, checksum, kind, target, magic, _, _, major, minor, prefix) = (
        _FIELDS.unpack(block)
    )
    if checksum.strip(b" \0").lstrip(b"0") != b"%o" % (sum(block) - sum(checksum) + 8 * ord(" ")):
        raise InvalidImage("layer: no tar archive, or a damaged one: the checksum of a header is wrong")
    name = name.partition(b"\0")[0]
    if magic == b"ustar\x0000" and prefix[0]:  # GNU's magic has blanks, and other things in that place
        name = prefix.partition(b"\0")[0] + b"/" + name
    if kind in (b"\0", b"7"):
        kind = DIRECTORY if name.endswith(b"/") else FILE
    stored = _number(size)
    if stored < 0:
        raise InvalidImage(f"layer: {_shown(name)}: a size of {stored} bytes")
    if kind in _KNOWN and kind not in _FILES:
        stored = 0  # nothing follows, although some tools write the size of what a link points at
    device = (_number(major), _number(minor)) if kind in (CHAR, BLOCK_DEVICE) else (0, 0)
    return Member(
        name,
        kind,
        _number(mode) & 0o7777,
        _number(uid),
        _number(gid),
        stored,
        _number(mtime) * _NS,
        target.partition(b"\0")[0],
        device,
        stored=stored,
    )


def _number(text: bytes) -> int:
    """Read octal digits, or the binary number that GNU tar writes where they do not suffice."""
    if text[0] & 0x80:
        is_negative = text[0] == 0xFF
        digits = text if is_negative else bytes([text[0] & 0x7F]) + text[1:]
        value = int.from_bytes(digits, "big", signed=is_negative)
        if abs(value) >= 1 << 63:
            raise InvalidImage("layer: a number in a tar header is out of all bounds")
        return value
    octal = text.strip(b" \0") or b"0"
    if not octal.isdigit() or b"8" in octal or b"9" in octal:
        raise InvalidImage(f"layer: {text!r} in a tar header is no octal number")
    return int(octal, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise InvalidImage(f"layer: {text[:40]!r} in a pax header is no number")
    return int(text)


def _parse_pax(text: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """Read pax records, and beside them the pairs that GNU's sparse format 0.0 says in many of one key."""
    records: dict[bytes, bytes] = {}
    pairs: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        blank = text.find(b" ", at, at + 12)
        length = _decimal(text[at:blank]) if blank > 0 else 0
        key, equals, value = text[blank + 1 : at + length].partition(b"=")
        if not equals or not value.endswith(b"\n") or at + length > len(text):
            raise InvalidImage(f"layer: malformed pax record {text[at : at + 40]!r}")
        records[key] = value[:-1]
        if key == b"GNU.sparse.numbytes":
            pairs.append((_decimal(records.get(b"GNU.sparse.offset", b"")), _decimal(value[:-1])))
        at += length
    return records, pairs


def _amend(member: Member, records: Mapping[bytes, bytes]) -> None:
    """Let pax records take the place of a header's fields."""
    for key, value in records.items():
        if key == b"path":
            member.name = value
        elif key == b"linkpath":
            member.target = value
        elif key == b"uid":
            member.uid = _decimal(value)
        elif key == b"gid":
            member.gid = _decimal(value)
        elif key == b"mtime":
            member.mtime_ns = _time_ns(value)
        elif key == b"size" and member.type in _FILES:
            member.size = member.stored = _decimal(value)
        elif key.startswith(XATTR):
            member.xattrs[key.removeprefix(XATTR)] = value


def _time_ns(text: bytes) -> int:
    """Read seconds with a fraction, such as ``-12.5``."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    value = _decimal(whole) * _NS + _decimal(fraction[:9].ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def _parse_map(text: bytes) -> list[tuple[int, int]]:
    pairs = [(text[at : at + 12], text[at + 12 : at + 24]) for at in range(0, len(text), 24)]
    return [(_number(offset), _number(length)) for offset, length in pairs if offset[0]]


def _require_sane_map(member: Member, stored: int) -> None:
    end = 0
    for offset, length in member.data or ():
        if offset < end or length < 0:
            raise InvalidImage(f"layer: {_shown(member.name)}: the parts of a sparse file overlap")
        end = offset + length
    total = sum(length for _, length in member.data or ())
    if member.data is None or end > member.size or total > stored:
        raise InvalidImage(f"layer: {_shown(member.name)}: the map of a sparse file does not fit it")


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def header(member: Member) -> bytes:
    """Return the blocks that announce a member: one, or three and more where pax records are needed."""
    records = _records_for(member)
    blocks = b""
    if records:
        text = b"".join(_pax_record(key, value) for key, value in sorted(records.items()))
        pax = Member(b"PaxHeaders/" + member.name[:80].strip(b"/"), _PAX, 0o644, 0, 0, len(text), 0)
        blocks = _ustar(pax) + text + bytes(-len(text) % BLOCK)
    return blocks + _ustar(member)


def padding(size: int) -> bytes:
    """Return the zeros that fill up the last block of `size` bytes."""
    return bytes(-size % BLOCK)


def _records_for(member: Member) -> dict[bytes, bytes]:
    """Return what a plain header cannot say: long names, names beyond ASCII, large numbers, attributes."""
    records = {XATTR + name: value for name, value in member.xattrs.items()}
    if _split(member.name) is None or _is_foreign(member.name):
        records[b"path"] = member.name
    if len(member.target) > 100 or _is_foreign(member.target):
        records[b"linkpath"] = member.target
    if any(_is_binary(records[key]) for key in (b"path", b"linkpath") if key in records):
        records[b"hdrcharset"] = b"BINARY"  # else they would have to be UTF-8
    for key, value, digits in (("uid", member.uid, 7), ("gid", member.gid, 7), ("size", member.size, 11)):
        if value >= 8**digits:
            records[key.encode()] = b"%d" % value
    if not 0 <= member.mtime_ns < 8**11 * _NS:
        records[b"mtime"] = b"%d" % (member.mtime_ns // _NS)
    return records


def _is_foreign(name: bytes) -> bool:
    """Whether a name is text beyond ASCII, which a plain header has no encoding for."""
    return not name.isascii() and not _is_binary(name)


def _is_binary(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def _pax_record(key: bytes, value: bytes) -> bytes:
    """Return ``LENGTH KEY=VALUE`` and a newline; the length counts its own digits."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(b"%d" % length):
        length = len(body) + len(b"%d" % length)
    return b"%d" % length + body


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return a name as the fields prefix and name hold it, or None if they cannot."""
    if len(name) <= 100:
        return b"", name
    slash = name.rfind(b"/", 0, 156)
    if slash < 1 or not 0 < len(name) - slash - 1 <= 100:
        return None
    return name[:slash], name[slash + 1 :]


def _ustar(member: Member) -> bytes:
    prefix, name = _split(member.name) or (b"", member.name[:100])
    numbers = [
        member.mode,
        member.uid if member.uid < 8**7 else 0,
        member.gid if member.gid < 8**7 else 0,
        member.size if member.size < 8**11 else 0,
        member.mtime_ns // _NS if 0 <= member.mtime_ns < 8**11 * _NS else 0,
    ]
    texts = [b"%0*o" % (width, value) for width, value in zip((7, 7, 7, 11, 11), numbers, strict=True)]
    device = [b"%07o" % number for number in member.device]
    block = _FIELDS.pack(
        name, *texts, b" " * 8, member.type, member.target[:100], b"ustar\x0000", b"", b"", *device, prefix
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
