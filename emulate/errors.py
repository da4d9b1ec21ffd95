"""Every error a user can meet; all are `EmulateError`, and the sentence does the work.

A sentence says what was met, what is allowed and what to do. `exit_code` is what the command line returns.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class EmulateError(Exception):
    """What every error of the project is: catch it, and read the sentence; `exit_code` is what a command gives back.

    >>> import emulate
    >>> try:
    ...     emulate.names("emulator")
    ... except EmulateError as e:
    ...     print(str(e).rsplit(".", 1)[1].strip(), e.exit_code)
    Did you mean "emulators"? 2
    """

    exit_code = 2


class InputError(EmulateError, ValueError):
    """The user's input is wrong: a key, a value, a name, a shape, a file."""


class MissingPackage(InputError, ImportError):
    """A package of an extra is not installed; `extra` is what brings it.

    >>> print(MissingPackage("emulate.adapters.jax", "jax", "jax"))
    emulate.adapters.jax must have the package jax. It is not installed; install the extra: pip install 'emulate[jax]'.
    """

    def __init__(self, who: str, package: str, extra: str):
        super().__init__(f"{who} must have the package {package}. It is not installed; install the extra: pip install "
                         f"'emulate[{extra}]'.")  # fmt: skip
        self.extra = extra


class StoreError(EmulateError):
    """A file or folder of the project cannot be read or written as it is."""


class CampaignError(EmulateError):
    """Too few runs of the simulator finished for what comes next."""

    exit_code = 3


class RunFailed(EmulateError):
    """One run of a simulator failed; `kind` is one of error, crashed, timeout, oom, nonfinite, badshape."""

    KINDS = ("error", "crashed", "timeout", "oom", "nonfinite", "badshape")

    def __init__(self, kind: str, reason: str, log: str = ""):
        super().__init__(f"{kind}: {reason}")
        self.kind, self.reason, self.log = kind, reason, log


class ExtrapolationWarning(UserWarning):
    """An emulator was asked outside the box it was trained in.

    As an error instead, in a likelihood that must not rest on a guess:

    >>> import warnings
    >>> warnings.simplefilter("error", ExtrapolationWarning)
    """


class DoubtWarning(UserWarning):
    """What an emulator is fitted to contradicts itself."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The tail of a sentence about an unknown name: ` Did you mean "sobol"?`, or nothing when none is near."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""


def shown(value: Any) -> str:
    """A value as a sentence shows it: `true` and `nothing` as in a study's YAML, long ones cut."""
    text = "nothing" if value is None else repr(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
