"""Content as bytes: what a memo hashes for its keys, and what it stores.

Not pickle: reading a file must never run code. Each value is one letter for its type, sizes, and
little-endian bytes, so that different values have different bytes, and equal bytes are the same
value: `1`, `1.0`, `True` and `"1"` differ, and so do 0.0 and -0.0, and NaNs of different payload.

    N T F       None, True, False                   i  size, two's complement
    d c         float, complex                      s y  size, text in UTF-8 or bytes
    ( [ {       tuple, list, dict: size, items      a g  array, NumPy scalar
    t           tensor                              : dtype, dimensions, shape, numbers
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from suture import _tree
from suture._types import Array
from suture.errors import MethodError, shown

Piece: TypeAlias = bytes | memoryview

_SIZE, _FLOAT, _COMPLEX = struct.Struct("<Q"), struct.Struct("<d"), struct.Struct("<dd")

# How many dimensions, and the shape: NumPy has at most 64.
_SHAPES = [struct.Struct(f"<B{dims}Q") for dims in range(65)]

# Kinds of arrays that are plain bytes: bool, integers, floats, complex, times, fixed-length text.
_KINDS = "biufcmMSU"
# Not so: long doubles are another format on each kind of processor.
_LONG = "gG"

_TORCH_DTYPES = {str(d): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
_DTYPE_NAMES = {dtype: name for name, dtype in _TORCH_DTYPES.items()}


class Unknown(Exception):
    """A value that has no place in a key or a memo; callers say what to type.

    Attributes:
        kind: what it is, in words.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def encoded(value: Any) -> bytes:
    """Return a value as bytes.

    Raises:
        Unknown: for what is none of the types above, or contains such.
    """
    pieces: list[Piece] = []
    put(value, pieces)
    return b"".join(pieces)


def put(value: Any, pieces: list[Piece]) -> None:
    """Append the bytes of a value; large ones are views, not copies.

    Raises:
        Unknown: for what is none of the types above, or contains such.
    """
    kind = type(value)
    if kind in (Tensor, nn.Parameter):
        _put_tensor(value, pieces)
    elif kind is np.ndarray:
        _put_array(b"a", value, pieces)
    elif value is None:
        pieces.append(b"N")
    elif kind is bool:
        pieces.append(b"T" if value else b"F")
    elif kind is int:
        # The bit of the sign comes on top.
        _put_sized(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True), pieces)
    elif kind is float:
        pieces.append(b"d" + _FLOAT.pack(value))
    elif kind is complex:
        pieces.append(b"c" + _COMPLEX.pack(value.real, value.imag))
    elif kind is str:
        _put_sized(b"s", value.encode("utf-8", "surrogatepass"), pieces)
    elif kind is bytes:
        _put_sized(b"y", value, pieces)
    elif kind in (tuple, list):
        _put_all(b"(" if kind is tuple else b"[", len(value), value, pieces)
    elif kind is dict:
        _put_all(b"{", len(value), (part for item in value.items() for part in item), pieces)
    elif isinstance(value, np.generic) and kind is not np.void:
        _put_array(b"g", np.asarray(value), pieces)
    else:
        raise Unknown(_named(value))


def _named(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _put_sized(letter: bytes, content: bytes, pieces: list[Piece]) -> None:
    pieces.append(letter + _SIZE.pack(len(content)) + content)


def _put_all(letter: bytes, size: int, values: Iterable[Any], pieces: list[Piece]) -> None:
    pieces.append(letter + _SIZE.pack(size))
    for value in values:
        put(value, pieces)


def _put_header(letter: bytes, dtype: str, shape: Sequence[int], pieces: list[Piece]) -> None:
    pieces.append(letter + _dtype_bytes(dtype) + _SHAPES[len(shape)].pack(len(shape), *shape))


@functools.lru_cache(maxsize=256)
def _dtype_bytes(dtype: str) -> bytes:
    return bytes([len(dtype)]) + dtype.encode()


def _put_array(letter: bytes, array: Array, pieces: list[Piece]) -> None:
    if array.dtype.kind not in _KINDS or array.dtype.char in _LONG:
        raise Unknown(f"array of dtype {array.dtype}")
    _put_header(letter, array.dtype.str, array.shape, pieces)
    pieces.append(_bytes_of(array))


def _put_tensor(tensor: Tensor, pieces: list[Piece]) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise Unknown("quantized tensor" if tensor.is_quantized else "sparse tensor")
    _put_header(b"t", _DTYPE_NAMES[tensor.dtype], tensor.shape, pieces)
    try:
        array = tensor.numpy()
    except (RuntimeError, TypeError):  # not plain: on another device, bfloat16, …
        array = _as_array(tensor)
    pieces.append(_bytes_of(array))


def _as_array(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        array: Array = plain.numpy()
    except TypeError:  # NumPy has no bfloat16: integers of the same size stand for it
        array = _same_size(plain.contiguous())
    return array


def _same_size(tensor: Tensor) -> Array:
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    array: Array = tensor.view(sizes[tensor.element_size()]).numpy()
    return array


def _bytes_of(array: Array) -> Piece:
    """Return the numbers in C order, little-endian, bit for bit."""
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not _LITTLE):
        array = array.byteswap()
    # Copying a small array takes less time than to make a view of its bytes.
    if array.nbytes < 4096:
        return array.tobytes()
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


_LITTLE = np.dtype("<i2").isnative


def structure_bytes(structure: _tree.Structure) -> bytes:
    """Return the nesting of arguments as bytes.

    Raises:
        MethodError: for a registered type with a context that is not plain.
    """
    kind, context, children = _tree.opened(structure)
    try:
        head = encoded((_type_name(kind), _plain(context), len(children)))
    except Unknown as unknown:
        raise MethodError(
            f"A memo has no key for an argument of type {_type_name(kind)}: its pytree context "
            f"holds a value of type {unknown.kind}.",
            "The key holds the structure of the arguments, made of numbers, strings, None and "
            "types.",
            "Pass a `dict` with such keys, or leave out `memo=`.",
        ) from None
    return b"".join([head, *(structure_bytes(child) for child in children)])


def _type_name(kind: Any) -> str:
    return "" if kind is None else f"{kind.__module__}.{kind.__qualname__}"


def _plain(context: Any) -> Any:
    """Return a context with types in place of which stand their names."""
    if isinstance(context, type):
        return ("type", _type_name(context))
    if type(context) in (tuple, list):
        return (type(context).__name__, *(_plain(part) for part in context))
    if type(context) is dict:
        return ("dict", *((_plain(key), _plain(value)) for key, value in context.items()))
    return ("value", context)


def leaf_pieces(leaves: Sequence[Any], structure: _tree.Structure) -> list[Piece]:
    """Return the bytes of all leaves of the arguments (args, kwargs).

    Raises:
        MethodError: for a leaf that is no tensor, array, number, string or None, naming it.
    """
    pieces: list[Piece] = []
    for i, leaf in enumerate(leaves):
        try:
            put(leaf, pieces)
        except Unknown as unknown:
            raise MethodError(
                f"A memo has no key for {_place(structure, i)}, of type {unknown.kind}: "
                f"{shown(leaf)}.",
                "Its key is made of what the function is given: tensors, arrays, int, float, str, "
                "bool and None.",
                "Pass its numbers, for example as `np.asarray(…)`, or leave out `memo=`.",
            ) from None
    return pieces


def _place(structure: _tree.Structure, leaf: int) -> str:
    names = range(structure.num_leaves)
    path = _tree.paths(_tree.unflatten(list(names), structure))[leaf]
    for start, name in (("[0]", "args"), ("[1]", "kwargs")):
        if path.startswith(start):
            return f"`{name}{path.removeprefix(start)}`"
    return "the argument"


class Damaged(Exception):
    """Bytes that are no value."""


def decoded(content: bytes) -> Any:
    """Return the value of bytes; its arrays and tensors are its own and can be written to.

    Raises:
        Damaged: if they are none.
    """
    try:
        value, end = _take(content, 0)
    except (struct.error, IndexError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from error
    if end != len(content):
        raise Damaged("more than one value")
    return value


_CONSTANTS = {b"N": None, b"T": True, b"F": False}


def _take(content: bytes, start: int) -> tuple[Any, int]:
    """Return the value at a position, and where it ends."""
    letter, at = content[start : start + 1], start + 1
    if letter in (b"a", b"g", b"t"):
        return _take_array(letter, content, at)
    if letter in _CONSTANTS:
        return _CONSTANTS[letter], at
    if letter == b"d":
        return _FLOAT.unpack_from(content, at)[0], at + _FLOAT.size
    if letter == b"c":
        return complex(*_COMPLEX.unpack_from(content, at)), at + _COMPLEX.size
    (size,), at = _SIZE.unpack_from(content, at), at + _SIZE.size
    if letter in (b"(", b"["):
        items, at = _take_many(content, at, size)
        return (tuple(items) if letter == b"(" else items), at
    if letter == b"{":
        items, at = _take_many(content, at, 2 * size)
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return _take_sized(letter, content[at : at + size], size), at + size


def _take_sized(letter: bytes, part: bytes, size: int) -> Any:
    if len(part) != size:
        raise ValueError("cut off")
    if letter == b"s":
        return part.decode("utf-8", "surrogatepass")
    if letter == b"i":
        return int.from_bytes(part, "little", signed=True)
    if letter == b"y":
        return part
    raise ValueError(f"unknown type {letter!r}")


def _take_many(content: bytes, at: int, count: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(count):
        item, at = _take(content, at)
        items.append(item)
    return items, at


def _take_array(letter: bytes, content: bytes, at: int) -> tuple[Any, int]:
    name_end = at + 1 + content[at]
    name = content[at + 1 : name_end]
    dims, *shape = _SHAPES[content[name_end]].unpack_from(content, name_end)
    at, count = name_end + 1 + 8 * dims, math.prod(shape)
    if letter == b"t":
        dtype = _TORCH_DTYPES[name.decode()]
        end = at + count * dtype.itemsize
        return _tensor(content[at:end], dtype, shape), end
    kind, stored, is_swapped = _numpy_dtypes(name)
    end = at + count * kind.itemsize
    if end == at:
        array = np.zeros(shape, kind)
    else:
        array = np.frombuffer(content, stored, count, at)
        array = (array.byteswap().view(kind) if is_swapped else array.copy()).reshape(shape)
    return (array[()] if letter == b"g" else array), end


@functools.lru_cache(maxsize=256)
def _numpy_dtypes(name: bytes) -> tuple[np.dtype[Any], np.dtype[Any], bool]:
    """Return the type of an array, its type as stored, and whether these differ."""
    kind = np.dtype(name.decode())
    return kind, kind.newbyteorder("<"), kind.str[0] == ">"


def _tensor(content: bytes, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype, device="cpu")
    part = bytearray(content)
    if not _LITTLE:
        width = dtype.itemsize // (2 if dtype.is_complex else 1)
        part = bytearray(np.frombuffer(content, f"u{width}").byteswap().tobytes())
    return torch.frombuffer(part, dtype=dtype).reshape(shape)
