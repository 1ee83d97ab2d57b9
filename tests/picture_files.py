"""Picture files that no library here writes, byte by byte."""

import struct
import zlib

import numpy as np


def _chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def blank_png(path, width, height):
    """A white 1-bit PNG of any size in a few kilobytes."""
    row = b"\x00" + b"\xff" * (-(-width // 8))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    compress = zlib.compressobj()
    data = b"".join(
        compress.compress(row * min(1000, height - at)) for at in range(0, height, 1000)
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", data + compress.flush())
        + _chunk(b"IEND", b"")
    )
    return path


def deep_png(path, values_HW, significant_bits=None, orientation=None):
    """A 16-bit grey PNG of the values as they are; an sBIT chunk, and EXIF at its end, if asked for."""
    height, width = values_HW.shape
    rows = b"".join(b"\x00" + row.tobytes() for row in values_HW.astype(">u2"))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
        + (b"" if significant_bits is None else _chunk(b"sBIT", bytes([significant_bits])))
        + _chunk(b"IDAT", zlib.compress(rows))
        + (b"" if orientation is None else _chunk(b"eXIf", _exif(orientation)))
        + _chunk(b"IEND", b"")
    )
    return path


def _exif(orientation):
    return b"II*\x00" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def grey_tiff(path, values_HW, bits, **tags):
    """An uncompressed grey TIFF of ``bits`` a sample, packed; further tags by number: ``t274=6``."""
    height, width = values_HW.shape
    wide = values_HW.astype(">u2").view(np.uint8).reshape(height, width, 2)
    data = np.packbits(np.unpackbits(wide, axis=2)[:, :, 16 - bits :].reshape(height, -1), axis=1)
    if bits == 16:
        data = values_HW.astype("<u2")
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 277: 1, 278: height}
    entries |= {273: 0, 279: data.nbytes} | {int(name[1:]): value for name, value in tags.items()}
    start = 8 + 2 + 12 * len(entries) + 4
    entries[273] = start
    directory = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, entries[tag])
        for tag in sorted(entries)
    )
    head = b"II*\x00" + struct.pack("<IH", 8, len(entries))
    path.write_bytes(head + directory + bytes(4) + data.tobytes())
    return path
