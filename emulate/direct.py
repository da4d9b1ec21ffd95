"""A simulator in the place of an emulator: what it predicts are its own runs, each with the derivative that a run carries."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from emulate.contracts import Simulator
from emulate.distributions import Exact
from emulate.errors import InputError
from emulate.seeds import replicates


class Direct:
    """A differentiable simulator as an optimiser asks it: `space`, `outputs`, `predict`, and how many runs it made.

    A prediction is y `[..., m]`, and of something random `[n, ..., m]`, one run for each of the seeds, the same at all
    theta. The derivative is that of `run` where it carries a torch graph, else that of `jacobian`. A run that raises is NaN
    without a derivative, and `reason` says why.
    """

    def __init__(self, simulator: Simulator, seeds: Sequence[int] = (0,)):
        if not (simulator.differentiable or callable(getattr(simulator, "jacobian", None))):
            raise InputError(f"a simulator that is optimised itself must carry a torch graph, or have a `jacobian` of its own. "
                             f"{simulator.entry_name()} has neither; optimise an emulator of it.")  # fmt: skip
        self.simulator, self.seeds, self.calls, self.reason = simulator, tuple(seeds), [0], [""]
        self.space, self.outputs = simulator.space, simulator.outputs

    def reseeded(self, seed: int, n: int) -> "Direct":
        """The same with n other seeds; its runs are counted together."""
        other = Direct(self.simulator, replicates(seed, n))
        other.calls, other.reason = self.calls, self.reason
        return other

    def predict(self, theta: Tensor, **_: Any) -> Exact:
        """p(y | theta `[..., d]`): the runs."""
        if not self.simulator.stochastic:
            return Exact(self.runs(theta, 0))
        return Exact(torch.stack([self.runs(theta, seed) for seed in self.seeds]))

    def runs(self, theta: Tensor, seed: int) -> Tensor:
        """y `[..., m]` of one run at each theta `[..., d]`."""
        if self.simulator.batched and self.simulator.differentiable:
            try:
                y = self.simulator.run(theta, seed=seed)
            except Exception as e:  # of one of them: which one shows when each runs by itself
                self.reason[0] = f"{type(e).__name__}: {e}"
            else:
                self.calls[0] += theta[..., 0].numel()
                return y
        y = [self._run(t, seed) for t in theta.reshape(-1, theta.shape[-1])]
        return torch.stack(y).reshape(*theta.shape[:-1], -1)

    def _run(self, theta: Tensor, seed: int) -> Tensor:
        self.calls[0] += 1
        try:
            if not (torch.is_grad_enabled() and theta.requires_grad):
                return self.simulator.run(theta.detach(), seed=seed)
            if self.simulator.differentiable:
                return self.simulator.run(theta, seed=seed)
            return _Jacobian.apply(theta, self.simulator, seed)
        except Exception as e:  # a user's simulator may raise anything; the search walks around it
            self.reason[0] = f"{type(e).__name__}: {e}"
            return theta.sum() * torch.full((self.outputs.size,), torch.nan, dtype=torch.float64)


class _Jacobian(torch.autograd.Function):
    """A run whose derivative is the simulator's own Jacobian."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, simulator: Any, seed: int) -> Tensor:
        y, slope = simulator.jacobian(theta.detach(), seed=seed)
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient[0] @ slope, None, None
