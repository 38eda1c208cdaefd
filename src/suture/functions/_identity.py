"""What a program is, for a memo: its bytes, and those of the files that its words name."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from suture.functions._template import Template
from suture.functions.parse import AbstractRule


def of_words(program: str, words: Iterable[Template]) -> tuple[Any, ...]:
    """Return the words, and a digest of each that is a file."""
    texts = [program, *(word.text for word in words)]
    return tuple((text, _digest(text) if os.path.isfile(text) else b"") for text in texts)


def of_files(files: Mapping[str, Template | bytes], modes: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the contents of what is written before a run, and whether it can be run itself."""
    return tuple(
        (
            name,
            content if isinstance(content, bytes) else content.text,
            bool(modes.get(name, 0) & 0o100),
        )
        for name, content in files.items()
    )


def of_rules(rules: Mapping[str | None, AbstractRule]) -> tuple[Any, ...]:
    """Return the fields of the rules."""
    return tuple(
        (key, type(rule).__name__, *(_plain(value) for value in _fields(rule)))
        for key, rule in rules.items()
    )


def _fields(rule: AbstractRule) -> list[Any]:
    return [getattr(rule, field.name) for field in dataclasses.fields(rule)]


def _plain(value: Any) -> Any:
    return (value.pattern, value.flags) if isinstance(value, re.Pattern) else value


def _digest(path: str) -> bytes:
    found = os.stat(path)
    return _digest_of(path, found.st_ino, found.st_size, found.st_mtime_ns)


# Asked for each gradient: a file that looks as before is not read again.
@functools.lru_cache(maxsize=1024)
def _digest_of(path: str, *looks: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
