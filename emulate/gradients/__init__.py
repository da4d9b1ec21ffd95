"""Gradients: how to differentiate a simulator, an emulator or any function, with an error bar and a price.

Contract: `emulate.contracts.Gradient`. What it is given: `emulate.replication.lift`; its randomness: `emulate.noise`.
Smallest entries to imitate: `reverse.py` (exact), `common_random_numbers.py` (random).
Tests: `tests/contracts/test_gradients.py` holds every entry of this folder to the room's laws.

The one call, imported on first use: `gradients.estimate`; what stands in the way of a derivative, and which method to
use: `gradients.diagnose`; tests of derivatives: `gradients.verify`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulate import verification as verify
    from emulate.diagnosis import diagnose
    from emulate.estimation import choose, estimate

_HOMES = {"diagnosis": ("diagnose",), "estimation": ("choose", "estimate"), "verification": ("verify",)}
_WHOLE = ("verify",)  # names of modules themselves

__all__ = ["choose", "diagnose", "estimate", "verify"]


def __getattr__(name: str) -> Any:
    for module, held in _HOMES.items():
        if name in held:
            found = importlib.import_module(f"emulate.{module}")
            return found if name in _WHOLE else getattr(found, name)
    raise AttributeError(f"module 'emulate.gradients' has no attribute {name!r}; it has {', '.join(__all__)}")
