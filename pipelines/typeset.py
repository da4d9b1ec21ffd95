"""Numbers, priors and LaTeX labels as a page shows them: three digits, units in words, no markup of a stranger."""

import math
import re
import unicodedata
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from markupsafe import Markup, escape

from pipelines.terminal import duration

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MANY = 24  # parameters that a table still lists one by one
NONE = "\u2013"  # a dash where there is nothing
_TIMES = "\u00d7"
_SPACE = "\u00a0"  # keeps a number and its unit on one line
_POWER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)e([+-]?\d+)(?!\w)")  # a number of e-notation that stands alone
_OF_UNIT = re.compile(r"(?<=\w)\^(-?\d+)(?!\w|\.\d)")  # the power of a unit
_SET = {"+-": "±", "sigma": "\u03c3", "chi2": "χ²", " %": f"{_SPACE}%"}
_WORD = re.compile(r"\+-|(?<![\w.])(?:sigma|chi2)(?!\.?\w)|(?<=\d) %")
_TOKEN = re.compile(
    r"\\(?P<command>[A-Za-z]+) ?|(?P<shift>[_^])(?P<part>\{[^{}]*\}|\\[A-Za-z]+|[^\\])|(?P<plain>[^\\_^])"
)
_SHARES = ("accuracy.", "gradient.error", "coverage.interval", "coverage.joint", "calibration.region")  # findings
_SIGNS = {"partial": "∂", "ln": "ln", "pm": "±", "times": _TIMES, "sqrt": "√", "infty": "∞"}
_KINDS = {
    "uniform": "uniform from {low} to {high}",
    "log_uniform": "log-uniform from {low} to {high}",
    "normal": "normal, mean {mean}, sd {sd}",
    "log_normal": "log-normal, mean {mean} and sd {sd} of the logarithm",
    "truncated_normal": "normal, mean {mean}, sd {sd}, between {low} and {high}",
}


def number(value: Any, digits: int = 3) -> str:
    """`0.0312`, `12 300`, `1.23 × 10⁻⁷`; words for what is no number.

    >>> number(0.031249), number(12345.0), number(1.234e-7), number(True), number(None)
    ('0.0312', '12\\xa0300', '1.23 × 10⁻⁷', 'yes', '–')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return NONE if value is None else str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    if value == int(value) and abs(value) < (1e15 if isinstance(value, int) else 1e3):
        return _grouped(f"{int(value)}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -4 <= int(exponent) < 6:
        return _grouped(f"{float(f'{mantissa}e{exponent}'):.{max(0, digits - 1 - int(exponent))}f}")
    return f"{mantissa} {_TIMES} 10{str(int(exponent)).translate(_RAISED)}"


def _grouped(text: str) -> str:
    """Thousands apart from five digits on."""
    whole, dot, rest = text.partition(".")
    return (f"{int(whole):,}".replace(",", _SPACE) if len(whole.lstrip("-")) > 4 else whole) + dot + rest


def percent(share: float | None) -> str:
    """`3.12 %`."""
    return number(share) if share is None or not math.isfinite(share) else f"{number(100 * float(share))}{_SPACE}%"


def measured(value: float | None, sd: float | None) -> str:
    """A value to two digits of its standard deviation: 0.31234 with sd 0.0012 is `0.3123`.

    >>> measured(0.31234, 0.0012), measured(1234.5, 300.0), measured(None, 1.0)
    ('0.3123', '1234', '–')
    """
    if value is None or not sd or not math.isfinite(sd) or not math.isfinite(value):
        return number(value, 6)
    places = max(0, 1 - math.floor(math.log10(sd)))
    return _grouped(f"{value:.{places}f}") if places <= 12 else number(value, 6)


def with_error(value: float | None, error: float | None, unit: str = "") -> str:
    """A value to two digits of its standard error, with that.

    >>> with_error(35.2134, 0.41), with_error(0.123, None, " %"), with_error(None, None)
    ('35.21 ± 0.41', '0.123 %', '–')
    """
    if value is None or math.isnan(value):
        return NONE
    if not error or not math.isfinite(error) or not math.isfinite(value):
        return number(value) + unit
    digits = 1 - math.floor(math.log10(error))
    if not 0 <= digits < 8:
        return f"{number(value)} ± {number(error, 2)}{unit}"
    return f"{value:.{digits}f} ± {error:.{digits}f}{unit}"


def time(seconds: Any) -> str:
    """`3 min 05 s`, `12 ms`."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return NONE
    return duration(seconds) if seconds >= 0.1 else f"{number(1000 * seconds, 2)}{_SPACE}ms"


def given(value: Any) -> str:
    """A setting or a bound, to four digits as somebody wrote it: `0.01`, `1e-10`, `yes`."""
    return f"{value:.4g}" if isinstance(value, float) else number(value)


def bound(finding: Mapping[str, Any]) -> str:
    """`at most 0.01`, `0.9 to 0.99`, `at most 1 %`, `none`."""
    low, high = (x if x is None else _limit(finding, x) for x in (finding.get("low"), finding.get("high")))
    if low is not None and high is not None:
        return f"{low} to {high}"
    if high is not None:
        return f"at most {high}"
    return "none" if low is None else f"at least {low}"


def _limit(finding: Mapping[str, Any], value: float) -> str:
    return f"{given(100.0 * value)}{_SPACE}%" if _share(finding) else given(value)


def _share(finding: Mapping[str, Any]) -> bool:
    """Whether the value is a share, told in percent."""
    return str(finding.get("name", "")).startswith(_SHARES)


def value(finding: Mapping[str, Any]) -> str:
    """The value of a finding to three digits, or to as many as show on which side of its bounds it lies.

    >>> value({"value": 0.999895, "low": 0.999, "high": None}), value({"value": 0.95, "low": None, "high": 1.0})
    ('0.9999', '0.950')
    >>> value({"name": "accuracy.median", "value": 0.00231, "low": None, "high": 0.01})
    '0.231\xa0%'
    """
    met = finding.get("value")
    if met is None or not math.isfinite(met):
        return "not a number" if met is None else number(met)
    gaps = [abs(met - b) for b in (finding.get("low"), finding.get("high")) if b is not None and b != met]
    for digits in range(3, 10):
        if all(abs(float(f"{met:.{digits - 1}e}") - met) <= 0.1 * gap for gap in gaps):
            break
    return f"{number(100 * met, digits)}{_SPACE}%" if _share(finding) else number(met, digits)


def unit(text: str) -> str:
    """A unit, or a sentence with units, whose powers are raised.

    >>> unit("GeV^-2"), unit("k^{1.5} of m_1^2"), unit("2^n")
    ('GeV⁻²', 'k^{1.5} of m_1²', '2^n')
    """
    return _OF_UNIT.sub(lambda m: m[1].translate(_RAISED), text)


def prose(sentence: str) -> str:
    """A sentence as a page sets it: `3.1e-07` is a power of ten, `+-` and `sigma` are signs, a number keeps its percent.

    >>> prose("off by 3.1e-07 +- 0.02 sigma, chi2 of 1 %")
    'off by 3.1\xa0×\xa010⁻⁷ ± 0.02 σ, χ² of 1\xa0%'
    """
    text = unit(sentence)
    text = _POWER.sub(lambda m: f"{m[1]}{_SPACE}{_TIMES}{_SPACE}10{str(int(m[2])).translate(_RAISED)}", text)
    return _WORD.sub(lambda m: _SET[m[0]], text)


def coded(sentence: str) -> Markup:
    """A sentence with what stands between backticks as code.

    >>> coded("Run `emulate run` <now>.")
    Markup('Run <code>emulate run</code> &lt;now&gt;.')
    """
    parts = sentence.split("`")
    if len(parts) % 2 == 0:  # one of them stands alone
        return escape(sentence)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def prior(entry: Mapping[str, Any]) -> str:
    """`uniform from 0.2 to 0.4`, from a parameter as a study holds it."""
    for kind, words in _KINDS.items():
        values = entry.get(kind)
        if isinstance(values, Mapping):
            return words.format_map({k: given(v) for k, v in values.items()})
    return NONE


def alike(parameters: Mapping[str, Mapping[str, Any]]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Names and what is said of them: one row for each, or, of many, one for all that stand together and are said the same.

    >>> [names for names, _ in alike({f"rho_{i}": {"uniform": {"low": 0, "high": 1}} for i in range(100)})]
    [['rho_0', 'rho_99']]
    """
    if len(parameters) <= _MANY:
        return [([name], entry) for name, entry in parameters.items()]
    rows = [([name for name, _ in some], entry) for entry, some in groupby(parameters.items(), key=itemgetter(1))]
    return [(names if len(names) == 1 else [names[0], names[-1]], entry) for names, entry in rows]


def symbol(label: str) -> Markup:
    r"""A short LaTeX label as HTML: `\Omega_m` is an italic Ω with a lowered m; empty where it says more than that.

    >>> symbol(r"\Omega_m"), symbol(r"\frac{a}{b}")
    (Markup('<i>Ω<sub>m</sub></i>'), Markup(''))
    """
    body = _convert(label.strip("$ "))
    return Markup("<i>{}</i>").format(body) if body else Markup("")


def spoken(label: str) -> str:
    r"""LaTeX as one line of plain text, for whoever cannot see it set: `\partial \ln y / \partial \Omega_m` is `∂ ln y / ∂ Ω_m`.

    >>> spoken(r"\partial \ln y\,/\,\partial \Omega_m"), spoken(r"\sigma_\mathrm{max}^{2}")
    ('∂ ln y / ∂ Ω_m', 'σ_max^2')
    """
    named = re.sub(r"\\([A-Za-z]+) *(?=(.?))", _said, re.sub(r"\\[,;:! ]", " ", label))
    return " ".join(re.sub(r"[{}$]|\\(?=_)", "", named).split())


def _said(command: re.Match[str]) -> str:
    """The sign of a command, else its name, apart from a letter that follows; nothing for a style of letters."""
    name = command[1]
    if name.startswith(("math", "text", "left", "right")):
        return ""
    sign = _SIGNS.get(name) or _letter(name) or name
    return f"{sign} " if command[2].isalnum() or command[2] == "\\" or sign.isascii() else sign


def _convert(text: str) -> Markup:
    out, at = Markup(""), 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return Markup("")
        at = token.end()
        if token["plain"] is not None:
            out += "" if token["plain"] in "{}" else escape(token["plain"])
        elif token["command"] is not None:
            if not (letter := _letter(token["command"])):
                return Markup("")
            out += letter
        else:
            inner = _convert(token["part"].removeprefix("{").removesuffix("}"))
            if not inner:
                return Markup("")
            tag = Markup("sub" if token["shift"] == "_" else "sup")
            out += Markup("<{0}>{1}</{0}>").format(tag, inner)
    return out


def _letter(command: str) -> str:
    """A Greek letter, or nothing."""
    name = {"lambda": "lamda", "varepsilon": "epsilon", "varphi": "phi"}.get(command.lower(), command)
    case = "CAPITAL" if command[0].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"GREEK {case} LETTER {name.upper()}")
    except KeyError:
        return {"ln": "ln ", "log": "log ", "mathrm": "", "times": _TIMES, "cdot": "·"}.get(command, "")
