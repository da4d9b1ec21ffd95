"""How long a campaign still takes: its rate, the time left with an interval, and the runs that take too long.

Pure arithmetic on what a progress bar is told anyway; memory is flat however many runs there are.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.terminal import count, duration
from pipelines.underway import UnderWay

_KEPT, _FEW = 2000, 5  # lengths kept; fewer than which say nothing
_DRAWS, _LIVES = 200, 2000  # draws of the end, and of how long a run under way still takes
_NAMED = 3  # runs that a sentence names
_STRAGGLES = 4.0  # robust standard deviations of ln seconds: 3 in 100,000 runs by chance


@dataclass(frozen=True)
class Left:
    """Seconds left, with an interval of 90 %; `rate` in runs per second."""

    rate: float
    seconds: float
    low: float
    high: float

    def __str__(self) -> str:
        rate = f"{self.rate:.2g} runs/s" if self.rate >= 1 else f"{60 * self.rate:.2g} runs/min"
        return f"{rate}, {duration(self.seconds)} left ({duration(self.low)} to {duration(self.high)})"


class Remaining:
    r"""From how many of the runs have ended after which time on w workers, and how long each took where that is known.

    Runs come in at the rate r. Of m that are left, the last is started after t = (m - w) / r, with variance
    c^2 (t + t^2 / T) / r for runs whose lengths scatter by c of their mean, T the time so far; the count of those that
    have ended is uncertain by half a run, or half a batch, of each worker. Then w runs are under way, and the longest of
    what is left of them decides: residual lives of a renewal process, u s with s drawn in proportion to its length and u
    uniform. While the longest runs of many workers have not ended once, the end is put too early. Lengths that are not
    told are taken as exponential, which is cautious.

    >>> remaining = Remaining(workers=1)
    >>> for second in range(11):
    ...     remaining.saw(done=second, total=30, seconds=10.0 * second)
    ...     remaining.ran([10.0])
    >>> 190 < remaining.left.seconds < 200
    True
    """

    def __init__(self, workers: int):
        self._workers = workers
        self._began: tuple[int, float, float] | None = None
        self._now, self._lump = (0, 0, 0.0), 1.0
        self._lengths: deque[float] = deque(maxlen=_KEPT)

    def saw(self, done: int, total: int, seconds: float) -> None:
        """`done` of `total` runs have ended `seconds` after the start; the first call says where counting begins."""
        if self._began is None:
            self._began = self._now = done, seconds, 0.0
        self._lump = max(1.0, 0.9 * self._lump, done - self._now[0])
        self._now = (done, total, seconds)

    def ran(self, seconds: Iterable[float]) -> None:
        """The lengths of runs that ended, in s."""
        self._lengths.extend(s for s in seconds if s > 0)

    @property
    def left(self) -> Left | None:
        """None before two runs have ended."""
        done, total, now = self._now
        ended, time = done - self._began[0] if self._began else 0, now - self._began[1] if self._began else 0.0
        if ended < 2 or time <= 0:
            return None
        known = len(self._lengths) >= _FEW
        lengths = np.array(self._lengths) if known else -np.log1p(-(np.arange(64) + 0.5) / 64)
        w, m, mean = self._workers, total - done, lengths.mean()
        rate = ended / time
        scale = max(1.0, w / rate / mean) if known else w / rate / mean  # above 1 while long runs have not ended yet
        rng = np.random.default_rng(ended)
        phase = w * self._lump * (rng.random(_DRAWS) - 0.5)  # runs begin, and batches end, together
        wait = max(0, m - w) / rate / np.maximum(1 + phase / ended, 0.2)
        scatter = lengths.std() / mean * np.sqrt((wait + wait**2 / time) / rate)
        lives = np.sort(rng.choice(lengths, _LIVES, p=lengths / lengths.sum()) * rng.random(_LIVES))
        longest = lives[(_LIVES * rng.random(_DRAWS) ** (1 / max(1, min(w, m)))).astype(int)]  # of all under way
        ends = np.maximum(wait + scatter * rng.standard_normal(_DRAWS), 0) + (scale * longest if m else 0)
        low, middle, high = np.quantile(ends, [0.05, 0.5, 0.95])
        return Left(rate, float(middle), float(low), float(high))

    def note(self, failed: int, under_way: Sequence[UnderWay] = ()) -> str:
        """What a progress bar says beside its numbers."""
        left = self.left if self._now[0] < self._now[1] else None
        late = stragglers(self._lengths, [u.seconds for u in under_way])
        slow = (
            f"{count(len(late), 'straggler')} (the longest {duration(under_way[late[0]].seconds)})" if len(late) else ""
        )
        return ", ".join(filter(None, (f"{failed} failed" if failed else "", str(left) if left else "", slow)))


def stragglers(seconds: Sequence[float], elapsed: Sequence[float] | None = None) -> np.ndarray:
    """Indices of runs that take too long: of `elapsed` seconds so far, or of `seconds` themselves, against the median
    and the spread (1.4826 times the median absolute deviation, at least 10 %) of ln `seconds` of runs that ended.

    >>> stragglers([1.0, 1.1, 0.9, 1.2, 1.0, 30.0]).tolist()
    [5]
    """
    done = np.log(np.maximum(np.asarray(seconds, float), 1e-6))
    if len(done) < 5:
        return np.empty(0, int)
    asked = done if elapsed is None else np.log(np.maximum(np.asarray(elapsed, float), 1e-6))
    middle = np.median(done)
    spread = max(1.4826 * float(np.median(np.abs(done - middle))), 0.1)
    return np.flatnonzero(asked > middle + _STRAGGLES * spread)


def sentence(under_way: Sequence[UnderWay], seconds: Sequence[float]) -> str:
    """How many runs are under way, for how long, and which of them take far longer than runs that ended; or nothing."""
    if not under_way:
        return ""
    said = f"{count(len(under_way), 'run')} under way, the longest for {duration(under_way[0].seconds)}."
    ended = [s for s in seconds if np.isfinite(s) and s > 0]
    if len(late := stragglers(ended, [u.seconds for u in under_way])):
        rest = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
        named = "; ".join(f"{u.key[:12]} on {u.host} for {duration(u.seconds)}"
                          for u in (under_way[i] for i in late[:_NAMED]))  # fmt: skip
        said += f" Far longer than those that ended, which took {duration(float(np.median(ended)))}: {named}{rest}."
    return said
