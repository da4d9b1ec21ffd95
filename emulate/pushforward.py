"""p(y) of any p(z): what `OutputTransform.push` gives where a core predicts something other than a Gaussian."""

import inspect
import math
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from emulate.distributions import Gaussian, Joint, fitting, logarithms, seeded

_NODES, _SEED = 1024, 0  # points that stand for a p(z) which brings none of its own


class Pushforward(Joint):
    r"""y_j = w_j or exp(w_j), w = centre + z basis + e, z ~ p(z) of any shape, e what the components z leave out.

    With p = m components nothing is left out, e = 0, and ln p(w) = ln p(z) - ln|det basis| is exact. With p < m, e is
    the part of n ~ N(0, N), N = diag(diagonal) + rest^T rest, that lies outside the span of the basis as N measures it
    (generalised least squares): z^(w) = (w - centre) N^-1 B^T S with S = (B N^-1 B^T)^-1 gives z back exactly. What n
    holds inside the span, S, is dropped: it is no more than the truncation left of the variance of z, and without it
    the density needs no convolution and belongs to the very draws that are given,

        ln p(w) = ln p(z^) + ln N(r; 0, N) + 1/2 ln|2 pi S|,    r = w - centre - z^ basis.

    Mean and covariance are over the `nodes` of p(z), equally likely points `[..., K, p]` that stand for it, if it has
    any; else they are its own, or over 1024 fixed draws where it tells no covariance or exp(w) is to be averaged. e
    enters in closed form.

    Shapes: basis `[p, m]`, centre and diagonal `[m]`, rest `[q, m]` or None, log bool `[m]` or None.

    >>> z = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(1).double(), 1.0), 1)
    >>> y = Pushforward(z, torch.tensor([3.0]).double(), torch.tensor([[2.0]]).double(), torch.zeros(1).double())
    >>> y.mean, y.variance, y.log_prob(torch.tensor([3.0]).double())  # -ln(2 * 2)
    (tensor([3.], ...), tensor([8.], ...), tensor(-1.3863, ...))
    """

    has_rsample = True

    def __init__(self, z: Distribution, centre: Tensor, basis: Tensor, diagonal: Tensor, rest: Tensor | None = None,
                 log: Tensor | None = None):  # fmt: skip
        self.z, self.centre, self.basis, self.diagonal, self.rest, self.log = z, centre, basis, diagonal, rest, log
        self._whole = basis.shape[0] == basis.shape[1]
        super().__init__(z.batch_shape, centre.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        if self._plain:
            return self.centre + self.z.mean @ self.basis
        return self._stretch * self._at_nodes.mean(-2)

    @property
    def variance(self) -> Tensor:
        n = self._outside.diagonal()
        if self._plain:
            return ((self._z_covariance @ self.basis) * self.basis).sum(-2) + n
        more = n if self.log is None else torch.where(self.log, self._at_nodes.square().mean(-2) * torch.expm1(n), n)
        return self._stretch.square() * (self._off.square().mean(-2) + more)

    @property
    def covariance_matrix(self) -> Tensor:
        """`[..., m, m]` in physical units."""
        n = self._outside
        if self._plain:
            return self.basis.mT @ self._z_covariance @ self.basis + n
        between = self._off.mT @ self._off / self._off.shape[-2]
        if self.log is None:
            return between + n
        g, mean = self._at_nodes, self._at_nodes.mean(-2)
        both = self.log[:, None] & self.log
        slope = torch.where(self.log, mean, 1.0)  # Stein: cov(exp(w), e) = E[exp(w)] cov(w, e)
        more = torch.where(both, g.mT @ g / g.shape[-2] * torch.expm1(n), slope[..., :, None] * slope[..., None, :] * n)
        return self._stretch[:, None] * self._stretch * (between + more)

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """The mean `[..., m]` and covariance `[..., m, m]` of y: the Gaussian with the same first two moments."""
        return self.mean, self.covariance_matrix

    def rsample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        """Differentiable draws `[*sample_shape, ..., m]`; give a seeded `generator` for draws that can be repeated."""
        z = draws(self.z, sample_shape, generator)
        w = self.centre + z @ self.basis
        if not self._whole:

            def noise(k: int) -> Tensor:
                return torch.randn((*z.shape[:-1], k), dtype=z.dtype, device=z.device, generator=generator)

            e = noise(len(self.diagonal)) * self.diagonal.sqrt()
            e = e if self.rest is None else e + noise(len(self.rest)) @ self.rest
            w = w + e - (e @ self._back) @ self.basis
        return w if self.log is None else torch.where(self.log, torch.where(self.log, w, 0.0).exp(), w)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def icdf(self, value: Tensor) -> Tensor:
        """y `[..., 1]` below which lies the probability value `[..., 1]`, for one output whose p(z) tells quantiles."""
        if self.centre.shape != (1,) or not self._whole:
            return super().icdf(value)
        w = self.centre + self.z.icdf(torch.where(self.basis[0] < 0, 1 - value, value)) * self.basis[0]
        return w if self.log is None else torch.where(self.log, torch.where(self.log, w, 0.0).exp(), w)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(y) of y `[..., m]` in physical units; -inf where a positive output is not above 0."""
        w, jacobian, inside = logarithms(fitting(self, value), self.log)
        z = (w - self.centre) @ self._back
        density = self.z.log_prob(z) + self._volume - jacobian
        if not self._whole:
            r = (w - self.centre - z @ self.basis) / self._size
            x = torch.linalg.solve_triangular(self._factor, r[..., None], upper=False)[..., 0]
            density = density - 0.5 * x.square().sum(-1)
        return density if inside is None else torch.where(inside, density, -math.inf)

    @property
    def _plain(self) -> bool:
        """Whether z's own moments are enough."""
        kind = type(self.z)  # asking the object would compute them
        told = hasattr(kind, "covariance_matrix") or len(self.basis) == 1
        return self.log is None and told and not hasattr(kind, "nodes")

    @cached_property
    def _size(self) -> Tensor:
        """`[m]`; outputs may differ by twenty decades: all linear algebra is on this scale."""
        own = self.basis.square().sum(0) if self._whole else self.diagonal
        return (own if self.rest is None or self._whole else own + self.rest.square().sum(0)).sqrt()

    @cached_property
    def _noise(self) -> Tensor:
        """N / size size^T."""
        n = torch.diag_embed(self.diagonal / self._size.square())
        return n if self.rest is None else n + (self.rest / self._size).mT @ (self.rest / self._size)

    @cached_property
    def _factor(self) -> Tensor:
        return torch.linalg.cholesky(self._noise)

    @cached_property
    def _white(self) -> tuple[Tensor, Tensor]:
        """Q `[m, p]` and R `[p, p]` of L^-1 B^T / size = Q R, so that S = (R^T R)^-1."""
        return torch.linalg.qr(torch.linalg.solve_triangular(self._factor, (self.basis / self._size).mT, upper=False))

    @cached_property
    def _back(self) -> Tensor:
        """`[m, p]`: z of w - centre."""
        if self._whole:
            return torch.linalg.inv(self.basis / self._size) / self._size[:, None]
        q, r = self._white
        gain = torch.linalg.solve_triangular(self._factor.mT, q, upper=True)  # L^-T Q
        return torch.linalg.solve_triangular(r, gain.mT, upper=True).mT / self._size[:, None]

    @cached_property
    def _volume(self) -> Tensor:
        """What ln p(w) has beside ln p(z) and the distance outside the span."""
        if self._whole:
            return -torch.linalg.slogdet(self.basis / self._size)[1] - self._size.log().sum()
        p, m = self.basis.shape
        half_s = -self._white[1].diagonal().abs().log().sum()  # 1/2 ln|S|
        half_n = self._factor.diagonal().log().sum() + self._size.log().sum()
        return half_s - half_n - 0.5 * (m - p) * math.log(2 * math.pi)

    @cached_property
    def _outside(self) -> Tensor:
        """cov(e) `[m, m]`: N less what of it lies inside the span, L (1 - Q Q^T) L^T."""
        if self._whole:
            return torch.zeros_like(self.basis)
        q, one = self._white[0], torch.eye(len(self._size), dtype=self.basis.dtype, device=self.basis.device)
        root = self._size[:, None] * (self._factor @ (one - q @ q.mT))
        return root @ root.mT

    @cached_property
    def _stretch(self) -> Tensor:
        """`[m]`: what e alone multiplies the mean of exp(w) by."""
        half = 0.5 * self._outside.diagonal()
        return torch.ones_like(half) if self.log is None else torch.where(self.log, half, 0.0).exp()

    @cached_property
    def _at_nodes(self) -> Tensor:
        """w or exp(w) `[..., K, m]` at the nodes, without e."""
        w = self.centre + nodes(self.z, self.basis.device) @ self.basis
        return w if self.log is None else torch.where(self.log, torch.where(self.log, w, 0.0).exp(), w)

    @cached_property
    def _off(self) -> Tensor:
        """The nodes of y less their mean; of linear outputs without a detour over values near 1000."""
        z = nodes(self.z, self.basis.device)
        w = (z - z.mean(-2, keepdim=True)) @ self.basis
        g = self._at_nodes
        return w if self.log is None else torch.where(self.log, g - g.mean(-2, keepdim=True), w)

    @cached_property
    def _z_covariance(self) -> Tensor:
        own = getattr(self.z, "covariance_matrix", None)
        return torch.diag_embed(self.z.variance) if own is None else own


class Moved(Joint):
    """A prediction whose answers lie on another device than its own tensors.

    >>> from torch.distributions import Independent, Normal
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> Moved(Independent(Normal(one, one), 1), one.device, one.device).log_prob(one)
    tensor(-1.8379, dtype=torch.float64)
    """

    def __init__(self, inner: Distribution, there: torch.device, device: torch.device):
        self.inner, self.there, self.device, self.has_rsample = inner, there, device, inner.has_rsample
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.inner.mean.to(self.device)

    @property
    def variance(self) -> Tensor:
        return self.inner.variance.to(self.device)

    @property
    def covariance_matrix(self) -> Tensor:
        return cast(Pushforward, self.inner).covariance_matrix.to(self.device)  # who asks knows that it has one

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """The mean `[..., m]` and covariance `[..., m, m]`."""
        return self.mean, self.covariance_matrix

    def rsample(self, sample_shape=(), **keywords: Any) -> Tensor:
        return self.inner.rsample(sample_shape, **self._seeded(keywords)).to(self.device)

    def sample(self, sample_shape=(), **keywords: Any) -> Tensor:
        return self.inner.sample(sample_shape, **self._seeded(keywords)).to(self.device)

    def icdf(self, value: Tensor) -> Tensor:
        return self.inner.icdf(value.to(self.there)).to(self.device)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.inner.log_prob(value.to(self.there)).to(self.device)

    def _seeded(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """A generator of the other device, seeded by the one that is given."""
        given = keywords.get("generator")
        if given is None or given.device == self.there:
            return keywords
        seed = int(torch.randint(2**62, (), generator=given, device=given.device))
        return {**keywords, "generator": torch.Generator(self.there).manual_seed(seed)}


def moved(
    prediction: Gaussian | Pushforward, there: torch.device, device: torch.device
) -> Gaussian | Pushforward | Moved:
    """A prediction made `there` with its answers on a device: of a Gaussian its tensors, so that draws are those of it."""
    if there == device:
        return prediction
    if not isinstance(prediction, Gaussian):
        return Moved(prediction, there, device)
    loc, spread, basis, diagonal = (
        t.to(device) for t in (prediction.loc, prediction.spread, prediction.basis, prediction.diagonal)
    )
    rest, log, mix = (None if t is None else t.to(device) for t in (prediction.rest, prediction.log, prediction.mix))
    made = Gaussian(loc, spread, basis, diagonal, rest, log, mix)
    made.constant = None if prediction.constant is None else prediction.constant.to(device)
    return made


def nodes(z: Distribution, device: torch.device | None = None) -> Tensor:
    """Equally likely points `[..., K, p]` that stand for p(z): its own, else 1024 draws, the same in every call."""
    own = getattr(z, "nodes", None)
    if own is not None:
        return own
    return draws(z, (_NODES,), torch.Generator(device or "cpu").manual_seed(_SEED)).movedim(0, -2)


def draws(z: Distribution, shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
    """Draws `[*shape, ..., p]`, differentiable where z can; with a generator the global one is left alone."""
    draw = seeded(z).rsample if z.has_rsample else seeded(z).sample
    if generator is None:
        return draw(shape)
    if "generator" in inspect.signature(draw).parameters:
        return draw(shape, generator=generator)
    with torch.random.fork_rng(devices=[]):  # distributions of torch know the global generator alone
        torch.default_generator.set_state(generator.get_state())
        x = draw(shape)
        generator.set_state(torch.default_generator.get_state())
    return x
