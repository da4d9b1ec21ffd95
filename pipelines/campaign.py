"""Campaigns: many runs, each made once and stored, in this process or on a pool of workers.

Workers are sent keys and give back keys, never results: each run is committed to the store by the worker, inside the
task. A campaign that was killed is continued by starting it again: it makes the runs that the store does not hold.
"""

import contextlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emulate.errors import CampaignError, StoreError
from emulate.store import RunStore
from pipelines import underway, walltime
from pipelines.limits import Limits
from pipelines.runner import Runner
from pipelines.tasks import Task, missing
from pipelines.worker import Row, Work, commit_crashed, make, run_batch, start_runner

if TYPE_CHECKING:
    from pipelines.cluster import Cluster
    from pipelines.study import ClusterPart

__all__ = ["Executor", "Limits", "Lost", "Task", "campaign", "open_cluster"]

Progress = Callable[[int, int, int, float, Sequence[float]], None]
T = TypeVar("T", bound=Hashable)

_BATCH_SECONDS, _BATCH_RUNS = 1.0, 64  # a task is about one second of runs, and at most so many
_WINDOW = 3  # batches under way per worker
_IN_VAIN = 10  # workers that may end in a row before they begin a run
_OPEN = 2  # runs of a batch that its worker may have had in hand: one being made, the one before being committed
_NONE = Limits()
_ALONE = 3.0  # seconds that calls take in this process before workers are started for them
_DEATHS = 2  # workers that a call may end


class Lost(Exception):
    """The pool has no workers, or no scheduler, any more; what was under way is to be made again."""


def campaign(tasks: Iterable[Task], *, store: Path, simulator: Mapping[str, Any], cluster: "ClusterPart",
             limits: Limits = _NONE, progress: Progress | None = None) -> None:  # fmt: skip
    """Make the runs that the store does not hold, on a cluster of its own; see `Executor.campaign`."""
    with open_cluster(cluster) as executor:
        executor.campaign(tasks, store=store, simulator=simulator, limits=limits, progress=progress)


@contextlib.contextmanager
def open_cluster(cluster: "ClusterPart", say: Callable[[str], None] = lambda text: None) -> Iterator["Executor"]:
    """One cluster for several campaigns, started when the first run is to be made, stopped at the end.

    `cluster` is the section of a study; `say` is told where the dashboard of the cluster is.
    """
    executor = Executor(cluster, say)
    try:
        yield executor
    except BaseException:
        executor.close(kill=True)
        raise
    executor.close()


@dataclass
class Executor:
    """Runs campaigns; made by `open_cluster`."""

    cluster: "ClusterPart"
    say: Callable[[str], None] = lambda text: None
    _pool: "Cluster | None" = field(default=None, init=False)
    _serial: "tuple[Work, Runner] | None" = field(default=None, init=False)

    def campaign(self, tasks: Iterable[Task], *, store: Path, simulator: Mapping[str, Any],
                 limits: Limits = _NONE, progress: Progress | None = None, ends: float | None = None) -> None:  # fmt: skip
        """Make the runs of `tasks` that the store does not hold. Failed runs are committed too and do not stop it.

        `simulator` is plain data: `use`, settings, and `space` as `Space.to_dict()` gives it; `limits` hold
        for each run. `progress(done, failed, total, seconds, lengths)` is called at the start, whenever runs came in,
        and when nothing did for a while: done counts all of `tasks` that are in the store, failed those of them that
        failed, seconds the campaign's time; lengths are the seconds of each run that came in.
        A serial campaign begins no run that may not be over at `ends`, in seconds since 1970, and leaves the rest.
        """
        kept = RunStore(store)
        kept.sweep()
        underway.sweep(kept)
        work = Work(str(kept.path), json.dumps(simulator, sort_keys=True), limits, os.getcwd())
        todo = _Todo(tasks, kept, work, progress)
        if not todo.waiting:
            return
        if self.cluster.use == "serial":
            self._one_by_one(todo, ends)
        else:
            _follow(self._workers(), todo)

    def each(self, function: Callable[[T], bool], items: Sequence[T], came: Callable[[T], None],
             over: Callable[[], bool] = lambda: False) -> list[T]:  # fmt: skip
        """Call `function(item)` for every item, on the workers; those are given back that ended their worker each time.

        `function` is one of a module, writes its result to a disk that all share and returns True; `came(item)` is
        called here when it has. It is called again where its worker was lost. Once `over()` is true no call begins.
        Workers that are not there yet are started when the calls turn out to take longer than that.
        """
        left, ends = deque(items), time.monotonic() + _ALONE
        serial = self.cluster.use == "serial"
        while left and not over() and (serial or (self._pool is None and time.monotonic() < ends)):
            item = left.popleft()
            function(item)
            came(item)
        if not left or over():
            return []
        return _spread(self._workers(), function, left, came, over)

    def _workers(self) -> "Cluster":
        if self._pool is None:
            from pipelines.cluster import Cluster

            self._pool = Cluster(self.cluster, self.say)
        return self._pool

    def close(self, *, kill: bool = False) -> None:
        """Stop the workers and all that they started; `kill` does not wait for runs under way."""
        if self._serial:
            self._serial[1].close()
        if self._pool:
            self._pool.close(kill=kill)
        self._serial = self._pool = None

    def _one_by_one(self, todo: "_Todo", ends: float | None) -> None:
        work, longest = todo.work, 0.0
        if self._serial and self._serial[0] != work:
            self._serial[1].close()
            self._serial = None
        self._serial = self._serial or (work, start_runner(work))
        while todo.waiting and walltime.enough(longest, ends):
            (task,) = todo.take(1)
            row, commit = make(task, todo.store, self._serial[1], longest)
            commit()
            todo.came([row])
            longest = max(longest, row[2])


class _Todo:
    """What a campaign still has to do, and what it knows of what is done."""

    def __init__(self, tasks: Iterable[Task], store: RunStore, work: Work, progress: Progress | None):
        self.store, self.work, self._progress, self._start = store, work, progress, time.monotonic()
        each = missing(tasks, None)
        self._fresh = missing(each, store)
        self._begun, self._back = 0, deque[Task]()  # of the fresh ones, and those that came back undone
        self._suspects = deque[Task]()  # those of them that may have ended their worker
        self.total = len(each)
        self.done = self.total - len(self._fresh)
        self.failed = 0
        if self.done:
            fresh = {t.key for t in self._fresh}
            self.failed = sum(store.failed(t.key) for t in each if t.key not in fresh)
        self.deaths: Counter[str] = Counter()  # of workers that had begun this run
        self._in_vain = 0  # deaths in a row of workers that had begun none
        self._seconds, self._measured = 0.0, 0
        self.tell()

    @property
    def waiting(self) -> int:
        """How many runs nobody makes yet."""
        return len(self._fresh) - self._begun + len(self._back) + len(self._suspects)

    def take(self, count: int) -> list[Task]:
        taken = [self._fresh[i] for i in range(self._begun, min(self._begun + count, len(self._fresh)))]
        self._begun += len(taken)
        return taken + [self._back.popleft() for _ in range(min(count - len(taken), len(self._back)))]

    def batch(self, workers: int) -> list[Task]:
        """The next tasks: about a second of runs, fewer when few are left so that workers end together.

        A run that may have ended its worker is made alone, so that it takes no other with it and none is blamed for it.
        """
        if self._suspects:
            return [self._suspects.popleft()]
        mean = self._seconds / self._measured if self._measured else _BATCH_SECONDS
        share = self.waiting // (2 * max(1, workers))
        return self.take(max(1, min(_BATCH_RUNS, int(_BATCH_SECONDS / max(mean, 1e-3)), share)))

    def came(self, found: list[Row]) -> None:
        """Runs came in: key, whether it failed, seconds."""
        self._in_vain = 0 if found else self._in_vain
        self.done += len(found)
        self.failed += sum(failed for _, failed, _ in found)
        self._seconds += sum(seconds for _, _, seconds in found)
        self._measured += sum(seconds > 0 for _, _, seconds in found)  # one that somebody else made says nothing
        self.tell([seconds for _, _, seconds in found])

    def back(self, batch: list[Task], *, died: bool) -> None:
        """A batch whose worker is gone: what it committed counts, the rest is made again.

        When the worker `died`, only the first of the rest were in its hands, for a batch is made and committed in order.
        They are made alone then, which workers note; a run is blamed that was noted when its worker died, once more than
        the limits allow.
        """
        rest = [task for task in batch if not self.store.has(task.key)]
        left = {task.key for task in rest}
        self.came([(t.key, self.store.failed(t.key), 0.0) for t in batch if t.key not in left])
        suspects = rest[:_OPEN] if died else []
        self._back.extend(rest[len(suspects) :])
        for task in suspects:
            began = underway.left_behind(self.store, task.key)
            self.deaths[task.key] += began
            self._in_vain = 0 if began or len(batch) > 1 else self._in_vain + 1
            if self.deaths[task.key] > self.work.limits.again("lost"):
                commit_crashed(task, self.store, self.work)
                self.came([(task.key, True, 0.0)])
            else:
                self._suspects.append(task)
        if self._in_vain > _IN_VAIN:
            raise CampaignError(f"{self._in_vain} workers ended one after the other before they began a run. {self.done} of "
                                f"{self.total} runs are stored; look at the logs and the memory of the workers, then start "
                                "the same command again.")  # fmt: skip

    def tell(self, lengths: Sequence[float] = ()) -> None:
        """Where the campaign is, and the seconds of runs that came in."""
        if self._progress:
            self._progress(self.done, self.failed, self.total, time.monotonic() - self._start, lengths)


def _follow(pool: "Cluster", todo: _Todo) -> None:
    """Keep a window of batches under way until nothing waits; start the pool anew when it is lost."""
    under_way: dict[Any, list[Task]] = {}
    done_when_lost = -1
    while todo.waiting or under_way:
        if not walltime.enough(0.0, walltime.end()):
            raise CampaignError(f"the time of this job is over with {todo.done} of {todo.total} runs stored. Start the "
                                "same command in another job; it goes on from there.")  # fmt: skip
        try:
            workers = pool.workers()
            while todo.waiting and len(under_way) < _WINDOW * workers:
                batch = todo.batch(workers)
                under_way[pool.submit(run_batch, todo.work, batch)] = batch
            ended = pool.ended(list(under_way))
            for future in ended:
                _settle(pool, future, under_way.pop(future), todo)
            if not ended:
                todo.tell()
        except Lost as e:
            for batch in under_way.values():
                todo.back(batch, died=False)
            under_way.clear()
            if done_when_lost == todo.done:
                raise CampaignError(f"the cluster was lost twice without a run between: {e}. {todo.done} of "
                                    f"{todo.total} runs are stored; look at its machines, then start the same command "
                                    "again.") from None  # fmt: skip
            done_when_lost = todo.done
            pool.restart(str(e))


def _settle(pool: "Cluster", future: Any, batch: list[Task], todo: _Todo) -> None:
    try:
        found = pool.result(future)
    except Lost:
        todo.back(batch, died=False)
        raise
    if found is None:
        todo.back(batch, died=True)
    else:
        _see([key for key, _, _ in found], todo.store)
        todo.came(found)
        made = {key for key, _, _ in found}
        if left := [task for task in batch if task.key not in made]:
            todo.back(left, died=False)
            pool.retire(future)  # the time of its job is over


def _spread(pool: "Cluster", function: Callable[[T], bool], left: deque[T], came: Callable[[T], None],
            over: Callable[[], bool]) -> list[T]:  # fmt: skip
    """One call under way per worker; a pool that is lost is started anew, unless it was so without a call between."""
    under_way: dict[Any, T] = {}
    deaths, given_up, done, done_when_lost = Counter[T](), list[T](), 0, -1
    while under_way or (left and not over()):
        try:
            workers = pool.workers()
            while left and len(under_way) < workers and not over():
                item = left.popleft()
                under_way[pool.submit(_call, function, item)] = item
            for future in pool.ended(list(under_way)):
                item = under_way[future]
                alive = pool.result(future) is not None
                del under_way[future]
                deaths[item] += not alive
                if alive:
                    came(item)
                    done += 1
                else:
                    (left if deaths[item] < _DEATHS else given_up).append(item)
        except Lost as e:
            left.extendleft(reversed(under_way.values()))
            under_way.clear()
            if done_when_lost == done:
                raise CampaignError(f"the cluster was lost twice without a result between: {e}. What was stored is kept; "
                                    "look at its machines, then start the same command again.") from None  # fmt: skip
            done_when_lost = done
            pool.restart(str(e))
    return given_up


def _call(function: Callable[[T], bool], item: T) -> bool:
    return function(item)


def _see(keys: list[str], store: RunStore) -> None:
    """What workers committed must be seen here; a network disk may need a moment."""
    for wait in (0.0, 0.1, 1.0, 10.0):
        time.sleep(wait)
        if all(store.has(k) for k in keys):
            return
    raise StoreError(f"the workers committed runs that {store.path} does not hold. Workers and this machine must share "
                     "that folder.")  # fmt: skip
