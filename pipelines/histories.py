"""What changes while networks learn and chains are drawn, as series of the journal: MLflow draws them against their steps."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from emulate.diagnostics import diagnose
from pipelines.journal import Journal

_LOOKS = 20  # counts of draws at which chains are looked at
_COUNTS = ("member", "epoch")  # keys of a row that say where it belongs


def training(journal: Journal, scope: str, history: Sequence[Mapping[str, float]], within: str = "") -> None:
    """A series for each loss of a training, one value for each epoch, from 1; each member of an ensemble has its own.

    `within` is put before the names, `flow/loss`.
    """
    members = {m: list(rows) for m, rows in groupby(history, lambda row: int(row.get("member", 0)))}
    for member, rows in members.items():
        for key in dict.fromkeys(k for row in rows for k in row if k not in _COUNTS):
            told = [(step, row[key]) for step, row in enumerate(rows, 1) if key in row]
            name = "/".join(filter(None, (within, key, f"member {member}" if len(members) > 1 else "")))
            journal.append("series", scope, name=name, steps=[s for s, _ in told], values=[x for _, x in told])


def mixing(journal: Journal, scope: str, names: Sequence[str], theta: Tensor) -> None:
    """R-hat and effective sample size against the draws of a chain, for theta `[chains, draws, d]`: `<name>/rhat` and
    `<name>/ess` of each parameter, `rhat` and `ess` of the worst.

    The last value is that of all draws. Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021) advise to look at it so: an
    effective sample size that does not grow with the draws tells of chains that have not found the posterior yet.
    """
    n = theta.shape[1]
    steps = sorted({max(8, round(n * i / _LOOKS)) for i in range(1, _LOOKS + 1)} & set(range(n)) | {n})
    found = [diagnose(theta[:, :step]) for step in steps]
    rhat, ess = torch.stack([r for r, _ in found]), torch.stack([e for _, e in found])
    columns = {f"{name}/{key}": x[:, i] for i, name in enumerate(names) for key, x in (("rhat", rhat), ("ess", ess))}
    for name, x in (columns | {"rhat": rhat.amax(1), "ess": ess.amin(1)}).items():
        journal.append("series", scope, name=name, steps=steps, values=x)
