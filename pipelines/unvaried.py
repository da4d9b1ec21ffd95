"""What the training runs of a stochastic simulator cannot tell: outputs that none of them varied, noise that too few saw."""

from typing import TYPE_CHECKING

from emulate.checks._words import output
from emulate.runs import Runs

if TYPE_CHECKING:
    from pipelines.workbench import Workbench

_EMPTY = 0.2  # the share of runs in which a Poisson number whose mean is 1.6 is 0; of a mean of 10 it is 5e-5


def tell(bench: "Workbench", runs: Runs) -> None:
    """Warn of outputs of a stochastic simulator that are the same in every finished run, as a bin that stayed empty is; where
    their noise is all the noise of an observation also of those that are 0 in many, and of fewer runs than outputs."""
    study = bench.study
    predictive = study.infers and not study.infer.likelihood.adds_noise
    for said in (sentence(runs), *((sparse(runs), few(runs)) if predictive else ())):
        if said:
            bench.terminal.warn(said)


def sentence(runs: Runs) -> str:
    """What is to be said of them, '' where there are none.

    >>> from emulate import Field, Outputs, Parameter, Space, Uniform
    >>> space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    >>> bins = Outputs((Field("n", "", False, "x", (1.0, 2.0)),))
    >>> sentence(Runs.of(space, bins, [[0.0], [1.0]], [[3.0, 0.0], [4.0, 0.0]], stochastic=True))[:60]
    'n at x = 2 is the same in all 2 training runs, and the emula'
    """
    runs = runs.finished()
    same = (runs.y == runs.y[:1]).all(0).nonzero()[0]
    if not runs.stochastic or len(runs) < 2 or not len(same):
        return ""
    more = f" and {len(same) - 1} more of {runs.outputs.size} outputs" if len(same) > 1 else ""
    verb, it = ("are", "they") if more else ("is", "it")
    return (f"{output(runs.outputs, int(same[0]))}{more} {verb} the same in all {len(runs)} training runs, and the emulators will "
            f"say that {it} always {verb}: they say nothing of the parameters there, and scores and likelihoods that rest on the "
            "noise of runs leave that out. Make more runs, or choose outputs that every run fills (of histograms: wider bins, or "
            "fewer of them).")  # fmt: skip


def sparse(runs: Runs) -> str:
    """What is to be said of outputs that are 0 in many runs and positive in others, as bins that are seldom filled; else ''.

    >>> from emulate import Field, Outputs, Parameter, Space, Uniform
    >>> space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    >>> bins = Outputs((Field("n", "", False, "x", (1.0, 2.0)),))
    >>> y = [[3.0 + i, float(i == 9)] for i in range(10)]
    >>> sparse(Runs.of(space, bins, [[i / 10] for i in range(10)], y, stochastic=True))[:60]
    'n at x = 2 is 0 in 9 of 10 training runs: the noise of so fe'
    """
    runs = runs.finished()
    empty = (runs.y == 0).sum(0)
    found = ((empty > _EMPTY * len(runs)) & (runs.y > 0).any(0) & (runs.y >= 0).all(0)).nonzero()[0]
    if not runs.stochastic or not len(found):
        return ""
    worst = int(found[empty[found].argmax()])
    more = f" ({len(found) - 1} more of {runs.outputs.size} outputs are alike)" if len(found) > 1 else ""
    return (f"{output(runs.outputs, worst)} is 0 in {empty[worst]} of {len(runs)} training runs{more}: the noise of so few counts "
            "is no Gaussian, as most emulators take it to be, and a posterior that rests on it comes out too narrow. Choose "
            "outputs that every run fills well, by ten counts or more (of histograms: wider bins, or fewer of them).")  # fmt: skip


def few(runs: Runs) -> str:
    """What is to be said of runs that are too few for the covariance of their noise, '' where they are not.

    >>> from emulate import Field, Outputs, Parameter, Space, Uniform
    >>> space = Space((Parameter("a", Uniform(0.0, 1.0)),))
    >>> bins = Outputs((Field("n", "", False, "x", (1.0, 2.0)),))
    >>> few(Runs.of(space, bins, [[0.0], [1.0]], [[3.0, 0.0], [4.0, 1.0]], stochastic=True))[:56]
    '2 training runs cannot tell how the noise of 2 outputs g'
    """
    n, m = len(runs.finished()), runs.outputs.size
    if n > m:
        return ""
    return (f"{n} training runs cannot tell how the noise of {m} outputs goes together, and the likelihood of the observation "
            f"rests on that. Make more runs than outputs, better {2 * m}, or choose fewer outputs (of histograms: wider "
            "bins).")  # fmt: skip
