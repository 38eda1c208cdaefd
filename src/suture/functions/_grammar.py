"""What a formula may hold: its text is read, and built anew from the few things that are lawful.

Nothing of the text is passed on as it is: what this file does not build cannot be in the code. A
formula is a number; a comparison is none, and stands only where a condition is needed.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import itertools
import math
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import NamedTuple

from suture.errors import MethodError, shown
from suture.functions._kinds import ARITY, BOTH, CHOOSE, EITHER, POWER
from suture.functions._text import Text

# A formula of a thousand terms has about so many; reading and compiling it takes 0.1 s.
_LONGEST = 10_000
# Python's own parser allows 200 parentheses in one another. Reading takes 2 of its 1000 frames for
# each level, so that it works from within a program too.
_DEEPEST = 200

RESERVED = frozenset({*ARITY, "where", "pi"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)

_WORDS: dict[type[ast.AST], str] = {
    ast.Attribute: "an attribute",
    ast.NamedExpr: "an assignment",
    ast.Lambda: "a lambda",
    ast.JoinedStr: "text",
    ast.ListComp: "a loop",
    ast.SetComp: "a loop",
    ast.DictComp: "a loop",
    ast.GeneratorExp: "a loop",
    ast.Starred: "a starred argument",
    ast.Slice: "a slice",
}
_CONSTANTS = {str: "text", bytes: "text", complex: "a complex number"}


class Compiled(NamedTuple):
    """A formula that was read.

    Attributes:
        code: of a function of the names; it finds what it calls in its globals.
        used: which arguments are used, by position, and behind how many indices.
        has_condition: whether there is a condition: one side alone need not have the shape of the
            whole.
    """

    code: CodeType
    used: tuple[tuple[int, int], ...]
    has_condition: bool


def compiled(formula: str, names: Sequence[str]) -> Compiled:
    """Return a formula as code.

    Raises:
        MethodError: the formula holds what is not lawful, naming the column.
    """
    if len(formula) > _LONGEST:
        raise MethodError(
            f"`Expression({shown(formula)})` has {len(formula)} characters.",
            f"A formula has at most {_LONGEST}.",
            "Write a function instead of a string: `def f(x): …`.",
        )
    reader = _Reader(formula, names)
    arguments = [ast.arg(name) for name in names]
    try:
        whole = ast.Expression(_function(reader.whole(), arguments))
        code = compile(ast.fix_missing_locations(whole), "<Expression>", "eval")
    except MethodError:
        raise
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise reader.unreadable(error) from None
    function = next(part for part in code.co_consts if isinstance(part, CodeType))
    return Compiled(function, tuple(sorted(reader.used)), reader.has_condition)


def _function(body: ast.expr, arguments: Sequence[ast.arg] = ()) -> ast.Lambda:
    return ast.Lambda(
        ast.arguments(
            posonlyargs=[], args=[*arguments], kwonlyargs=[], kw_defaults=[], defaults=[]
        ),
        body,
    )


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(_load(name), [*arguments], [])


class _Reader:
    """Reads one formula.

    Attributes:
        used: the positions of the names that were met, and how many indices were behind each.
        has_condition: whether there is a condition.
    """

    def __init__(self, formula: str, names: Sequence[str]) -> None:
        self._formula, self._names = formula, names
        self._text = Text(formula)
        self._depth = self._indices = 0
        self._numbers = itertools.count()
        self.used: set[tuple[int, int]] = set()
        self.has_condition = False

    def whole(self) -> ast.expr:
        """Return the formula, built anew."""
        return self._number(ast.parse(self._text.parsed, "<Expression>", "eval").body)

    @contextlib.contextmanager
    def _deeper(self, node: ast.expr, levels: int = 1) -> Iterator[None]:
        """Count how deep a part is in the others."""
        if self._depth + levels > _DEEPEST:
            raise self._refusal(
                node,
                f"nested more than {_DEEPEST} deep",
                "That is as deep as it may be; each term of a sum is one deeper than the next.",
                "Put parentheses around the halves of a long sum: `(a + b) + (c + d)`.",
            )
        self._depth += levels
        yield
        self._depth -= levels

    def _number(self, node: ast.expr) -> ast.expr:
        """Return a part whose value is a number."""
        with self._deeper(node):
            return self._built(node)

    def _built(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name():
                return self._name(node)
            case ast.BinOp(left, ast.Pow(), right):
                return _call(POWER, self._number(left), self._number(right))
            case ast.BinOp(left, operator, right) if isinstance(operator, _OPERATORS):
                return ast.BinOp(self._number(left), operator, self._number(right))
            case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, operand):
                return ast.UnaryOp(sign, self._number(operand))
            case ast.IfExp(test, body, orelse):
                return self._condition(test, body, orelse)
            case ast.Call():
                return self._called(node)
            case ast.Subscript():
                return self._indexed(node)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(ast.Not()):
                raise self._refusal(
                    node,
                    "a comparison where a number is needed",
                    "A comparison is a condition, and a formula is a number.",
                    "Write the number: `1 if x > 0 else 0`.",
                )
        raise self._refusal(node, _WORDS.get(type(node), "not a part of a formula"))

    def _truth(self, node: ast.expr) -> ast.expr:
        """Return a part that is true or false."""
        match node:
            case ast.BoolOp(operator, values):
                name = BOTH if isinstance(operator, ast.And) else EITHER
                with self._deeper(node, len(values)):
                    return _joined(name, [self._truth(value) for value in values])
            case ast.UnaryOp(ast.Not(), operand):
                with self._deeper(node):
                    # Unlike `not`, it works for each element of an array.
                    return ast.BinOp(self._truth(operand), ast.BitXor(), ast.Constant(True))
            case ast.Compare(ops=ops) if all(isinstance(op, _COMPARISONS) for op in ops):
                with self._deeper(node, len(ops)):
                    return self._compared(node)
        raise self._refusal(
            node,
            "not a comparison",
            "A condition is made of `<`, `<=`, `>`, `>=`, `==`, `!=`, with `and`, `or`, `not`.",
            "Compare a number with zero: `1 if x != 0 else 2`.",
        )

    def _compared(self, node: ast.Compare) -> ast.expr:
        """Return `a < b < c` as two comparisons; the middle is computed once and has a name."""
        left, parts = self._number(node.left), []
        for i, (operator, operand) in enumerate(zip(node.ops, node.comparators, strict=True)):
            right = self._number(operand)
            if i == len(node.ops) - 1:
                parts.append(ast.Compare(left, [operator], [right]))
                break
            middle = f".{next(self._numbers)}"
            named = ast.NamedExpr(ast.Name(middle, ast.Store()), right)
            parts.append(ast.Compare(left, [operator], [named]))
            left = _load(middle)
        return _joined(BOTH, parts)

    def _condition(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> ast.expr:
        self.has_condition = True
        sides = [_function(self._number(side)) for side in (body, orelse)]
        return _call(CHOOSE, self._truth(test), *sides)

    def _constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            words = _CONSTANTS.get(type(node.value), "not a number")
            raise self._refusal(node, words)
        try:
            value = float(node.value)
        except OverflowError:
            value = math.inf
        if math.isinf(value):
            raise self._refusal(
                node,
                "too large",
                "Numbers are floating ones of 64 bits, up to 1.8e308.",
                "Write it in other units, as in `1e300`.",
            )
        return ast.Constant(value)

    def _name(self, node: ast.Name) -> ast.expr:
        if node.id in self._names:
            self.used.add((self._names.index(node.id), self._indices))
            return _load(node.id)
        if node.id == "pi":
            return ast.Constant(math.pi)
        if node.id in RESERVED:
            raise self._refusal(
                node,
                "a function without its arguments",
                "A formula is a number, and a function is none.",
                f"Call it: `{node.id}(x)`.",
            )
        raise self._refusal(
            node,
            "not one of the names",
            f"Those of this formula are {_listed(self._names)}.",
            f"List it too, in the place where it is passed: `Expression(…, {_quoted(self._names)}"
            f'"{node.id}")`.',
        )

    def _called(self, node: ast.Call) -> ast.expr:
        function = node.func
        if not isinstance(function, ast.Name) or function.id not in RESERVED - {"pi"}:
            if isinstance(function, ast.Name):
                raise self._not_a_function(node, function.id)
            self._number(function)  # what it is says more than that it is called
            raise self._refusal(node, "a call of something that is not a function")
        if node.keywords:
            raise self._refusal(node, "a call with a keyword")
        name = function.id
        self._check_count(node, 3 if name == "where" else ARITY[name])
        if name == "where":
            return self._condition(*node.args)
        return _call(name, *[self._number(argument) for argument in node.args])

    def _check_count(self, node: ast.Call, wanted: int | None) -> None:
        count = len(node.args)
        if count != wanted and (wanted is not None or count < 2):
            allowed = "two or more" if wanted is None else wanted
            many = "argument" if count == 1 else "arguments"
            raise self._refusal(
                node,
                f"a call with {count} {many}",
                f"It takes {allowed}.",
                "Write, for example, `sin(x)`, `atan2(y, x)`, `min(x, y)` or `where(x > 0, x, 0)`.",
            )

    def _indexed(self, node: ast.Subscript) -> ast.expr:
        value, index = node.value, node.slice
        negative = isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.USub)
        number = index.operand if isinstance(index, ast.UnaryOp) and negative else index
        if not (isinstance(number, ast.Constant) and type(number.value) is int):
            raise self._refusal(
                index,
                "not a constant index",
                "An index is a whole number, written as one.",
                "Write `w[0]`, `w[-1]` or, in two dimensions, `w[1][2]`.",
            )
        if not isinstance(value, ast.Name | ast.Subscript):
            raise self._refusal(value, "not a name, and has no elements")
        position = -number.value if negative else number.value
        self._indices += 1
        elements = self._number(value)
        self._indices -= 1
        return ast.Subscript(elements, ast.Constant(position), ast.Load())

    def _not_a_function(self, node: ast.Call, name: str) -> MethodError:
        near = difflib.get_close_matches(name, RESERVED - {"pi"}, 1, 0.5)
        fix = f"Write `{near[0]}`, or a" if near else "Write a"
        return self._refusal(
            node,
            "a call of something that is not a listed function",
            f"Those are {', '.join([*ARITY, 'where'])}.",
            f"{fix} function instead of a string: `def f(x): …`.",
        )

    def _refusal(self, node: ast.expr, is_what: str, why: str = "", fix: str = "") -> MethodError:
        return MethodError(
            f"`Expression({shown(self._formula)})` is not possible: {self._text.part(node)}, at "
            f"{self._text.place(node)}, is {is_what}.",
            why
            or "A formula holds numbers, listed names, listed functions, arithmetic, "
            "conditions and constant indices.",
            fix or "Write it with those, or write a function instead of a string: `def f(x): …`.",
        )

    def unreadable(self, error: BaseException) -> MethodError:
        """Return the error of a formula that Python cannot read."""
        where = ""
        if isinstance(error, SyntaxError) and error.offset:
            where = f", at {self._text.position(error.lineno or 1, error.offset)}"
        reason = getattr(error, "msg", None) or str(error) or "too deep"
        return MethodError(
            f"`Expression({shown(self._formula)})` cannot be read{where}: "
            f"{' '.join(reason.split()).rstrip('.?')}.",
            "A formula is written as in Python.",
            'Write, for example, `Expression("w * x**2", "x", "w")`.',
        )


def _joined(name: str, parts: Sequence[ast.expr]) -> ast.expr:
    """Return truths joined; each is computed only if it decides, as in Python."""
    first, *rest = parts
    return _call(name, first, _function(_joined(name, rest))) if rest else first


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _quoted(names: Sequence[str]) -> str:
    return "".join(f'"{name}", ' for name in names)
