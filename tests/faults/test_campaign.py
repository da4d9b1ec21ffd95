"""Two thousand short runs while everything is killed, filled and locked around them; then the store of an undisturbed
campaign, number by number. `uv run pytest -m slow -s tests/faults/test_campaign.py`"""

import contextlib
import csv
import math
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # where executors.py lies
from executors import campaign, content, kill_group, wait_until
from trouble import marked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
RUNS = 1996  # and four held out
WORKER_KILLS, CLIENT_KILLS = 20, 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with campaign(tmp_path_factory.mktemp("undisturbed") / "study", "local", runs=RUNS) as made:
        (process,) = made.make()
        assert process.wait(1500) == 0, process.said.read_text()
        found, table = content(made.store), (made.folder / "out" / "simulate" / "runs.csv").read_bytes()
    kinds = Counter(kind for _, _, kind, _ in found.values())
    print(f"\nundisturbed: {dict(kinds)}")
    shares = {
        "crashed": 0.02,
        "timeout": 0.01,
        "nonfinite": 0.01,
        "badshape": 0.01,
    }  # of Sobol points, to a point or two
    assert all(abs(kinds[kind] - share * len(found)) <= 3 for kind, share in shares.items())
    return found, table


@contextlib.contextmanager
def disk(folder: Path):
    """A small disk of its own at this folder, in memory."""
    folder.mkdir(parents=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("a disk that can be filled and locked is mounted, which needs the rights of root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Trouble:
    """What may happen to a campaign: each method is one fault, after which the runs go on."""

    def __init__(self, made, chance):
        self.made, self.chance = made, chance
        self.clients = made.make()
        self.said: list[str] = []

    def workers(self) -> list[psutil.Process]:
        """The processes of Dask workers: started by Python's spawning, by a nanny or the client."""
        found = []
        for pid in marked(self.made.mark):
            try:
                if "spawn_main" in " ".join((p := psutil.Process(pid)).cmdline()):
                    found.append(p)
            except psutil.Error:
                continue
        return found

    def worker(self) -> None:
        """One is killed; with its nanny too, every other time, and then another one is started."""
        wait_until(self.workers)
        with_nanny = self.made.cluster_of and self.chance.random() < 0.5
        if with_nanny:
            nannies = [p for p in self.made.cluster_of[1:] if p.poll() is None]
            kill_group(self.chance.choice(nannies).pid)
            self.made.cluster_of.append(self.made.start_worker())
        else:
            self.chance.choice(self.workers()).kill()

    def scheduler(self) -> None:
        """It is killed, its workers end, all are started again; the client must not notice more than a pause."""
        before = [p.pid for p in self.clients]
        for p in self.made.cluster_of:
            kill_group(p.pid)
        time.sleep(2.0)
        self.made.start_scheduler()
        held = self.made.held()
        wait_until(lambda: self.made.held() > held + 3)
        assert [p.pid for p in self.clients if p.poll() is None] == before

    def client(self) -> None:
        for p in self.clients:
            kill_group(p.pid)
            p.wait()
        self.clients = self.made.make()

    def full(self) -> None:
        """The client stops with a sentence, space is made, it is started again."""
        filler = self.made.store / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as f:
            while True:
                f.write(b"0" * 2**16)
        assert shutil.disk_usage(filler.parent).free == 0
        self.stopped("is full (No space left on device). Free space there and start the same command again")
        filler.unlink()
        self.clients = self.made.make()

    def locked(self) -> None:
        """The same for a disk that turns read-only, as a file system with an error does."""
        remount = ["mount", "-o", "remount,{}", str(self.made.store)]
        wait_until(lambda: subprocess.run([x.format("ro") for x in remount], capture_output=True).returncode == 0)
        self.stopped(
            "must be a folder that can be written to. Got OSError: Read-only file system; mend its permissions"
        )
        subprocess.run([x.format("rw") for x in remount], check=True)
        self.clients = self.made.make()

    def stopped(self, sentence: str) -> None:
        for p in self.clients:
            assert p.wait(120) not in (0, None)
            words = " ".join(p.said.read_text().split())
            assert sentence in words, words
            assert "Traceback" not in words


@pytest.mark.parametrize("kind", ["address over TLS", "local"])
def test_a_campaign_survives_everything_and_its_store_is_that_of_an_undisturbed_one(tmp_path, undisturbed, kind):
    chance = random.Random(1)
    faults = ["worker"] * WORKER_KILLS + ["client"] * CLIENT_KILLS + ["full", "locked"]
    faults += ["scheduler"] * (kind != "local")  # a local one lives in the client
    chance.shuffle(faults)
    with disk(tmp_path / "study" / "out" / "store"), campaign(tmp_path / "study", kind, runs=RUNS) as made:
        start, trouble = time.monotonic(), Trouble(made, chance)
        for i, fault in enumerate(faults):
            due = int(40 + (RUNS - 120) * i / len(faults))
            wait_until(lambda: made.held() >= due, 300.0)  # noqa: B023
            time.sleep(chance.uniform(0.0, 0.5))
            assert made.held() < RUNS + 4, "the faults fall into the campaign"
            getattr(trouble, fault)()
        for p in trouble.clients:
            assert p.wait(1500) == 0, p.said.read_text()
        seconds = time.monotonic() - start
        found, numbers = undisturbed
        assert content(made.store) == found
        assert (made.folder / "out" / "simulate" / "runs.csv").read_bytes() == numbers
        assert [list(made.store.glob(f"{where}/*")) for where in ("conflicts", "damaged", "forgotten")] == [[], [], []]
        verify = made.emulate("store", "verify", "out/store")
        assert verify.wait(300) == 0, verify.said.read_text()
        _no_nan_among(made.folder / "out" / "simulate" / "runs.csv")
        asked = Counter((made.folder / "calls").read_text().splitlines())
        kinds = Counter(kind for *_, kind, _ in found.values())
        print(f"\n{kind}: {len(faults)} faults ({dict(Counter(faults))}) in {seconds:.0f} s; {len(found)} runs stored, 0 "
              f"lost, 0 different; {dict(kinds)}; {sum(asked.values()) - len(found)} runs made again")  # fmt: skip
        in_hand = made.workers * 2  # on each worker one being made, and the one before being committed
        assert sum(asked.values()) - len(found) <= in_hand * len(faults)


def _no_nan_among(table: Path) -> None:
    with open(table, newline="") as f:
        rows = list(csv.DictReader(f))
    assert len({r["key"] for r in rows}) == len(rows) == RUNS + 4
    for r in rows:
        finished = r["ok"] == "True"
        assert finished == (r["reason"] == "")
        assert not finished or all(math.isfinite(float(r[name])) for name in ("a", "b"))
