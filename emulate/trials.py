"""Methods tried side by side on a few replicates of their own: how they scatter, what they take, and which one to use.

What a method takes is counted, not timed: operations of torch, the numbers that they make, and runs of f. So the seed
decides the choice, on any machine and under any load.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from emulate.contracts import Estimate, Gradient
from emulate.errors import InputError
from emulate.noise import Noise
from emulate.replication import Program, lift
from emulate.seeds import replicate

FEWEST = 512  # replicates asked for, from which a race pays
FIRST, LATER = 32, 96  # replicates of the first trial of a method, and of the second
HOPELESS = 16  # times what the best takes in the first trial: no second one
ENOUGH = 30_000  # operations that are counted one by one, which is slow; more are told by the runs of f
RUN, NUMBERS = 20, 4000  # a run of f beside what is seen of it, in operations; numbers made in the time of an operation
ROUNDING = 1e-9  # of the square of a gradient: variances below are alike
_OWN = 10**9  # seeds of trials are those of replicates that no estimate reaches


class _Enough(Exception):
    """So many operations are counted."""


class _Work(TorchDispatchMode):
    """Counts operations and the numbers that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for x in out if isinstance(out, tuple | list) else (out,):
            self.numbers += x.numel() if isinstance(x, Tensor) else 0
        return out


@dataclass(frozen=True)
class Trial:
    """An estimate from n replicates; the runs of f, a batch being one; the operations, and the numbers they made."""

    made: Estimate
    n: int
    runs: int
    operations: int
    numbers: int

    def work(self, n: int, *, batched: bool = True) -> float:
        """Of n replicates, in operations. In a batch only the numbers grow."""
        fixed = self.operations + RUN * self.runs
        return fixed * (1 if batched else n / self.n) + self.numbers / NUMBERS * n / self.n

    def square(self, size: Tensor, n: int) -> Tensor:
        """`[m]`: the mean square error of n replicates, over the parameters in units of their size."""
        error = self.made.standard_error.square() * self.n / n + self.made.bias_bound.square()
        return (error * size.square()).sum(-1)

    def exact(self, size: Tensor, outputs: Sequence[int]) -> bool:
        """Whether the error of some outputs is rounding."""
        least = ROUNDING * (self.made.gradient * size).square().sum(-1)
        return bool((self.square(size, 1) <= least)[list(outputs)].all())


@dataclass(frozen=True)
class Refused:
    """Why a method did not serve, in its own words, and the runs of f until it said so."""

    reason: str
    calls: int


def attempt(method: Gradient, f: Any, theta: Tensor, *, seed: int, n: int = FIRST, turn: int = 0,
            count: bool = True) -> Trial | Refused:  # fmt: skip
    """A trial under the seed of its turn; its operations are 0 where they are not to be counted."""
    f, work, runs = lift(f), _Work(), []
    key = replicate(abs(seed), _OWN + turn)

    def counted(t: Tensor, noise: Noise) -> Tensor:
        if work.operations > ENOUGH:
            raise _Enough
        runs.append(1)
        return f(t, noise)

    share = 1.0
    try:
        with work if count else contextlib.nullcontext():
            made = method.estimate(Program(counted, f.source), theta, seed=key, n=n)
    except _Enough:
        seen, operations, work.operations = len(runs), work.operations, 0
        runs.clear()
        made = method.estimate(Program(counted, f.source), theta, seed=key, n=n)
        work.operations, share = operations, len(runs) / seen
    except (InputError, RuntimeError, TypeError) as e:
        return Refused(str(e).split("\n", 1)[0] or type(e).__name__, len(runs))
    return Trial(made, n, len(runs), round(share * work.operations), round(share * work.numbers))


@dataclass(frozen=True)
class Race:
    """Who won, nobody where all refused in the end; of each method the `variance` of one replicate (over the outputs that are
    judged, in units of the parameters' sizes) and the `work` of n in operations; who is out, and why; the calls it took."""

    winner: str
    figures: dict[str, dict[str, float]]
    out: dict[str, str]
    calls: int


def race(methods: Mapping[str, Gradient], first: Mapping[str, Trial], f: Any, theta: Tensor, *, seed: int, n: int,
         outputs: Sequence[int]) -> Race:  # fmt: skip
    """The method with the least product of mean square error and work at n replicates, over some outputs.

    `methods` in order of preference; `first`: a trial of each. The first method stays unless another is better in the worse
    of its two trials than the first in its better one: variances of few replicates are uncertain, those of heavy tails
    most. What is exact has no second trial. What contradicts the first by more than 5 standard errors of both is out.
    """
    size, incumbent = torch.where(theta == 0, 1.0, theta.abs()), next(iter(methods))
    begun = _losses({k: [t] for k, t in first.items()}, {k: t.work(t.n) for k, t in first.items()}, size, n, outputs)
    near = [k for k in methods if k == incumbent or begun[k][0] <= HOPELESS * min(low for low, _ in begun.values())]
    more = [k for k in near if not first[k].exact(size, outputs)]
    second = {
        k: attempt(methods[k], f, theta, seed=seed, n=LATER, turn=1, count=False) if k in more else first[k]
        for k in near
    }
    calls = sum(t.calls if isinstance(t, Refused) else t.made.calls for k, t in second.items() if k in more)
    out = {k: t.reason for k, t in second.items() if isinstance(t, Refused)}
    again = {k: t for k, t in second.items() if isinstance(t, Trial)}
    near = [k for k in near if k not in out]
    if incumbent in near:
        apart = [k for k in near if _apart(again[k].made, again[incumbent].made)]
        out |= dict.fromkeys(apart, f"it contradicts {incumbent} by more than 5 standard errors.")
        near = [k for k in near if k not in apart]
    if not near:
        return Race("", {}, out, calls)
    work = {k: first[k].work(n, batched=first[k].runs == again[k].runs) for k in near}
    worth = _losses({k: [first[k], again[k]] for k in near}, work, size, n, outputs)
    lead = near[0]
    better = [k for k in near if worth[k][1] < worth[lead][0]]
    variance = {k: float(again[k].square(size, 1)[list(outputs)].sum()) for k in near}
    return Race(min(better, key=lambda k: sum(worth[k]), default=lead),
                {k: {"variance": variance[k], "work": round(work[k])} for k in near}, out, calls)  # fmt: skip


def _losses(trials: Mapping[str, Sequence[Trial]], work: Mapping[str, float], size: Tensor, n: int,
            outputs: Sequence[int]) -> dict[str, tuple[float, float]]:  # fmt: skip
    """Of each method the least and the largest product of error and work over its trials. Errors are shares of the least
    of any method, so that outputs in any unit count alike; what is exact to rounding is alike."""
    some = list(outputs)
    square = {k: torch.stack([t.square(size, n)[some] for t in of]) for k, of in trials.items()}  # [trials, outputs]
    every = torch.stack([(t.made.gradient * size)[some] for of in trials.values() for t in of])
    rounding = ROUNDING * every.square().sum(-1).amin(0) / n + 1e-300
    least = torch.stack([s.mean(0) for s in square.values()]).amin(0) + rounding
    share = {k: ((s + rounding) / least).mean(1) * work[k] for k, s in square.items()}
    return {k: (float(s.amin()), float(s.amax())) for k, s in share.items()}


def _apart(one: Estimate, other: Estimate) -> bool:
    """Whether two estimates cannot both be right."""
    error = 5 * (one.standard_error + other.standard_error) + one.bias_bound + other.bias_bound
    return bool(((one.gradient - other.gradient).abs() > error + 1e-9 * other.gradient.abs() + 1e-300).any())
