import io
import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate.errors import InputError
from emulate.runs import Field, Outputs, Runs
from emulate.space import Parameter, Space, Uniform

SPACE = Space((Parameter("a", Uniform(0.0, 1.0), "s"), Parameter("b", Uniform(0.0, 1.0))))
OUTPUTS = Outputs((Field("n", "kg"), Field("pk", "m", True, "k", (0.1, 1.0), "1/m", "P")))
FIELD = st.builds(lambda i, unit, positive, at: Field(f"f{i}", unit, positive, "k" if at else "", tuple(at), "m"),
                  st.integers(0, 10**6), st.text(max_size=5), st.booleans(),
                  st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5))  # fmt: skip


def table(n=10, failed=(3, 7)):
    rng = np.random.default_rng(0)
    theta, y = rng.random((n, 2)), rng.random((n, 3))
    y[list(failed)] = np.nan
    return Runs.of(SPACE, OUTPUTS, theta, y)


@given(fields=st.lists(FIELD, min_size=1, max_size=5, unique_by=lambda f: f.name))
def test_outputs_survive_json_and_their_slices_tile_y(fields):
    outputs = Outputs(tuple(fields))
    assert Outputs.from_dict(json.loads(json.dumps(outputs.to_dict()))) == outputs
    ends = [(s.start, s.stop) for s in outputs.slices.values()]
    assert [i for start, stop in ends for i in range(start, stop)] == list(range(outputs.size))
    assert len(outputs.labels) == len(outputs.positive) == outputs.size
    for f in fields:
        assert outputs.positive[outputs.slices[f.name]].tolist() == [f.positive] * f.size
        assert outputs.field(f.name) is f


@settings(deadline=None)
@given(n=st.integers(1, 30), data=st.data())
def test_every_row_is_finished_or_failed_and_none_is_lost(n, data):
    failed = data.draw(st.sets(st.integers(0, n - 1)))
    runs = table(n, failed)
    assert set(np.flatnonzero(~runs.ok)) == failed
    assert len(runs.finished()) + len(runs.failed()) == len(runs) == n
    assert np.isfinite(runs.finished().y).all()
    assert np.isnan(runs.failed().y).all()
    assert all(bool(r) != good for r, good in zip(runs.reason, runs.ok, strict=True))


@settings(deadline=None)
@given(n=st.integers(2, 50), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
def test_a_split_is_a_partition_that_the_seed_alone_decides(n, fraction, seed):
    runs = replace(table(n, ()), key=tuple(map(str, range(n))))
    kept, held = runs.split(fraction, seed=seed)
    assert sorted(map(int, kept.key + held.key)) == list(range(n))
    assert len(held) == max(1, round(fraction * n))
    again = runs.split(fraction, seed=seed)
    assert (again[0].key, again[1].key) == (kept.key, held.key)
    for part in (kept, held):
        rows = list(map(int, part.key))
        np.testing.assert_array_equal(part.theta, runs.theta[rows])
        np.testing.assert_array_equal(part.y, runs.y[rows])


def differentiated(n=10, failed=(3, 7)):
    """Row i holds i in every derivative and i / 8 in every error."""
    plain = table(n, failed)
    jacobian = np.broadcast_to(np.arange(n, dtype=float)[:, None, None], (n, 3, 2))
    runs = Runs.of(SPACE, OUTPUTS, plain.theta, plain.y, jacobian=jacobian, jacobian_error=jacobian / 8)
    return replace(runs, key=tuple(map(str, range(n))))


@settings(deadline=None)
@given(n=st.integers(2, 30), data=st.data())
def test_jacobians_follow_their_rows(n, data):
    failed = data.draw(st.sets(st.integers(0, n - 1)))
    runs = differentiated(n, failed)
    rows = data.draw(st.lists(st.integers(0, n - 1)))
    for part in (runs, runs.select(rows), runs.finished(), runs.failed(), *runs.split(0.5, seed=n)):
        assert part.jacobian.shape == part.jacobian_error.shape == (len(part), 3, 2)
        expected = np.array([np.nan if int(k) in failed else float(k) for k in part.key])
        np.testing.assert_array_equal(part.jacobian, np.broadcast_to(expected[:, None, None], (len(part), 3, 2)))
        np.testing.assert_array_equal(part.jacobian_error, part.jacobian / 8)


def test_a_run_whose_jacobian_is_not_finite_failed():
    plain = table(3, ())
    slope = np.ones((3, 3, 2))
    slope[1, 2, 0] = np.inf
    runs = Runs.of(SPACE, OUTPUTS, plain.theta, plain.y, jacobian=slope)
    assert runs.ok.tolist() == [True, False, True]
    assert np.isnan(runs.y[1]).all()
    assert np.isnan(runs.jacobian[1]).all()
    np.testing.assert_array_equal(runs.jacobian_error[[0, 2]], 0)
    assert np.isinf(slope[1, 2, 0])


def test_a_dataset_names_the_axes_of_a_jacobian():
    runs = differentiated()
    data = runs.to_xarray()
    assert data["jacobian"].dims == data["jacobian_error"].dims == ("run", "output", "parameter")
    np.testing.assert_array_equal(data["jacobian"].sel(output="pk[k=1]", parameter="b"), runs.jacobian[:, 2, 1])
    assert float(data["jacobian_error"].isel(run=4).sel(output="n", parameter="a")) == 0.5
    without = table().to_xarray()
    assert not {"jacobian", "jacobian_error", "output", "parameter"} & set(without.variables)
    assert list(runs.to_pandas().columns) == list(table().to_pandas().columns)


def test_runs_without_jacobians_have_none():
    for part in (table(), table().select([1, 2]), table().finished(), *table().split(0.5, seed=0)):
        assert part.jacobian is None
        assert part.jacobian_error is None


def test_a_frame_and_a_dataset_hold_the_same_numbers_with_units():
    runs = table()
    frame, data = runs.to_pandas(), runs.to_xarray()
    assert list(frame.columns) == ["a", "b", "n", "pk[k=0.1]", "pk[k=1]", "seed", "ok", "reason", "seconds"]
    np.testing.assert_array_equal(frame[["n", "pk[k=0.1]", "pk[k=1]"]], runs.y)
    np.testing.assert_array_equal(data["pk"], runs.y[:, 1:])
    np.testing.assert_array_equal(data["n"], runs.y[:, 0])
    np.testing.assert_array_equal(data["pk_k"], [0.1, 1.0])
    np.testing.assert_array_equal(data["a"], runs.theta[:, 0])
    assert (data["pk"].attrs["units"], data["pk_k"].attrs["units"], data["a"].attrs["units"]) == ("m", "1/m", "s")
    assert int(data["ok"].sum()) == 8


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Field("p k"), "a field's name must be a word of letters, digits and _. Got 'p k'."),
    (lambda: Field("pk", coordinate="k"), "field 'pk' must have both a coordinate and its values `at`, or neither. "
     "Got coordinate = 'k' with 0 values."),
    (lambda: Outputs(()), "outputs must be at least one field, each named once. Got []."),
    (lambda: Outputs((Field("y"), Field("y"))), "outputs must be at least one field, each named once. Got ['y', 'y']."),
    (lambda: OUTPUTS.field("pq"), "there is no output 'pq'; there are n, pk."),
    (lambda: OUTPUTS.field("pkk"), "there is no output 'pkk'; there are n, pk. Did you mean \"pk\"?"),
    (lambda: replace(table(), y=np.zeros((10, 2))), "runs: y must have shape (10, 3). Got (10, 2)."),
    (lambda: replace(table(), ok=np.ones(10, bool)), "runs: a finished run must be finite. Run 3 is not; mark it failed, "
     "with its reason."),
    (lambda: replace(table(), reason=("",)), "runs: reason and key must have 10 entries. Got 1 and 0."),
    (lambda: replace(table(), theta=np.full((10, 2), np.nan)), "runs: theta must be finite. Got NaN or infinity; a run needs "
     "all its parameters."),
    (lambda: replace(table(), jacobian=np.zeros((10, 3, 2))), "runs: jacobian and jacobian_error must be given together. "
     "Got one of them; an exact Jacobian has an error of zeros."),
    (lambda: Runs.of(SPACE, OUTPUTS, [[0, 0]], [[1, 2, 3]], jacobian_error=np.zeros((1, 3, 2))), "runs: jacobian and "
     "jacobian_error must be given together. Got one of them; an exact Jacobian has an error of zeros."),
    (lambda: replace(differentiated(), jacobian=np.zeros((10, 2, 3))), "runs: jacobian must have shape (10, 3, 2). "
     "Got (10, 2, 3)."),
    (lambda: Runs.of(SPACE, OUTPUTS, [[0, 0]], [[1, 2, 3]], jacobian=np.zeros((1, 2, 3))), "runs: jacobian must have "
     "shape (1, 3, 2). Got (1, 2, 3)."),
    (lambda: replace(differentiated(), jacobian_error=np.full((10, 3, 2), np.nan)), "runs: jacobian_error of a finished "
     "run must be finite. That of run 0 is not; mark the run failed, with its reason."),
    (lambda: table().split(1.0, seed=0), "split: fraction must be between 0 and 1. Got 1.0."),
])  # fmt: skip
def test_wrong_input_is_answered_with_a_sentence(make, sentence):
    with pytest.raises(InputError) as met:
        make()
    assert str(met.value) == sentence


def test_events_are_rows_under_the_theta_of_their_run():
    rng = np.random.default_rng(0)
    theta, events = rng.random((4, 2)), rng.random((4, 5, 3))
    events[2, 3:] = np.nan  # a run with three events
    runs = Runs.of_events(SPACE, OUTPUTS, theta, events)
    assert runs.stochastic
    assert (len(runs), len(runs.failed())) == (20, 2)
    for i in range(4):
        own = runs.select((runs.theta == theta[i]).all(1)).finished()
        np.testing.assert_array_equal(own.y, events[i][np.isfinite(events[i]).all(1)])


def test_events_of_another_shape_are_refused():
    with pytest.raises(InputError) as caught:
        Runs.of_events(SPACE, OUTPUTS, np.zeros((4, 2)), np.zeros((4, 3)))
    assert str(caught.value) == ("events must have the shape [runs, events, features] and theta [runs, parameters]. Got "
                                 "(4, 3) and (4, 2); fill shorter samples with NaN.")  # fmt: skip


def _frame(text, **how):
    return pandas.read_csv(io.StringIO(text), **how)


def _read(frame):
    space = Space((Parameter("a", Uniform(0, 1)), Parameter("b", Uniform(0, 1))))
    return Runs.from_pandas(frame, space, Outputs((Field("y"), Field("z", coordinate="t", at=(1.0, 2.0)))))


def test_a_frame_gives_back_the_runs_it_was_made_from():
    runs = _read(_frame("z[t=1],a,b,y,z[t=2],who\n3,0.1,0.2,1,4,me\n,0.5,0.6,2,5,you\n6,0.1,0.2,7,8,me\n"))
    assert runs.theta.tolist() == [[0.1, 0.2], [0.5, 0.6], [0.1, 0.2]]
    assert runs.ok.tolist() == [True, False, True]
    assert runs.y[[0, 2]].tolist() == [[1, 3, 4], [7, 6, 8]]
    again = _read(runs.to_pandas())
    np.testing.assert_array_equal(again.y, runs.y)
    assert again.reason == runs.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,B,y,z[t=1],z[t=2]\n1,1,1,1,1\n", "Missing: b; it has a, B, y, z[t=1], z[t=2]. Rename columns, or read the file by "
         'its own mark: pandas.read_csv(FILE, sep=";").'),
        ("a,b,y,z[t=1],z[t=2]\nm,m,kg,,\n1,1,1,1,1\n", "column a must hold numbers. Row 0, counted from 0, has 'm'; leave a line "
         "of units out by pandas.read_csv(FILE, skiprows=[1]), and"),
        ("a,b,y,z[t=1],z[t=2]\n1,1,1,1,1\n1,,1,1,1\n", "a run must have all its parameters. Got no finite b in row 1, counted from "
         "0; mend it, or take the row out."),
    ],
)  # fmt: skip
def test_a_frame_that_is_no_table_of_runs_is_refused(text, said):
    with pytest.raises(InputError) as met:
        _read(_frame(text))
    assert said in str(met.value)


def test_a_frame_with_a_column_twice_is_refused():
    frame = _frame("a,b,y,z[t=1],z[t=2]\n1,1,1,1,1\n")
    with pytest.raises(InputError, match=r"one column of each name\. Got 'y' more than once; rename one"):
        _read(pandas.concat([frame, frame[["y"]]], axis=1))
