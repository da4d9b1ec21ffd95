import json
import os
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from emulate import registry
from emulate.errors import CampaignError, InputError
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore, run_seed
from pipelines import cluster, underway, worker
from pipelines.campaign import Limits, Task, _Todo, campaign, open_cluster
from pipelines.study import ClusterPart

HERE = Path(__file__).parents[1]
sys.path.append(str(HERE))  # where trouble.py lies, for this process and its children
import trouble  # noqa: E402

SPACE = Space((Parameter("kind", Uniform(-0.5, 20.0)), Parameter("x", Uniform(0.0, 1.0))))
SETTINGS = {"use": "function", "call": "trouble:run", "argument": "array", "stochastic": True,
            "outputs": [{"name": "a"}, {"name": "b"}]}  # fmt: skip
SPEC = {**SETTINGS, "space": SPACE.to_dict()}
SIMULATOR = registry.build("simulators", SETTINGS, space=SPACE)


def Settings(use, workers=1, address="", options=None, **more):
    return ClusterPart(use=use, workers=workers, address=address, options=options or {}, **more)


def tasks_of(theta, simulator=SIMULATOR):
    seeds = [run_seed(1, t, stochastic=simulator.stochastic) for t in theta]
    return [Task(RunStore.key(simulator, t, s), tuple(map(float, t)), s) for t, s in zip(theta, seeds, strict=True)]


def points(kinds):
    return np.array([[k, 0.01 * i] for i, k in enumerate(kinds)])


def content(store):
    folders = [store.path / "runs" / key[:2] / key for key in store.keys()]  # noqa: SIM118
    return {f.name: [(f / name).read_bytes() for name in ("record.json", "result.safetensors")] for f in folders}


def listening(processes):
    sockets = [c for p in [psutil.Process(), *processes] for c in p.net_connections("inet")]
    return {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """How often each question was asked of the simulator."""
    monkeypatch.setenv("TROUBLE_LOG", str(tmp_path / "calls"))
    return lambda: Counter((tmp_path / "calls").read_text().splitlines()) if (tmp_path / "calls").exists() else {}


def test_stores_of_1_2_and_4_workers_are_the_same_bytes_and_one_cluster_serves_several_campaigns(tmp_path, monkeypatch):
    spec = {"use": "linear_gaussian", "noise": 0.5}
    simulator = registry.build("simulators", spec)
    theta = np.random.default_rng(0).normal(size=(40, 2))
    tasks = tasks_of(theta, simulator)
    before, torn = dict(os.environ), {}
    campaign(tasks, store=tmp_path / "1", simulator=spec, cluster=Settings("serial"), limits=Limits(timeout=60.0))
    for workers in (2, 4):
        with open_cluster(Settings("local", workers)) as executor:
            executor.campaign(
                tasks[::-1][:10], store=tmp_path / str(workers), simulator=spec, limits=Limits(timeout=60.0)
            )
            first = executor._pool._cluster
            executor.campaign(tasks, store=tmp_path / str(workers), simulator=spec, limits=Limits(timeout=60.0))
            assert executor._pool._cluster is first
            born = psutil.Process().children(recursive=True)
            torn[workers] = [p for p in born if "resource_tracker" not in " ".join(p.cmdline())]  # Python's own stays
            assert listening(born) <= {"127.0.0.1"}
        assert psutil.wait_procs(torn[workers], timeout=10)[1] == []
    assert dict(os.environ) == before
    stores = [RunStore(tmp_path / str(w)) for w in (1, 2, 4)]
    assert len(content(stores[0])) == 40
    assert content(stores[0]) == content(stores[1]) == content(stores[2])
    assert stores[2].table(simulator, theta, [t.seed for t in tasks]).ok.all()


def test_misbehaving_runs_are_classified_and_nothing_is_run_twice(tmp_path, calls):
    kinds = [trouble.FINE, trouble.RAISE, trouble.NAN, trouble.SHAPE, trouble.HANG, trouble.EXIT, trouble.SEGFAULT,
             trouble.MEMORY, trouble.PRINT, trouble.LEAVE, *[trouble.FINE] * 10]  # fmt: skip
    theta = points(kinds)
    tasks, seen = tasks_of(theta), []
    for _ in range(2):
        campaign([*tasks, *tasks[:3]], store=tmp_path / "store", simulator=SPEC, cluster=Settings("local", 2),
                 limits=Limits(timeout=3.0), progress=lambda *row: seen.append(row[:3]))  # fmt: skip
    runs = RunStore(tmp_path / "store").table(SIMULATOR, theta, [t.seed for t in tasks])
    met = [r.partition(":")[0] for r in runs.reason]
    known = ["", "error", "nonfinite", "badshape", "timeout", "crashed", "crashed", "oom", "", "error"]
    assert met == [*known, *[""] * 10]
    np.testing.assert_array_equal(runs.y[0], [trouble.noise(tasks[0].seed), 0.0])
    assert list(calls().values()) == [1] * 20
    assert seen[0] == (0, 0, 20)
    assert seen[-1] == seen[-2] == (20, 8, 20)
    assert [row[0] for row in seen] == sorted(row[0] for row in seen)
    printed = RunStore(tmp_path / "store").read(tasks[8].key).about
    assert printed["log"].endswith("the last words")
    assert printed["pid"] > 0


@pytest.mark.slow
def test_a_run_that_kills_its_worker_twice_is_a_crashed_run(tmp_path, calls):
    theta = points([trouble.FINE, trouble.WORKER, *[trouble.FINE] * 6])
    tasks = tasks_of(theta)
    campaign(tasks, store=tmp_path / "store", simulator=SPEC, cluster=Settings("local", 2), limits=Limits(timeout=60.0))
    runs = RunStore(tmp_path / "store").table(SIMULATOR, theta, [t.seed for t in tasks])
    assert runs.ok.tolist() == [True, False, *[True] * 6]
    assert runs.reason[1] == "crashed: the run ended its worker each time"
    assert calls()["12 0.01"] == 2


@pytest.mark.slow
def test_a_cluster_that_lost_all_workers_is_started_again_once(tmp_path, monkeypatch):
    monkeypatch.setitem(cluster._PATIENCE, "local", 3.0)
    theta, lost = points([trouble.FINE] * 40), []
    tasks = tasks_of(theta)
    monkeypatch.setenv("TROUBLE_SECONDS", "0.05")

    def lose(done, *_):
        if done >= 5 and not lost:
            lost.append(executor._pool._cluster)
            lost[0].scale(0)

    with open_cluster(Settings("local", 2)) as executor:
        executor.campaign(tasks, store=tmp_path / "store", simulator=SPEC, limits=Limits(timeout=60.0), progress=lose)
        assert executor._pool._cluster is not lost[0]
    assert RunStore(tmp_path / "store").table(SIMULATOR, theta, [t.seed for t in tasks]).ok.all()


def test_a_cluster_that_never_has_workers_is_said_loudly(tmp_path, monkeypatch):
    from distributed import LocalCluster

    class Empty(LocalCluster):
        def scale(self, n):
            pass

    def empty(settings):
        return Empty(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=60)

    monkeypatch.setitem(cluster._PATIENCE, "local", 0.5)
    monkeypatch.setattr(cluster, "_local", empty)
    said = (r"^the cluster was lost twice without a run between: it had no worker for 0\.5 s\. 0 of 1 runs are stored; "
            r"look at its machines, then start the same command again\.$")  # fmt: skip
    with pytest.raises(CampaignError, match=said):
        campaign(
            tasks_of(points([0])),
            store=tmp_path / "s",
            simulator=SPEC,
            cluster=Settings("local"),
            limits=Limits(timeout=60.0),
        )


def test_what_a_cluster_needs_is_said(tmp_path, monkeypatch):
    tasks = tasks_of(points([trouble.FINE]))
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    monkeypatch.setattr(cluster, "_CONNECT", 0.5)
    said = r"^cluster\.use: slurm needs the package dask-jobqueue, which is not installed\. Install it: pip install"
    with pytest.raises(InputError, match=said):
        campaign(tasks, store=tmp_path, simulator=SPEC, cluster=Settings("slurm"))
    with pytest.raises(
        InputError, match=r"^cluster\.address must be that of a running Dask scheduler\. Got 'tcp://127"
    ):
        campaign(tasks, store=tmp_path, simulator=SPEC, cluster=Settings("address", 1, "tcp://127.0.0.1:9"))


def test_derivatives_are_a_product_of_their_own(tmp_path):
    simulator, gradient = registry.build("simulators", "linear_gaussian"), {"use": "reverse"}
    theta = np.array([[0.1, 0.2], [0.3, 0.4]])
    tasks = [Task(RunStore.key(simulator, t, 0, "jacobian", gradient), tuple(t), 0, "jacobian", gradient)
             for t in theta]  # fmt: skip
    noisy, spec = registry.build("simulators", {"use": "linear_gaussian", "noise": 0.1}), {"use": "linear_gaussian"}
    more = [Task(RunStore.key(noisy, t, 5, "jacobian", gradient), tuple(t), 5, "jacobian", gradient) for t in theta]
    with open_cluster(Settings("serial")) as executor:
        executor.campaign(tasks, store=tmp_path, simulator=spec)
        executor.campaign(more, store=tmp_path, simulator={**spec, "noise": 0.1})
    for made, seeds in ((simulator, [0, 0]), (noisy, [5, 5])):
        runs = RunStore(tmp_path).table(made, theta, seeds, "jacobian", gradient)
        assert runs.ok.all()
        np.testing.assert_allclose(runs.jacobian, np.broadcast_to(simulator.matrix.numpy(), (2, 5, 2)), rtol=1e-12)
        np.testing.assert_allclose(runs.jacobian_error, 0, atol=1e-12)


def test_a_worker_with_another_simulator_is_refused(tmp_path):
    theta = points([trouble.FINE])
    with pytest.raises(CampaignError, match=r"^the simulator on \S+ must be this study's\. Got other settings"):
        campaign(tasks_of(theta), store=tmp_path, simulator={**SPEC, "revision": "2"}, cluster=Settings("serial"))
    assert RunStore(tmp_path).keys() == []


def test_a_simulator_that_cannot_be_built_stops_the_campaign_with_its_sentence(tmp_path):
    for settings in (Settings("serial"), Settings("local", 1)):
        with pytest.raises(InputError, match=r"^call: 'trouble' has no 'walk'\. Mend the name after the colon\.$"):
            campaign(tasks_of(points([0])), store=tmp_path, simulator={**SPEC, "call": "trouble:walk"},
                     cluster=settings)  # fmt: skip


def test_nothing_is_started_when_nothing_is_to_be_run(tmp_path):
    theta = points([trouble.FINE])
    campaign(tasks_of(theta), store=tmp_path, simulator=SPEC, cluster=Settings("serial"))
    with open_cluster(Settings("local", 2)) as executor:
        executor.campaign(tasks_of(theta), store=tmp_path, simulator=SPEC)
        executor.campaign([], store=tmp_path, simulator=SPEC)
        assert executor._pool is None


def test_only_runs_that_their_worker_had_in_hand_are_suspected_of_its_end_and_made_alone(tmp_path):
    store, spec = RunStore(tmp_path), {"use": "linear_gaussian"}
    simulator = registry.build("simulators", spec)
    tasks = tasks_of(np.random.default_rng(0).normal(size=(12, 2)), simulator)
    work, told = worker.Work(str(tmp_path), json.dumps(spec), Limits(), os.getcwd()), []
    todo = _Todo(tasks, store, work, lambda *row: told.append(row[:3]))
    batch = todo.take(10)
    with worker.start_runner(work) as runner:
        for task in batch[:3]:
            worker.make(task, store, runner)[1]()
    todo.back(batch, died=True)
    assert told[-1] == (3, 0, 12)
    assert [todo.batch(1), todo.batch(1)] == [[batch[3]], [batch[4]]]
    for times in (1, 2):
        todo.back([batch[4]], died=True)  # before it had begun, as far as any note says
        assert todo.batch(1) == [batch[4]]
        with underway.noted(store, batch[3], Limits(), 0.0):
            todo.back([batch[3]], died=True)
        assert (todo.batch(1) == [batch[3]]) == (times == 1)
    assert store.read(batch[3].key).failure.kind == "crashed"  # it was there twice, alone
    assert told[-1] == (4, 1, 12)
    for _ in range(10):
        todo.back([batch[4]], died=True)
    with pytest.raises(CampaignError, match=r"^11 workers ended one after the other before they began a run\. 4 of 12"):
        todo.back([batch[4]], died=True)
    assert not store.has(batch[4].key)


def test_batches_hold_about_a_second_of_runs_and_taper():
    store = types.SimpleNamespace(held=lambda keys: set(), failed=lambda key: False)
    todo = _Todo([Task(str(i), (0.0,), 0) for i in range(1000)], store, None, None)
    assert len(todo.batch(2)) == 1
    todo.came([("x", False, 0.1)] * 10)
    assert len(todo.batch(2)) == 10
    todo.came([("x", False, 0.0)] * 100_000)  # found in the store: they say nothing of the others
    assert len(todo.batch(2)) == 10
    todo.came([("x", False, 1e-4)] * 100_000)
    assert len(todo.batch(2)) == 64
    sizes = []
    while todo.waiting:
        sizes.append(len(todo.batch(2)))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]
    todo.came([("x", False, 1e9)])
    assert worker.Task is Task
