"""One recipe on what another leaves: better where something is left, the first recipe as it was where nothing is."""

import json

import numpy as np
import pytest
import torch

import emulate
from emulate import artefact, registry
from emulate.contracts import Core
from emulate.emulators.flow import Flow
from emulate.emulators.gp import GP
from emulate.emulators.mlp import MLP
from emulate.emulators.polynomial import Polynomial
from emulate.emulators.residual import Residual
from emulate.errors import InputError
from tests.emulators.test_mlp import sobol, table

SMALL = MLP(members=5, epochs=8)


def wave(u: np.ndarray) -> np.ndarray:
    return np.sin(5 * u[:, 0]) * np.exp(u[:, 1])


@pytest.fixture(scope="module")
def fits():
    u = sobol(80, 2, 0)
    runs = table(u, np.stack([wave(u), 1 + u[:, 0] * u[:, 1]], 1))
    return {r: emulate.fit(r, runs, seed=0) for r in (Polynomial(), Residual(first=Polynomial(), then=SMALL))}


def test_what_the_first_leaves_is_learnt(fits):
    new = sobol(500, 2, 9)
    first, both = (np.sqrt(np.mean((e.predict(new).mean[:, 0].numpy() - wave(new)) ** 2)) for e in fits.values())
    assert both < 0.1 * first


def test_intervals_hold_new_points(fits):
    new, (_, both) = sobol(1000, 2, 9), fits.values()
    p = both.predict(new)
    inside = np.abs(p.mean[:, 0].numpy() - wave(new)) < 1.96 * p.stddev[:, 0].numpy()
    assert 0.88 < inside.mean() <= 1


def test_closed_slopes_are_those_of_autograd(fits):
    core, x = list(fits.values())[1].core, torch.from_numpy(sobol(5, 2, 3))
    told, closed = core.tangent(x)
    torch.testing.assert_close(told.variance, core(x).variance, rtol=1e-11, atol=0.0)
    for ours, slow in zip(closed, Core.slopes(core, x), strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)


def test_where_nothing_is_left_the_first_stays_as_it_is():
    """A plane with noise: a polynomial is all there is, and its error bars stay too."""
    u, new = sobol(60, 2, 0), sobol(50, 2, 9)
    runs = table(u, 1 + u[:, 0] - u[:, 1] + 0.1 * np.random.default_rng(0).normal(size=60))
    alone = emulate.fit(Polynomial(degree=1), runs, seed=0).predict(new)
    both = emulate.fit(Residual(first=Polynomial(degree=1), then=SMALL), runs, seed=0).predict(new)
    torch.testing.assert_close(both.mean, alone.mean, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(both.stddev, alone.stddev, rtol=1e-9, atol=0.0)


@pytest.mark.slow
def test_a_process_is_no_worse_with_a_network_on_top():
    u, new, first = sobol(40, 2, 0), sobol(400, 2, 9), GP(kernel="rbf", mean="constant")
    fits = [emulate.fit(r, table(u, wave(u)), seed=0) for r in (first, Residual(first=first, then=SMALL))]
    error = [np.sqrt(np.mean((e.predict(new).mean[:, 0].numpy() - wave(new)) ** 2)) for e in fits]
    assert error[1] < 1.5 * error[0]


def test_settings_within_settings_are_read_written_and_told_by_their_path():
    spec = {"use": "residual", "first": {"use": "gp", "mean": "linear"}, "then": "mlp"}
    recipe = registry.build("emulators", spec, path="emulators.both")
    assert recipe == Residual(first=GP(mean="linear"))
    assert registry.validate(Residual, json.loads(json.dumps(recipe.settings())), path="file") == recipe
    for bad, sentence in (({"first": {"use": "gq"}}, r"emulators\.both\.first\.use: there is no entry 'gq'"),
                          ({"then": {"use": "mlp", "width": 0}}, r"emulators\.both\.then\.width: must be at least 1\. Got 0"),
                          ({"first": 3}, r"emulators\.both\.first: must be a mapping")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            registry.build("emulators", {"use": "residual", **bad}, path="emulators.both")


def test_recipes_that_read_more_than_runs_are_refused():
    with pytest.raises(
        InputError, match=r"residual\.first: must be a recipe that needs the runs alone\. Got 'gradient_gp'"
    ):
        registry.build("emulators", {"use": "residual", "first": {"use": "gradient_gp"}})


@pytest.mark.parametrize("given", ["gp", {"use": "gp"}, GP])
def test_what_is_no_built_recipe_is_refused(given):
    with pytest.raises(
        InputError, match=r"^residual\.then: must be a recipe, such as GP\(\)\. Got .*; build it first: "
    ):
        Residual(then=given)


def test_a_file_may_not_import_by_a_recipe_within_its_recipe(fits, tmp_path):
    both = list(fits.values())[1]
    folder = both.save(tmp_path / "both")
    body, tensors = artefact.read(folder)
    body["recipe"]["settings"]["first"] = {"use": "antigravity:Recipe"}
    artefact.write(folder, body, tensors)
    with pytest.raises(InputError, match="a file must not choose what is imported"):
        emulate.load(folder)


@pytest.mark.parametrize("name", ["first", "then"])
def test_a_flow_of_which_the_shape_would_be_lost_is_refused(name):
    with pytest.raises(InputError) as caught:
        Residual(**{name: Flow()})
    assert str(caught.value) == (
        f"residual.{name}: must be a recipe that is told by its mean and variance, which are all that is kept. Got 'flow', whose "
        "shape would be lost and whose mean takes a thousand points each time; choose gp, mlp or polynomial, or a flow of its "
        "own."
    )
