"""emulate: differentiable stand-ins for simulators, and the proof of how far they can be trusted.

The front door. Names are imported on first use, so that `import emulate` is quick.

>>> import emulate
>>> space = emulate.Space((emulate.Parameter("h", emulate.Uniform(0.6, 0.8)),))
>>> space.names
('h',)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from emulate.comparison import compare
    from emulate.contracts import Estimate, Evidence, Finding
    from emulate.emulator import Emulator, fit
    from emulate.errors import EmulateError, ExtrapolationWarning
    from emulate.estimation import estimate
    from emulate.loading import load
    from emulate.optimisation import Optimum, optimise
    from emulate.posterior import Posterior
    from emulate.profiles import Profile, profile
    from emulate.registry import build, find, names
    from emulate.runs import Field, Outputs, Runs
    from emulate.scoring import crps, energy_score, pit, sharpness
    from emulate.space import LogNormal, LogUniform, Normal, Parameter, Space, TruncatedNormal, Uniform
    from emulate.store import RunStore

_HOMES = {
    "comparison": ("compare",),
    "contracts": ("Estimate", "Evidence", "Finding"),
    "emulator": ("Emulator", "fit"),
    "errors": ("EmulateError", "ExtrapolationWarning"),
    "estimation": ("estimate",),
    "loading": ("load",),
    "optimisation": ("Optimum", "optimise"),
    "posterior": ("Posterior",),
    "profiles": ("Profile", "profile"),
    "registry": ("build", "find", "names"),
    "runs": ("Field", "Outputs", "Runs"),
    "scoring": ("crps", "energy_score", "pit", "sharpness"),
    "space": ("LogNormal", "LogUniform", "Normal", "Parameter", "Space", "TruncatedNormal", "Uniform"),
    "store": ("RunStore",),
}

__all__ = [  # noqa: RUF022  (by subject)
    "Space", "Parameter", "Uniform", "LogUniform", "Normal", "LogNormal", "TruncatedNormal",
    "Field", "Outputs", "Runs", "RunStore",
    "names", "find", "build",
    "fit", "compare", "load", "Emulator",
    "crps", "pit", "sharpness", "energy_score",
    "Posterior", "profile", "Profile", "optimise", "Optimum", "estimate", "Estimate", "Evidence", "Finding",
    "EmulateError", "ExtrapolationWarning",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":  # that of pyproject.toml, by what is installed
        from importlib.metadata import version

        return version("emulate")
    for module, held in _HOMES.items():
        if name in held:
            return getattr(importlib.import_module(f"emulate.{module}"), name)
    raise AttributeError(f"module 'emulate' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
