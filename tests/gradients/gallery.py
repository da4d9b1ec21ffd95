"""Programs of every class of trouble that `emulate.diagnosis` names, with what it must say of them.

All were written before the diagnosis was, and split by a rule that knows nothing of it: within a class, in the order of
the sha256 of their names, the 1st, 3rd, ... are those it may be tuned on (`TUNED`), the 2nd, 4th, ... judge it (`HELD`).
"""

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    Geometric,
    Normal,
    Poisson,
    StudentT,
    Uniform,
)

from emulate.dynamics import Trajectory


@dataclass(frozen=True)
class Case:
    """A program at theta; the troubles that are right to name, the first the one that fits best; the site, where the
    program shows one; the methods that serve it; the output that must be named."""

    name: str
    f: Callable[..., Any]
    theta: Tensor
    troubles: tuple[str, ...]
    methods: tuple[str, ...]
    site: str = ""
    output: int = 0

    @property
    def trouble(self) -> str:
        return self.troubles[0]


CASES: list[Case] = []
DIFFERENCES = ("common_random_numbers", "finite_difference", "smooth")


def case(
    theta: tuple[float, ...], trouble: str, *methods: str, also: tuple[str, ...] = (), site: str = "", output: int = 0
):
    """Puts a program into the gallery under its own name."""

    def put(f: Callable[..., Any]) -> Callable[..., Any]:
        at = torch.tensor(theta, dtype=torch.float64)
        CASES.append(Case(f.__name__, f, at, (trouble, *also), methods, site, output))
        return f

    return put


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


N01 = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)

# --- smooth, some of which look rough


@case((1.0,), "smooth", "pathwise")
def square_of_a_sum(theta, noise):
    return (theta + noise.draw("z", N01)) ** 2


@case((0.7004,), "smooth", "reverse")
def steep_wall(theta):
    return torch.tanh(1e3 * (theta - 0.7))


@case((1.3,), "smooth", "reverse")
def tiny_scale(theta):
    return 1e-12 * torch.sin(theta)


@case((0.8,), "smooth", "pathwise")
def large_offset(theta, noise):
    return 1e8 + theta**2 * (1 + 0.1 * noise.draw("z", N01))


@case((0.6, 1.7), "smooth", "reverse", "finite_difference")
def single_precision(theta):
    x = theta.float()
    return torch.stack([(x[0] * x[1]).exp() + x.sum() ** 3]).double()


@case((0.4,), "smooth", "pathwise", "common_random_numbers")
def single_precision_with_noise(theta, noise):
    x = theta.float() + noise.draw("z", N01).float()
    return (torch.sin(3 * x) + 10 * x).double()


@case((2.0, 1.0), "smooth", "reverse", "finite_difference")
def constant(theta):
    return 3.0 + 0.0 * theta


@case((1.5,), "smooth", "common_random_numbers")
def hidden_generator(theta, seed):
    z = _rng(seed).normal(size=10)
    return float(np.mean(np.exp(float(theta[0]) * 0.3 * z)))


@case((100.0, 0.2), "smooth", "pathwise")
def log_price(theta, noise):
    s = theta[0] * torch.exp(0.05 - theta[1] ** 2 / 2 + theta[1] * noise.draw("z", N01))
    return torch.log(s)


@case((2.0,), "smooth", "pathwise")
def log_of_gamma(theta, noise):
    return torch.log(noise.draw("x", Gamma(theta[0], torch.tensor(1.0, dtype=torch.float64))))


@case((0.3, 2.0, 1.1), "smooth", "finite_difference")
def numpy_function(theta):
    a, b, c = theta.tolist()
    return np.array([math.sin(a * b) + c**3, math.exp(-a) * c])


@case((0.9,), "smooth", "reverse")
def many_waves(theta):
    return torch.sin(60 * theta)


@case((0.5, 1.0, -1.0, 2.0, 0.1), "smooth", "pathwise")
def five_parameters(theta, noise):
    z = noise.draw("z", Normal(torch.zeros(5, dtype=torch.float64), 1.0))
    return ((theta + 0.3 * z) ** 2).cumsum(0)[1:4]


@case((2e-9, 3e6), "smooth", "reverse")
def wild_units(theta):
    return (theta[0] * 1e9) ** 2 * torch.log(theta[1])


@case((0.2,), "smooth", "pathwise")
def soft_decision(theta, noise):
    return torch.sigmoid(40 * (theta + noise.draw("z", N01)))


@case((0.9,), "smooth", "reverse")
def steep_exponential(theta):
    return torch.exp(30 * theta)


@case((2.8,), "smooth", "reverse")
def tame_logistic(theta):
    x = theta * 0 + 0.3
    for _ in range(100):
        x = theta * x * (1 - x)
    return x


@case((0.3, 0.8), "smooth", "reverse")
def distinct_eigenvalues(theta):
    a = torch.stack([torch.stack([1 + theta[0], theta[1]]), torch.stack([theta[1], 3 - theta[0]])])
    return torch.linalg.eigvalsh(a).exp().sum()


@case((1.4,), "smooth", "pathwise")
def loop_that_theta_does_not_steer(theta, noise):
    while noise.uniform("try") > 0.4:
        pass
    return theta * noise.draw("x", Exponential(theta[0]))


@case((1.2,), "smooth", "pathwise")
def fixed_counts(theta, noise):
    k = noise.draw("k", Poisson(torch.tensor(3.0, dtype=torch.float64)))
    return k * theta**2


@case((0.7,), "smooth", "pathwise")
def heavy_tails(theta, noise):
    return theta**2 * noise.draw("t", StudentT(torch.tensor(2.5, dtype=torch.float64)))


@case((1.0, 0.5), "smooth", "pathwise")
def random_walk(theta, noise):
    return theta[0] + sum(noise.draw("step", Normal(0.01 * theta[0], theta[1])) for _ in range(6))


# --- kink


@case((100.0, 0.2), "kink", "pathwise")
def call_option(theta, noise):
    s = theta[0] * torch.exp(0.03 + theta[1] * noise.draw("z", N01))
    return torch.clamp(s - 100.0, min=0.0)


@case((0.4,), "kink", "pathwise")
def distance_to_noise(theta, noise):
    return (theta + noise.draw("z", N01)).abs()


@case((0.0,), "kink", "smooth")
def least_of_two_at_zero(theta):
    return torch.minimum(theta**2, 2 * theta)


@case((2.0,), "kink", "smooth")
def least_of_two_at_two(theta):
    return torch.minimum(theta**2, 2 * theta)


@case((0.5, 1.0), "kink", "reverse", "finite_difference")
def kink_nearby(theta):
    return (theta[0] - 0.52).abs() * theta[1]


@case((100.0,), "kink", "common_random_numbers", "conditional", "pathwise", site="strike")
def marked_kink(theta, noise):
    gain = theta[0] * torch.exp(0.2 * noise.draw("z", N01)) - 100.0
    return noise.above("strike", gain) * gain


@case((0.9, 0.5), "kink", "common_random_numbers")
def queue_in_numpy(theta, seed):
    service, rate = theta.tolist()
    rng, wait = _rng(seed), 0.0
    for _ in range(12):
        wait = max(0.0, wait + service * rng.exponential() - rng.exponential() / rate)
    return wait


@case((0.6, 0.9), "kink", "pathwise", output=1)
def rectified_output(theta, noise):
    z = noise.draw("z", Normal(torch.zeros(2, dtype=torch.float64), 1.0))
    return torch.stack([theta[0] * z[0], torch.relu(theta[1] + z[1]) ** 1, theta.sum()])


# --- jump: hard histograms, digital payoffs, stairs


@case((100.0, 0.2), "jump", "conditional", site="strike")
def digital_call(theta, noise):
    s = theta[0] * torch.exp(0.03 + theta[1] * noise.draw("z", N01))
    return noise.above("strike", s - 110.0)


@case((0.3, 1.0), "jump", "score", "measure_valued", *DIFFERENCES)
def hard_bin(theta, noise):
    x = noise.draw("x", Normal(theta[0], theta[1]))
    return ((x > 0) & (x < 1)).double()


@case((0.3, 1.0), "jump", *DIFFERENCES)
def histogram_of_a_hidden_sample(theta, seed):
    x = theta[0].item() + theta[1].item() * _rng(seed).normal(size=20)
    return np.histogram(x, bins=[-3.0, -1.0, 0.0, 1.0, 3.0])[0] / 20.0


@case((0.43,), "jump", "smooth")
def stairs(theta):
    return torch.floor(10 * theta) + theta


@case((1.0, 0.5), "jump", "smooth", "reverse", "finite_difference")
def jump_nearby(theta):
    return theta[0] * theta[1] + (1.0 if theta[0] > 1.03 else 0.0)


@case((100.0, 0.1), "jump", "conditional", "common_random_numbers", "smooth", site="barrier")
def knocked_out(theta, noise):
    s, alive = theta[0], 1.0
    for _ in range(4):
        s = s * torch.exp(theta[1] * noise.draw("z", N01))
        alive = alive * noise.above("barrier", 120.0 - s)
    return alive * torch.clamp(s - 95.0, min=0.0)


@case((0.5,), "jump", "common_random_numbers", "smooth")
def asset_or_nothing(theta, noise):
    z = noise.draw("z", N01)
    return (1 + z**2 * theta) * (theta + z > 0.4)


@case((0.6, 1.0), "jump", "conditional", "score", site="cut", output=2)
def one_jump_among_smooth(theta, noise):
    x = noise.draw("x", Normal(theta[0], 1.0))
    return torch.stack([x**2, theta[1] * x, 50 * theta[0] + noise.above("cut", x - theta[1]), theta[1] ** 3])


# --- discrete choice


@case((0.4,), "discrete choice", "enumerate", site="coin")
def coin(theta, noise):
    b = noise.draw("coin", Bernoulli(theta[0]))
    return b * noise.draw("a", N01) + (1 - b) * 3.0


@case((3.0,), "discrete choice", "score", "measure_valued", site="count")
def poisson_count(theta, noise):
    return noise.draw("count", Poisson(theta[0])) ** 2


@case((0.6,), "discrete choice", "enumerate", "score", site="tries or branch")
def discrete_program(theta, noise):
    n = noise.draw("tries", Binomial(10, theta[0]))
    b = noise.draw("branch", Bernoulli(theta[0]))
    return n * b + theta * noise.draw("x", N01)


@case((0.2, -0.5, 0.7), "discrete choice", "enumerate", site="component")
def mixture(theta, noise):
    k = noise.draw("component", Categorical(torch.softmax(theta, 0)))
    centres = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    return centres[k] + 0.1 * noise.draw("x", N01)


@case((0.3,), "discrete choice", "score", "measure_valued", site="wait")
def geometric_wait(theta, noise):
    return torch.log1p(noise.draw("wait", Geometric(theta[0])))


@case((0.55, 1.0), "discrete choice", "enumerate", "score", "mixed", "measure_valued", site="up", output=1)
def coins_in_a_row(theta, noise):
    ups = sum(noise.draw("up", Bernoulli(theta[0])) for _ in range(8))
    return torch.stack([theta[1] * noise.draw("z", N01), theta[1] * ups**2])


# --- accept-reject


@case((0.6,), "accept-reject", *DIFFERENCES, "conditional", site="u")
def first_below_theta(theta, noise):
    u = noise.draw("u", Uniform(torch.tensor(0.0, dtype=torch.float64), 1.0))
    while u >= theta[0]:
        u = noise.draw("u", Uniform(torch.tensor(0.0, dtype=torch.float64), 1.0))
    return u.reshape(1)


@case((0.5,), "accept-reject", *DIFFERENCES, "conditional", site="accept")
def number_of_tries(theta, noise):
    tries = 1
    while not noise.above("accept", theta[0] - noise.uniform("u")):
        tries += 1
    return torch.as_tensor(float(tries), dtype=torch.float64)


@case((2.0,), "accept-reject", *DIFFERENCES, "conditional", site="accept")
def marsaglia_tsang(theta, noise):
    d = theta[0] - 1 / 3
    c = 1 / torch.sqrt(9 * d)
    while True:
        z, u = noise.draw("z", N01), noise.uniform("u")
        v = (1 + c * z) ** 3
        if v > 0 and noise.above("accept", 0.5 * z**2 + d - d * v + d * torch.log(v) - torch.log(u)):
            return torch.log(d * v)


@case((1.5,), "accept-reject", "score", "measure_valued", *DIFFERENCES, site="x")
def truncated_normal(theta, noise):
    x = noise.draw("x", Normal(theta[0], 1.0))
    while x < 0.5:
        x = noise.draw("x", Normal(theta[0], 1.0))
    return x**2


# --- unsynchronised noise


@case((0.5,), "unsynchronised noise", *DIFFERENCES, "surrogate", also=("jump",))
def generator_in_a_branch(theta, seed):
    rng, y = _rng(seed), 0.0
    for _ in range(15):
        y += rng.normal() * rng.normal() if rng.random() < float(theta[0]) else 2 * rng.normal()
    return y


@case((1.5,), "unsynchronised noise", *DIFFERENCES, "surrogate")
def noise_from_theta(theta, seed):
    x = float(theta[0])
    return x**2 + _rng([seed, abs(hash(x))]).normal()


@case((0.7,), "unsynchronised noise", *DIFFERENCES, "surrogate")
def no_seed_at_all(theta, _count=itertools.count()):  # noqa: B008
    return theta + torch.tensor(math.sin(1e3 * next(_count)), dtype=torch.float64)


@case((4.0,), "unsynchronised noise", *DIFFERENCES, "surrogate", also=("jump", "accept-reject"))
def arrivals_until_a_time(theta, seed):
    rng, rate = _rng(seed), float(theta[0])
    cost, now = 0.0, rng.exponential() / rate
    while now < 5.0:
        cost += rng.normal()
        now += rng.exponential() / rate
    return cost


# --- chaos


@case((3.9,), "chaos", *DIFFERENCES, "surrogate")
def logistic_map(theta):
    x = theta * 0 + 0.3
    for _ in range(120):
        x = theta * x * (1 - x)
    return x


@case((28.0,), "chaos", *DIFFERENCES, "surrogate")
def lorenz_in_numpy(theta):
    x, y, z, rho = 1.0, 1.0, 20.0, float(theta[0])
    for _ in range(4000):
        x, y, z = x + 0.01 * 10 * (y - x), y + 0.01 * (x * (rho - z) - y), z + 0.01 * (x * y - 8 / 3 * z)
    return np.array([x, z])


@case((3.8,), "chaos", *DIFFERENCES, "surrogate")
def logistic_map_from_a_random_start(theta, noise):
    x = 0.2 + 0.5 * noise.uniform("start")
    for _ in range(100):
        x = theta * x * (1 - x)
    return x


chaotic_trajectory = Trajectory(
    lambda theta: theta * 0 + 0.4, lambda theta, x, k, noise: theta * x * (1 - x), 150, lambda theta, x: x
)
CASES.append(
    Case("chaotic_trajectory", chaotic_trajectory, torch.tensor([3.95], dtype=torch.float64), ("chaos",), ("window",))
)

# --- repeated eigenvalues


def _symmetric(theta: Tensor) -> Tensor:
    return torch.stack([torch.stack([theta[0], theta[1]]), torch.stack([theta[1], theta[2]])])


@case((1.0, 0.0, 1.0), "repeated eigenvalues", *DIFFERENCES)
def exponential_of_the_identity(theta):
    values, vectors = torch.linalg.eigh(_symmetric(theta))
    return ((vectors * values.exp()) @ vectors.T).reshape(-1)


@case((2.0, 0.0, 2.0), "repeated eigenvalues", *DIFFERENCES)
def root_of_a_multiple(theta):
    values, vectors = torch.linalg.eigh(_symmetric(theta))
    return (vectors @ torch.diag(values.sqrt()) @ vectors.T).sum()


@case((1.0, 1.0), "repeated eigenvalues", *DIFFERENCES)
def polar_factor(theta):
    u, s, v = torch.linalg.svd(torch.diag(theta) + 0.0 * torch.outer(theta, theta))
    return (u @ torch.diag(torch.log1p(s)) @ v).sum()


@case((0.8,), "repeated eigenvalues", *DIFFERENCES)
def noisy_spectrum(theta, noise):
    a = theta[0] * torch.eye(3, dtype=torch.float64) * (2 + noise.draw("z", N01) * 0.1)
    values, vectors = torch.linalg.eigh(a)
    return ((vectors * values**2) @ vectors.T).sum()


# --- detached graph


@case((0.7, 1.2), "detached graph", *DIFFERENCES)
def detached_in_the_middle(theta):
    x = theta[0] ** 2
    return x.detach() * theta[1] + torch.sin(theta[0])


@case((1.3, 0.4), "detached graph", *DIFFERENCES)
def item_in_the_middle(theta, noise):
    scale = theta[0].exp().item()
    return scale * noise.draw("x", Normal(theta[1], 1.0))


@case((0.8,), "detached graph", *DIFFERENCES)
def weights_without_graph(theta, noise):
    with torch.no_grad():
        w = torch.softmax(theta * torch.arange(3.0, dtype=torch.float64), 0)
    return (w * (theta + noise.draw("z", Normal(torch.arange(3.0, dtype=torch.float64), 1.0)))).sum()


@case((0.9, 2.0), "detached graph", *DIFFERENCES)
def through_numpy(theta):
    inner = torch.from_numpy(np.sin(theta.detach().numpy()))
    return inner.sum() + theta.prod()


@case((0.6, 1.0), "detached graph", *DIFFERENCES, output=1)
def tensor_made_anew(theta, noise):
    again = torch.tensor(float(theta[0] * theta[1]), dtype=torch.float64)
    z = noise.draw("z", N01)
    return torch.stack([theta[0] * z, again * theta[1] + z])


@case((1.1,), "detached graph", *DIFFERENCES)
def detached_scale(theta, noise):
    return theta**2 + theta.detach() ** 3 * noise.draw("z", N01) ** 2


def _halves() -> tuple[list[Case], list[Case]]:
    tuned, held = [], []
    for trouble in dict.fromkeys(c.trouble for c in CASES):
        of = sorted(
            (c for c in CASES if c.trouble == trouble), key=lambda c: hashlib.sha256(c.name.encode()).hexdigest()
        )
        tuned += of[::2]
        held += of[1::2]
    return tuned, held


TUNED, HELD = _halves()
