"""Callables that a study names, "module:function": found, traced to their file, and their answers made numbers."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from emulate.errors import InputError, RunFailed, nearest


def numbers(call: str, value: Any, size: int, what: str) -> np.ndarray:
    """float64 `[size]`; masked values, which a reader of files may give, are missing: NaN."""
    a = np.ma.asarray(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(
        value.detach().cpu() if isinstance(value, Tensor) else value)  # fmt: skip
    if a.dtype.kind not in "fiub":
        raise RunFailed("badshape", f"{call} must return real numbers{what}. Got {type(value).__name__} of {a.dtype}.")
    if a.size != size:
        raise RunFailed("badshape", f"{call} must return the declared {size} values{what} in every run. Got {a.size}, "
                                    f"shape {a.shape}; declare what it returns under `outputs`, or mend it if it "
                                    "changes shape between runs.")  # fmt: skip
    flat = a.astype(np.float64).ravel()
    return flat.filled(np.nan) if isinstance(flat, np.ma.MaskedArray) else flat


def find(call: str, setting: str = "call") -> Callable:
    """The callable of "module:function", importable from the current directory too; `setting` leads complaints."""
    module, _, name = call.partition(":")
    if not module or not name:
        raise InputError(f'{setting} must be "module:function". Got {call!r}; write the module, a colon, and the name.')
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # at the end: a file of the user's shadows nothing
    try:
        found: Any = importlib.import_module(module)
    except Exception as e:  # the user's file may raise anything
        if not isinstance(e, ModuleNotFoundError):
            raise InputError(
                f"{setting}: {module!r} broke while it was imported: {type(e).__name__}: {e}. Mend it."
            ) from e
        raise InputError(f"{setting}: {call!r} cannot be imported: {e}. Put {module.partition('.')[0]}.py into {here}, or "
                         "install its package.") from None  # fmt: skip
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise InputError(f"{setting}: {module!r} has no {name!r}.{nearest(name, public)} "
                             "Mend the name after the colon.")  # fmt: skip
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{setting} must name something that can be called. Got {call!r}, a {type(found).__name__}.")
    return found


def source(call: str, setting: str = "call") -> Path:
    """The file that holds the callable; for an object or compiled code, the file of its module."""
    found = inspect.unwrap(find(call, setting))
    module = sys.modules[getattr(found, "__module__", None) or call.partition(":")[0]]
    file = getattr(module, "__file__", None) or getattr(sys.modules[call.partition(":")[0]], "__file__", None)
    if file is None:
        raise InputError(f"{setting} must name a callable of a file, whose content says when to run again. "
                         f"Got {call!r}; wrap it in a function of your own.")  # fmt: skip
    return Path(file)
