"""Laws of the room of emulators, for every recipe in the folder; the laws themselves stand in `tests/laws.py`."""

import pytest
import torch

from emulate import registry
from tests import laws
from tests.entries import entries

NAMES = entries("emulators")
QUICK = {  # settings for the laws that fit again and again
    "flow": {"epochs": 4, "points": 64},
    "mlp": {"epochs": 5},
    "gp": {"kernel": "rbf", "starts": 1},
    "gradient_gp": {"kernel": "rbf", "mean": "constant", "starts": 1},
    "multifidelity": {"low": "polynomial", "high": "polynomial"},
}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def recipe(name):
    example = registry.find("emulators", name).example
    return registry.build("emulators", {"use": name, **example, **QUICK.get(name, {})})


@pytest.fixture(scope="module")
def emulator(name):
    example = registry.find("emulators", name).example
    return laws.FIT(registry.build("emulators", {"use": name, **example}), laws.runs(), seed=0)


def test_it_fits_a_line(recipe):
    laws.fits_a_line(laws.FIT, recipe)


def test_it_answers_in_physical_units(emulator):
    laws.is_in_physical_units(emulator)


def test_mean_variance_and_samples_come_through_one_door(emulator):
    laws.has_one_door(emulator, laws.points(4, seed=2))


def test_batches_are_stacked_points(emulator):
    laws.keeps_the_shape(emulator)


def test_points_come_in_any_form(emulator):
    laws.reads_every_form(emulator)


def test_its_density_is_that_of_its_moments(emulator):
    laws.has_the_density_of_its_moments(emulator, laws.points(4, seed=2))


def test_its_density_is_that_of_its_samples(recipe):
    theta = torch.tensor([[0.3, 0.6], [0.8, 0.1]], dtype=torch.float64)
    laws.has_the_density_of_its_samples(laws.FIT(recipe, laws.noisy(), seed=0), theta)


def test_its_gradient_is_that_of_its_mean(emulator):
    laws.differentiates(emulator)


def test_same_seed_same_bits(recipe):
    laws.repeats_itself(laws.FIT, recipe, laws.runs())


def test_saved_and_loaded_nothing_changes(emulator, tmp_path):
    mine = {"recipe": type(emulator.recipe)} if ":" in emulator.recipe.entry_name() else {}  # a file imports nothing
    laws.survives_its_file(lambda path: laws.LOAD(path, **mine), emulator, tmp_path / "emulator")


def test_its_variance_is_positive(emulator):
    laws.has_a_positive_variance(emulator)


def test_failed_runs_are_left_out(recipe):
    laws.leaves_failed_runs_out(laws.FIT, recipe, laws.runs())


def test_too_few_runs_are_refused(recipe):
    laws.refuses_too_few(laws.FIT, recipe, laws.runs())


def test_outside_its_box_it_warns_or_raises(emulator):
    laws.knows_its_box(emulator)


def test_the_state_is_all_it_knows(emulator):
    """`rebuild` from the core's state alone gives the same core, in float64 and without parameters to train."""
    again = emulator.recipe.rebuild(emulator.core.state_dict())
    u = emulator.space.scaled(laws.points(3, seed=1))
    assert (again(u).mean == emulator.core(u).mean).all()
    assert not [n for n, t in emulator.state_dict().items() if t.is_floating_point() and t.dtype.itemsize != 8]
    assert not [n for n, p in emulator.named_parameters() if p.requires_grad]
