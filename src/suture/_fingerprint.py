"""The fingerprint of a function: when it changes, nothing that a memo holds is used any more.

It covers the code of the function and of all functions of the user's that it reaches by global
name, closure, default or `partial`; the plain constants that it reaches in the same ways; and
libraries and the user's modules that it names, by version or by the bytes of their file. What
cannot be judged is refused, never left out: `version=` is then the user's word for all of it.

Not seen: what modules import themselves, what code reaches through attributes of a module, and
files that the function reads.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from suture import _holdings
from suture._content import encoded
from suture.errors import MethodError, shown

# Two functions share a digest of 32 bytes with a probability of about 2⁻²⁵⁶ for each pair.
_DIGEST = 32

# They cannot change behind the fingerprint's back. Lists, dicts and arrays can.
_PLAIN = (type(None), bool, int, float, complex, str, bytes)

_INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))


def fingerprint(fn: Callable[..., Any], name: str, version: str | int | None = None) -> bytes:
    """Return the digest of a function's code, or of its name and version.

    Names can be bound anew, so this is to be asked again for each gradient: it takes some tens of
    microseconds.

    Args:
        fn: the black box.
        name: its name. With a version, it and the version stand for the function.
        version: the user's word for everything that the results depend on.

    Raises:
        MethodError: without a version, if the function reaches something that can change
            unseen; if the version is neither a string nor an integer.

    Example:
        >>> from suture._fingerprint import fingerprint
        >>> f, g = (lambda x: x + 1), (lambda x: x + 2)
        >>> fingerprint(f, "f") == fingerprint(g, "f")
        False
        >>> fingerprint(f, "f", version="1") == fingerprint(g, "f", version="1")
        True
    """
    if version is None:
        content = ("code", *_Reader(name).read(fn, "itself"))
    elif type(version) in (str, int):
        content = ("version", name, version)
    else:
        raise MethodError(
            f"`version={shown(version)}` of `{name}` is neither a string nor an integer.",
            "It is a part of the memo's keys, and stands for all that the results depend on.",
            'Write, for example, `version="2"`, and another one whenever the results change.',
        )
    return hashlib.blake2b(encoded(content), digest_size=_DIGEST).digest()


class _Reader:
    """Reads one black box; what it has met already is a number, for functions may be recursive."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.met: dict[int, int] = {}

    def read(self, held: Any, place: str) -> tuple[Any, ...]:
        """Return what stands for an object in the fingerprint: only plain values, in tuples.

        Raises:
            MethodError: if nothing does.
        """
        if type(held) in _PLAIN:
            return ("plain", held)
        if held is Ellipsis or isinstance(held, torch.dtype | np.dtype):
            return ("named", repr(held))
        if type(held) in (tuple, frozenset):
            return self._several(held, place)
        if isinstance(held, ModuleType):
            return ("module", *_module(held))
        if (library := _library(held)) is not None:
            return ("library", *library)
        if id(held) in self.met:
            return ("met", self.met[id(held)])
        self.met[id(held)] = len(self.met)
        if isinstance(held, FunctionType):
            return self._function(held, place)
        if type(held) is functools.partial:
            return (
                "partial",
                self.read(held.func, f"{place}, in its `partial`"),
                self._several(held.args, f"{place}, in its `partial`"),
                self._named(held.keywords, f"{place}, as `%s` of its `partial`"),
            )
        # Adapters of `suture.functions` say themselves what they are made of.
        if (content := getattr(type(held), "__suture_content__", None)) is not None:
            parts = self._several(content(held), place)
            return ("adapter", type(held).__name__, parts, *_computing())
        raise self._refusal(held, place)

    def _several(self, held: tuple[Any, ...] | frozenset[Any], place: str) -> tuple[Any, ...]:
        parts = [self.read(part, place) for part in held]
        if type(held) is frozenset:  # its order differs from process to process
            parts.sort(key=encoded)
        return (type(held).__name__, *parts)

    def _named(self, held: dict[str, Any], place: str) -> tuple[Any, ...]:
        return tuple((key, self.read(value, place % key)) for key, value in held.items())

    def _function(self, fn: FunctionType, place: str) -> tuple[Any, ...]:
        within = "" if place == "itself" else f"{place}, "
        return (
            "function",
            # The same bytes mean something else in another version of Python.
            importlib.util.MAGIC_NUMBER,
            self._code(fn.__code__),
            self._named(_defaults(fn), f"{within}the default of `%s`"),
            self._named(_cells(fn), f"{within}`%s` in its closure"),
            self._named(_globals(fn), f"{within}the global `%s`"),
            self._named(fn.__dict__, f"{within}its attribute `%s`"),
            self._imports(fn.__code__),
        )

    def _code(self, code: CodeType) -> tuple[Any, ...]:
        """Return what the code does, not where it stands."""
        constants = tuple(
            self._code(part) if isinstance(part, CodeType) else self.read(part, "a constant")
            for part in code.co_consts
        )
        return (
            code.co_code,
            code.co_exceptiontable,
            constants,
            (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        )

    def _imports(self, code: CodeType) -> tuple[Any, ...]:
        found = []
        for name in _holdings.imported_names(code):
            imported = _imported(name)
            if imported is None:
                raise self._refusal(name, f"its `import {name}`")
            found.append((name, *imported))
        return tuple(found)

    def _refusal(self, held: Any, place: str) -> MethodError:
        kind = type(held).__qualname__
        what = f"`{self.name}` is" if place == "itself" else f"`{self.name}` holds, as {place},"
        return MethodError(
            f"{what} an object of type {kind}, which has no fingerprint.",
            "A memo must know when the function changes: it looks at code, at constants, and at "
            "libraries, not into objects, arrays and modules, which can change unseen.",
            'Say it yourself: `version="1"`, and another version whenever the results change.',
        )


def _computing() -> tuple[str, ...]:
    """Return what the results of an adapter depend on beside what it is made of."""
    versions = (np.__version__, str(torch.__version__), _distribution("suture"))
    return (platform.python_version(), *versions)


def _defaults(fn: FunctionType) -> dict[str, Any]:
    """Return the defaults of a function by the names of the arguments."""
    values = fn.__defaults__ or ()
    names = fn.__code__.co_varnames[: fn.__code__.co_argcount][-len(values) :] if values else ()
    return dict(zip(names, values, strict=True)) | (fn.__kwdefaults__ or {})


def _cells(fn: FunctionType) -> dict[str, Any]:
    """Return what a function closes over; a name that is not bound yet is left out."""
    found = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _globals(fn: FunctionType) -> dict[str, Any]:
    """Return the globals that a function names, in the order of their names, no builtins."""
    names = sorted(_holdings.global_names(fn.__code__))
    return {name: fn.__globals__[name] for name in names if name in fn.__globals__}


def _module(module: ModuleType) -> tuple[Any, ...]:
    """Return name and version of a library, name and bytes of a user's module."""
    name, file = module.__name__, getattr(module, "__file__", None)
    version = _version(name, sys.modules.get(name.partition(".")[0]))
    return (name, version if version is not None else _file(file) if file else "")


# A module that is loaded stays what it is, whatever becomes of its file.
@functools.lru_cache(maxsize=1024)
def _file(file: str) -> bytes:
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=_DIGEST).digest()


@functools.lru_cache(maxsize=1024)
def _imported(name: str) -> tuple[Any, ...] | None:
    """Return what stands for a module that is imported in the body, loaded yet or not."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return (platform.python_version(),)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return (_file(spec.origin), _distribution(name))


def _distribution(name: str) -> str:
    try:
        return importlib.metadata.version(name.partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return ""


def _library(held: Any) -> tuple[Any, ...] | None:
    """Return where a function or class of a library is found, and in which version."""
    if isinstance(held, np.ufunc):
        places = [("numpy", held.__name__), ("scipy.special", held.__name__)]
    elif isinstance(name := getattr(held, "__qualname__", None), str):
        # torch's functions of C have no module.
        name = name.removeprefix("_VariableFunctionsClass.")
        places = [(held.__module__ or "torch", name)]
    else:
        return None
    for module, name in places:
        version = _version(module, sys.modules.get(module.partition(".")[0]))
        if version is not None and _found(module, name) is held:
            return (module, name, version)
    return None


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _version(module: str, top: ModuleType | None) -> str | None:
    """Return the version of the library that a module belongs to, None for a user's module."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return platform.python_version()
    version, file = getattr(top, "__version__", None), getattr(top, "__file__", None)
    if not isinstance(version, str) or file is None:
        return None
    # torch's is a subclass of str.
    return "".join(version) if _is_installed(file) else None


@functools.lru_cache(maxsize=1024)
def _is_installed(file: str) -> bool:
    return any(folder in Path(file).parents for folder in _INSTALLED)
