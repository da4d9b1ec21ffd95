"""Which recipes to try where nobody says: a few of each kind, those that cost least first."""

from collections.abc import Mapping
from typing import Any

from emulate import registry
from emulate.contracts import Recipe

_EXACT, _MOST = 1500, 4000  # runs beyond which an exact Gaussian process costs more than a network, or too much
_CHEAP = 500  # runs of a fidelity beyond which inducing points learn it
_PLACES = 600  # of repeated runs, beyond which the process that learns their noise costs too much

_POLYNOMIALS = {f"polynomial-{k}": {"use": "polynomial", "degree": k} for k in (1, 2, 3, 4)}
_PROCESSES = {  # the first choice first, then what it may have passed over
    "gp": {"use": "gp"},
    "gp-matern": {"use": "gp", "kernel": "matern52", "mean": "linear"},
    "gp-quadratic": {"use": "gp", "kernel": "rbf", "mean": "quadratic"},
}
_NOISE = {"noisy-gp": {"use": "noisy_gp"}}
_SPARSE = {"svgp": {"use": "svgp"}}
_GRADIENTS = {"gradient-gp": {"use": "gradient_gp"}}
_NETWORKS = {
    "mlp": {"use": "mlp"},
    "mlp-wide": {"use": "mlp", "width": 128},
    "residual": {"use": "residual"},
}
_FLOWS = {"flow": {"use": "flow"}}


def candidates(n: int, d: int, *, jacobians: bool = False, stochastic: bool = False, replicates: int = 1,
               fidelities: Mapping[str, int] | None = None) -> dict[str, Recipe]:  # fmt: skip
    """Recipes for runs at n points over d parameters by name, cheapest first.

    `jacobians` says that the runs carry theirs, `stochastic` that runs at one point differ, `replicates` how many there
    are at each: then a process that learns their noise is tried, and a flow. `fidelities` are other versions of the
    simulator with their numbers of runs: each that has more than n is tried beside them. Recipes that need more than n
    runs are left out, and exact processes beyond a few thousand, where one fit takes longer than a search should.

    >>> list(candidates(9, 1))[:3]
    ['polynomial-1', 'polynomial-2', 'polynomial-3']
    >>> "multifidelity-coarse" in candidates(9, 1, fidelities={"coarse": 90})
    True
    """
    runs, first, *others = n * replicates, *_PROCESSES.items()
    both = {f"multifidelity-{name}": {"use": "multifidelity", "fidelities": [name], "low": _low(m)}
            for name, m in (fidelities or {}).items() if m > n}  # fmt: skip
    repeated, residual = (_NOISE if some and n <= _PLACES else {} for some in (replicates > 1, stochastic))
    more = {**both, **(_GRADIENTS if jacobians else {}), **residual}
    processes = dict([first, *more.items(), *others]) if runs <= _MOST else {}
    last = {**_NETWORKS, **(_FLOWS if stochastic else {})}
    exact_first = {**_POLYNOMIALS, **repeated, **processes, **last}
    specs = exact_first if runs <= _EXACT else {**_POLYNOMIALS, **repeated, **_SPARSE, **last, **processes}
    there = registry.names("emulators")
    made = {name: registry.build("emulators", spec) for name, spec in specs.items() if spec["use"] in there}
    return {name: recipe for name, recipe in made.items() if recipe.minimum_runs(d) <= n}


def _low(m: int) -> Mapping[str, Any]:
    """What learns a fidelity of m runs."""
    return {"use": "gp"} if m <= _CHEAP else {"use": "svgp"}
