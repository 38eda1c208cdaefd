"""What functions that are written in a string share: their names, and how they are called."""

from __future__ import annotations

import abc
import inspect
import keyword
from typing import Any
from unicodedata import normalize

from suture.errors import MethodError, shown


class AbstractFormula(abc.ABC):
    """A string with named arguments, called as a function of them.

    Two of a kind with the same string and the same names are equal. It is pickled as its string
    and its names, and read anew where it arrives.

    Args:
        formula: the string.
        *names: the arguments, in the order in which they are passed.

    Raises:
        MethodError: the string or a name cannot be used.
    """

    def __init__(self, formula: str, *names: str) -> None:
        # Python reads all names in this form: `µ` of a keyboard and of the Greek alphabet are one.
        self._formula = formula
        self._names = tuple(normalize("NFKC", n) if isinstance(n, str) else n for n in names)
        self._check()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        # What `inspect.signature` reads: messages call the arguments by their names.
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])

    @property
    def formula(self) -> str:
        """The string."""
        return self._formula

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments, in their order."""
        return self._names

    @abc.abstractmethod
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value at some arguments."""

    @classmethod
    def _reserved(cls) -> frozenset[str]:
        """Return the names that mean something already."""
        return frozenset()

    def _check(self) -> None:
        kind = type(self).__name__
        if not isinstance(self.formula, str):
            raise MethodError(
                f"`{kind}({shown(self.formula)})` is not possible.",
                "The first argument is a string, and the names of its variables follow.",
                f'Write, for example, `{kind}("w * x**2", "x", "w")`.',
            )
        for i, name in enumerate(self.names):
            if not _is_name(name) or name in self._reserved() or name in self.names[:i]:
                raise MethodError(
                    f"`{kind}({shown(self.formula)})` cannot have a variable {shown(name)}.",
                    "A variable is a name that begins with a letter, is listed once, and means "
                    "nothing else in Python or in a formula.",
                    f'List them one by one: `{kind}("w * x**2", "x", "w")`.',
                )

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return the arguments in their order.

        Raises:
            TypeError: as for every Python function, if one is missing or unknown.
        """
        rest = self.names[len(args) :]
        if len(args) + len(kwargs) != len(self.names) or not all(name in kwargs for name in rest):
            return self.__signature__.bind(*args, **kwargs).args
        return (*args, *[kwargs[name] for name in rest])

    def __repr__(self) -> str:
        """Return what makes it."""
        return f"{type(self).__name__}({', '.join(map(repr, (self.formula, *self.names)))})"

    def __eq__(self, other: object) -> bool:
        """Whether the other is of the same kind, with the same string and names."""
        if type(other) is not type(self):
            return NotImplemented
        return (self.formula, self.names) == (other.formula, other.names)

    def __hash__(self) -> int:
        return hash((type(self), self.formula, self.names))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.formula, *self.names)


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.isidentifier()
        and not keyword.iskeyword(name)
        and not name.startswith("_")
    )
