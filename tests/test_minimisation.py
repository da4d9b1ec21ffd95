"""The minimiser judged by minima in closed form, by Karush-Kuhn-Tucker points with published values, and by scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from emulate.minimisation import minimise


def starts(d: int, n: int = 32) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rosenbrock(u):
    x = 4 * u - 2
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1) / 100


def test_rosenbrock_s_valley_is_followed_to_its_end():
    found = minimise(rosenbrock, starts(2))
    torch.testing.assert_close(4 * found.u - 2, torch.ones(32, 2).double(), rtol=0, atol=1e-5)
    assert found.converged.all()


def test_a_minimum_beyond_the_box_is_at_its_edge():
    goal = torch.tensor([0.3, 1.7, -0.4], dtype=torch.float64)
    found = minimise(lambda u: ((u - goal) * torch.tensor([1.0, 3.0, 0.1])).square().sum(-1), starts(3))
    torch.testing.assert_close(found.u, goal.clamp(0, 1).expand(32, 3), rtol=0, atol=1e-6)
    assert (found.gradient < 1e-6).all()


def test_rows_are_minimised_as_if_they_were_alone():
    together = minimise(rosenbrock, starts(2, 5)).u
    alone = torch.cat([minimise(rosenbrock, s[None]).u for s in starts(2, 5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_a_hole_in_the_function_is_walked_around():
    """The logarithm is no number beyond 0.8, and the minimum lies just before."""
    found = minimise(lambda u: -u[:, 0] - 0.01 * torch.log(0.8 - u[:, 0]), starts(1) * 0.7)
    torch.testing.assert_close(found.u, torch.full((32, 1), 0.79).double(), rtol=0, atol=1e-5)


def test_adam_comes_near():
    found = minimise(rosenbrock, starts(2), method="adam", steps=1500)
    assert float((4 * found.u - 3).abs().amax(-1).median()) < 0.05


def hock_schittkowski_71(u):
    x = 1 + 4 * u
    return (x[:, 0] * x[:, 3] * x[:, :3].sum(-1) + x[:, 2]) / 20


def rules_71(u):
    x = 1 + 4 * u
    return torch.stack([(25 - x.prod(-1)) / 25, (x.square().sum(-1) - 40) / 40], -1)


def test_hock_schittkowski_71():
    """f* = 17.0140173 at (1, 4.7429994, 3.8211503, 1.3794082), Hock and Schittkowski (1981), p. 92."""
    found = minimise(hock_schittkowski_71, starts(4), constraints=rules_71, equality=torch.tensor([False, True]))
    best = int(found.value.argmin())
    assert 20 * float(found.value[best]) == pytest.approx(17.0140173, abs=2e-5)
    assert (1 + 4 * found.u[best]).tolist() == pytest.approx([1, 4.7429994, 3.8211503, 1.3794082], abs=1e-4)
    assert float(found.violation.max()) < 1e-6
    multiplier = found.multiplier[best] * 20 / torch.tensor([25.0, 40.0])
    assert multiplier.tolist() == pytest.approx([0.5523, 0.1615], abs=1e-3)


def test_hock_schittkowski_35():
    """f* = 1/9 at (4/3, 7/9, 4/9) with the multiplier 2/9, Hock and Schittkowski (1981), p. 58."""

    def f(u):
        a, b, c = (3 * u).unbind(-1)
        return (9 - 8 * a - 6 * b - 4 * c + 2 * a**2 + 2 * b**2 + c**2 + 2 * a * b + 2 * a * c) / 5

    weights = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    found = minimise(
        f, starts(3), constraints=lambda u: (3 * u @ weights - 3)[:, None] / 3, equality=torch.tensor([False])
    )
    torch.testing.assert_close(
        3 * found.u, torch.tensor([4 / 3, 7 / 9, 4 / 9]).double().expand(32, 3), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(found.multiplier * 5 / 3, torch.full((32, 1), 2 / 9).double(), rtol=0, atol=1e-5)


def test_hock_schittkowski_6():
    """f* = 0 at (1, 1) on x2 = x1^2, Hock and Schittkowski (1981), p. 29."""
    x = lambda u: 10 * u - 5  # noqa: E731
    found = minimise(lambda u: (1 - x(u)[:, 0]) ** 2 / 10, starts(2), equality=torch.tensor([True]),
                     constraints=lambda u: (x(u)[:, 1] - x(u)[:, 0] ** 2)[:, None] / 8)  # fmt: skip
    torch.testing.assert_close(x(found.u), torch.ones(32, 2).double(), rtol=0, atol=1e-5)


def test_an_inactive_constraint_has_no_price():
    found = minimise(lambda u: (u - 0.5).square().sum(-1), starts(2), equality=torch.tensor([False]),
                     constraints=lambda u: u[:, :1] - 0.9)  # fmt: skip
    torch.testing.assert_close(found.u, torch.full((32, 2), 0.5).double(), rtol=0, atol=1e-6)
    assert float(found.multiplier.abs().max()) < 1e-5


def test_what_scipy_finds_from_the_same_start_is_not_better():
    """SLSQP of scipy on ten random quadratics in a box with a random plane."""
    generator = np.random.default_rng(3)
    for _ in range(10):
        root, centre, normal = generator.normal(size=(4, 4)), generator.uniform(-0.5, 1.5, 4), generator.normal(size=4)
        matrix, bound = root @ root.T / 4, float(normal @ np.full(4, 0.5))
        m, c, w = (torch.from_numpy(a) for a in (matrix, centre, normal))
        found = minimise(lambda u, m=m, c=c: ((u - c) @ m * (u - c)).sum(-1), starts(4, 1), equality=torch.tensor([False]),
                         constraints=lambda u, w=w, b=bound: (u @ w - b)[:, None])  # fmt: skip
        theirs = minimize(lambda x, m=matrix, c=centre: (x - c) @ m @ (x - c), starts(4, 1)[0].numpy(), method="SLSQP",
                          bounds=[(0, 1)] * 4, options={"ftol": 1e-12},
                          constraints={"type": "ineq", "fun": lambda x, w=normal, b=bound: b - w @ x})  # fmt: skip
        assert float(found.value[0]) == pytest.approx(theirs.fun, abs=2e-5)
        assert float(found.violation[0]) < 1e-6
