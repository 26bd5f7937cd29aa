"""The tar format, as layers use it: headers of 512 bytes, each followed by the file's bytes.

    struct posix_header {
        char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], chksum[8], typeflag,
             linkname[100], magic[6], version[2], uname[32], gname[32], devmajor[8], devminor[8],
             prefix[155], padding[12];
    };                                                          /* numbers are octal digits */

What does not fit is said before: by *pax* records ``LENGTH KEY=VALUE`` (POSIX) or by GNU's members ``L`` and
``K``.

Interface: `parse_header`, `parse_pax` and `amend` make a `Member` from bytes, `header` makes bytes from one.
All keep to what image layers need, and believe nothing. `tar_reader` goes through an archive with them.

Python's `tarfile` reads the same format; it takes several times as long for each member, and lets a header
ask for as much memory as it likes.

See: pax in POSIX.1-2017, tar(5); "Extended attributes" in OCI image-spec, layer.md.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from cnlab.containers.images.paths import shown
from cnlab.errors import InvalidImage

BLOCK = 512
END = bytes(2 * BLOCK)
FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = (bytes([c]) for c in b"0123456")
SPARSE = b"S"
PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK = b"x", b"g", b"L", b"K"
XATTR = b"SCHILY.xattr."
_FILES = (FILE, SPARSE)
_HEADER_ONLY = (LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO)
FILES_OF_AN_IMAGE = (*_FILES, *_HEADER_ONLY)

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_PLAIN_NUMBERS = re.compile(rb"([0-7]{7})[ \0]" * 3 + rb"([0-7]{11})[ \0]" * 2 + rb"([0-7]{6})[ \0]{2}")
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


def parse_header(block: bytes) -> Member:
    """Read one header as it stands."""
    name, *numbers, kind, target, magic, _, _, major, minor, prefix = _FIELDS.unpack(block)
    plain = _PLAIN_NUMBERS.fullmatch(block, 100, 156)
    # int() of octal digits is what costs least, and nearly all headers hold nothing else
    values = [int(text, 8) for text in plain.groups()] if plain else list(map(number, numbers))
    mode, uid, gid, size, mtime, checksum = values
    if checksum != sum(block) - sum(numbers[-1]) + 8 * ord(" "):
        raise InvalidImage("layer: no tar archive, or a damaged one: the checksum of a header is wrong")
    name = name.partition(b"\0")[0]
    if prefix[0] and magic == b"ustar\x0000":  # GNU's magic has blanks, and other things in that place
        name = prefix.partition(b"\0")[0] + b"/" + name
    if kind in (b"\0", b"7"):
        kind = DIRECTORY if name.endswith(b"/") else FILE
    if size < 0:
        raise InvalidImage(f"layer: {shown(name)}: a size of {size} bytes")
    if kind in _HEADER_ONLY:
        size = 0  # nothing follows, although some tools write the size of what a link points at
    device = (number(major), number(minor)) if kind in (CHAR, BLOCK_DEVICE) else (0, 0)
    target = target.partition(b"\0")[0]
    return Member(name, kind, mode & 0o7777, uid, gid, size, mtime * _NS, target, device, {}, size)


def number(text: bytes) -> int:
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
        raise InvalidImage(f"layer: no tar archive, or a damaged one: {text!r} is no octal number")
    return int(octal, 8)


def decimal(text: bytes) -> int:
    """Read decimal digits, no more than a 64-bit number has for sure."""
    if not text.isdigit() or len(text) > 18:
        raise InvalidImage(f"layer: {text[:40]!r} in a pax header is no number")
    return int(text)


def parse_pax(text: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """Read pax records, and beside them the pairs that GNU's sparse format 0.0 says in many of one key."""
    records: dict[bytes, bytes] = {}
    pairs: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        digits, blank, _ = text[at : at + 12].partition(b" ")
        end = at + decimal(digits) if blank else 0
        key, equals, value = text[at + len(digits) + 1 : end].partition(b"=")
        is_text = b"\0" not in key and (key.startswith(XATTR) or b"\0" not in value)
        if not equals or not value.endswith(b"\n") or end > len(text) or not is_text:
            raise InvalidImage(f"layer: malformed pax record {text[at : at + 40]!r}")
        records[key] = value[:-1]
        if key == b"GNU.sparse.numbytes":
            pairs.append((decimal(records.get(b"GNU.sparse.offset", b"")), decimal(value[:-1])))
        at = end
    return records, pairs


def amend(member: Member, records: Mapping[bytes, bytes]) -> None:
    """Let pax records take the place of a header's fields."""
    for key, value in records.items():
        if key == b"path":
            member.name = value
        elif key == b"linkpath":
            member.target = value
        elif key == b"uid":
            member.uid = decimal(value)
        elif key == b"gid":
            member.gid = decimal(value)
        elif key == b"mtime":
            member.mtime_ns = _time_ns(value)
        elif key == b"size" and member.type in _FILES:
            member.size = member.stored = decimal(value)
        elif key.startswith(XATTR):
            member.xattrs[key.removeprefix(XATTR)] = value


def _time_ns(text: bytes) -> int:
    """Read seconds with a fraction, such as ``-12.5``."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    value = decimal(whole) * _NS + decimal(fraction[:9].ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def header(member: Member) -> bytes:
    """Return the blocks that announce a member: one, or three and more where pax records are needed."""
    records = _records_for(member)
    blocks = b""
    if records:
        text = b"".join(_pax_record(key, value) for key, value in sorted(records.items()))
        pax = Member(b"PaxHeaders/" + member.name[:80].strip(b"/"), PAX, 0o644, 0, 0, len(text), 0)
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
