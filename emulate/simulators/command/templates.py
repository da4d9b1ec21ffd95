"""Input files and arguments from templates: jinja2 with values, operators, loops and a few functions, and nothing else.

A template is read as a tree first, and what is not named below is refused in words: no attribute, no method, no macro,
no include. It then runs in jinja2's sandbox as the second wall, with caps on repetition, powers, widths and loops.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from emulate.errors import InputError, RunFailed, nearest

MAX_TEXT = 4 * 2**20  # characters of a template, and of what it makes
_MAX_TURNS = 1_000_000  # of all loops of one template together
_MAX_REPEAT = 10_000  # characters or items that a `*` may make
_MAX_WIDTH = 400  # of a number in text

_LOOP = ("first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0")
_ALLOWED = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict,
            nodes.Pair, nodes.Getitem, nodes.Slice, nodes.Getattr, nodes.Call, nodes.Filter, nodes.Test, nodes.Compare,
            nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul,
            nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.If, nodes.For, nodes.Assign, nodes.CondExpr)  # fmt: skip
_TESTS = ("even", "odd", "divisibleby", "eq", "ne", "lt", "le", "gt", "ge", "in", "==", "!=", "<", "<=", ">", ">=")
_TURNS = "__turns"
_ADVICE = 'A template knows values, operators, if, for, and filters; a format is {{ "%.6e" % x }}'


class Template(NamedTuple):
    """A compiled template, where it was written, and the names that it reads."""

    name: str
    names: frozenset[str]
    compiled: jinja2.Template

    def render(self, values: Mapping[str, float | int]) -> str:
        """The text at these values. Raises `InputError` for what no value mends, `RunFailed` where arithmetic fails."""
        made, size = [], 0
        try:
            for piece in self.compiled.generate(values, **{_TURNS: itertools.count(1)}):
                made.append(piece)
                size += len(piece)
                if size > MAX_TEXT:
                    raise _Refused(f"it must make at most {MAX_TEXT // 2**20} MiB of text.")
        except (SecurityError, jinja2.UndefinedError, TypeError) as e:
            raise InputError(f"{self.name}: {_ended(e)} {_ADVICE}.") from None
        except (ArithmeticError, LookupError, RecursionError, MemoryError, ValueError) as e:
            said = f"{type(e).__name__}: {e}".removesuffix(": ")
            raise RunFailed("error", f"{self.name} cannot be filled in at these parameters: {_ended(said)}") from None
        return "".join(made)


def compiled(text: str, name: str, allowed: Iterable[str]) -> Template:
    """The template of a text. `name` leads complaints, `allowed` are the values that it may read."""
    if len(text) > MAX_TEXT:
        raise InputError(f"{name}: a template must be at most {MAX_TEXT // 2**20} MiB. Got {len(text) // 2**20} MiB; "
                         "copy or link large files under `files`.")  # fmt: skip
    environment = _environment()
    try:
        tree = environment.parse(text)
        names = frozenset(meta.find_undeclared_variables(tree))
        _judge(tree, name, tuple(allowed))
        _judge_names(names, name, tuple(allowed))
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _TURNS, [], [], None, None, lineno=loop.lineno)
        return Template(name, names - set(FUNCTIONS), environment.from_string(tree))
    except jinja2.TemplateSyntaxError as e:
        raise InputError(f"{name}:{e.lineno}: this is not a template: {_ended(e.message or e)} {_ADVICE}.") from None
    except (RecursionError, SyntaxError, ValueError, OverflowError, MemoryError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{name}: this template cannot be compiled ({type(e).__name__}); make it simpler.") from None


def _judge(tree: nodes.Template, name: str, allowed: tuple[str, ...]) -> None:
    functions = {k for k, f in FUNCTIONS.items() if callable(f)}
    called_names = {id(call.node) for call in tree.find_all(nodes.Call)}
    for node in _walk(tree):
        kind = type(node).__name__.lower()
        where = f"{name}:{node.lineno}: a template"
        if not isinstance(node, _ALLOWED):
            raise InputError(f"{where} must not hold `{kind}`. {_ADVICE}.")
        if isinstance(node, nodes.Getattr) and not (
            isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in _LOOP
        ):
            raise InputError(f"{where} must not read attributes or call methods. Got .{node.attr}. {_ADVICE}.")
        if isinstance(node, nodes.Call):
            called = node.node.name if isinstance(node.node, nodes.Name) else ""
            if called not in functions or node.dyn_args is not None or node.dyn_kwargs is not None:
                raise InputError(f"{where} may call {', '.join(sorted(functions))}. "
                                 f"Got a call of {called or 'something else'}.{nearest(called, functions)}")  # fmt: skip
        if isinstance(node, nodes.For) and node.recursive:
            raise InputError(f"{where} must not loop recursively. {_ADVICE}.")
        if isinstance(node, nodes.Name | nodes.Filter) and (node.name.startswith("_") or node.name == "self"):
            raise InputError(f"{where} must not use the name {node.name!r}. {_ADVICE}.")
        if isinstance(node, nodes.Name) and node.name in functions - set(allowed) and id(node) not in called_names:
            raise InputError(f"{where} must call {node.name}. Got its name alone; write {node.name}( ... ).")


def _judge_names(names: frozenset[str], name: str, allowed: tuple[str, ...]) -> None:
    for unknown in sorted(names - set(allowed) - set(FUNCTIONS)):
        advice = (
            " Set `stochastic: true` for a program that takes a seed."
            if unknown == "seed"
            else nearest(unknown, allowed)
        )
        raise InputError(f"{name}: the name {unknown!r} is not known; there are {', '.join(allowed)}.{advice}")


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    waiting = [node]
    while waiting:
        yield (here := waiting.pop())
        waiting.extend(here.iter_child_nodes())


class _Refused(SecurityError):
    """A cap is met."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with three operators watched, `*`, `**`, and `%` on a text, and no attribute but a loop's."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return _WATCHED[operator](left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return isinstance(obj, jinja2.runtime.LoopContext) and attr in _LOOP


def _times(left: Any, right: Any) -> Any:
    for a, n in ((left, right), (right, left)):
        if hasattr(a, "__len__") and isinstance(n, int) and len(a) * n > _MAX_REPEAT:
            raise _Refused(f"`*` must make at most {_MAX_REPEAT} characters.")
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > 4096:
        raise _Refused("a power of whole numbers must be below 2^4096.")
    return left**right


def _percent(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        if "*" in left or any(int(n[:9]) > _MAX_WIDTH for n in re.findall(r"[0-9]+", left)):
            raise _Refused(f"widths in a format must be numbers of at most {_MAX_WIDTH}.")
        if isinstance(right, tuple | list | Mapping) and len(right) > _MAX_WIDTH:
            raise _Refused("a format must take fewer values.")
    return left % right


_WATCHED: dict[str, Callable[[Any, Any], Any]] = {"*": _times, "**": _power, "%": _percent}


def _round(x: float, digits: int = 0) -> float:
    if abs(digits) > _MAX_WIDTH:  # 10 ** digits is made for a whole number
        raise _Refused(f"digits must be at most {_MAX_WIDTH}.")
    return round(x, digits) if digits else round(x)


def _range(*ends: int) -> range:
    made = range(*ends)
    if len(made) > _MAX_TURNS:
        raise _Refused(f"a range must have at most {_MAX_TURNS} values.")
    return made


FUNCTIONS: dict[str, Any] = {"exp": math.exp, "log": math.log, "log10": math.log10, "sqrt": math.sqrt, "sin": math.sin,
                             "cos": math.cos, "pi": math.pi, "range": _range}  # fmt: skip


@jinja2.pass_context
def _counted(context: jinja2.runtime.Context, items: Iterable) -> Iterator:
    """The items of a loop, each counted against one budget for the whole template."""
    turns = context[_TURNS]
    for item in items:
        if next(turns) > _MAX_TURNS:
            raise _Refused(f"its loops must turn at most {_MAX_TURNS} times.")
        yield item


@functools.cache
def _environment() -> jinja2.Environment:
    made = _Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    made.globals = dict(FUNCTIONS)
    made.filters = {"abs": abs, "float": float, "format": lambda text, *values: _percent(text, values), "int": int,
                    "length": len, "lower": str.lower, "max": max, "min": min, "round": _round, "sum": sum,
                    "upper": str.upper, _TURNS: _counted}  # fmt: skip
    made.tests = {k: t for k, t in made.tests.items() if k in _TESTS}
    return made


def _ended(said: object) -> str:
    return f"{str(said).rstrip('.')}."
