"""One contract of all executors: whatever makes the runs, whoever is killed, in whatever order, the store is the same."""

import csv
import os
import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # where executors.py lies
from executors import KINDS, campaign, content, kill_group, listening, refuses_plain, wait_until
from trouble import marked

RUNS, WIDTH = 64, 0.25  # one in five fails
LOOPBACK = ("127.0.0.1", "::1")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What one process makes, in order, left alone."""
    with campaign(tmp_path_factory.mktemp("serial") / "study", "serial", runs=RUNS, width=WIDTH) as made:
        (process,) = made.make()
        assert process.wait(300) == 0, process.said.read_text()
        found = content(made.store)
    kinds = [kind for *_, kind, _ in found.values()]
    assert len(found) == RUNS + 4
    assert {k: kinds.count(k) > 0 for k in ("", "crashed", "timeout", "nonfinite", "badshape")} == dict.fromkeys(
        ("", "crashed", "timeout", "nonfinite", "badshape"), True
    )
    return found


def shuffle(points: Path) -> None:
    with open(points, newline="") as f:
        head, *rows = csv.reader(f)
    random.Random(1).shuffle(rows)
    with open(points, "w", newline="") as f:
        csv.writer(f).writerows([head, *rows])


@pytest.mark.parametrize(("kind", "workers"), [
    *(pytest.param(kind, 2, marks=SLOW) for kind in KINDS),
    *(pytest.param(kind, n, marks=SLOW) for kind in ("local", "jobs", "shards") for n in (1, 4)),
])  # fmt: skip
def test_shuffled_killed_and_resumed_it_makes_the_same_store(tmp_path, undisturbed, kind, workers):
    with campaign(tmp_path / "study", kind, runs=RUNS, width=WIDTH, workers=workers) as made:
        shuffle(made.folder / "out" / "design" / "points.csv")
        processes = made.make()
        wait_until(lambda: made.held() >= 12)
        open_ = {where for where in listening(made.mark) if where[0] not in LOOPBACK}
        assert [where for where in open_ if not refuses_plain(*where)] == []
        assert bool(open_) == (kind == "jobs")  # whose workers may be on other machines
        for process in processes:
            kill_group(process.pid)
            process.wait()
        held = content(made.store)
        assert 12 <= len(held) < len(undisturbed)
        for process in (processes := made.make()):
            assert process.wait(300) == 0, process.said.read_text()
        assert content(made.store) == undisturbed
        assert {k: v for k, v in content(made.store).items() if k in held} == held
        left = {p.pid for p in made.cluster_of}
        wait_until(lambda: not [p for p in marked(made.mark) if kind not in ("address", "address over TLS")], 90.0)
        assert all(p.poll() is None for p in made.cluster_of), "somebody else's scheduler and workers are left alone"
        assert bool(left) == kind.startswith("address")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), [*((kind, signal.SIGINT) for kind in KINDS),
                                           ("local", signal.SIGTERM), ("serial", signal.SIGHUP)])  # fmt: skip
def test_an_interrupt_leaves_nothing_behind(tmp_path, kind, how):
    """By hand, by a queue that ends a job, by a terminal that closes."""
    with campaign(tmp_path / "study", kind, runs=RUNS, seconds=0.3) as made:
        processes = made.make()
        wait_until(lambda: made.held() >= 4)
        own = {p for p in marked(made.mark) if os.getpgid(p) not in {q.pid for q in made.cluster_of}}
        assert own
        for process in processes:
            os.killpg(process.pid, how)
        for process in processes:
            assert process.wait(60) == 130, process.said.read_text()
            assert "Traceback" not in process.said.read_text()
        if kind not in ("address", "address over TLS"):
            wait_until(lambda: marked(made.mark) == [], 60.0)
