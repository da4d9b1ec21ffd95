"""One long chaotic run, differentiated through short windows: the adjoint is cut before it explodes."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge

from emulate.contracts import Estimate, Gradient
from emulate.dynamics import trajectory
from emulate.gradients._averages import averaged
from emulate.gradients._sites import Reads
from emulate.gradients._sweeps import Swept, replicated, sweep, told, watched
from emulate.gradients.pathwise import Continuous
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import lift

FEWEST = 4  # windows whose scatter is taken for an error


@dataclass(frozen=True, kw_only=True)
class Window(Gradient):
    """The adjoint through windows of a few steps: each output is differentiated back to the begin of its window only.

    In a chaotic system the adjoint grows as exp(Lyapunov exponent x time), so that the derivative of a long average is exact
    and useless. Windows long enough for the response to come, and short enough for the growth to stay small, give the
    sensitivity of the climate to some 10 % (Lea, Allen & Haine 2000; Eyink, Haine & Lea 2004). Longer ones lower the bias
    and raise the variance; compare several. Write the long average as a readout over `at` of a Trajectory.

    Of one run with at least 4 windows that all hold outputs the standard error is that of their mean, with what neighbours
    remember of each other: `memory` times the variance of as many independent ones, so that it rests on fewer (Geyer 1992);
    it is to be trusted from some hundred windows on. Else it is that over replicates. How much of the response a window
    misses is not known: the bias bound is NaN, with the reason in `diagnostics`, unless one window holds all steps. So is
    what a plain `if` or `>` on the state may hide, whose names `reads` holds; a `noise.above` on it is refused. `growth`:
    the norm that an adjoint of norm 1 at the end of a window has at its begin, geometric mean over windows; `exponent`: its
    logarithm for each step.

    >>> from emulate.dynamics import Trajectory
    >>> logistic = Trajectory(lambda theta: theta * 0 + 0.3, lambda theta, x, k, noise: theta * x * (1 - x), 400,
    ...                       lambda theta, x: x.mean(0), at=tuple(range(1, 401)))
    >>> e = Window(length=4).estimate(logistic, torch.tensor([3.9], dtype=torch.float64), seed=0)
    >>> e.replicates, bool(e.bias_bound.isnan()), e.diagnostics["exponent"] > 0.1
    (66, True, True)
    """

    needs: ClassVar[tuple[str, ...]] = ("graph", "dynamics")

    length: Annotated[int, Ge(1)] = 100  # steps in a window, counted from the end of the run

    def estimate(self, f: Any, theta: torch.Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = trajectory(lift(f), "window"), theta.detach().double()
        cut = f.steps > self.length
        seen = Reads()
        path = watched(f, seen, along=cut)

        def run(noise: Noise) -> Swept:
            return sweep(path, theta, noise.again(Continuous("window")), length=self.length, probe=True)

        with Meter() as meter:
            made = replicated(run, seed, n)
        values, slopes, windows, growth = made.answer
        count = windows.shape[1]
        filled = {min((f.steps - k) // self.length, count - 1) for k in f.at or (f.steps,)}
        random = made.random(values)
        figures = {
            "windows": count,
            **told(growth[:, :-1] if cut else growth, min(self.length, f.steps)),
            "alone": made.alone,
            "reads": sorted(seen.names),
        }
        if cut:
            figures["bias"] = (f"unknown: what theta does to an output more than {self.length} steps later is left out; "
                               "compare several lengths")  # fmt: skip
        bias = torch.full_like(slopes[0], torch.nan) if cut or seen else None
        values, slopes = values[:n], slopes[:n]
        alone = len(slopes) == 1 and count >= FEWEST and len(filled) == count
        if alone:
            values, slopes, random = values.expand(count, -1), windows[0] * count, True
        e = averaged(values, slopes, random=random, calls=made.calls, meter=meter, bias_bound=bias, diagnostics=figures)
        return _remembering(e, memory(slopes)) if alone else e


def memory(x: torch.Tensor) -> torch.Tensor:
    """What the variance of the mean of x `[n, ...]`, in the order of time, is multiplied by for what x remembers: at least 1.

    1 + 2 sum_k rho_k, with autocorrelations rho summed by pairs while those are positive and made to fall (the initial
    monotone sequence of Geyer 1992).
    """
    n, off = len(x), x - x.mean(0)
    power = torch.fft.rfft(off, 2 * n, dim=0).abs().square()
    rho = torch.fft.irfft(power, 2 * n, dim=0)[:n] / off.square().sum(0).clamp(min=1e-300)
    pairs = rho[: n // 2 * 2].reshape(n // 2, 2, *x.shape[1:]).sum(1)
    kept = (pairs > 0).to(x.dtype).cumprod(0)
    return (2 * (pairs.cummin(0).values * kept).sum(0) - 1).clamp(min=1.0)


def _remembering(e: Estimate, factor: torch.Tensor) -> Estimate:
    """The error of a mean of windows that remember each other, `[m, d]` times the variance; it rests on fewer of them."""
    root = factor.sqrt()
    return replace(e, standard_error=e.standard_error * root, covariance=e.covariance * root[..., :, None] * root[..., None, :],
                   replicates=max(2, int(e.replicates / float(factor.max()))),
                   diagnostics={**e.diagnostics, "memory": float(factor.max())})  # fmt: skip
