"""How the infer stage draws from a posterior: from where, with or without a gradient, and on from an earlier run."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emulate.artefact import FINDINGS
from emulate.errors import InputError, StoreError
from pipelines import files, hindsight
from pipelines.amortised_choice import METHOD, NLE
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from emulate.contracts import Draws
    from emulate.posterior import MAP, Posterior

STATE = "infer/state.safetensors"
_EVERY = 5.0  # seconds from one state on disk to the next


def best_fit(bench: Workbench, posterior: "Posterior") -> tuple["MAP", Tensor | None]:
    """The highest mode and the Fisher matrix there, which is None where the posterior has no gradient."""
    sampler, champion = bench.study.infer.sampler, bench.champion
    with bench.terminal.bar("maximum a posteriori"):
        near = torch.from_numpy(bench.points("training"))
        best = posterior.find_map(seed=bench.seed("infer/map"), near=near)
        if best.particles is None:
            return best, posterior.fisher(best.theta)
    if sampler.needs_gradient:
        raise InputError(f"infer.sampler.use: {sampler.entry_name()} must have a posterior with a gradient, and that through "
                         f"{champion} has none. Use ensemble, or smc where it may have several modes.")  # fmt: skip
    bench.terminal.warn(f"the posterior through {champion} has no gradient: its best fit was searched for by particles, and the "
                        "Fisher matrix is left out.")  # fmt: skip
    return best, None


def draw(bench: Workbench, posterior: "Posterior", best: "MAP") -> "Draws":
    """The draws of the study's sampler; those of an earlier run that was interrupted, or asked for fewer, are kept."""
    infer = bench.study.infer
    start = best.starts(infer.chains, seed=bench.seed("infer/start"))
    kept = Kept(bench.folder / STATE, _digest(bench, posterior.data)) if infer.sampler.resumable else None
    try:
        with bench.terminal.bar("sample", total=1) as tick:
            draws = infer.sampler.draw(posterior.log_density, start, infer.draws, seed=bench.seed("infer/draws"),
                                       progress=tick, **({} if kept is None else {"checkpoint": kept}))  # fmt: skip
    finally:
        if kept is not None:
            kept.flush()
    if kept is not None and kept.said:
        bench.note(kept.said)
    return draws


class Kept:
    """A checkpoint in a file, under the digest of all that the draws depend on but their number."""

    def __init__(self, path: Path, digest: str):
        self.path, self.digest, self.said = path, digest, ""
        self._pending: Mapping[str, Tensor] | None = None
        self._written = time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        """The state, None where there is none of these draws; `said` is what a user should know of it."""
        if not self.path.exists():
            return None
        try:
            state = files.read_tensors(self.path)
            digest = bytes(state.pop("digest").tolist()).decode()
        except (StoreError, KeyError, ValueError, TypeError):
            self.said = f"{self.path.name} is damaged and was not used; all draws were made anew"
            return None
        if digest != self.digest:
            self.said = (
                f"{self.path.name} is of other settings, runs or code and was not used; all draws were made anew"
            )
            return None
        self.said = f"continued from {len(state['x'])} draws" if "x" in state else ""
        return state

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Writes now and then; `flush` writes what is left."""
        self._pending = state
        if time.monotonic() - self._written > _EVERY:
            self.flush()

    def flush(self) -> None:
        """The last state, on disk, whole or not at all."""
        if self._pending is not None:
            mark = torch.tensor(list(self.digest.encode()), dtype=torch.uint8)
            files.write_tensors(self.path, {**self._pending, "digest": mark})
            self._pending, self._written = None, time.monotonic()


def _digest(bench: Workbench, data: Tensor) -> str:
    """sha256 over all that a draw depends on, but how many there are."""
    from pipelines.engine import code_digest

    study, section = bench.study, bench.study.section("infer")
    section["infer"] = {k: v for k, v in section["infer"].items() if k != "draws"}
    read = (f"emulators/{bench.champion}", NLE, METHOD, hindsight.FEASIBILITY)
    material = {
        "section": section,
        "parameters": study.section("design")["parameters"],
        "files": {name: files.digest(path, but=FINDINGS) for name in read if (path := bench.folder / name).exists()},
        "data": data.tolist(),
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()


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
