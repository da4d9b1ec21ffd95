"""`NBody` behind the same requests as its peers: sum of ln P(k) and its gradient."""

from dataclasses import fields

import torch

from emulate.simulators.nbody import NBody

torch.set_num_threads(1)


def about() -> dict:
    return {"versions": {"torch": torch.__version__}, "settings": [field.name for field in fields(NBody)]}


def build(task, *, theta, omega_b, box, **settings):
    if omega_b != 0.049:
        raise ValueError("NBody is compared with its own omega_b, 0.049")
    simulator = NBody(box=box, **settings)
    point = torch.tensor(theta, dtype=torch.float64)

    def forward():
        with torch.no_grad():
            return float(torch.log(simulator.run(point, seed=0)).sum()), []

    def gradient():
        leaf = point.clone().requires_grad_()
        loss = torch.log(simulator.run(leaf, seed=0)).sum()
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0].tolist()

    return gradient if task == "gradient" else forward
