"""Lets a program that was built for glibc 2.38 start where glibc is a little older.

Programs built with newer headers ask for `__isoc23_strtol` and its kin of GLIBC_2.38 in place of `strtol`, and differ
from it only in that they read binary numbers (0b1). Here these undefined symbols get their older names, and the need
for version GLIBC_2.38 becomes one for GLIBC_2.2.5, in place and with no byte moved (elf(5), "Symbol Versions"; amd64).
"""

import struct
from pathlib import Path

NEEDS, HAS = b"GLIBC_2.38", b"GLIBC_2.2.5"
_PREFIX = b"__isoc23_"
_DYNAMIC_SYMBOLS, _NEEDED_VERSIONS, _VERSION_OF_SYMBOL = 11, 0x6FFFFFFE, 0x6FFFFFFF  # sh_type


class ElfError(RuntimeError):
    """The program needs more of glibc 2.38 than this knows to replace."""


def system_v_hash(name: bytes) -> int:
    """The hash of a version's name, as the dynamic linker compares it."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


def make_startable(path: Path) -> None:
    """Rewrite a program. Raises ElfError."""
    data = bytearray(path.read_bytes())
    if data[:6] != b"\x7fELF\x02\x01":
        raise ElfError(f"{path} is no 64-bit little-endian ELF file")
    (table,), (count,) = struct.unpack_from("<Q", data, 0x28), struct.unpack_from("<H", data, 0x3C)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * number) for number in range(count)]
    by_type = {section[1]: section for section in sections}
    symbols, needed, version_of = (by_type[kind] for kind in (_DYNAMIC_SYMBOLS, _NEEDED_VERSIONS, _VERSION_OF_SYMBOL))
    strings = sections[symbols[6]][4]

    def text(offset: int) -> bytes:
        return bytes(data[strings + offset : data.index(0, strings + offset)])

    old_name = data.index(b"\0" + HAS + b"\0", strings) + 1 - strings
    versions: dict[int, int] = {}  # index → where it is described
    place = needed[4]
    while True:
        _, entries, _, first, following = struct.unpack_from("<HHIII", data, place)
        at = place + first
        for _ in range(entries):
            _, _, index, name, after = struct.unpack_from("<IHHII", data, at)
            if text(name) == NEEDS:
                versions[index] = at
            at += after
        if not following:
            break
        place += following
    for number in range(symbols[5] // 24):
        (version,) = struct.unpack_from("<H", data, version_of[4] + 2 * number)
        if version & 0x7FFF in versions:
            at = symbols[4] + 24 * number
            (name,) = struct.unpack_from("<I", data, at)
            if not text(name).startswith(_PREFIX):
                raise ElfError(f"{path} needs {text(name).decode()} of {NEEDS.decode()}")
            struct.pack_into("<I", data, at, name + len(_PREFIX))
    for at in versions.values():
        struct.pack_into("<I", data, at, system_v_hash(HAS))
        struct.pack_into("<I", data, at + 8, old_name)
    path.write_bytes(data)
