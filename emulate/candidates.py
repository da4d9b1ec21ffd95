"""Which recipes to try where nobody says: a few of each kind, those that cost least first."""

from collections.abc import Mapping
from typing import Any

from emulate import registry
from emulate.contracts import Recipe

_EXACT, _MOST = 1500, 4000  # runs beyond which an exact Gaussian process costs more than a network, or too much
_PLACES = 600  # of repeated runs, beyond which the process that learns their noise costs too much

_POLYNOMIALS = {f"polynomial-{k}": {"use": "polynomial", "degree": k} for k in (1, 2, 3, 4)}
_PROCESSES = {
    "gp-constant": {"use": "gp", "kernel": "rbf", "mean": "constant"},
    "gp-quadratic": {"use": "gp", "kernel": "rbf", "mean": "quadratic"},
    "gp-matern": {"use": "gp", "kernel": "matern52", "mean": "linear"},
    "gp": {"use": "gp"},
}
_NOISE = {"noisy-gp": {"use": "noisy_gp"}}
_SPARSE = {"svgp": {"use": "svgp"}}
_GRADIENTS = {"gradient-gp": {"use": "gradient_gp"}}
_NETWORKS = {
    "mlp": {"use": "mlp"},
    "mlp-wide": {"use": "mlp", "width": 128},
    "residual": {"use": "residual"},
}


def candidates(n: int, d: int, *, positive: bool, jacobians: bool = False, replicates: int = 1) -> dict[str, Recipe]:
    """Recipes for runs at n points over d parameters by name, cheapest first.

    `positive` says that some outputs are positive by nature: then a process on y itself is tried beside that on ln y.
    `jacobians` says that the runs carry theirs, `replicates` how many there are at each point: then a process is tried
    that learns their noise. Recipes that need more than n runs are left out, and exact processes beyond a few thousand,
    where one fit takes longer than a search should.

    >>> list(candidates(9, 1, positive=False))[:3]
    ['polynomial-1', 'polynomial-2', 'polynomial-3']
    """
    plain: Mapping[str, Any] = {"gp-not-log": {"use": "gp", "log": False}} if positive else {}
    runs, noise = n * replicates, _NOISE if replicates > 1 and n <= _PLACES else {}
    processes = {**_PROCESSES, **plain, **(_GRADIENTS if jacobians else {})} if runs <= _MOST else {}
    exact_first = {**_POLYNOMIALS, **noise, **processes, **_NETWORKS}
    specs = exact_first if runs <= _EXACT else {**_POLYNOMIALS, **noise, **_SPARSE, **_NETWORKS, **processes}
    there = registry.names("emulators")
    made = {name: registry.build("emulators", spec) for name, spec in specs.items() if spec["use"] in there}
    return {name: recipe for name, recipe in made.items() if recipe.minimum_runs(d) <= n}
