"""ELF files as bytes: a header, two segments, a dynamic section and its strings, and nothing that could run."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["ADDRESS", "elf_bytes"]

ADDRESS = 0x40000
"""Where the file says that it is loaded: an address is not an offset."""


def elf_bytes(
    *,
    soname: str | None = None,
    needed: Sequence[str] = (),
    runpath: str | None = None,
    rpath: str | None = None,
    bits: int = 64,
    little: bool = True,
    dynamic: bool = True,
) -> bytes:
    """Return an ELF shared object for x86, or for a big-endian machine PowerPC (elf(5)).

    Args:
        soname: DT_SONAME.
        needed: DT_NEEDED, in this order.
        runpath: DT_RUNPATH.
        rpath: DT_RPATH.
        bits: 32 or 64.
        little: The byte order.
        dynamic: Whether it has a dynamic section; a static program has none.
    """
    order, wide = ("<" if little else ">"), bits == 64
    machine = (62 if wide else 3) if little else (21 if wide else 20)
    header = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    segment = struct.Struct(order + ("IIQQQQQQ" if wide else "IIIIIIII"))
    word = "Q" if wide else "I"
    strings = bytearray(b"\0")
    entries: list[tuple[int, int]] = []
    texts = [(1, name) for name in needed]
    texts += [(tag, text) for tag, text in ((14, soname), (15, rpath), (29, runpath)) if text is not None]
    for tag, text in texts:
        entries.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    table = 16 + header.size
    start = table + 2 * segment.size
    strings += bytes(-(start + len(strings)) % 8)
    entries += [(5, ADDRESS + start), (10, len(strings)), (0, 0)]
    section = b"".join(struct.pack(f"{order}{word}{word}", *entry) for entry in entries)
    end = start + len(strings)
    size = end + len(section)

    def program_header(kind: int, offset: int, length: int) -> bytes:
        address = ADDRESS + offset
        if wide:
            return segment.pack(kind, 4, offset, address, address, length, length, 8)
        return segment.pack(kind, offset, address, address, length, length, 4, 8)

    fields = (3, machine, 1, 0, table, 0, 0, 16 + header.size, segment.size, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2, 1]) + bytes(9),
            header.pack(*fields),
            program_header(1, 0, size),
            program_header(2 if dynamic else 4, end, len(section)),  # PT_DYNAMIC, or a PT_NOTE in its place
            bytes(strings),
            section,
        ]
    )
