"""An emulator as a layer of a network: theta in, the mean out, a tensor and no distribution."""

import torch
from torch import Tensor

from emulate.domain import Outside, checked
from emulate.emulator import Emulator


class Mean(torch.nn.Module):
    """theta `[..., d]` -> E[y | theta] `[..., m]` in physical units, frozen, differentiable with respect to theta.

    An `Emulator` is a `torch.nn.Module` itself; its `forward` gives a distribution. This one gives a tensor, as
    `torch.nn.Sequential` wants it. It holds no parameter to train: gradients flow through it to the layers before. All is
    float64: build those layers with `dtype=torch.float64`.

    `outside` is that of `Emulator.predict`. By "ignore" no value is looked at, which `torch.compile` and `torch.func` ask for;
    where outputs are learnt as logarithms the compiled graph may break in two, with the same answers.

    >>> import numpy as np
    >>> from emulate import Field, Outputs, Parameter, Runs, Space, Uniform, fit
    >>> from emulate.emulators.polynomial import Polynomial
    >>> x = np.linspace(0, 1, 9)[:, None]
    >>> runs = Runs.of(Space((Parameter("a", Uniform(0, 1)),)), Outputs((Field("y"),)), x, x**2)
    >>> first = torch.nn.Linear(2, 1, dtype=torch.float64)
    >>> model = torch.nn.Sequential(first, torch.nn.Sigmoid(), Mean(fit(Polynomial(), runs, seed=0)))
    >>> model(torch.ones(5, 2, dtype=torch.float64)).sum().backward()
    >>> first.weight.grad.shape, len(list(model.parameters()))
    (torch.Size([1, 2]), 2)
    """

    def __init__(self, emulator: Emulator, *, outside: Outside = "ignore"):
        checked(outside)
        super().__init__()
        self.emulator = emulator
        self.outside: Outside = outside

    def forward(self, theta: Tensor) -> Tensor:
        return self.emulator.predict(theta, outside=self.outside).mean
