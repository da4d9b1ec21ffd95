"""Write golden files: a small emulator of every recipe as this version saves it, and what it predicts.

    python tests/reference/emulators/write.py v1 [NAME ...]

A folder that stands there already is left as it is: it says what a version wrote, and is never made again. What lies in
`v1/` was written by emulate 0.1.0: `gp_each` before components of a GP shared kernels (4ae28ea), the
others before an emulator kept the places of its runs (5bf2717). `v1_design` came after that: places of the runs, no
hashes, and the mlp before it had heads. `v1_taught` has hashes. In `v1_correlated` the components of the gp err together;
in `v1_conformal` runs held out scale the error bars.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from emulate import registry
from emulate.contracts import Simulator, rows_of
from emulate.emulator import fit
from emulate.runs import Field, Outputs, Runs
from emulate.space import LogUniform, Normal, Parameter, Space, Uniform

HERE = Path(__file__).parent
SPACE = Space(
    (Parameter("a", Uniform(-1.0, 3.0)), Parameter("b", LogUniform(1e-3, 1e-1)), Parameter("c", Normal(5.0, 2.0)))
)
OUTPUTS = Outputs((Field("height", "m"), Field("power", "", True, "k", (0.1, 0.2, 0.4), "h/Mpc")))
SETTINGS = {
    "gp": {"kernels": 1},
    "gp_each": {"use": "gp"},
    "mlp": {"members": 3, "width": 4, "layers": 1, "epochs": 5},
    "polynomial": {},
    "polynomial_conformal": {"use": "polynomial", "calibrate": "conformal"},
    "noisy_gp": {},
    "svgp": {"inducing": 6, "kernels": 1},
    "flow": {"transforms": 1, "width": 4, "layers": 1, "bins": 4, "epochs": 2, "points": 16},
    "gradient_gp": {"kernels": 1, "kernel": "rbf", "mean": "constant", "starts": 1},
    "residual": {
        "first": {"use": "polynomial"},
        "then": {"use": "mlp", "members": 3, "width": 4, "layers": 1, "epochs": 3},
    },
    "response": {"events": 3000, "degree": 2},
    "multifidelity": {
        "fidelities": ["coarse"],
        "low": {"use": "polynomial"},
        "high": {"use": "gp", "kernels": 1, "kernel": "rbf", "mean": "constant", "starts": 1},
    },
}
RUNS = {"polynomial_conformal": 40, "gradient_gp": 6, "flow": 24, "residual": 24}  # 14 for the others


def truth(theta: torch.Tensor) -> torch.Tensor:
    x = SPACE.scaled(theta) - 0.5
    k = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    one = 1000 + x @ torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64) + torch.sin(3 * x[:, 0])
    spectrum = 1e-9 * torch.exp(x[:, :1] - x[:, 1:2] * torch.log(k) + 0.2 * x[:, 2:] ** 2)
    return torch.cat([one[:, None], spectrum], 1)


def runs(n: int = 14) -> Runs:
    """Noisy runs, so that no weight of a fit is large and rounding stays rounding on every machine."""
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=1).draw(n, dtype=torch.float64).clamp(0.02, 0.98)
    theta, y = SPACE.from_unit(u), truth(SPACE.from_unit(u)).numpy()
    noise = 1 + np.array([1e-5, 0.02, 0.02, 0.02]) * np.random.default_rng(0).standard_normal(y.shape)
    jacobian = rows_of(truth, theta).numpy() * noise[:, :, None]
    return Runs.of(SPACE, OUTPUTS, theta.numpy(), y * noise, stochastic=True, jacobian=jacobian)


def points() -> torch.Tensor:
    """theta `[5, 3]`, away from the runs."""
    u = torch.quasirandom.SobolEngine(3, scramble=True, seed=2).draw(5, dtype=torch.float64).clamp(0.05, 0.95)
    return SPACE.from_unit(u)


class Events(Simulator):
    """Events around the truth with normal noise, for recipes that read scores."""

    outputs, stochastic = OUTPUTS, True

    def run(self, theta: torch.Tensor, *, seed: int) -> torch.Tensor:
        return self.scored(theta[None], seed=seed)[0][0]

    def scored(self, theta: torch.Tensor, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        mean, share = truth(theta), torch.tensor([1e-5, 0.02, 0.02, 0.02], dtype=torch.float64)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        sd = share * truth(points()).mean(0)
        return mean + sd * noise, (rows_of(truth, theta).mT @ (noise / sd)[:, :, None])[:, :, 0]


def write(folder: Path, name: str) -> None:
    recipe = registry.build("emulators", {"use": name, **SETTINGS.get(name, {})})
    own = {"fidelities": {"coarse": runs(40)}, "simulator": Events(space=SPACE)}  # for recipes that read them
    emulator = fit(recipe, runs(RUNS.get(name, 14)), seed=0, **own)
    emulator.save(folder / name)
    theta = points()
    p = emulator.predict(theta)
    said = {"theta": theta, "mean": p.mean, "variance": p.variance, "jacobian": emulator.jacobian(theta)}
    (folder / f"{name}.json").write_text(json.dumps({k: v.tolist() for k, v in said.items()}, indent=1) + "\n")


if __name__ == "__main__":
    version, *names = sys.argv[1:]
    for name in names or [n for n in SETTINGS if n != "gp_each"]:
        if not (HERE / version / name).exists():
            (HERE / version).mkdir(exist_ok=True)
            write(HERE / version, name)
