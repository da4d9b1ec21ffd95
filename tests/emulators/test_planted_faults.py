"""Faults seen in admired code, planted one by one: the law that forbids each must catch it, and pass the sound twin."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from emulate.contracts import Core, Recipe
from emulate.distributions import Gaussian
from emulate.emulators.polynomial import Polynomial
from emulate.errors import ExtrapolationWarning
from emulate.runs import Runs
from emulate.simulators.linear_gaussian import LinearGaussian
from tests import laws


@pytest.fixture(scope="module")
def sound():
    return laws.FIT(Polynomial(degree=3), laws.runs(), seed=0)


def copied(emulator):
    return type(emulator)(emulator.space, emulator.outputs, emulator.recipe, emulator.core, emulator.transform,
                          emulator.provenance)  # fmt: skip


class _Standardised(Gaussian):
    """The mean leaves through a second door, where nobody undoes the scaling."""

    centre: Tensor
    scale: Tensor

    @property
    def mean(self) -> Tensor:
        return (self.loc - self.centre) / self.scale


def test_a_mean_left_in_standardised_units_is_caught(sound):
    faulty, transform = copied(sound), sound.transform

    def predict(theta, *, strict=False):
        p = sound.predict(theta, strict=strict)
        q = _Standardised(p.loc, p.spread, p.basis, p.diagonal, p.rest, p.log)
        q.centre, q.scale = transform.centre, transform.scale
        return q

    faulty.predict = predict
    laws.is_in_physical_units(sound)
    with pytest.raises(AssertionError, match="of the scale of each output"):
        laws.is_in_physical_units(faulty)
    laws.has_one_door(sound, laws.points(3, seed=2))
    with pytest.raises(AssertionError, match="standard errors from that of the samples"):
        laws.has_one_door(faulty, laws.points(3, seed=2))


def test_a_variance_that_is_not_that_of_the_samples_is_caught(sound):
    faulty = copied(sound)

    class Boastful(Gaussian):
        @property
        def variance(self) -> Tensor:
            return 0.8 * super().variance

    def predict(theta, *, strict=False):
        p = sound.predict(theta, strict=strict)
        return Boastful(p.loc, p.spread, p.basis, p.diagonal, p.rest, p.log)

    faulty.predict = predict
    with pytest.raises(AssertionError, match="the variance lies"):
        laws.has_one_door(faulty, laws.points(3, seed=2))


def test_a_density_without_its_jacobian_is_caught(sound):
    faulty = copied(sound)

    class Forgetful(Gaussian):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) + torch.where(self.log, value, 1.0).log().sum(-1)

    def predict(theta, *, strict=False):
        p = sound.predict(theta, strict=strict)
        return Forgetful(p.loc, p.spread, p.basis, p.diagonal, p.rest, p.log)

    faulty.predict = predict
    laws.has_the_density_of_its_moments(sound, laws.points(3, seed=2))
    with pytest.raises(AssertionError, match="the moments say"):
        laws.has_the_density_of_its_moments(faulty, laws.points(3, seed=2))


def test_names_that_are_taken_for_places_are_caught(sound):
    faulty = copied(sound)

    def predict(theta, *, strict=False):
        given = torch.stack([torch.as_tensor(theta[k]) for k in theta], -1) if hasattr(theta, "keys") else theta
        return sound.predict(given, strict=strict)

    faulty.predict = predict
    laws.reads_every_form(sound)
    with pytest.warns(ExtrapolationWarning), pytest.raises(AssertionError, match="gives another mean"):
        laws.reads_every_form(faulty)


def test_failed_runs_stored_as_zeros_are_caught():
    def fit(recipe, runs: Runs, *, seed):
        zeros = {name: np.nan_to_num(getattr(runs, name)) for name in ("y", "jacobian", "jacobian_error")}
        filled = replace(runs, **zeros, ok=np.ones(len(runs), bool))
        return laws.FIT(recipe, filled, seed=seed)

    recipe = Polynomial(log=False)
    laws.leaves_failed_runs_out(laws.FIT, recipe, laws.runs())
    with pytest.raises(AssertionError, match="not equal"):
        laws.leaves_failed_runs_out(fit, recipe, laws.runs())


class _Wiggly(Core):
    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.register_buffer("bias", state["bias"])

    def forward(self, u: Tensor) -> Normal:
        mean = u.sum(-1, keepdim=True) + self.bias
        return Normal(mean, torch.ones_like(mean))


@dataclass(frozen=True, kw_only=True)
class _Seeded(Recipe):
    """A start drawn from the given seed, or, with `ignores`, from the global generator."""

    ignores: bool = False

    def minimum_runs(self, d: int) -> int:
        return 2

    def train(self, u: Tensor, z: Tensor, *, noisy: bool, seed: int) -> Core:
        generator = None if self.ignores else torch.Generator().manual_seed(seed)
        return self.rebuild({"bias": torch.randn(z.shape[1], generator=generator, dtype=z.dtype)})

    def rebuild(self, state: dict[str, Tensor]) -> Core:
        return _Wiggly(state)


def test_an_ignored_seed_is_caught():
    laws.repeats_itself(laws.FIT, _Seeded(), laws.runs())
    with pytest.raises(AssertionError, match="global generator of torch was used"):
        laws.repeats_itself(laws.FIT, _Seeded(ignores=True), laws.runs())


@dataclass(frozen=True, kw_only=True)
class _Deaf(LinearGaussian):
    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        return super().run(theta, seed=0)


def test_a_noisy_simulator_that_ignores_its_seed_is_caught():
    theta = torch.tensor([0.3, -0.2], dtype=torch.float64)
    laws.depends_on_its_seed(LinearGaussian(noise=0.1), theta)
    laws.depends_on_its_seed(LinearGaussian(), theta)
    with pytest.raises(AssertionError):
        laws.depends_on_its_seed(_Deaf(noise=0.1), theta)


@dataclass(frozen=True, kw_only=True)
class _Detached(LinearGaussian):
    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        return super().run(theta.detach(), seed=seed)


@dataclass(frozen=True, kw_only=True)
class _HalfDetached(LinearGaussian):
    def run(self, theta: Tensor, *, seed: int) -> Tensor:
        return super().run(torch.cat([theta[:1], theta[1:].detach()]), seed=seed)


def test_a_false_claim_of_differentiability_is_caught():
    theta = torch.tensor([0.3, -0.2], dtype=torch.float64)
    laws.means_its_derivative(LinearGaussian(noise=0.1), theta)
    with pytest.raises(AssertionError, match="no gradient flows"):
        laws.means_its_derivative(_Detached(), theta)
    with pytest.raises(AssertionError, match="the gradient is of another function"):
        laws.means_its_derivative(_HalfDetached(), theta)


def test_an_emulator_whose_gradient_stops_is_caught(sound):
    faulty = copied(sound)
    faulty.jacobian = lambda theta: 2 * sound.jacobian(theta)
    laws.differentiates(sound)
    with pytest.raises(AssertionError, match="the gradient to a is off"):
        laws.differentiates(faulty)


def test_a_file_that_rounds_is_caught(sound, tmp_path):
    def load(path):
        again = laws.LOAD(path)
        again.transform.basis = again.transform.basis.float().double()
        return again

    laws.survives_its_file(laws.LOAD, sound, tmp_path / "a")
    with pytest.raises(AssertionError):
        laws.survives_its_file(load, sound, tmp_path / "b")


def test_a_density_that_is_not_of_the_draws_is_caught():
    """Draws of one distribution, the density of a wider one."""
    sound = laws.FIT(Polynomial(), laws.noisy(), seed=0)
    faulty, theta = copied(sound), torch.tensor([[0.3, 0.6]], dtype=torch.float64)

    class _Wider(Gaussian):
        def log_prob(self, value):
            return Gaussian(self.loc, 1.2 * self.spread, self.basis, self.diagonal, self.rest, self.log).log_prob(value)

    def predict(theta, *, strict=False):
        p = sound.predict(theta, strict=strict)
        return _Wider(p.loc, p.spread, p.basis, p.diagonal, p.rest, p.log)

    faulty.predict = predict
    laws.has_the_density_of_its_samples(sound, theta)
    with pytest.raises(AssertionError, match="is not of the draws"):
        laws.has_the_density_of_its_samples(faulty, theta)
