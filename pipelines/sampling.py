"""How the infer stage draws from a posterior, and what it says of the draws."""

from collections.abc import Mapping
from typing import Any


def evidence(sampler: Mapping[str, Any]) -> str:
    """`ln evidence -12.3 +- 0.1` for the summary of a sampler that knows it, else nothing."""
    if "log_evidence" not in sampler:
        return ""
    error = sampler["log_evidence_error"]
    known = f" +- {error:.2g}" if error < float("inf") else " without an error bar: raise infer.chains"
    return f"ln evidence {sampler['log_evidence']:.5g}{known}"


def metrics(sampler: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow keeps of the summary of a sampler."""
    names = ("divergent", "log_evidence", "log_evidence_error", "efficiency", "pareto_k", "elbo")
    return {name: sampler[name] for name in names if name in sampler}
