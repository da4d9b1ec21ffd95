"""Arithmetic on names, read from text: derived parameters, objectives, constraints. Text is parsed, never run as code.

Allowed are numbers, names, `+ - * / **`, parentheses, `pi`, the functions below, and the places of a field, `pk[3]` or
`pk[-1]` from the end. Whatever else Python knows, attributes and calls of anything else among it, is refused before a
value is met. An expression is a function of float64 tensors and carries their gradients; where Python would raise or
leave the real numbers it gives infinity or NaN, as IEEE numbers do.
"""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from keyword import iskeyword

import torch
from torch import Tensor

from emulate.errors import InputError, nearest, shown

Values = Mapping[str, Tensor]

LONGEST, DEEPEST, POWER = 1000, 40, 64.0  # characters; levels of nesting; size of an exponent that is a number
PLAIN = {"abs": torch.abs, "atan": torch.atan, "cos": torch.cos, "exp": torch.exp, "log": torch.log, "log10": torch.log10,
         "sin": torch.sin, "sqrt": torch.sqrt, "tan": torch.tan, "tanh": torch.tanh}  # fmt: skip
OVER = {
    "max": lambda x: x.amax(-1),
    "mean": lambda x: x.mean(-1),
    "min": lambda x: x.amin(-1),
    "sum": lambda x: x.sum(-1),
}
PAIRS = {"max": torch.maximum, "min": torch.minimum}
FUNCTIONS = tuple(sorted((*PLAIN, *OVER)))
_SIGNS = {ast.Add: torch.add, ast.Sub: torch.sub, ast.Mult: torch.mul, ast.Div: torch.div, ast.Pow: torch.pow}
_ALLOWED = (
    f"Allowed are numbers, names, + - * / **, parentheses, places of a field such as pk[3], and {', '.join(FUNCTIONS)}."
)


@dataclass(frozen=True)
class Expression:
    """A number made of named values, such as `sigma_8 * (omega_m / 0.3)**0.5`; `names` are those that it reads.

    Called with values by name, `[...]` of a number and `[..., m]` of a field, it gives `[...]`.

    >>> s = Expression.read("sigma_8 * sqrt(omega_m / 0.3)", {"sigma_8": None, "omega_m": None})
    >>> round(float(s({"sigma_8": torch.tensor(0.8), "omega_m": torch.tensor(0.27)})), 4)
    0.7589
    """

    text: str
    names: tuple[str, ...]
    _of: Callable[[Values], Tensor] = field(repr=False, compare=False)

    @staticmethod
    def read(text: str, known: Mapping[str, int | None]) -> "Expression":
        """The expression in a text; `known` names what it may read: None for a number, the length of a field.

        Raises InputError with what was met and what is allowed.
        """
        reader = _Reader(text, known)
        part = reader.number(reader.tree, "must be a number")
        if not reader.met and not torch.isfinite(part.of({})):
            raise reader.wrong("must be a finite number. Got one that is not; look at its divisions and powers")
        return Expression(reader.text, tuple(dict.fromkeys(reader.met)), part.of)

    def __call__(self, values: Values) -> Tensor:
        return self._of({name: torch.as_tensor(values[name], dtype=torch.float64) for name in self.names})


@dataclass(frozen=True)
class Constraint:
    """What must hold: `left - right <= 0`, or `== 0` where `equality`; called with values it gives left - right `[...]`.

    >>> low, high = Constraint.read("1 <= a + b <= 3", {"a": None, "b": None})
    >>> values = {"a": torch.tensor(2.0), "b": torch.tensor(4.0)}
    >>> low.text, float(low(values)), high.text, float(high(values))
    ('1 <= a + b', -5.0, 'a + b <= 3', 3.0)
    """

    text: str
    names: tuple[str, ...]
    equality: bool
    _of: Callable[[Values], Tensor] = field(repr=False, compare=False)

    @staticmethod
    def read(text: str, known: Mapping[str, int | None]) -> "tuple[Constraint, ...]":
        """The constraints in a text, one for each comparison by <=, >=, < (as <=), > or ==."""
        reader = _Reader(text, known)
        if not isinstance(reader.tree, ast.Compare):
            raise reader.wrong("must compare two sides by <=, >= or ==, such as a + b <= 3. Got no comparison")
        made, sides = [], [reader.tree.left, *reader.tree.comparators]
        parts = [reader.number(s, "must compare numbers") for s in sides]
        for i, op in enumerate(reader.tree.ops):
            if not isinstance(op, ast.LtE | ast.Lt | ast.GtE | ast.Gt | ast.Eq):
                raise reader.wrong("must compare by <=, >= or ==. Got another comparison")
            left, right = (i + 1, i) if isinstance(op, ast.GtE | ast.Gt) else (i, i + 1)
            sign = {ast.LtE: "<=", ast.Lt: "<", ast.GtE: ">=", ast.Gt: ">"}.get(type(op), "==")
            words = [ast.get_source_segment(reader.text, s) for s in sides[i : i + 2]]
            names = [n for s in sides[i : i + 2] for n in reader.reads(s)]
            made.append(Constraint(f"{words[0]} {sign} {words[1]}", tuple(dict.fromkeys(names)), isinstance(op, ast.Eq),
                                   _difference(parts[left].of, parts[right].of)))  # fmt: skip
        if not all(c.names for c in made):
            raise reader.wrong("must compare something that varies. Got numbers alone")
        return tuple(made)

    def __call__(self, values: Values) -> Tensor:
        return self._of({name: torch.as_tensor(values[name], dtype=torch.float64) for name in self.names})


def _difference(left: Callable[[Values], Tensor], right: Callable[[Values], Tensor]) -> Callable[[Values], Tensor]:
    return lambda values: left(values) - right(values)


@dataclass(frozen=True)
class _Part:
    """A piece of an expression: its function, the length of the field that it gives or None, and whether it is constant."""

    of: Callable[[Values], Tensor]
    size: int | None
    constant: bool = False

    def aligned(self, whole: "_Part") -> Callable[[Values], Tensor]:
        """A number that meets a field, along the field's axis."""
        return (lambda v: self.of(v)[..., None]) if self.size is None and whole.size is not None else self.of


class _Reader:
    """One text; every method refuses what it does not know, in a sentence that shows the text."""

    def __init__(self, text: str, known: Mapping[str, int | None]):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"an expression must be text, such as a * b**0.5. Got {shown(text)}.")
        self.text, self.known, self.met = " ".join(text.split()), dict(known), []
        if len(text) > LONGEST:
            raise self.wrong(f"must have at most {LONGEST} characters. Got {len(text)}; take it apart")
        try:
            self.tree = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
            words = [n for n in known if iskeyword(n) and n in self.text]
            odd = f"; {words[0]} is a word of Python's own, and cannot stand here" if words else ""
            raise self.wrong(f"cannot be read: {getattr(e, 'msg', type(e).__name__)}{odd}") from None
        if self._depth(self.tree) > DEEPEST:
            raise self.wrong(f"must be nested at most {DEEPEST} levels deep. Got more; take it apart")

    def wrong(self, what: str, near: str = "") -> InputError:
        return InputError(f"{shown(self.text)} {what}.{near} {_ALLOWED}")

    def reads(self, node: ast.AST) -> list[str]:
        """The names below a node that are values."""
        return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in self.known]

    def number(self, node: ast.AST, what: str) -> _Part:
        part = self.part(node)
        if part.size is not None:
            raise self.wrong(
                f"{what}. Got a field of {part.size} values; take one place of it, or its mean, sum, min or max"
            )
        return part

    def part(self, node: ast.AST) -> _Part:
        match node:
            case ast.Constant(value=float() | int() as value) if not isinstance(value, bool):
                return self._constant(value)
            case ast.Name(id=name):
                return self._named(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                part, sign = self.part(inner), -1 if isinstance(node.op, ast.USub) else 1
                return _Part(lambda v: sign * part.of(v), part.size, part.constant)
            case ast.BinOp(op=op) if type(op) in _SIGNS:
                return self._pair(
                    _SIGNS[type(op)], self.part(node.left), self.part(node.right), isinstance(op, ast.Pow)
                )
            case ast.Subscript(value=ast.Name(id=name)):
                return self._place(name, node.slice)
            case ast.Call(func=ast.Name(id=name), keywords=[]):
                return self._call(name, node.args)
        met = ast.get_source_segment(self.text, node) or type(node).__name__
        raise self.wrong(f"may not hold {shown(met)}")

    def _constant(self, value: float) -> _Part:
        try:
            number = torch.tensor(float(value), dtype=torch.float64)
        except OverflowError:
            number = torch.tensor(math.inf)
        if not math.isfinite(number):
            raise self.wrong("must hold finite numbers. Got one that is too large")
        return _Part(lambda v: number, None, constant=True)

    def _named(self, name: str) -> _Part:
        if name in self.known:
            self.met.append(name)
            return _Part(lambda v: v[name], self.known[name])
        if name == "pi":
            return self._constant(math.pi)
        there = (*self.known, "pi")
        raise self.wrong(f"must be made of {', '.join(there)}. Got {name}", nearest(name, there))

    def _pair(self, op: Callable, left: _Part, right: _Part, power: bool) -> _Part:
        sizes = {p.size for p in (left, right)} - {None}
        if len(sizes) > 1:
            raise self.wrong(f"must join fields of one length. Got {left.size} and {right.size} values")
        if power and right.constant and not abs(float(right.of({}))) <= POWER:
            raise self.wrong(f"must have powers of at most {POWER:g}. Got {float(right.of({})):g}")
        whole = _Part(lambda v: op(a(v), b(v)), next(iter(sizes), None), left.constant and right.constant)
        a, b = left.aligned(whole), right.aligned(whole)
        return whole

    def _place(self, name: str, at: ast.AST) -> _Part:
        part = self._named(name)
        sign, inner = (-1, at.operand) if isinstance(at, ast.UnaryOp) and isinstance(at.op, ast.USub) else (1, at)
        if part.size is None or not isinstance(inner, ast.Constant) or type(inner.value) is not int:
            raise self.wrong(f"may take a place only of a field, by a whole number. Got {ast.unparse(at)} of {name}")
        i = sign * inner.value
        if not -part.size <= i < part.size:
            raise self.wrong(f"must take a place of {name} from 0 to {part.size - 1}. Got {i}")
        return _Part(lambda v: part.of(v)[..., i], None)

    def _call(self, name: str, given: list[ast.expr]) -> _Part:
        if name not in FUNCTIONS:
            raise self.wrong(f"may call no {name}", nearest(name, FUNCTIONS))
        parts = [self.part(x) for x in given]
        if len(parts) == 1 and name in PLAIN:
            (only,), function = parts, PLAIN[name]
            return _Part(lambda v: function(only.of(v)), only.size, only.constant)
        if len(parts) == 1 and parts[0].size is not None:
            (only,), over = parts, OVER[name]
            return _Part(lambda v: over(only.of(v)), None)
        if len(parts) > 1 and name in PAIRS:
            return reduce(lambda a, b: self._pair(PAIRS[name], a, b, power=False), parts)
        takes = (
            "one value" if name in PLAIN else "one field" if name not in PAIRS else "one field, or two values or more"
        )
        got = f"{len(parts)} values" if len(parts) != 1 else "a number"
        raise self.wrong(f"must give {name} {takes}. Got {got}")

    @staticmethod
    def _depth(tree: ast.AST) -> int:
        level, depth = [tree], 0
        while level and depth <= DEEPEST:
            level, depth = [c for n in level for c in ast.iter_child_nodes(n) if isinstance(c, ast.expr)], depth + 1
        return depth
