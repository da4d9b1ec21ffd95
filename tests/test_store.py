import errno
import hashlib
import json
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate import registry
from emulate.errors import CampaignError, InputError, RunFailed, StoreError
from emulate.keys import canonical, identity, key_of, record_of
from emulate.simulators.linear_gaussian import LinearGaussian
from emulate.store import RunStore, run_seed

WHO = {"simulator": "s", "version": "1", "settings": {"n": 3}, "parameters": ["b", "a"], "stochastic": True}
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "store")


def record(x=0.5, seed=1):
    return record_of(WHO, [x, 1.0], seed)


# keys


@given(x=FLOATS, y=FLOATS, seed=st.integers(0, 2**63 - 1))
def test_a_key_is_the_sha256_of_a_record_that_gives_theta_back(x, y, seed):
    raw = record_of(WHO, [x, y], seed)
    assert key_of(raw) == hashlib.sha256(raw).hexdigest()
    met = json.loads(raw)
    assert [float.fromhex(met["theta"][n]) for n in ("b", "a")] == [x, y]
    assert met["seed"] == seed
    assert canonical(met) == raw


@given(x=FLOATS, y=FLOATS)
def test_different_questions_have_different_keys(x, y):
    same = x == y
    assert (record_of(WHO, [x, 0.0], 1) == record_of(WHO, [y, 0.0], 1)) == same
    assert (run_seed(1, [x, 0.0]) == run_seed(1, [y, 0.0])) == same
    assert run_seed(1, [x, 0.0]) != run_seed(2, [x, 0.0])
    assert 0 <= run_seed(1, [x, y]) < 2**63


def test_equal_values_have_one_key():
    assert record_of(WHO, [-0.0, 1], 1) == record_of(WHO, [0.0, np.float64(1.0)], np.int64(1))
    one = {**WHO, "stochastic": False}
    assert record_of(one, [0.5, 1.0], 7) == record_of(one, [0.5, 1.0], 8)
    assert LinearGaussian(noise=1).settings() == LinearGaussian(noise=1.0).settings()
    assert identity(LinearGaussian(noise=1)) == identity(LinearGaussian(noise=1.0))
    assert canonical(identity(LinearGaussian(noise=1))) == canonical(identity(LinearGaussian(noise=1.0)))


def test_every_part_of_a_question_is_in_its_key():
    keys = {
        key_of(record_of(WHO, [0.5, 1.0], 1)),
        key_of(record_of(WHO, [0.5, 1.0], 2)),
        key_of(record_of(WHO, [math.nextafter(0.5, 1), 1.0], 1)),
        key_of(record_of({**WHO, "version": "2"}, [0.5, 1.0], 1)),
        key_of(record_of({**WHO, "simulator": "t"}, [0.5, 1.0], 1)),
        key_of(record_of({**WHO, "settings": {"n": 4}}, [0.5, 1.0], 1)),
        key_of(record_of({**WHO, "parameters": ["a", "b"]}, [0.5, 1.0], 1)),
        key_of(record_of({**WHO, "parameters": ["a", "b"]}, [1.0, 0.5], 1)),
        key_of(record_of(WHO, [0.5, 1.0], 1, "jacobian", {"use": "reverse"})),
        key_of(record_of(WHO, [0.5, 1.0], 1, "jacobian", {"use": "finite_difference"})),
        key_of(record_of(WHO, [0.5, 1.0], 1, "jacobian", {"use": "simulator"})),
        key_of(record_of(WHO, [0.5, 1.0], 1, "tangent", {"use": "reverse"})),
        key_of(record_of(WHO, [0.5, 1.0], 1, "tangent", {"use": "simulator"})),
    }
    assert len(keys) == 13


FD = {"use": "finite_difference", "step": 0.01, "scale": [1.0, 2.0]}


@pytest.mark.parametrize(("noise", "product", "gradient", "key"), [
    (0.0, "y", None, "c36da4c4503c28ec72b759ff8641444e08cc4aa1089432e18d6cfa4dac799925"),
    (0.0, "jacobian", {"use": "reverse"}, "b6950d2c010d11df1f485a86df1626c48647353faf6732072ea1d732d8150d34"),
    (0.0, "jacobian", FD, "539bcf5253a5ed8d6e6e0a0d1a50849708fa1874b93fcd9c4b0d0dd5789bdc49"),
    (0.1, "y", None, "65c44fbeba2370f07485b65bc4754a89e3d5b5cb15cffb3b9f4aef15335f354a"),
    (0.1, "jacobian", {"use": "reverse"}, "35bbdf4e5949a59c7f0d5cfa728a0647d446969a7f9e51cafebd3357e00cde32"),
    (0.1, "jacobian", FD, "48082dc99cce8c4325222db5f06df5faf8ef06981b834a1be699bcb33c25b7e3"),
])  # fmt: skip
def test_keys_are_those_of_the_runs_that_are_stored_already(noise, product, gradient, key):
    """Written down at version 0.1.0 before runs could carry Jacobians; a change would orphan every stored run."""
    assert RunStore.key(LinearGaussian(noise=noise), [0.25, -1.5], 7, product, gradient) == key


def test_the_derivative_of_one_run_is_that_of_the_mean_exactly_where_nothing_is_random():
    for noise in (0.0, 0.1):
        one, mean = (json.loads(record_of(identity(LinearGaussian(noise=noise)), [0.5, 1.0], 7, product, FD))
                     for product in ("tangent", "jacobian"))  # fmt: skip
        assert (one == mean) == (noise == 0)
        assert (one["product"], one["replicates"], mean["replicates"]) == ("jacobian", 1, 4 if noise else 1)


def test_what_has_no_key():
    with pytest.raises(InputError, match=r"^theta must be finite\. Got nan; a run needs all its parameters\.$"):
        record_of(WHO, [math.nan, 1.0], 1)
    with pytest.raises(InputError, match=r"^theta must have 2 values \(b, a\)\. Got 1\.$"):
        record_of(WHO, [1.0], 1)
    with pytest.raises(
        InputError, match=r'^product must be "y" without a gradient, or "jacobian" or "tangent" with one\. Got '
    ):
        record_of(WHO, [1.0, 1.0], 1, "y", {"use": "reverse"})
    with pytest.raises(InputError, match=r"^gradient\.step must be finite\. Got inf; a run cannot be found again by"):
        record_of(WHO, [1.0, 1.0], 1, "jacobian", {"use": "x", "step": math.inf})
    with pytest.raises(InputError, match=r"^gradient\.f must be plain data .* Got function; a run cannot"):
        record_of(WHO, [1.0, 1.0], 1, "jacobian", {"use": "x", "f": record})


def test_the_seed_of_a_run_is_0_without_randomness():
    assert run_seed(5, [0.5], stochastic=False) == 0


# commits


@settings(max_examples=25, deadline=None)
@given(y=st.lists(FLOATS, min_size=1, max_size=20), x=FLOATS)
def test_what_is_committed_is_read_bit_for_bit(tmp_path_factory, y, x):
    store, y = RunStore(tmp_path_factory.mktemp("s")), np.array(y)
    assert store.commit(record(x), y=y, jacobian=np.outer(y, [1.0, 0.5]), standard_error=np.zeros((len(y), 2)))
    met = RunStore(store.path, create=False).read(key_of(record(x)))
    assert met.ok
    assert met.y.tobytes() == y.tobytes()
    assert met.jacobian.tobytes() == np.outer(y, [1.0, 0.5]).tobytes()
    assert met.inputs == json.loads(record(x))
    assert store.keys() == [key_of(record(x))]
    assert list((store.path / "tmp").iterdir()) == []


def test_the_first_writer_wins(store):
    key = key_of(record())
    assert not store.has(key)
    assert store.commit(record(), y=np.array([1.0]), about={"seconds": 2.0})
    assert not store.commit(record(), y=np.array([1.0]), about={"seconds": 3.0})
    assert not store.commit(record(), failure=RunFailed("timeout", "late"))
    assert store.read(key).about["seconds"] == 2.0
    assert not (store.path / "conflicts").exists()
    with pytest.warns(RuntimeWarning, match=f"run {key} gave two different answers; the first is kept"):
        assert not store.commit(record(), y=np.array([2.0]))
    assert store.read(key).y.tolist() == [1.0]
    assert len(list((store.path / "conflicts").iterdir())) == 1


def test_racing_writers_commit_each_run_once(store):
    won = []

    def write():
        for i in range(40):
            won.append((i, store.commit(record(float(i)), y=np.array([float(i)]))))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(i for i, first in won if first) == list(range(40))
    assert len(store.keys()) == 40
    assert list((store.path / "tmp").iterdir()) == []


def test_a_failed_run_is_a_row_and_only_it_can_be_forgotten(store):
    bad, good = record(1.0), record(2.0)
    store.commit(bad, failure=RunFailed("error", "ValueError: no", "the log"), about={"seconds": 0.5})
    store.commit(good, y=np.array([1.0]))
    met = store.read(key_of(bad))
    assert (met.failure.kind, met.failure.reason, met.failure.log) == ("error", "ValueError: no", "the log")
    assert store.failed(key_of(bad))
    assert not store.failed(key_of(good))
    store.forget(key_of(bad))
    assert not store.has(key_of(bad))
    assert len(list((store.path / "forgotten").iterdir())) == 1
    with pytest.raises(StoreError, match=r"^only failed runs can be forgotten\. Run \w+ finished; keep it\.$"):
        store.forget(key_of(good))
    assert store.keys() == [key_of(good)]


def test_what_is_no_run_is_refused(store):
    with pytest.raises(InputError, match=r"^a finished run must be finite\. Got NaN or infinity; commit it as a"):
        store.commit(record(), y=np.array([np.nan]))
    with pytest.raises(InputError, match=r"^a run is committed with y, or with its failure\. Got both or neither\.$"):
        store.commit(record())
    assert store.keys() == []


def test_what_is_held_is_the_same_asked_one_by_one_and_by_one_listing(store):
    keys = [key_of(record(float(i))) for i in range(700)]
    for i in range(0, 700, 7):
        store.commit(record(float(i)), y=np.array([1.0]))
    assert store.held(keys) == set(keys[::7]) == {k for k in keys if store.has(k)}
    assert store.held(keys[:10]) == {keys[0], keys[7]}
    assert store.held([]) == set()


def test_a_store_of_an_older_release_has_no_shelves_and_is_written_all_the_same(tmp_path):
    (tmp_path / "store.json").write_text('{"schema":1,"what":"emulate run store"}')
    store = RunStore(tmp_path)
    assert store.keys() == []
    assert store.commit(record(), y=np.array([1.0]))
    assert store.keys() == [key_of(record())]


# reading


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found_and_its_file_named(tmp_path_factory, data):
    store = RunStore(tmp_path_factory.mktemp("s"))
    store.commit(record(), y=np.arange(3.0), about={"seconds": 1.25})
    folder = store.path / "runs" / key_of(record())[:2] / key_of(record())
    file = folder / data.draw(st.sampled_from(["record.json", "result.safetensors", "about.json"]))
    raw = bytearray(file.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    with pytest.raises(StoreError, match=file.name + " must be as it was written. Got other bytes; restore it"):
        store.read(key_of(record()))


@pytest.mark.parametrize("name", ["record.json", "result.safetensors", "about.json"])
def test_a_lost_or_cut_file_is_found(store, name):
    store.commit(record(), y=np.arange(3.0))
    file = store.path / "runs" / key_of(record())[:2] / key_of(record()) / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=name):
        store.read(key_of(record()))
    file.unlink()
    with pytest.raises(StoreError, match=name):
        store.read(key_of(record()))


def test_a_table_of_finished_and_failed_runs(store):
    simulator = LinearGaussian(noise=0.1, outputs_count=3)
    theta = np.random.default_rng(0).normal(size=(5, 2))
    seeds = [run_seed(1, t) for t in theta]
    for i, (t, s) in enumerate(zip(theta, seeds, strict=True)):
        if i == 4:
            break
        result = {"failure": RunFailed("oom", "too big")}
        if i != 2:
            result = {"y": simulator.run(torch.tensor(t), seed=s).numpy()}
        raw = record_of(identity(simulator), t, s)
        assert key_of(raw) == store.key(simulator, t, s)
        store.commit(raw, **result, about={"seconds": 0.1 * i})
    with pytest.raises(CampaignError, match=r"^1 of 5 runs of linear_gaussian are not in .*\. Run the campaign to its"):
        store.table(simulator, theta, seeds)
    runs = store.table(simulator, theta[3::-1], seeds[3::-1])
    assert runs.ok.tolist() == [True, False, True, True]
    assert runs.reason == ("", "oom: too big", "", "")
    assert np.isnan(runs.y[1]).all()
    np.testing.assert_array_equal(runs.y[0], simulator.run(torch.tensor(theta[3]), seed=seeds[3]).numpy())
    np.testing.assert_allclose(runs.seconds, [0.3, 0.2, 0.1, 0.0])
    assert runs.seed.tolist() == seeds[3::-1]
    assert runs.stochastic
    assert len(store.table(simulator, np.empty((0, 2)), [])) == 0


def test_jacobians_of_finished_and_failed_runs(store):
    simulator, gradient = LinearGaussian(outputs_count=3), {"use": "reverse"}
    theta = np.array([[0.0, 1.0], [2.0, 3.0]])
    a = simulator.matrix.numpy()
    raw = [record_of(identity(simulator), t, 0, "jacobian", gradient) for t in theta]
    store.commit(raw[0], y=a @ theta[0], jacobian=a, standard_error=0 * a)
    store.commit(raw[1], failure=RunFailed("timeout", "slow"))
    runs = store.table(simulator, theta, [0, 0], "jacobian", gradient)
    assert runs.ok.tolist() == [True, False]
    np.testing.assert_array_equal(runs.y[0], a @ theta[0])
    np.testing.assert_array_equal(runs.jacobian[0], a)
    np.testing.assert_array_equal(runs.jacobian_error[0], 0 * a)
    assert np.isnan(runs.jacobian[1]).all()
    assert np.isnan(runs.jacobian_error[1]).all()
    assert [store.differentiated(k) for k in (*runs.key, "0" * 64)] == [True, False, False]
    with pytest.raises(CampaignError, match="2 of 2 runs"):
        store.table(simulator, theta, [0, 0])


def test_rows_carry_jacobians_only_where_all_were_asked_for(store):
    simulator = LinearGaussian(outputs_count=3)
    a, theta, who = simulator.matrix.numpy(), np.array([[0.0, 1.0], [2.0, 3.0]]), identity(simulator)
    raw = [record_of(who, theta[0], 0, "tangent", {"use": "simulator"}), record_of(who, theta[1], 0)]
    store.commit(raw[0], y=a @ theta[0], jacobian=a, standard_error=0 * a)
    store.commit(raw[1], y=a @ theta[1])
    keys = [key_of(r) for r in raw]
    mixed = store.rows(simulator, theta, keys)
    np.testing.assert_array_equal(mixed.y, [a @ t for t in theta])
    assert mixed.jacobian is None
    assert store.rows(simulator, theta[:1], keys[:1]).jacobian.shape == (1, 3, 2)
    assert [store.differentiated(k) for k in keys] == [True, False]


def test_a_jacobian_of_another_shape_is_met(store):
    simulator, gradient = LinearGaussian(outputs_count=3), {"use": "reverse"}
    store.commit(record_of(identity(simulator), [0.0, 0.0], 0, "tangent", gradient), y=np.zeros(3),
                 jacobian=np.zeros((2, 3)), standard_error=np.zeros((2, 3)))  # fmt: skip
    with pytest.raises(StoreError, match=r"holds jacobian of shape \(2, 3\), the simulator declares \(3, 2\); change"):
        store.table(simulator, np.zeros((1, 2)), [0], "tangent", gradient)


def test_outputs_that_changed_without_a_new_version_are_met(store):
    simulator = LinearGaussian(outputs_count=3)
    store.commit(record_of(identity(simulator), [0.0, 0.0], 0), y=np.zeros(4))
    with pytest.raises(StoreError, match=r"holds y of shape \(4,\), the simulator declares \(3,\); change the"):
        store.table(simulator, np.zeros((1, 2)), [0])


# folders and disks


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"must be a run store that this machine can see\. Got no store\.json there"):
        RunStore(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"must be a folder that can be written to\. Got FileExistsError"):
        RunStore(tmp_path / "file")
    (tmp_path / "store.json").write_text('{"schema": 99}')
    with pytest.raises(StoreError, match=r"must be a run store of version 1\. Got version 99; open it with"):
        RunStore(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json must say the version of the store\. Got JSONDecodeError"):
        RunStore(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "rename", "open"])
@pytest.mark.parametrize(("number", "sentence"), [
    (errno.ENOSPC, r"^the disk that holds .* is full .*Free space there and start the same command again; committed"),
    (errno.EROFS, r"^.* must be a folder that can be written to\. Got OSError: Read-only file system; mend its"),
    (errno.EACCES, r"^.* must be a folder that can be written to\. Got PermissionError: Permission denied; mend its"),
])  # fmt: skip
def test_a_disk_that_refuses_leaves_nothing_half_written(store, monkeypatch, call, number, sentence):
    store.commit(record(1.0), y=np.arange(3.0))
    real, calls = getattr(os, call), []

    def refuse(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    refused = 0
    for at in range(1, 9):
        calls.clear()
        monkeypatch.setattr(os, call, refuse)
        x = 2.0 + at
        try:
            store.commit(record(x), y=np.arange(3.0))
        except StoreError as e:
            refused += 1
            with pytest.raises(StoreError, match=sentence):
                raise e
        monkeypatch.setattr(os, call, real)
        if store.has(key_of(record(x))):
            assert store.read(key_of(record(x))).y.tolist() == [0.0, 1.0, 2.0]
        else:
            assert store.commit(record(x), y=np.arange(3.0))
        assert list((store.path / "tmp").iterdir()) == []
    assert refused >= 1


CRASH = """
import os, sys
import numpy as np
from emulate.keys import record_of
from emulate.store import RunStore
who, at, left = {who!r}, int(sys.argv[2]), [int(sys.argv[2])]
def dying(real):
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    return call
store = RunStore(sys.argv[1])
for name in ("fsync", "rename", "open", "mkdir"):
    setattr(os, name, dying(getattr(os, name)))
for i in range(2):
    store.commit(record_of(who, [float(i), 1.0], 1), y=np.arange(3.0))
"""


@pytest.mark.slow
def test_a_kill_at_any_call_to_the_system_loses_no_committed_run(tmp_path):
    deaths = 0
    for at in range(1, 31):
        path = tmp_path / str(at)
        code = subprocess.run([sys.executable, "-c", CRASH.format(who=WHO), str(path), str(at)], check=False).returncode
        deaths += code == -9
        store = RunStore(path)
        held = store.keys()
        for key in held:
            assert store.read(key).y.tolist() == [0.0, 1.0, 2.0]
        assert sum(store.commit(record(float(i)), y=np.arange(3.0)) for i in range(2)) == 2 - len(held)
        assert len(store.keys()) == 2
    assert deaths >= 15


def test_half_written_runs_are_swept_after_a_day(store):
    store.commit(record(), y=np.arange(3.0))
    for name, age in (("old", 3 * 24 * 3600), ("new", 60)):
        folder = store.path / "tmp" / name
        folder.mkdir()
        then = folder.stat().st_mtime - age
        os.utime(folder, (then, then))
    assert store.sweep() == 1
    assert [p.name for p in (store.path / "tmp").iterdir()] == ["new"]


def test_every_simulator_has_an_identity():
    for name in registry.names("simulators"):
        example = registry.find("simulators", name).example
        who = identity(registry.build("simulators", {"use": name, **example}))
        assert json.loads(canonical(who)) == who


@pytest.mark.parametrize("odd", [lambda p: p.write_text(""), lambda p: p.symlink_to(p)])
def test_something_else_where_runs_should_lie_is_named(tmp_path, odd):
    store, record = RunStore(tmp_path / "store"), record_of(identity(LinearGaussian(outputs_count=2)), [0.0, 0.0], 0)
    key = key_of(record)
    shelf = store.path / "runs" / key[:2]
    shelf.rmdir()
    odd(shelf)
    said = rf"{key[:2]}.* must be a folder of the store\. Got .*; `emulate store verify .*` names all that is odd"
    with pytest.raises(StoreError, match=said):
        store.commit(record, y=np.zeros(2))
