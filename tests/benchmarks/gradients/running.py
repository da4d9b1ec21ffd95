"""How every method of the room is run on a case, on the way of writing it that the method can read."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from emulate import gradients, registry
from emulate.contracts import Estimate
from emulate.errors import EmulateError
from tests.benchmarks.gradients.cases import Case
from tests.benchmarks.gradients.table import Row

ONE_BY_ONE = {"finite_difference": 400, "reverse": 400, "checkpointed": 400}  # most replicates of what is never batched


def measured(case: Case) -> tuple[list[Row], list[str]]:
    """The rows of all methods of the room and of the automatic choice, and the names of those that refuse."""
    rows, refused, prices = [], [], {}
    for name in case.only or (*registry.names("gradients"), "auto"):
        for settings in case.settings.get(name, ({},)):
            met = _served(case, name, settings)
            if met is None:
                refused.append(name)
                continue
            label, e = met
            told = [str(v) if isinstance(v, str) else f"{k} {v:g}" for k, v in settings.items()]
            method = f"{name} ({', '.join([*told, label])})" if label or told else name
            made = list(_rows(case, e, method.replace(", )", ")")))
            rows += made
            if all(row.verdict in ("exact", "holds") for row in made):
                prices.setdefault(label, {})[name, method] = _price(e, made)
    for name, label in case.shown:
        rows += _rows(case, _estimate(case, name, {}, label), f"{name} ({label})")
    return [_beside_the_best(row, prices) for row in rows], refused


def _served(case: Case, name: str, settings: Mapping[str, Any]) -> tuple[str, Estimate] | None:
    """The first program of which the method can bound its bias, else the first that it takes at all."""
    labels, begin = [*case.programs], case.first.get(name, 0)
    met = None
    for label in labels[:1] if name == "auto" else labels[begin:] + labels[:begin]:
        try:
            e = _estimate(case, name, settings, label)
        except (EmulateError, RuntimeError, TypeError):
            continue
        if not any(e.bias_bound[at].isnan() for at in case.truth):
            return label, e
        met = met or (label, e)
    return met


def _estimate(case: Case, name: str, settings: Mapping[str, Any], label: str) -> Estimate:
    n = case.counts.get(name, min(case.n, ONE_BY_ONE.get(name, case.n)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = name if name == "auto" else {"use": name, **settings}
        return gradients.estimate(case.programs[label], case.theta, method=method, n=n, seed=1)


def _rows(case: Case, e: Estimate, method: str) -> Iterator[Row]:
    """One of each derivative that is known, or of the worst where there are more than two."""
    note = f"took {e.diagnostics['method']['use']}" if method.startswith("auto") else ""
    worst = max(case.truth, key=lambda at: abs(e.gradient[at] - case.truth[at][1]))
    for at, (figure, truth) in case.truth.items():
        if len(case.truth) <= 2 or at == worst:
            gradient, error, bias = (float(x[at]) for x in (e.gradient, e.standard_error, e.bias_bound))
            yield Row(
                f"{method} {figure}".strip(), truth, gradient, error, bias, e.calls, e.seconds, e.replicates, note=note
            )


def _price(e: Estimate, rows: list[Row]) -> float:
    """Variance times seconds; what is exact is as good as any other that is."""
    least = 1e-12 * sum(row.estimate**2 for row in rows)
    return (sum(row.error**2 for row in rows) + least) * e.seconds


def _beside_the_best(row: Row, prices: dict[str, dict[tuple[str, str], float]]) -> Row:
    """The automatic choice, with its variance times seconds over that of the best method on the same program."""
    here = next((of for of in prices.values() if any(name == "auto" for name, _ in of)), {})
    others = {method: price for (name, method), price in here.items() if name != "auto"}
    if not row.method.startswith("auto") or not row.replicates or not others:
        return row
    (auto,) = (price for (name, _), price in here.items() if name == "auto")
    best = min(others, key=lambda method: others[method])
    return replace(row, note=f"{row.note}, {auto / others[best]:.2g} of the variance x seconds of {best}")
