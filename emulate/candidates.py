"""Which recipes to try where nobody says: a few of each kind, those that cost least first."""

from collections.abc import Mapping
from typing import Any

from emulate import registry
from emulate.contracts import Recipe

_EXACT, _MOST = 1500, 4000  # runs beyond which an exact Gaussian process costs more than a network, or too much

_POLYNOMIALS = {f"polynomial-{k}": {"use": "polynomial", "degree": k} for k in (1, 2, 3, 4)}
_PROCESSES = {
    "gp-constant": {"use": "gp", "kernel": "rbf", "mean": "constant"},
    "gp-quadratic": {"use": "gp", "kernel": "rbf", "mean": "quadratic"},
    "gp-matern": {"use": "gp", "kernel": "matern52", "mean": "linear"},
    "gp": {"use": "gp"},
}
_SPARSE = {"svgp": {"use": "svgp"}}
_GRADIENTS = {"gradient-gp": {"use": "gradient_gp"}}
_NETWORKS = {
    "mlp": {"use": "mlp"},
    "mlp-wide": {"use": "mlp", "width": 128},
    "residual": {"use": "residual"},
}


def candidates(n: int, d: int, *, positive: bool, jacobians: bool = False) -> dict[str, Recipe]:
    """Recipes for n runs over d parameters by name, cheapest first.

    `positive` says that some outputs are positive by nature: then a process on y itself is tried beside that on ln y.
    `jacobians` says that the runs carry theirs. Recipes that need more than n runs are left out, and exact processes
    beyond a few thousand, where one fit takes longer than a search should.

    >>> list(candidates(9, 1, positive=False))[:3]
    ['polynomial-1', 'polynomial-2', 'polynomial-3']
    """
    plain: Mapping[str, Any] = {"gp-not-log": {"use": "gp", "log": False}} if positive else {}
    processes = {**_PROCESSES, **plain, **(_GRADIENTS if jacobians else {})} if n <= _MOST else {}
    exact_first = {**_POLYNOMIALS, **processes, **_NETWORKS}
    specs = exact_first if n <= _EXACT else {**_POLYNOMIALS, **_SPARSE, **_NETWORKS, **processes}
    there = registry.names("emulators")
    made = {name: registry.build("emulators", spec) for name, spec in specs.items() if spec["use"] in there}
    return {name: recipe for name, recipe in made.items() if recipe.minimum_runs(d) <= n}
