"""What the simulate stage writes of runs: a table of numbers, and a summary with times and failures."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emulate.runs import Runs
from pipelines import files


def write(path: Path, tables: Mapping[str, Runs]) -> None:
    """The runs of each set, all of the same outputs; the same bytes however they were made, so without their times."""
    first = next(iter(tables.values()))
    header = ["set", *first.space.names, *first.outputs.labels, "seed", "ok", "reason", "key"]
    rows = [
        [which, *map(float, r.theta[i]), *map(float, r.y[i]), int(r.seed[i]), bool(r.ok[i]), r.reason[i], r.key[i]]
        for which, r in tables.items()
        for i in range(len(r))
    ]
    files.write_csv(path, header, rows)


def columns(runs: Runs) -> dict[str, str]:
    """The columns of what `write` writes, with their types by MLflow's names."""
    numbers = dict.fromkeys((*runs.space.names, *runs.outputs.labels), "double")
    return {"set": "string", **numbers, "seed": "long", "ok": "boolean", "reason": "string", "key": "string"}


def summary(runs: Runs) -> dict[str, Any]:
    """How many finished, how long they took, and every failure with its parameters and reason."""
    failed = runs.failed()
    seconds = runs.seconds[np.isfinite(runs.seconds)]
    return {
        "planned": len(runs),
        "finished": int(runs.ok.sum()),
        "failed": len(failed),
        "jacobians": jacobians(runs),
        "seconds": {"median": float(np.median(seconds)) if len(seconds) else None, "total": float(seconds.sum())},
        "failures": [
            {
                "parameters": dict(zip(runs.space.names, map(float, t), strict=True)),
                "kind": r.partition(":")[0],
                "reason": r.partition(":")[2].strip(),
            }
            for t, r in zip(failed.theta, failed.reason, strict=True)
        ],
    }


def jacobians(runs: Runs) -> int:
    """How many runs carry one."""
    return 0 if runs.jacobian is None else int(runs.ok.sum())


def most_frequent(tables: Iterable[Runs]) -> str:
    """`The most frequent reason, 3 times: timeout: ...`"""
    reasons = [x for r in tables for x, good in zip(r.reason, r.ok, strict=True) if not good]
    worst = max(set(reasons), key=reasons.count)
    return f"The most frequent reason, {reasons.count(worst)} times: {worst.rstrip('.')}."
