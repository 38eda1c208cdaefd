"""Where the parts of a formula stand in its string."""

from __future__ import annotations

import ast
import re

# Enough to recognize it; the rest of a line must stay readable.
_LONGEST = 40


class Text:
    """A formula as it was written.

    Attributes:
        parsed: what Python's parser is given: it refuses spaces in front.
    """

    def __init__(self, formula: str) -> None:
        self.parsed = formula.lstrip(" \t")
        self._before = len(formula) - len(self.parsed)

    def part(self, node: ast.expr) -> str:
        """Return what a node was read from, cut where it is long."""
        part = ast.get_source_segment(self.parsed, node) or ""
        text = " ".join(part.split()).replace("`", "'")
        return f"`{text if len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'}`"

    def place(self, node: ast.expr) -> str:
        """Say where a node begins."""
        # `str.splitlines` would also split where Python's parser does not.
        line = re.split("\r\n|\r|\n", self.parsed)[node.lineno - 1]
        # Python counts bytes, people count letters.
        return self.position(node.lineno, len(line.encode()[: node.col_offset].decode()) + 1)

    def position(self, line: int, column: int) -> str:
        """Say where a letter is; lines and columns are counted from 1."""
        if line == 1:
            column += self._before
        return f"column {column}" + (f" of line {line}" if "\n" in self.parsed else "")
