"""Files inside a Qt resource bundle (.rcc): a tree of big-endian records, names in UTF-16, data behind their lengths.

Format: what Qt's `rcc --binary` writes (versions 1 to 3), read without Qt. Data compressed by zlib is unpacked.
"""

import struct
import zlib
from collections.abc import Iterator

ZLIB, FOLDER = 1, 2


def entries(bundle: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file; entries compressed otherwise are left out.

    Raises:
        ValueError: no bundle.
    """
    if bundle[:4] != b"qres":
        raise ValueError("not a Qt resource bundle: it does not begin with 'qres'")
    version, tree, data, names = struct.unpack_from(">4I", bundle, 4)
    record = 14 if version == 1 else 22

    def walk(number: int, parent: str) -> Iterator[tuple[str, bytes]]:
        at = tree + number * record
        name_at, flags = struct.unpack_from(">IH", bundle, at)
        (length,) = struct.unpack_from(">H", bundle, names + name_at)
        start = names + name_at + 6  # behind the length and a hash
        path = f"{parent}/{bundle[start : start + 2 * length].decode('utf-16-be')}" if length else parent
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", bundle, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        (offset,) = struct.unpack_from(">I", bundle, at + 10)
        (size,) = struct.unpack_from(">I", bundle, data + offset)
        content = bundle[data + offset + 4 : data + offset + 4 + size]
        if flags & ZLIB:
            content = zlib.decompress(content[4:])  # behind the unpacked size
        if not flags & ~(ZLIB | FOLDER):
            yield path, content

    yield from walk(0, "")
