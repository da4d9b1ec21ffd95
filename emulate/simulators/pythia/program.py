"""Pythia 8 itself: found, told its settings one by one, and asked each time whether it took them.

Pythia ignores what it does not understand. `readString` answers False to a value out of range and keeps the old one;
"0.5x" is taken for 0.5 and "maybe" for off. So every value is read back, once it is set and again when all is set up.
"""

import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from emulate.errors import InputError

PACKAGE, PIN = "pythia8mc", "8.317.2"
_SEEDS = 900_000_000  # Pythia's own take 1 to this
_LINE = re.compile(r"\s*([A-Za-z0-9][\w:()+-]*)\s*(force\s*)?=\s*(\S.*?)\s*")
_WORDS = {**dict.fromkeys(("on", "yes", "true", "ok", "1"), True), **dict.fromkeys(("off", "no", "false", "0"), False)}
_OURS = ("random:", "main:", "next:", "print:")


def found() -> ModuleType:
    """The package, imported.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pythia8mc
    except ImportError as e:
        raise InputError(f"pythia: the simulator must have the package {PACKAGE}. It is not installed; `pip install "
                         f"emulate[pythia]`, or `pip install {PACKAGE}=={PIN}`, brings it.") from e  # fmt: skip
    return pythia8mc


def version() -> str:
    """The version of the package, which is that of Pythia, or "absent"; it is not imported for this."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def parsed(line: str) -> tuple[str, str]:
    """The name and the value of a line `Name = value`, as Pythia's own files hold them.

    >>> parsed("StringZ:aLund = 0.68")
    ('StringZ:aLund', '0.68')
    """
    met = _LINE.fullmatch(line)
    if not met:
        raise InputError(f"pythia: a line must be `Name = value`, such as `StringZ:aLund = 0.68`. Got {line!r}.")
    if met[1].lower().startswith(_OURS):
        raise InputError(f"pythia: lines must leave {met[1]} alone. Got {line!r}; seeds and numbers of events are those of the "
                         "run.")  # fmt: skip
    return met[1], met[3]


def started(lines: Sequence[str], values: Mapping[str, float], *, seed: int, hook: Any = None) -> Any:
    """A `Pythia` object that is ready for its first event.

    Args:
        lines: settings that are fixed, `Name = value`, in this order.
        values: settings that are varied, by their names; they are set last.
        seed: of the run; Pythia's own is this one up to its 900 million, and above that what is left of a division.
        hook: user hooks to run with; the caller keeps it alive.

    Raises:
        InputError: Pythia does not take a value, or changes it when it sets itself up.
    """
    pythia = found().Pythia("", False)
    for line in ("Print:quiet = on", "Random:setSeed = on", f"Random:seed = {seed % _SEEDS or _SEEDS}"):
        _read(pythia, line)
    for name in values:
        if not pythia.settings.isParm(name) and _known(pythia.settings, name):
            raise InputError("pythia: a parameter must set a number of Pythia that may take any value, one of its `parm`. "
                             f"{name} is none; fix it by a line.")  # fmt: skip
    taken: dict[str, tuple[str, str]] = {}
    for line in (*lines, *(f"{name} = {value!r}" for name, value in values.items())):
        name, value = parsed(line)
        _read(pythia, line)
        _verify(pythia, name, value, f"`{line}` must be a value that Pythia understands")
        taken[name.lower()] = (name, value)
    if hook is not None and not pythia.setUserHooksPtr(hook):
        raise InputError("pythia: the user hooks were refused.")
    if not pythia.init():
        raise InputError(f"pythia: the settings must make sense together. Pythia does not start with {_shown(lines, values)}; "
                         "what it printed says why.")  # fmt: skip
    for name, value in taken.values():
        _verify(pythia, name, value, f"{name} must keep its value {value}, but another setting changes it")
    return pythia


def _read(pythia: Any, line: str) -> None:
    if pythia.readString(line):
        return
    name = line.partition("=")[0].replace(" force", "").strip()
    known = _parameter(pythia.settings, name)
    if known is None:
        raise InputError(f"pythia: {name} must be a setting of Pythia {version()}, with a value that it allows. Pythia refuses "
                         f"`{line}`; look it up in Pythia's manual.")  # fmt: skip
    low = f"at least {known.valMin:g}" if known.hasMin else ""
    high = f"at most {known.valMax:g}" if known.hasMax else ""
    allowed = " and ".join(x for x in (low, high) if x) or "a finite number"
    raise InputError(f"pythia: {known.name} must be {allowed}. Got `{line}`, which Pythia would ignore; narrow the prior, or "
                     "mend the line.")  # fmt: skip


def _parameter(settings: Any, name: str) -> Any:
    """Pythia's record of a number or a mode, None where the name is neither."""
    key = name.lower()
    for known in (settings.getParmMap(key), settings.getModeMap(key)):
        if key in known:
            return known[key]
    return None


def _known(settings: Any, name: str) -> bool:
    return any(
        getattr(settings, f"is{kind}")(name) for kind in ("Mode", "Flag", "Word", "PVec", "MVec", "FVec", "WVec")
    )


def _verify(pythia: Any, name: str, value: str, must: str) -> None:
    settings, read = pythia.settings, float
    if settings.isParm(name):
        kept = settings.parm(name)
    elif settings.isMode(name):
        kept, read = settings.mode(name), _mode
    elif settings.isFlag(name):
        kept, read = settings.flag(name), lambda text: _WORDS.get(text.lower())
    elif name.lower().endswith(":m0"):
        kept, read = pythia.particleData.m0(int(name.partition(":")[0])), _mass
    else:
        return
    try:
        meant = read(value)
    except ValueError:
        meant = None
    if kept != meant:
        raise InputError(
            f"pythia: {must}. Pythia has {kept}; mend it, or write the line after the one that changes it."
        )


def _mode(text: str) -> int:
    """A whole number, or `on` and `off` where a mode is a choice of two."""
    return int(text) if text.lstrip("-").isdigit() else int(_WORDS.get(text.lower(), "?"))


def _mass(text: str) -> float:
    mass = float(text)
    return mass if mass >= 0 else math.nan  # Pythia takes it, and makes nonsense of it


def _shown(lines: Sequence[str], values: Mapping[str, float]) -> str:
    return ", ".join((*(f"`{line}`" for line in lines), *(f"`{k} = {v:g}`" for k, v in values.items())))
