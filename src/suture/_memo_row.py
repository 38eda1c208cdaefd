"""A row of a memo: a value with all that tells whether it is whole."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from suture._content import Damaged, Unknown, decoded, encoded
from suture.errors import BadResult

# "SUT" and the number of the format of values; then the size of the content, the content, and a
# CRC over the key and all of it: a value under the key of another one is damage, too.
_HEADER, _CRC = struct.Struct("<4sQ"), struct.Struct("<I")
_MAGIC = b"SUT\x01"


def packed(key: bytes, value: Any) -> bytes:
    """Return the row of a value.

    Raises:
        BadResult: if it holds anything but tensors, arrays, numbers, strings and None, in
            tuples, lists and dicts.
    """
    try:
        content = encoded(value)
    except Unknown as unknown:
        raise BadResult(
            f"A memo cannot keep a result with a value of type {unknown.kind}.",
            "It keeps tensors, arrays, numbers, strings and None, in tuples, lists and dicts, and "
            "gives back what it was given.",
            "Return a `dict` or a `tuple` of arrays, or leave out `memo=`.",
        ) from None
    head = _HEADER.pack(_MAGIC, len(content)) + content
    return head + _CRC.pack(zlib.crc32(head, zlib.crc32(key)))


def unpacked(key: bytes, row: Any) -> Any:
    """Return the value in a row.

    Raises:
        Damaged: if the row is not what was written.
    """
    if type(row) is not bytes or len(row) < _HEADER.size + _CRC.size:
        raise Damaged("cut off")
    magic, size = _HEADER.unpack_from(row)
    if magic != _MAGIC or size != len(row) - _HEADER.size - _CRC.size:
        raise Damaged("no header")
    if (
        zlib.crc32(memoryview(row)[: -_CRC.size], zlib.crc32(key))
        != _CRC.unpack(row[-_CRC.size :])[0]
    ):
        raise Damaged("wrong check sum")
    return decoded(row[_HEADER.size : -_CRC.size])
