"""A share of a campaign, made by one process with no scheduler: what a plain array of jobs runs."""

import re
import time

from emulate.errors import CampaignError, InputError
from emulate.units import describe
from pipelines import walltime
from pipelines.campaign import Executor, open_cluster
from pipelines.study import ClusterPart
from pipelines.tasks import Tasks
from pipelines.terminal import Terminal, count
from pipelines.workbench import SETS, Workbench


def read(text: str) -> tuple[int, int]:
    """`3/16` as (3, 16): the third of sixteen shares.

    Raises:
        InputError: it is not that.
    """
    met = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    i, n = map(int, met.groups()) if met else (0, 0)
    if not 1 <= i <= n:
        raise InputError(f"--shard must be i/n, the i-th of n shares, counted from 1. Got {text!r}; in an array of 16 jobs "
                         "numbered from 1 to 16 it is the number of the job, then /16.")  # fmt: skip
    return i, n


def run(study, share: tuple[int, int], terminal: Terminal, limit: float | None = None) -> int:
    """Make every n-th run of the study's points that is not stored; 0 when none is left.

    Nothing but the store is written, so any number of shares may be at work on one folder, beside `emulate simulate`
    too. A run is not begun that would outlast the job (`limit` in seconds, or what the queue says).

    Raises:
        InputError: the points are not there yet.
        CampaignError: the job's time ends before its share does.
    """
    i, n = share
    if not (study.folder / "design" / "points.csv").exists():
        raise InputError(f"a share of the runs needs the points, and {study.folder / 'design'} has none. Run `emulate "
                         "design` first, once; then start the shares.")  # fmt: skip
    ends = time.time() + limit if limit else walltime.end()
    made, mine = 0, []
    with Workbench(study, terminal) as bench, open_cluster(ClusterPart(use="serial")) as executor:
        for fidelity, tasks in _asked(bench).items():
            part = tasks[i - 1 :: n]
            made += _make(bench, executor, part, f"share {i} of {n}", fidelity, ends)
            mine += part
        left = len(bench.missing(mine))
        failed = sum(bench.store.failed(t.key) for t in mine if bench.store.has(t.key))
    terminal.give(study=study.name, share=i, of=n, runs=len(mine), made=made, failed=failed, left=left)
    if left:
        raise CampaignError(f"share {i} of {n}: the time of this job is over with {count(left, 'run')} of {len(mine)} to "
                            "make. Start the same command again; stored runs are kept.")  # fmt: skip
    terminal.say(f"share {i} of {n}: {count(made, 'run')} made, {len(mine) - made} stored before, {failed} of "
                 f"{len(mine)} failed. When all shares are done, `emulate run` goes on.")  # fmt: skip
    return 0


def _asked(bench: Workbench) -> dict[str, Tasks]:
    """The runs of the study's own simulator, then those of every fidelity."""
    own = bench.tasks({which: bench.points(which) for which in SETS})
    return {"": own, **{name: bench.tasks({name: bench.points(name)}) for name in bench.study.fidelities}}


def _make(bench: Workbench, executor: Executor, part: Tasks, what: str, fidelity: str, ends: float | None) -> int:
    """Make those that are not stored, as far as the time goes; how many there were."""
    study, todo = bench.study, bench.missing(part)
    if todo:
        describe(bench.store, study.simulator_of(fidelity))
    with bench.terminal.bar(f"{what}, {fidelity}" if fidelity else what, total=len(todo)) as tick:
        executor.campaign(todo, store=study.folder / "store", simulator=study.spec_of(fidelity), ends=ends,
                          limits=study.simulate.limits,
                          progress=lambda done, failed, total, *_: tick(done, total))  # fmt: skip
    return len(todo)
