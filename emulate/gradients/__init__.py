"""Gradients: how to differentiate a simulator, an emulator or any function, with an error bar and a price.

Contract: `emulate.contracts.Gradient`. What it is given: `emulate.replication.lift`; its randomness: `emulate.noise`.
Smallest entries to imitate: `reverse.py` (exact), `common_random_numbers.py` (random).
Tests: `tests/contracts/test_gradients.py` holds every entry of this folder to the room's laws.
"""

import importlib
from typing import Any

_ELSEWHERE = {"verify": ("emulate.verification", "")}  # by name: the module, and what of it; floors above this room


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _ELSEWHERE[name]
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
