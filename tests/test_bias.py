"""The one number on top against closed forms: a posterior that is moved, one that is widened, one by noisy runs at its mean."""

import math

import numpy as np
import pytest
import torch

from emulate.bias import by_confirmation, by_weights
from emulate.contracts import Confirmation, Weighted
from emulate.corrections import Correction
from emulate.importance import reweigh
from emulate.space import Normal, Parameter, Space

SPACE = Space((Parameter("a", Normal(0, 10)), Parameter("h", Normal(0, 10))))


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def _told(shift: float, width: float):
    """The true posterior is N(0, C), C of unit variance and correlation 0.8, the surrogate's wider, and moved along h."""
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64))
    z = _normal(1, 6000, 2)
    x = width * z @ root.mT + torch.tensor([0.0, shift], dtype=torch.float64)
    white = torch.linalg.solve_triangular(root, x.mT, upper=False).mT
    log_weight = -0.5 * white.square().sum(1) + 0.5 * z.square().sum(1)
    return by_weights(reweigh(Weighted(x[:128], log_weight[:128], x), SPACE), SPACE.names)


def test_a_shift_against_the_correlation_counts_for_more_than_itself():
    told = _told(0.2, 1.0)
    assert told.most == ("h", pytest.approx(0.2, abs=0.02))
    assert told.move.value == pytest.approx(0.2 / math.sqrt(1 - 0.8**2), abs=0.02)  # (C^-1)_hh = 1 / (1 - rho^2)
    assert told.whole.value == pytest.approx(told.move.value, abs=0.02)
    assert told.factor.value == pytest.approx(1, abs=0.02)
    assert told.sentence.startswith("The emulator moves the posterior by 0.331 +- 0.003 sigma (most in h, 0.19")
    assert " and changes its width by a factor of " in told.sentence


def test_a_width_alone_is_told_as_one():
    told = _told(0.0, 1.2)
    assert told.factor.value == pytest.approx(1.2, abs=0.02)
    assert told.move.value < 0.05
    kl = 2 * (math.log(1.2) + 0.5 / 1.44 - 0.5)
    assert told.whole.value == pytest.approx(math.sqrt(2 * kl), abs=0.02)
    assert set(told.metrics()) == {
        "bias",
        "bias_error",
        "bias/move",
        "bias/move_error",
        "bias/factor",
        "bias/factor_error",
    }


def _confirmed(seed: int, shift: float, k: int = 32):
    """k runs that each give the shift with one posterior standard deviation of noise; posterior N(0, diag(4, 0.25))."""
    sd = torch.tensor([2.0, 0.5], dtype=torch.float64)
    each = sd * (_normal(seed, k, 2) + torch.tensor([shift, 0.0], dtype=torch.float64))
    zero = torch.zeros(2, dtype=torch.float64)
    made = Correction(zero, sd, each, zero, torch.ones(2), 1.0, 1)
    return by_confirmation(made, Confirmation(zero, sd.square().diag(), each, torch.eye(2)), SPACE.names)


def test_noise_of_true_runs_at_the_mean_is_no_shift():
    """Without it the mean of |delta| would be (pi / 2 / 32)^1/2 = 0.22; squares are right on average, whatever the shift."""
    for shift in (0.0, 0.5):
        told = [_confirmed(seed, shift) for seed in range(200)]
        square = np.array([t.move.value**2 for t in told])
        bound = 4 * square.std() / math.sqrt(200) + (0.03 if shift == 0 else 0)  # squares below 0 are told as 0
        assert abs(square.mean() - shift**2) < bound
    inside = np.mean([abs(t.move.value - 0.5) < 2 * t.move.error for t in told])
    assert inside > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 200)
    assert told[0].factor is None
    assert told[0].sentence.endswith("; no true run says what it does to its width.")


def test_what_is_not_known_is_said():
    x = _normal(2, 500, 2)
    log_weight = torch.full((500,), -math.inf, dtype=torch.float64)
    log_weight[:5] = torch.tensor([0.0, -5.0, -6.0, -7.0, -8.0])
    told = by_weights(reweigh(Weighted(x, log_weight, x), SPACE), SPACE.names)
    assert (
        told.whole.error > 0.2
        or told.sentence == "True runs do not say how much of the posterior is due to the emulator."
    )
