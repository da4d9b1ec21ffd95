"""Where runs are computed: jobs of a queue, any scheduler over TLS, any Dask cluster, workers that come and go."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from emulate import registry
from emulate.errors import InputError
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore
from pipelines import cluster
from pipelines.campaign import Task, campaign, open_cluster
from pipelines.study import CLUSTERS, JOBS, ClusterPart

sys.path.append(str(Path(__file__).parents[1]))  # where executors.py lies
import executors

SPEC = {"use": "linear_gaussian", "noise": 0.5}
HERE = {"walltime": "01:00:00", "worker_extra_args": ["--host", "127.0.0.1"],
        "scheduler_options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}  # fmt: skip
SIMULATOR = registry.build("simulators", SPEC)


def tasks(n, seed=0):
    theta = np.random.default_rng(seed).normal(size=(n, 2))
    return [Task(RunStore.key(SIMULATOR, t, 7), tuple(map(float, t)), 7) for t in theta]


def content(path):
    store = RunStore(path)
    folders = [store.path / "runs" / key[:2] / key for key in store.keys()]  # noqa: SIM118
    return {f.name: [(f / name).read_bytes() for name in ("record.json", "result.safetensors")] for f in folders}


def serial(path, asked):
    campaign(asked, store=path, simulator=SPEC, cluster=ClusterPart(use="serial"))
    return content(path)


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A folder with sbatch and scancel on the PATH, and what they did."""
    with executors.queue(tmp_path / "queue", environment := dict(os.environ)) as folder:
        monkeypatch.setenv("QUEUE", environment["QUEUE"])
        monkeypatch.setenv("PATH", environment["PATH"])
        monkeypatch.chdir(tmp_path)
        yield folder


@pytest.mark.slow
def test_jobs_of_slurm_make_the_same_bytes_and_leave_nothing(queue, tmp_path):
    """The queue is a stand-in, everything else real: job scripts, workers of their own, TLS with temporary keys."""
    asked, found = tasks(12), {}
    settings = ClusterPart(use="slurm", workers=2, options={**HERE, "queue": "long", "memory": "1GB"})
    with open_cluster(settings) as executor:
        executor.campaign(asked, store=tmp_path / "slurm", simulator=SPEC, progress=lambda *row: found.update(last=row))
        address = executor._pool._client.scheduler.address
        assert address.startswith("tls://")
        assert _refuses_plain(address)
        jobs = (queue / "jobs").read_text().split()
        script = next(queue.glob("job.*[!t]")).read_text()
    assert content(tmp_path / "slurm") == serial(tmp_path / "serial", asked)
    assert found["last"][:3] == (12, 0, 12)
    assert len(jobs) == 2
    assert "#SBATCH -p long" in script
    assert "--tls-key" in script
    assert set((queue / "cancelled").read_text().split()) == set(jobs)
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def _refuses_plain(address: str) -> bool:
    host, port = address.removeprefix("tls://").rsplit(":", 1)
    return executors.refuses_plain(host, int(port))


@pytest.mark.slow
def test_jobs_that_end_are_replaced(queue, tmp_path, monkeypatch):
    """As at the end of their time: the queue kills both jobs in the middle of the campaign."""
    monkeypatch.setattr(cluster, "_REPLACE", 2.0)
    asked, killed = tasks(300), []

    def kill(done, *_):
        if done >= 20 and not killed:
            killed.extend((queue / "jobs").read_text().split())
            for job in killed:
                os.killpg(int(job), signal.SIGKILL)

    campaign(asked, store=tmp_path / "slurm", simulator=SPEC, progress=kill,
             cluster=ClusterPart(use="slurm", workers=2, options=HERE))  # fmt: skip
    assert len(killed) == 2
    assert len((queue / "jobs").read_text().split()) >= 3
    assert content(tmp_path / "slurm") == serial(tmp_path / "serial", asked)


@pytest.fixture
def start():
    """Start a command of Dask's in a process of its own; all are gone at the end."""
    processes = []

    def run(*command):
        processes.append(subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, start_new_session=True))  # fmt: skip
        return processes[-1]

    yield run
    for p in processes:
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
        p.wait()


@pytest.mark.slow
def test_a_scheduler_and_workers_over_tls_killed_and_added_while_a_campaign_runs(start, tmp_path):
    keys = tmp_path / "keys"
    cluster.make_certificates(keys)
    address, tls = f"tls://127.0.0.1:{executors.free_port()}", ["--tls-ca-file", str(keys / "ca.pem"), "--tls-cert",
                                               str(keys / "cert.pem"), "--tls-key", str(keys / "key.pem")]  # fmt: skip
    start("distributed.cli.dask_scheduler", "--host", address, "--no-dashboard", *tls)
    worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", *tls)
    first = start(*worker)
    start(*worker)
    asked, done = tasks(400), []

    def disturb(now, *_):
        if now >= 30 and not done:
            done.append(now)
            os.killpg(first.pid, signal.SIGKILL)
            start(*worker)

    settings = ClusterPart(use="address", address=address, certificates=str(keys))
    campaign(asked, store=tmp_path / "tls", simulator=SPEC, cluster=settings, progress=disturb)
    assert done
    assert _refuses_plain(address)
    assert content(tmp_path / "tls") == serial(tmp_path / "serial", asked)
    said = r"^cluster\.certificates: must be the folder with the keys of tls://127\S+\. Got none; copy it from where"
    with pytest.raises(InputError, match=said):
        campaign(tasks(1, 9), store=tmp_path / "x", simulator=SPEC, cluster=ClusterPart(use="address", address=address))


@pytest.mark.slow
def test_a_cluster_of_any_class(tmp_path):
    asked = tasks(20)
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 60, "host": "127.0.0.1",
               "n_workers": 0}  # fmt: skip
    named = ClusterPart(use="distributed:LocalCluster", workers=2, options=options)
    campaign(asked, store=tmp_path / "named", simulator=SPEC, cluster=named)
    assert content(tmp_path / "named") == serial(tmp_path / "some", asked)


@pytest.mark.slow
def test_a_cluster_that_adapts_grows_with_what_is_to_do(tmp_path, monkeypatch):
    """A tenth of a second each, so that there is something to share."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "idle.py").write_text("import time\n\n\ndef run(theta):\n    time.sleep(0.1)\n    return theta\n")
    space, settings = Space((Parameter("x", Uniform(0.0, 1.0)),)), {"use": "function", "call": "idle:run",
                                                                     "argument": "array"}  # fmt: skip
    simulator, most = registry.build("simulators", settings, space=space), []
    asked = [Task(RunStore.key(simulator, [x], 0), (x,), 0) for x in np.linspace(0, 1, 200).tolist()]
    given = {"store": tmp_path / "store", "simulator": {**settings, "space": space.to_dict()}}
    with open_cluster(ClusterPart(use="local", workers=3, minimum=1)) as executor:
        executor.campaign(asked[:1], **given)
        most.append(executor._pool._count())
        executor.campaign(asked, progress=lambda *row: most.append(executor._pool._count()), **given)
    assert most[0] == 1
    assert max(most) > 1
    assert len(RunStore(tmp_path / "store").keys()) == 200


@pytest.mark.slow
def test_a_local_worker_that_is_gone_for_good_is_replaced(tmp_path, monkeypatch):
    """Its nanny too, so that nothing starts it again."""
    monkeypatch.setattr(cluster, "_REPLACE", 1.0)
    with open_cluster(ClusterPart(use="local", workers=2)) as executor:
        executor.campaign(tasks(2), store=tmp_path, simulator=SPEC)
        pool = executor._pool
        nanny = next(iter(pool._cluster.workers.values()))
        pool._cluster.sync(nanny.close)
        assert pool._count() == 1
        deadline = time.monotonic() + 60
        while pool._count() < 2 and time.monotonic() < deadline:
            assert pool.workers() >= 1
            time.sleep(0.2)
        assert pool._count() == 2


@pytest.mark.parametrize("use", JOBS)
def test_the_script_of_a_job_is_shown_without_starting_anything(use, monkeypatch):
    before = {c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN}
    extra = {"resource_spec": "x"} if use in ("pbs", "sge", "moab") else {"disk": "1GB"} if use == "htcondor" else {}
    script = cluster.job_script(ClusterPart(use=use, workers=5, options={"memory": "3GB", "cores": 1, **extra}))
    assert "distributed.cli.dask_worker" in script
    assert {c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN} == before


def test_options_that_a_queue_does_not_know_are_said():
    said = r"^cluster\.options: must be what the cluster takes\. It said: .*quue.*\. Mend or take out that option\.$"
    with pytest.raises(InputError, match=said):
        cluster.job_script(ClusterPart(use="slurm", options={"quue": "long"}))


def test_a_queue_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = (
        r"^cluster\.use: slurm hands its jobs to sbatch, which is not on the PATH\. Start emulate on a machine that can"
    )
    with pytest.raises(InputError, match=said):
        campaign(tasks(1), store=tmp_path / "store", simulator=SPEC, cluster=ClusterPart(use="slurm"))


def test_a_queue_that_refuses_the_jobs_is_quoted_at_once(queue, tmp_path, capfd):
    (queue / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    said = r"^cluster\.options: the queue must take the jobs\. It said: sbatch: error: invalid partition\. Mend the options"
    with pytest.raises(InputError, match=said):
        campaign(tasks(1), store=tmp_path / "store", simulator=SPEC, cluster=ClusterPart(use="slurm", options=HERE))
    assert "Traceback" not in capfd.readouterr().err


def test_an_option_that_a_class_does_not_take_is_said(tmp_path):
    options = {"silly": 1, "n_workers": 1, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with pytest.raises(
        InputError, match=r"^cluster\.options: must be what the cluster takes\. It said: .*'silly'\. Mend"
    ):
        campaign(tasks(1), store=tmp_path, simulator=SPEC,
                 cluster=ClusterPart(use="distributed:LocalCluster", options=options))  # fmt: skip


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("no_such.module:Cluster", r"^cluster\.use: 'no_such\.module:Cluster' cannot be imported: No module named"),
        ("pathlib:Path", r"^cluster\.use: must be the class of a Dask cluster\. Got 'pathlib:Path', which is another"),
        ("distributed:LocalClutser", r"^cluster\.use: 'distributed:LocalClutser' cannot be imported"),
    ],
)
def test_a_class_that_is_no_cluster_is_said(use, said, tmp_path):
    with pytest.raises(InputError, match=said):
        campaign(tasks(1), store=tmp_path, simulator=SPEC, cluster=ClusterPart(use=use))


def test_keys_are_their_owners_alone_and_never_overwritten(tmp_path):
    made = cluster.make_certificates(tmp_path / "keys")
    assert [p.name for p in made] == ["ca.pem", "cert.pem", "key.pem"]
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in made} == {0o600}
    with pytest.raises(InputError, match=r"ca\.pem is there already\. Name another folder, or remove the old keys"):
        cluster.make_certificates(tmp_path / "keys")
    made[2].unlink()
    with pytest.raises(InputError, match=r"^cluster\.certificates: must be a folder with ca\.pem, cert\.pem and key"):
        cluster.security(ClusterPart(certificates=str(tmp_path / "keys")))


def test_every_kind_is_a_kind_of_dask_jobqueue():
    assert set(cluster._JOB_CLASSES) == set(JOBS) <= set(CLUSTERS)
    assert all(cluster._job_class(use).__name__ == name for use, name in cluster._JOB_CLASSES.items())


def test_interrupts_stay_what_they_were():
    """The import of dask-jobqueue alone would make Ctrl-C a silent exit."""
    code = ("import signal; from pipelines.cluster import _job_class; _job_class('slurm'); "
            "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
