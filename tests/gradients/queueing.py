"""The M/M/1 queue as a program: every block of customers is a replicate, its waits in one line of Lindley's recursion."""

import torch
from torch import Tensor
from torch.distributions import Exponential

from emulate.noise import Noise
from tests.reference.gradients.queueing import RATE


class Queue:
    """Mean time in the system of customers `warm` to `customers` of a block that starts empty; theta = (mean service,)."""

    def __init__(self, customers: int, warm: int) -> None:
        self.customers, self.warm = customers, warm

    def __call__(self, theta: Tensor, noise: Noise) -> Tensor:
        ones = torch.ones(self.customers, dtype=torch.float64)
        service = noise.draw("service", Exponential(ones / theta[0]))
        between = noise.draw("between", Exponential(RATE * ones[1:]))
        walk = torch.nn.functional.pad(torch.cumsum(service[:-1] - between, 0), (1, 0))
        waits = walk - torch.cummin(walk, 0).values
        return (waits + service)[self.warm :].mean()
