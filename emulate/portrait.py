"""An emulator in a few lines: what it asks, what it answers, what it was taught by, and what checks found of it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from emulate.contracts import Finding, Recipe
from emulate.runs import Field, Outputs
from emulate.space import Parameter, Space


def lines(recipe: Recipe, space: Space, outputs: Outputs, provenance: Mapping[str, Any],
          findings: Iterable[Finding]) -> list[str]:  # fmt: skip
    """One line for the recipe, for each parameter, for each output, and for the findings.

    >>> import emulate
    >>> recipe = emulate.build("emulators", "polynomial")
    >>> space = emulate.Space((emulate.Parameter("a", emulate.Uniform(0, 1), "km/s"),))
    >>> print(*lines(recipe, space, emulate.Outputs((emulate.Field("y", "K"),)), {"runs": 9}, ()), sep="\\n")
    recipe: polynomial, fitted to 9 runs
    parameter a in km/s: Uniform(low=0, high=1)
    output y in K: a number
    checks: none has looked at it
    """
    taught = f", fitted to {provenance['runs']} runs" if "runs" in provenance else ""
    return [
        f"recipe: {recipe.entry_name()}{taught}",
        *map(_parameter, space.parameters),
        *map(_output, outputs.fields),
        f"checks: {_checks(findings)}",
    ]


def missed(finding: Finding) -> str:
    """`accuracy.median is 0.002, and must be <= 0.0005`."""
    value = f"{finding.value:.4g}" if math.isfinite(finding.value) else "not known"
    return f"{finding.name} is {value}, and must be {finding.bound}"


def _parameter(p: Parameter) -> str:
    return f"parameter {p.name}{_in(p.unit)}: {p.prior!r}"


def _output(f: Field) -> str:
    along = (
        f"{f.size} numbers along {f.coordinate} = {f.at[0]:.4g} to {f.at[-1]:.4g} {f.at_unit}" if f.at else "a number"
    )
    return f"output {f.name}{_in(f.unit)}: {along.rstrip()}"


def _checks(findings: Iterable[Finding]) -> str:
    judged = [f for f in findings if f.blocking]
    failed = [f for f in judged if not f.passed]
    if not judged:
        return "none has looked at it"
    listed = "".join(f"; {missed(f)}" for f in failed)
    return f"{len(judged) - len(failed)} of {len(judged)} findings passed{listed}"


def _in(unit: str) -> str:
    return f" in {unit}" if unit else ""
