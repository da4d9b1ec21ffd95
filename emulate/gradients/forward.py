"""Forward mode by dual numbers: k directions in one run of f; for few parameters and long or memory-hungry programs."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from emulate.contracts import Estimate, Gradient
from emulate.dual import Dual, pushforward
from emulate.errors import InputError
from emulate.gradients._averages import averaged
from emulate.gradients._lost import Noted
from emulate.meter import Meter
from emulate.noise import Noise
from emulate.replication import each, lift


@dataclass(frozen=True, kw_only=True)
class Forward(Gradient):
    """Forward mode by dual numbers over tensors: f(theta + sum_i e_i t_i) = f(theta) + sum_i e_i df/dtheta t_i.

    Exact for every seed. Wengert (1964); nesting by tags: Siskind & Pearlmutter (2005). f is torch code, run as it is:
    nothing is recorded, so memory does not grow with the length of f; time grows with the number of parameters,
    `directions` of which share one run. Use reverse or checkpointed where the parameters outnumber the outputs by far.
    What f writes in place is followed, through views too. An operation without a rule is refused by its name, and so is an
    f whose answer theta does not reach. A hard decision and a draw from a list have derivative zero, as in reverse mode,
    and make the bias unknown (NaN): conditional, score and others repair that. `detach` is taken at its word, inside an
    autograd function of your own too.

    >>> theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> Forward().estimate(lambda t: t**2, theta, seed=0).gradient
    tensor([[2., 0.],
            [0., 4.]], dtype=torch.float64)
    """

    needs: ClassVar[tuple[str, ...]] = ("graph",)
    exact: ClassVar[bool] = True
    directions: Annotated[int, Ge(1)] = 64  # carried in one run of f: bounds the memory

    def estimate(self, f: Any, theta: Tensor, *, seed: int, n: int = 1) -> Estimate:
        f, theta = lift(f), theta.detach().double()
        lost, basis = Noted(), torch.eye(len(theta), dtype=theta.dtype).split(self.directions)
        reached = False

        def call(t: Tensor, noise: Noise) -> Tensor:
            nonlocal reached
            y = f(t, noise.again(lost))
            reached |= isinstance(y, Dual)
            return y

        def run(noise: Noise) -> tuple[Tensor, Tensor]:
            passes = [pushforward(lambda t: call(t, noise), theta, some) for some in basis]
            return passes[0][0], torch.cat([slopes for _, slopes in passes]).movedim(0, -1)

        with Meter() as meter, torch.no_grad():
            made = each(run, seed, max(n, 2))
        if not reached:
            raise InputError("f must carry theta to its output by operations of torch. Got an output without it; use "
                             "finite_difference, or write f in torch without detach, item or numpy.")  # fmt: skip
        values, slopes = made.answer
        return averaged(values[:n].double(), slopes[:n].double(), random=made.random(values), calls=made.calls * len(basis),
                        meter=meter, bias_bound=lost.bias_bound(slopes),
                        diagnostics={"passes": len(basis), "alone": made.alone, "lost": sorted(lost.places)})  # fmt: skip
