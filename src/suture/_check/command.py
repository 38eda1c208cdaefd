"""`suture check`: from words on a command line to a function and its arguments."""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suture._check import check, picture
from suture._differentiable import differentiable
from suture._module import Differentiable
from suture._types import Interface
from suture.errors import MethodError, shown


def run(
    target: str,
    args: Sequence[str],
    batch_dims: str | None,
    interface: Interface | None,
    budget: int | None,
    plot: Path | None,
) -> bool:
    """Check a function, print the report, save the figure, and say whether nothing is wrong.

    Args:
        target: `module:function`.
        args: the arguments, as `arguments` reads them.
        batch_dims: a Python literal, None to find out.
        interface: what the function receives, None for tensors, or arrays if those fail.
        budget: about how many evaluations to spend.
        plot: where to save the figure, None for nowhere.

    Raises:
        MethodError: if the words make no sense, or the file has no format of a figure.
        MissingExtraError: if a figure is asked for and matplotlib is absent.
    """
    if plot is not None:
        picture.check_path(plot)
    f = function(target)
    values = arguments(args)
    options: dict[str, Any] = {}
    if batch_dims is not None:
        options["batch_dims"] = _literal(batch_dims, "--batch-dims")
    if interface is not None:
        options["interface"] = interface
    if options and not isinstance(f, Differentiable):
        f = differentiable(f, **options)
    report = check(f, *values, budget=budget)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        report.plot().savefig(plot, dpi=150)
    return report.ok


def function(target: str) -> Callable[..., Any]:
    """Return what `module:function` names; modules are also looked for in this folder.

    Raises:
        MethodError: if there is no such thing.
    """
    module_name, colon, path = target.partition(":")
    why = "A function is named by its module and its place in there."
    fix = "Write for example `suture check mymodule:simulate --args '[1.0, 2.0]'`."
    if not (module_name and colon and path):
        raise MethodError(f"`{target}` does not name a function.", why, fix)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        likely = _likely(target) or fix
        raise MethodError(f"`{target}` cannot be imported: {error}", why, likely) from error
    if not callable(found):
        raise MethodError(f"`{target}` is {shown(found)}, which cannot be called.", why, fix)
    called: Callable[..., Any] = found
    return called


def _likely(target: str) -> str:
    """Return what was probably meant by a target that cannot be imported, "" without a guess."""
    module_name, _, path = target.partition(":")
    if module_name.endswith(".py"):
        module = module_name.removesuffix(".py").replace("/", ".").lstrip(".")
        return f"Write `suture check {module}:{path}`, without `.py`."
    known = vars(sys.modules[module_name]) if module_name in sys.modules else ()
    near = difflib.get_close_matches(path, known, n=1)
    return f"Write `suture check {module_name}:{near[0]}`." if near else ""


def arguments(words: Sequence[str]) -> tuple[Any, ...]:
    """Return the arguments that words say: each is one argument, a tuple is several.

    A word is the path of a `.pt`, `.npy` or `.json` file, or a Python literal. Lists of numbers
    and numbers with a point become float64 tensors.

    Example:
        >>> arguments(["([1, 2], 3)", "{'mode': 'fast'}"])
        (tensor([1., 2.], dtype=torch.float64), 3, {'mode': 'fast'})
    """
    values: list[Any] = []
    for word in words:
        value = _read(word)
        values += value if isinstance(value, tuple) else [value]
    return tuple(_tensors(value) for value in values)


def _read(word: str) -> Any:
    readers: dict[str, Callable[[str], Any]] = {
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".npy": lambda path: torch.from_numpy(np.load(path)),
        ".json": lambda path: json.loads(Path(path).read_text(encoding="utf-8")),
    }
    reader = readers.get(Path(word).suffix)
    if reader is None:
        return _literal(word, "--args")
    try:
        return reader(word)
    except Exception as error:
        raise MethodError(
            f"`--args {word}` cannot be read: {type(error).__name__}: {error}".splitlines()[0],
            "A file of arguments holds tensors (`.pt`), an array (`.npy`) or numbers (`.json`).",
            "Save it with `torch.save(x, 'x.pt')` or `numpy.save('x.npy', x)`.",
        ) from error


def _literal(word: str, option: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, TypeError) as error:
        example = "'(0, None)'" if option == "--batch-dims" else "'[1.0, 2.0]'"
        raise MethodError(
            f"`{option} {word}` is no Python literal.",
            "A value is made of numbers, strings, lists, tuples and dicts.",
            f"Write for example `{option} {example}`, in quotes.",
        ) from error


def _tensors(value: Any) -> Any:
    """Turn lists of numbers and floats into float64 tensors."""
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, dict):
        return {key: _tensors(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(_tensors(entry) for entry in value)
    if isinstance(value, list):
        try:
            return torch.tensor(value, dtype=torch.float64)
        except (ValueError, TypeError):  # strings among them, or of unlike lengths
            return [_tensors(entry) for entry in value]
    return value
