"""Emulators as regressors: scikit-learn's own suite for strangers' estimators, and what its tools do with them."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.inspection import permutation_importance
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from emulate import Field, Outputs, Parameter, Space, Uniform, registry
from emulate.adapters.scikit_learn import EmulatorRegressor
from emulate.emulators.polynomial import Polynomial
from emulate.errors import ExtrapolationWarning, InputError

X = np.random.default_rng(0).uniform([-1, 0], [1, 3], size=(40, 2))
CUBE = X[:, 0] ** 3 - X[:, 1]
SPACE = Space((Parameter("a", Uniform(-1, 1)), Parameter("b", Uniform(0, 3))))
REFUSED = {  # polynomial: ten features have eleven coefficients, and eleven samples leave nothing to tell their error by
    "check_regressor_multioutput": "11 samples do not determine 11 coefficients and an error"
}


def _made(use, **settings):
    return EmulatorRegressor(registry.build("emulators", {"use": use, **settings}))


def _checks():
    for estimator in (_made("polynomial", degree=1), _made("gp", kernel="rbf", starts=1)):
        yield from estimator_checks_generator(estimator)


def _slow_checks():
    for estimator in (_made("mlp", members=5, epochs=3, width=8), _made("noisy_gp", starts=1), EmulatorRegressor("gp")):
        yield from estimator_checks_generator(estimator)


def _name(of):
    check = getattr(of, "func", of)
    return getattr(check, "__name__", "") or getattr(of.recipe, "entry_name", lambda: of.recipe)()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), _checks(), ids=_name)
def test_scikit_learn_accepts_it(estimator, check):
    if estimator.recipe.entry_name() == "polynomial" and _name(check) in REFUSED:
        with pytest.raises(ValueError, match=r"at least 12 samples for 10 features\. Got n_samples=11"):
            check(estimator)
    else:
        check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), _slow_checks(), ids=_name)
def test_scikit_learn_accepts_others_too(estimator, check):
    check(estimator)


def test_a_grid_finds_the_degree_that_made_the_data():
    search = GridSearchCV(make_pipeline(MinMaxScaler(), EmulatorRegressor(Polynomial())),
                          {"emulatorregressor__recipe__degree": [1, 2, 3, 4]}, cv=4).fit(X, CUBE)  # fmt: skip
    assert search.best_params_["emulatorregressor__recipe__degree"] in (3, 4)
    assert search.cv_results_["mean_test_score"][1] < 0.999 < search.best_score_
    mean, sd = search.best_estimator_.predict(X[:3], return_std=True)
    np.testing.assert_allclose(mean, CUBE[:3], atol=1e-6)
    assert (sd < 1e-6).all()


def test_cross_validation_scores_by_r2_of_each_fold():
    scores = cross_val_score(EmulatorRegressor(Polynomial(degree=3)), X, CUBE, cv=4)
    assert (scores > 1 - 1e-9).all()


def test_several_outputs_with_their_errors():
    y = np.stack([CUBE, X[:, 0] + np.random.default_rng(1).normal(size=40)], 1)
    fitted = EmulatorRegressor(Polynomial(degree=3), stochastic=True).fit(X, y)
    mean, sd = fitted.predict(X, return_std=True)
    told = fitted.emulator_.predict(torch.from_numpy(X))
    np.testing.assert_array_equal(mean, told.mean)
    np.testing.assert_array_equal(sd, told.stddev)
    assert fitted.score(X, y) == pytest.approx(r2_score(y, mean))
    assert 0.5 < sd[:, 1].mean() < 2  # the noise has a standard deviation of 1


def test_settings_of_the_recipe_are_parameters():
    one = EmulatorRegressor("polynomial").set_params(recipe__degree=4, random_state=3)
    assert one.recipe == Polynomial(degree=4)
    assert clone(one).get_params()["recipe__degree"] == 4
    with pytest.raises(InputError, match=r"recipe.degree: must be at most 6. Got 9"):
        one.set_params(recipe__degree=9)
    with pytest.raises(InputError, match=r"recipe.degre: this key is not known. Keys allowed here: .*degree"):
        one.set_params(recipe__degre=2)


def test_frames_bring_the_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b"])
    fitted = EmulatorRegressor("polynomial").fit(frame, CUBE)
    assert fitted.emulator_.space.names == tuple(fitted.feature_names_in_) == ("a", "b")
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[["b", "a"]])
    with pytest.raises(InputError, match=r"columns of the space, in its order: a, b. Got b, a"):
        EmulatorRegressor("polynomial", space=SPACE).fit(frame[["b", "a"]], CUBE)
    unspeakable = EmulatorRegressor("polynomial").fit(frame.set_axis(["a (m)", "b"], axis=1), CUBE)
    assert unspeakable.emulator_.space.names == ("x0", "x1")


def test_it_warns_outside_a_box_that_was_given():
    fitted = EmulatorRegressor("polynomial", space=SPACE).fit(X, CUBE)
    with pytest.warns(ExtrapolationWarning, match="a by 0.5 of its range"):
        fitted.predict([[2.0, 1.0]])
    with pytest.raises(InputError, match="stay inside"):
        fitted.set_params(outside="refuse").predict([[2.0, 1.0]])


def test_positive_outputs_are_learnt_as_logarithms():
    outputs = Outputs((Field("flux", positive=True),))
    y = np.exp(3 * X[:, 0] - X[:, 1])
    logged = EmulatorRegressor(Polynomial(degree=1), outputs=outputs).fit(X, y)
    assert logged.score(X, y) > 1 - 1e-12 > EmulatorRegressor(Polynomial(degree=1)).fit(X, y).score(X, y)


def test_an_emulator_that_was_trained_elsewhere_is_inspected():
    """y does not depend on b, and permutation importance says so."""
    emulator = EmulatorRegressor("polynomial", space=SPACE).fit(X, X[:, 0] ** 2).emulator_
    regressor = EmulatorRegressor.of(emulator)
    assert regressor.feature_names_in_.tolist() == ["a", "b"]
    with pytest.warns(UserWarning, match="valid feature names"):
        importance = permutation_importance(regressor, X, X[:, 0] ** 2, n_repeats=3, random_state=0).importances_mean
    assert importance[0] > 1 > 1e-6 > abs(importance[1])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"recipe": "gpp"}, r'recipe.use: there is no entry .gpp. in emulators.*Did you mean "gp"'),
        ({"recipe": 3}, "recipe: must be an entry's name"),
        ({"random_state": None}, "seed must be a whole number, at least 0. Got None"),
        ({"outside": "never"}, "outside must be one of box, warn"),
        ({"outputs": Outputs((Field("p"), Field("q")))}, "y must have the 2 columns of the outputs. Got 1"),
        (
            {"space": Space(SPACE.parameters[:1])},
            "X must have the columns of the space, in its order: a. Got 2 columns",
        ),
    ],
)
def test_what_is_wrong_is_told(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        EmulatorRegressor(**{"recipe": "polynomial"} | settings).fit(X, CUBE)


def test_generators_are_seeds_too():

    def of(seed):
        return _made("mlp", epochs=1, members=3, width=4).set_params(random_state=seed).fit(X, CUBE).predict(X)

    assert (of(np.random.RandomState(5)) == of(np.random.RandomState(5))).all()
    assert (of(np.random.RandomState(5)) != of(np.random.RandomState(6))).any()
