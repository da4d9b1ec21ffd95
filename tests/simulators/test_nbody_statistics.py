"""Laws that every statistic keeps: sizes, derivatives both ways, precision, threads, devices, and complaints."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from emulate.errors import InputError
from emulate.runs import Outputs
from emulate.simulators.nbody.cloud import Mesh
from emulate.simulators.nbody.cosmology import Cosmology
from emulate.simulators.nbody.fourier import forward, inverse
from emulate.simulators.nbody.initial_conditions import displacements, linear_field, white_noise
from emulate.simulators.nbody.snapshot import Snapshot
from emulate.simulators.nbody.spectra import power_spectrum
from emulate.simulators.nbody.statistics import STATISTICS, named
from emulate.simulators.nbody.statistics.bispectrum import Bispectrum
from emulate.simulators.nbody.statistics.slices import Slices
from emulate.simulators.nbody.statistics.sums import mean

MESH, BOX = Mesh(particles=16, refinement=2), 150.0
COSMOLOGY = Cosmology.of(omega_m=0.3, omega_b=0.049, h=0.68, n_s=0.96, sigma_8=0.8)
GROWTH = COSMOLOGY.growth(torch.tensor(0.7, dtype=torch.float64))
EVERY = [*named(tuple(STATISTICS)), Bispectrum(quantity="Q"), Slices(count=4, pixels=8)]
every = pytest.mark.parametrize("statistic", EVERY, ids=lambda s: repr(s).split("(radius")[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class Given(Snapshot):
    """A snapshot whose density is given, so that derivatives meet no particles."""

    delta: Tensor

    def density(self) -> Tensor:
        return self.delta

    def redshift_density(self, axis: int = 2) -> Tensor:
        return self.delta


def universe(dtype=torch.float64) -> Snapshot:
    """Particles displaced by second-order Lagrangian perturbation theory."""
    psi = displacements(linear_field(white_noise(16, 3), COSMOLOGY, BOX))
    x, v = 2 * psi.at(GROWTH.D, GROWTH.D2), 2 * psi.at(torch.ones_like(GROWTH.D), GROWTH.dD2)
    return Snapshot(displacement=x.to(dtype), velocity=v.to(dtype), mesh=MESH, box=BOX, cosmology=COSMOLOGY,
                    growth=GROWTH)  # fmt: skip


def given(delta: Tensor) -> Given:
    rest = torch.zeros(3, 16**3, dtype=delta.dtype, device=delta.device)
    return Given(displacement=rest, velocity=rest, mesh=MESH, box=BOX, cosmology=COSMOLOGY, growth=GROWTH, delta=delta)


def normal(shape, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direction(seed: int) -> Tensor:
    """A smooth random change of the density."""
    modes = forward(normal((32,) * 3, seed))
    keep = torch.fft.fftfreq(32).abs() < 0.2
    return inverse(modes * (keep[:, None, None] & keep[None, :, None] & keep[None, None, :17]))


@every
def test_fields_and_values_agree(statistic):
    snapshot = universe()
    outputs = Outputs(statistic.fields(MESH, BOX))
    y = statistic.measure(snapshot)
    assert (y.shape, y.dtype) == ((outputs.size,), torch.float64)
    assert bool(torch.isfinite(y).all())
    assert bool((y[torch.from_numpy(outputs.positive)] > 0).all())
    assert all(field.label and field.coordinate for field in outputs.fields)
    single = statistic.measure(universe(torch.float32))
    torch.testing.assert_close(single, y, rtol=1e-4, atol=2e-5 * float(y.abs().max()))


def test_all_statistics_stand_side_by_side():
    fields = [field for statistic in named(tuple(STATISTICS)) for field in statistic.fields(MESH, BOX)]
    assert [field.name for field in Outputs(tuple(fields)).fields] == [
        "pk", "pk0", "pk2", "pk4", "bk", "pdf", "slice0"]  # fmt: skip


def test_spectrum_is_that_of_the_estimator():
    snapshot = universe()
    (pk,) = named(("pk",), k_max=0.75)
    assert torch.equal(pk.measure(snapshot), power_spectrum(snapshot.density(), BOX, 6))


@every
def test_gradient_is_the_central_difference(statistic):
    """Through the particles, in float64, with steps below the kinks of the cloud."""
    start = universe()
    leaves = [start.displacement.clone().requires_grad_(), start.velocity.clone().requires_grad_()]

    def value(x: Tensor, v: Tensor) -> Tensor:
        return statistic.measure(dataclasses.replace(start, displacement=x, velocity=v))

    y = value(*leaves)
    size = y.detach().abs()
    weight = normal(y.shape, 0) / size.clamp_min(0.1 * float(size.max()))
    gradients = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)
    along = [normal(x.shape, i + 1) for i, x in enumerate(leaves)]
    truth = sum(float((g * d).sum()) for g, d in zip(gradients, along) if g is not None)
    with torch.no_grad():
        ends = [value(*(x + sign * 1e-7 * d for x, d in zip(leaves, along))) for sign in (1, -1)]
    assert float(((ends[0] - ends[1]) * weight).sum()) / 2e-7 == pytest.approx(truth, rel=1e-5)


@every
def test_forward_derivative_is_the_central_difference_and_the_transpose(statistic):
    delta, along = universe().density(), direction(1)

    def value(delta: Tensor) -> Tensor:
        return statistic.measure(given(delta))

    y, tangent = torch.func.jvp(value, (delta,), (along,))
    assert torch.equal(y, value(delta))
    step = 1e-5
    difference = (value(delta + step * along) - value(delta - step * along)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-7 * float(tangent.abs().max()))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(value(forward_ad.make_dual(delta, along))).tangent
    torch.testing.assert_close(dual, tangent, rtol=1e-12, atol=1e-12 * float(tangent.abs().max()))
    weight = normal(y.shape, 2)
    _, pullback = torch.func.vjp(value, delta)
    back = float((pullback(weight)[0] * along).sum())
    assert back == pytest.approx(float((weight * tangent).sum()), rel=1e-9)


@every
def test_jacobians_in_few_parameters_agree_forwards_and_backwards(statistic):
    """All columns in one batch, as an inference does it."""
    delta, along = universe().density(), torch.stack([direction(seed) for seed in range(3)])

    def value(theta: Tensor) -> Tensor:
        return statistic.measure(given(delta + torch.tensordot(theta, along, 1)))

    theta = torch.zeros(3, dtype=torch.float64)
    columns, rows = torch.func.jacfwd(value)(theta), torch.func.jacrev(value)(theta)
    torch.testing.assert_close(columns, rows, rtol=1e-9, atol=1e-9 * float(rows.abs().max()))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_the_threads(statistic, dtype):
    """On a mesh large enough for torch to split its loops: value, gradient and forward derivative."""
    mesh = Mesh(particles=48, refinement=1)
    delta, along = ((0.3 * normal((48,) * 3, seed)).to(dtype).clamp(-0.9) for seed in (0, 1))
    rest = torch.zeros(3, 48**3, dtype=dtype)

    def value(delta: Tensor) -> Tensor:
        return statistic.measure(Given(displacement=rest, velocity=rest, mesh=mesh, box=BOX, cosmology=COSMOLOGY,
                                       growth=GROWTH, delta=delta))  # fmt: skip

    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            y, pullback = torch.func.vjp(value, delta)
            found.append((y, pullback(torch.ones_like(y))[0], torch.func.jvp(value, (delta,), (along,))[1]))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_over_a_mesh_have_the_same_bits_on_any_number_of_threads(dtype):
    """Twenty fields, each large enough to be split: the mean of torch itself differs in the last digit of some."""
    threads, found = torch.get_num_threads(), []
    fields = [normal((40,) * 3, seed).to(dtype) for seed in range(20)]
    try:
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            found.append(torch.stack([mean(field) for field in fields]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])
    truth = [field.double().numpy().mean() for field in fields]
    assert found[0].tolist() == pytest.approx(truth, rel=1e-9, abs=1e-15)


@every
def test_no_tensor_is_left_on_another_device(statistic):
    """Tensors of the meta device hold no numbers, and like those of a GPU they mix with no others."""
    y = statistic.measure(given(torch.empty(32, 32, 32, device="meta")))
    assert y.device.type == "meta"
    assert y.shape == (Outputs(statistic.fields(MESH, BOX)).size,)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("pk", {"k_max": 0.01}, r"k_max must be between 0\.125 \(one bin\) and 1, .* Got 0\.01"),
        ("multipoles", {"k_max": 1.5}, r"k_max must be between .* Got 1\.5"),
        ("bispectrum", {"width": 5}, r"width must be from 1 to 4, the fundamental modes below k_max\. Got 5"),
        ("bispectrum", {"width": 0}, r"width must be from 1 to 4, .* Got 0"),
        ("bispectrum", {"quantity": "P"}, r"quantity must be B or Q\. Got 'P'"),
        ("pdf", {"radius": 5.0}, r"radius must be from 14\.0625 Mpc/h \(1\.5 particle spacings\) to 37\.5 .* Got 5\.0"),
        ("pdf", {"radius": float("nan")}, r"radius must be from .* Got nan"),
        ("pdf", {"low": 1.0, "high": 1.0}, r"low must be below high, .* Got low = 1\.0, high = 1\.0"),
        ("pdf", {"number": 0}, r"number at least 1\. Got .* number = 0"),
        ("pdf", {"bandwidth": 0.0}, r"bandwidth must be positive, .* Got 0\.0"),
        ("slices", {"count": 3}, r"count must divide the 32 mesh cells of a side, .* Got 3"),
        ("slices", {"pixels": 16}, r"pixels must divide .* be at most 8, two particle spacings each\. Got 16"),
        ("slices", {"pixels": 0}, r"pixels must divide .* Got 0"),
    ],
)
def test_settings_that_measure_nothing_are_refused(name, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        STATISTICS[name](**settings).fields(MESH, BOX)


def test_triangles_beyond_the_mesh_are_refused():
    with pytest.raises(InputError, match=r"below the mesh's own Nyquist wavenumber\. Got 1\.0 with one mesh cell"):
        Bispectrum(k_max=1.0).fields(Mesh(particles=16, refinement=1), BOX)


def test_names_are_checked():
    assert [type(s) for s in named(("slices", "pk"))] == [STATISTICS["slices"], STATISTICS["pk"]]
    with pytest.raises(InputError, match=r"there is no statistic 'pdk'; there are pk, .*Did you mean"):
        named(("pdk",))
    with pytest.raises(InputError, match=r"at least one name, each once\. Got pk, pk"):
        named(("pk", "pk"))
    with pytest.raises(InputError, match=r"at least one name, each once\. Got none"):
        named(())


def test_a_statistic_takes_settings_of_its_own():
    assert named(["pk", {"use": "pdf", "radius": 20, "number": 4}], k_max=0.25) == (
        STATISTICS["pk"](k_max=0.25),
        STATISTICS["pdf"](radius=20.0, number=4),
    )


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"use": "pdf", "raduis": 3}, "statistic pdf: settings must be among radius, low, .* Got 'raduis'"),
        (
            {"use": "pdf", "number": 0},
            "statistic pdf: number must be allowed there. Got 0: .* greater than or equal to 1",
        ),
        ({"radius": 3}, "there is no statistic 'None'"),
    ],
)
def test_wrong_settings_of_a_statistic_are_refused(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        named([spec])
