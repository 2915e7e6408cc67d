"""Variable-length text in attributes of HDF5 files, read without libhdf5.

It is kept in a heap of the file. Where that is damaged, libhdf5 1.14 runs for ever, takes
gigabytes or crashes the process, which no caller can prevent; so these few bytes are read here, as
the HDF5 File Format Specification describes them. Numbers are little-endian, addresses are
relative to the end of the user block.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

# Kinds of messages in an object header.
_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
# Of one message's header, and of one text's reference: length, address of its heap, number.
_MESSAGE, _REFERENCE = struct.Struct("<HHB3x"), struct.Struct("<IQI")
# Objects of a heap begin with their number and size.
_OBJECT = struct.Struct("<H6xQ")
# More of an object header or heap than any weights file has.
_MOST_BLOCKS, _MOST_HEAP = 100, 1 << 26
_NEWER = "a newer layout of HDF5 than h5py's default, which isn't read: write it with libver=None"


class TextError(ValueError):
    """The text is damaged, or stored in a way that isn't read here."""


class TextReader:
    """Reads texts of one file.

    Args:
        file: open for reading, binary.
        start: where the HDF5 part of the file begins.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start = file, start
        self._heaps: dict[int, dict[int, bytes]] = {}

    def read(self, header: int, name: str, count: int) -> list[bytes]:
        """The texts of an attribute.

        Args:
            header: address of the object header that has it, as `h5py.h5o.get_info` says.
            count: of texts.

        Raises:
            TextError: if it can't be read.
        """
        try:
            value = next(v for n, v in self._attributes(header) if n == name.encode())
            references = [_REFERENCE.unpack_from(value, i * 16) for i in range(count)]
            texts = [self._heap(heap)[number] if heap else b"" for _, heap, number in references]
        except (struct.error, StopIteration, KeyError) as error:
            raise TextError(f"attribute {name} is damaged, or stored in {_NEWER}") from error
        if any(length > len(text) for (length, *_), text in zip(references, texts, strict=True)):
            raise TextError(f"attribute {name} is damaged")
        return [text[:length] for (length, *_), text in zip(references, texts, strict=True)]

    def _bytes(self, address: int, size: int) -> bytes:
        if size > _MOST_HEAP or address > 1 << 60:
            raise TextError("its text is damaged")
        self._file.seek(self._start + address)
        return self._file.read(size)

    def _attributes(self, header: int) -> Iterator[tuple[bytes, bytes]]:
        """Names and values of all attributes in a header of version 1, which h5py writes."""
        version, size = struct.unpack("<B7xI4x", self._bytes(header, 16))
        if version != 1:
            raise TextError(f"its texts are stored in {_NEWER}")
        blocks = [(header + 16, size)]
        for address, size in blocks:  # grows in the loop
            block, at = self._bytes(address, size), 0
            while at + _MESSAGE.size <= len(block):
                kind, size, flags = _MESSAGE.unpack_from(block, at)
                body = block[at + 8 : at + 8 + size]
                if kind == _CONTINUATION and len(blocks) < _MOST_BLOCKS:
                    blocks.append(struct.unpack_from("<QQ", body))
                elif kind == _ATTRIBUTE and not flags & 2:  # 2: kept elsewhere
                    yield _split(body)
                at += 8 + size

    def _heap(self, address: int) -> dict[int, bytes]:
        """Objects of a heap by number."""
        if address not in self._heaps:
            signature, size = struct.unpack("<4s4xQ", self._bytes(address, 16))
            if signature != b"GCOL":
                raise TextError("its text is damaged")
            block, at = self._bytes(address, size), 16
            found = self._heaps[address] = {}
            while at + _OBJECT.size <= len(block):
                number, size = _OBJECT.unpack_from(block, at)
                if number == 0:  # the rest is free
                    break
                found[number] = block[at + 16 : at + 16 + size]
                at += 16 + _padded(size)
        return self._heaps[address]


def _split(body: bytes) -> tuple[bytes, bytes]:
    """Name and value of an attribute message: sizes, then name, type, space and value."""
    version, *sizes = struct.unpack_from("<BxHHH", body)
    if version == 1:
        sizes = [_padded(size) for size in sizes]
    at = 9 if version == 3 else 8
    return body[at : at + sizes[0]].split(b"\0")[0], body[at + sum(sizes) :]


def _padded(size: int) -> int:
    return -(-size // 8) * 8
