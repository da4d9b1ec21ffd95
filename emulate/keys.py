"""What a stored run is found by: the canonical record of its question, and the sha256 of that.

Two questions are the same exactly when their records are the same bytes: names are sorted, theta is written as float64
in hexadecimal, -0.0 is 0.0, the setting 1 is 1.0, and what is not finite is refused.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from emulate.errors import InputError

SCHEMA = 1
REPLICATES = 4  # seeds that a derivative of a stochastic simulator is averaged over, so that its error is known
PRODUCTS = ("y", "jacobian", "tangent")
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_seed(study_seed: int, theta: Sequence[float], *, stochastic: bool = True, replicate: int = 0) -> int:
    """The seed of a run at theta `[d]`: it depends on nothing else, so order and number of workers do not matter.

    The first 63 bits of sha256(study seed, replicate, theta as float64); 0 for a simulator that is not stochastic. A first
    run (replicate 0) has the seed that it had before there were others, so adding replicates runs nothing again.

    >>> run_seed(1, [0.5, 0.0]) == run_seed(1, [0.5, -0.0]) != run_seed(1, [0.5, 0.0], replicate=1)
    True
    """
    if not stochastic:
        return 0
    if replicate < 0:
        raise InputError(f"replicate must be at least 0, the number of a run at one point. Got {replicate}.")
    which = f"replicate:{int(replicate)}:" if replicate else ""
    digest = hashlib.sha256(f"run:{int(study_seed)}:{which}{''.join(map(_hex, theta))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def identity(simulator: Any) -> dict[str, Any]:
    """What a simulator puts into the key of each of its runs, as plain JSON.

    The names of the parameters keep their order, because a simulator may read theta by position. Settings that it calls
    `incidental`, such as what becomes of its scratch folder, are left out: changing them runs nothing again.
    """
    left_out = getattr(simulator, "incidental", ())
    settings = {k: v for k, v in simulator.settings().items() if k not in left_out}
    return {"simulator": simulator.entry_name(), "version": str(simulator.version),
            "settings": _plain(settings, simulator.entry_name()),
            "parameters": list(simulator.space.names), "stochastic": bool(simulator.stochastic)}  # fmt: skip


def record_of(who: Mapping[str, Any], theta: Sequence[float], seed: int, product: str = "y",
              gradient: Mapping[str, Any] | None = None) -> bytes:  # fmt: skip
    """The canonical bytes of one question, `who` from `identity`; their sha256 is the key.

    product "y" asks for y = f(theta, seed); "tangent" for y and dy/dtheta of that same run; "jacobian" for E[y] and
    dE[y]/dtheta, means over `REPLICATES` seeds. Both derivatives are one question where nothing is random.
    `gradient` says how to differentiate: a spec of the room of gradients, or `{"use": "simulator"}`, its own method.
    """
    names = who["parameters"]
    if len(theta) != len(names):
        raise InputError(f"theta must have {len(names)} values ({', '.join(names)}). Got {len(theta)}.")
    if (product == "y") != (gradient is None) or product not in PRODUCTS:
        raise InputError(f'product must be "y" without a gradient, or "jacobian" or "tangent" with one. '
                         f"Got {product!r} and {gradient!r}.")  # fmt: skip
    record = {**who, "schema": SCHEMA, "theta": {n: _hex(x) for n, x in zip(names, theta, strict=True)},
              "replicates": REPLICATES if product == "jacobian" and who["stochastic"] else 1,
              "seed": int(seed) if who["stochastic"] else 0, "product": "y" if product == "y" else "jacobian",
              "gradient": _plain(gradient, "gradient")}  # fmt: skip
    return canonical(record)


def key_of(record: bytes) -> str:
    """The key of a run, 64 hexadecimal digits."""
    return hashlib.sha256(record).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON in one form only: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value).encode()


def _hex(x: float) -> str:
    x = float(x)
    if not math.isfinite(x):
        raise InputError(f"theta must be finite. Got {x}; a run needs all its parameters.")
    return (x + 0.0).hex()  # -0.0 + 0.0 is 0.0


def _plain(value: Any, where: str) -> Any:
    """Settings as JSON in one form only: 1 and 1.0 are the same number, a tuple is a list."""
    if isinstance(value, Enum):
        return _plain(value.value, where)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist(), where)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where} must be finite. Got {value}; a run cannot be found again by it.")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if is_dataclass(value):
        inner = {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
        return {"type": type(value).__name__, **inner}
    raise InputError(f"{where} must be plain data (numbers, text, lists, dicts, dataclasses). "
                     f"Got {type(value).__name__}; a run cannot be found again by it.")  # fmt: skip
