"""Real runs of cobaya on the linear Gaussian: its numbers are those of the closed form."""

import math

import numpy as np
import pytest

from emulate import Parameter, Space, Uniform
from tests.adapters import line

cobaya = pytest.importorskip("cobaya.run")
model = pytest.importorskip("cobaya.model")
yaml = pytest.importorskip("cobaya.yaml")
log = pytest.importorskip("cobaya.log")
adapter = pytest.importorskip("emulate.adapters.cobaya")

BOX = Space((Parameter("a", Uniform(-3, 3)), Parameter("b", Uniform(-3, 3))))
YAML = """
theory:
  emulate.adapters.cobaya.EmulatorTheory:
    path: {path}
    renames: {{a: alpha, pk: pk_nl, s8: sigma8}}
likelihood:
  emulate.adapters.cobaya.EmulatorLikelihood:
    data: {data}
    likelihood: {{use: gaussian, absolute_error: 0.4}}
params:
  alpha: {{prior: {{dist: norm, loc: 0.3, scale: 0.8}}, proposal: 0.3}}
  b: {{prior: {{dist: norm, loc: -0.2, scale: 0.5}}, proposal: 0.3}}
  sigma8: {{latex: \\sigma_8}}
"""
AT = {"alpha": 0.7, "b": -0.4}
THEORY, LIKELIHOOD = "emulate.adapters.cobaya.EmulatorTheory", "emulate.adapters.cobaya.EmulatorLikelihood"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return line.emulator(BOX).save(tmp_path_factory.mktemp("emulator") / "line")


@pytest.fixture
def info(folder, tmp_path):
    (tmp_path / "observed.csv").write_text("\n".join(map(str, line.DATA)))
    return yaml.yaml_load(YAML.format(path=folder, data=tmp_path / "observed.csv"))


def _log_likelihood(theta):
    r = line.DATA - line.A @ theta - line.B
    return -0.5 * r @ r / line.NOISE**2 - 3 * math.log(line.NOISE * math.sqrt(2 * math.pi))


def test_it_evaluates_the_closed_form(info):
    info["sampler"] = {"evaluate": {"override": AT}}
    _, sampler = cobaya.run(info)
    row = sampler.products()["sample"].data.iloc[0]
    theta = np.array([*AT.values()])
    assert row["chi2"] == pytest.approx(-2 * _log_likelihood(theta), rel=1e-9)
    assert -row["minuslogpost"] == pytest.approx(line.answer().log_density(theta), rel=1e-9)
    assert row["sigma8"] == pytest.approx((line.A @ theta + line.B)[2], rel=1e-9)


def test_a_likelihood_of_ones_own_reads_the_fields(info):
    def own(_self):
        pk, k = (_self.provider.get_result(n) for n in ("pk_nl", "pk_nl_k"))
        return float(-k @ pk)

    info["likelihood"] = {"own": {"external": own, "requires": ["pk_nl", "pk_nl_k"]}}
    found = model.get_model(info).loglike(AT, return_derived=False)
    assert found == pytest.approx(-np.array([0.1, 0.2]) @ (line.A @ [*AT.values()] + line.B)[:2], rel=1e-9)


def test_outside_the_box_there_is_no_likelihood_or_the_run_stops(info):
    far = {"alpha": 3.5, "b": 0.0}
    assert model.get_model(info).loglike(far, return_derived=False) == -np.inf
    info["theory"][THEORY]["outside"] = "refuse"
    refusing = model.get_model(info)
    with pytest.raises(Exception, match=r"theta must lie in the box.*a by 0.0833 of its range"):
        refusing.loglike(far, return_derived=False)
    info["theory"][THEORY]["outside"] = "ignore"
    beyond = model.get_model(info).loglike(far, return_derived=False)
    assert beyond == pytest.approx(_log_likelihood(np.array([3.5, 0.0])), rel=1e-9)


def test_two_emulators_stand_side_by_side(info, folder):
    one = info["theory"].pop(THEORY)
    two = {"path": str(folder), "renames": {"a": "alpha", "pk": "pk2", "s8": "s82", "prediction": "second"}}
    info["theory"] = {"one": {**one, "class": THEORY}, "two": {**two, "class": THEORY}}
    like = info["likelihood"].pop(LIKELIHOOD)
    info["likelihood"] = {
        "first": {**like, "class": LIKELIHOOD},
        "again": {**like, "class": LIKELIHOOD, "prediction": "second"},
    }
    found = model.get_model(info).loglikes(AT, return_derived=False)
    np.testing.assert_allclose(found, 2 * [_log_likelihood(np.array([*AT.values()]))], rtol=1e-9)


@pytest.mark.parametrize(
    ("part", "name", "change", "sentence"),
    [
        ("theory", THEORY, {"path": "nowhere"}, "there is no emulator at nowhere"),
        ("theory", THEORY, {"outside": "rejct"}, 'outside must be one of reject, box.*Did you mean "reject"'),
        (
            "theory",
            THEORY,
            {"renames": {"aa": "b"}},
            "renames must name parameters and outputs of the emulator: a, b, pk, s8",
        ),
        ("theory", THEORY, {"renames": {"a": "b"}}, "must have different names. Got 'b' twice"),
        ("theory", THEORY, {"pth": "x"}, "does not recognize some options: 'pth'"),
        ("likelihood", LIKELIHOOD, {"data": "nowhere.csv"}, "data must be numbers, or a file of them.*nowhere.csv"),
        ("likelihood", LIKELIHOOD, {"data": [1.0, float("nan")]}, "data must be finite numbers"),
        ("likelihood", LIKELIHOOD, {"likelihood": {"use": "gausian"}}, 'likelihood.use: .*Did you mean "gaussian"'),
    ],
)
def test_what_is_wrong_is_told(info, part, name, change, sentence):
    info[part][name] |= change
    with pytest.raises(log.LoggedError, match=sentence):
        model.get_model(info)


def test_data_of_another_length_stop_the_run_and_are_no_zero(info):
    info["likelihood"][LIKELIHOOD]["data"] = [1.0, 2.0]
    with pytest.raises(log.LoggedError, match=r"data must have 3 numbers, from pk\[k=0.1\] to s8. Got 2"):
        model.get_model(info).loglike(AT, return_derived=False)


@pytest.mark.slow
def test_its_mcmc_reaches_the_closed_form(info):
    from getdist.mcsamples import MCSamples

    info["sampler"] = {"mcmc": {"Rminus1_stop": 0.01, "Rminus1_cl_stop": 0.1, "seed": 1}}
    _, sampler = cobaya.run(info)
    chain = sampler.products(skip_samples=0.3, to_getdist=True)["sample"]
    assert isinstance(chain, MCSamples)
    told = line.answer()
    for i, n in enumerate(("alpha", "b")):
        ess = chain.getEffectiveSamples(chain.index[n])
        assert ess > 100
        assert abs(chain.mean(n) - told.mean[i]) < 4 * math.sqrt(told.covariance[i, i] / ess)
        assert abs(chain.var(n) / told.covariance[i, i] - 1) < 4 * math.sqrt(2 / ess)
