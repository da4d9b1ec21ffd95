"""Many tasks in few bytes: the same as a list of tasks, whatever is asked of it."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulate import registry
from emulate.store import RunStore
from pipelines.campaign import campaign
from pipelines.study import ClusterPart
from pipelines.tasks import Task, Tasks, missing

SIMULATOR = registry.build("simulators", "linear_gaussian")
GRADIENT = {"use": "reverse"}
ASKED = [("y", None), ("tangent", GRADIENT)]


def made(theta, which):
    theta = np.array(theta, np.float64).reshape(-1, 2)
    return Tasks.of(SIMULATOR, theta, np.zeros(len(theta), np.int64), np.array(which, np.uint8), ASKED)


def listed(theta, which):
    return [Task(RunStore.key(SIMULATOR, t, 0, *ASKED[w]), tuple(t), 0, *ASKED[w]) for t, w in zip(theta, which)]


points = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, -1.25]), st.sampled_from([1.0, 2.0]), st.integers(0, 1)), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(points)
def test_it_is_the_list_of_its_tasks(given):
    theta, which = [p[:2] for p in given], [p[2] for p in given]
    tasks, truth = made(theta, which), listed(theta, which)
    assert list(tasks) == truth
    assert len(tasks) == len(truth)
    assert list(tasks.keys()) == [t.key for t in truth]
    assert list(tasks[1::2]) == truth[1::2]
    assert list(missing(tasks, None)) == missing(truth, None) == list({t.key: t for t in truth}.values())
    if truth:
        assert tasks[-1] == truth[-1]


def test_what_the_store_holds_is_not_missing(tmp_path):
    theta = [(float(i), 0.0) for i in range(6)]
    tasks = made(theta, [0] * 6)
    campaign(tasks[::2], store=tmp_path, simulator={"use": "linear_gaussian"}, cluster=ClusterPart(use="serial"))
    store = RunStore(tmp_path)
    assert list(missing(tasks, store)) == listed(theta, [0] * 6)[1::2] == missing(list(tasks), store)
    campaign(tasks, store=tmp_path, simulator={"use": "linear_gaussian"}, cluster=ClusterPart(use="serial"))
    assert len(missing(tasks, store)) == 0


@pytest.mark.parametrize("n", [20_000])
def test_a_task_takes_tens_of_bytes(n):
    theta = np.random.default_rng(0).normal(size=(n, 2))
    made(theta[:10], [0] * 10)
    tracemalloc.start()
    tasks = made(theta, [0] * n)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tasks) == n
    assert size < 60 * n
