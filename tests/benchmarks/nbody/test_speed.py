"""Seconds of `NBody` beside JaxPM and pmwd: same parameters, same work from theta to ln P(k), one core, float32.

Bars are printed beside the figures, never asserted: the machine's weather is no test. Medians of alternated rounds.
"""

import itertools
import statistics
import time

import pytest
import torch

from emulate.simulators.nbody import NBody
from tests.benchmarks.nbody.environment import Peer, peer
from tests.benchmarks.nbody.measure import REPEATS, alternate, cores, show
from tests.benchmarks.nbody.peer import THETA

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(7200)]

COMPILED, EAGER = {"compile": "always"}, {"compile": "never"}
OURS = [
    ("emulate, mesh 2x, compiled", {"refinement": 2, **COMPILED}),
    ("emulate, mesh 2x, eager", {"refinement": 2, **EAGER}),
    ("emulate, mesh 1x, compiled", {"refinement": 1, **COMPILED}),
    ("emulate, mesh 1x, eager", {"refinement": 1, **EAGER}),
]
JAXPM = [  # fixed steps as its documentation takes them, with both of its paints, and the leanest that its parts allow
    ("JaxPM, mesh 1x, diffrax, positions (default)", {"stepping": "diffrax", "paint": "absolute"}),
    ("JaxPM, mesh 1x, diffrax, displacements", {"stepping": "diffrax", "paint": "displacement"}),
    ("JaxPM, mesh 1x, checkpointed scan, positions", {"stepping": "scan", "paint": "absolute"}),
]
PMWD = [("pmwd, mesh 1x (default)", {"refinement": 1}), ("pmwd, mesh 2x", {"refinement": 2})]


def ours(process: Peer) -> list[tuple[str, dict]]:
    """The rows that this version can run: without the setting `compile` there is only eager."""
    if process.knows(compile=None):
        return OURS
    return [(name, {"refinement": s["refinement"]}) for name, s in OURS if s["compile"] == "never"]


def rows(processes: dict[str, Peer]) -> list[tuple[str, Peer, dict]]:
    """The table's rows: name, process, settings."""
    named = {"emulate": ours(processes["emulate"]), "jaxpm": JAXPM, "pmwd": PMWD}
    return [(name, process, s) for code, process in processes.items() for name, s in named[code]]


@pytest.fixture(scope="module")
def processes():
    open_processes = {"emulate": Peer("emulate", cores()[0])}
    try:
        open_processes["jaxpm"] = Peer("jaxpm", cores()[0])
        try:
            open_processes["pmwd"] = Peer("pmwd", cores()[0])
        except pytest.skip.Exception as why:
            print(f"\nwithout pmwd: {why}")
        for code, process in open_processes.items():
            print(f"\n{code}:", ", ".join(f"{k} {v}" for k, v in process.about["versions"].items()), end="")
        yield open_processes
    finally:
        for process in open_processes.values():
            process.close()


@pytest.mark.parametrize("steps", [10, 63])
def test_against_public_codes_at_64(processes, steps):
    table = rows(processes)
    seconds, first, slope = {}, {}, {}
    for task in ("forward", "gradient"):
        cases = {}
        for name, process, settings in table:
            request = {"task": task, "particles": 64, "steps": steps, **settings}
            reply = process.ask(**request)
            first[task, name], slope[name] = reply["first"], reply["gradient"]
            cases[name] = lambda process=process, request=request: process.ask(**request)["seconds"]
        seconds |= {(task, name): median for name, median in alternate(cases).items()}
    best = {
        t: min(s for (task, name), s in seconds.items() if task == t and "JaxPM" in name)
        for t in ("forward", "gradient")
    }
    show(f"64^3 particles, {steps} steps, one core, median of {REPEATS} alternated rounds; seconds",
         ("code", "forward", "/ best JaxPM", "gradient", "/ best JaxPM", "gradient / forward", "first forward", "first gradient"),
         [(name, seconds["forward", name], seconds["forward", name] / best["forward"], seconds["gradient", name],
           seconds["gradient", name] / best["gradient"], seconds["gradient", name] / seconds["forward", name],
           first["forward", name], first["gradient", name]) for name, *_ in table],
         "bars: forward at most 0.4, gradient at most 0.2 of JaxPM's best (its default mesh is 1x, ours 2x); "
         "gradient / forward of ours at most 3.2 compiled, 4.5 eager")  # fmt: skip
    show("the same loss? d sum ln P / d (omega_m, sigma_8, n_s, h)", ("code", "omega_m", "sigma_8", "n_s", "h"),
         [(name, *(f"{x:.2f}" for x in slope[name])) for name, *_ in table],
         "phases, stepping and bins differ: the same to a few per cent is the same work")  # fmt: skip


@pytest.mark.parametrize("particles", [16, 32, 64])
def test_gradient_over_forward(processes, particles):
    process = processes["emulate"]
    table = []
    for name, settings in ours(process):
        request = {"particles": particles, "steps": 10, **settings}
        cases = {t: lambda t=t, r=request: process.ask(task=t, **r)["seconds"] for t in ("forward", "gradient")}
        for case in cases.values():
            case()
        median = alternate(cases)
        table.append((name, median["forward"], median["gradient"], median["gradient"] / median["forward"]))
    show(f"{particles}^3 particles, 10 steps, one core; seconds", ("settings", "forward", "gradient", "ratio"), table,
         "bar: with its gradient at most 3.2 forwards compiled, 4.5 eager")  # fmt: skip


def test_first_answer_of_a_fresh_process():
    table = []
    for name, settings in (("as by default", {}), ("compile = always", COMPILED)):
        times = []
        for _ in range(5):
            with peer("emulate", cores()[0]) as process:
                if not process.knows(**settings):
                    break
                times.append(process.ask(task="forward", particles=32, steps=10, once=True, **settings)["first"])
        if times:
            table.append((name, statistics.median(times), min(times), max(times)))
    show("first run at 32^3 of a fresh process after its imports, one core, 5 processes; seconds",
         ("settings", "median", "least", "most"), table, "bar: 3 s by default")  # fmt: skip


def test_peak_memory_of_the_gradient():
    """Of the tensors alone, counted exactly; and resident, which the layout of the heap changes by tens of MB."""
    table = []
    for adjoint in ("reversed", "checkpointed", "stored"):
        tensors, above, whole = {}, {}, {}
        for steps in (10, 63):
            tensors[steps] = peak_of_tensors(NBody(particles=64, steps=steps, adjoint=adjoint))
            found = []
            for _ in range(REPEATS):
                with peer("emulate", cores()[0]) as process:
                    peak = process.ask(task="gradient", particles=64, steps=steps, once=True, adjoint=adjoint)[
                        "peak_mb"
                    ]
                    found.append((peak - process.about["peak_mb"], peak))
            above[steps], whole[steps] = (statistics.median(column) for column in zip(*found))
        table.append((adjoint, *(x for mb in (tensors, above, whole) for x in (mb[10], mb[63], mb[63] / mb[10]))))
    show(f"peak memory of value and gradient at 64^3, MB; resident: medians of {REPEATS} fresh processes",
         ("adjoint", "tensors, 10 steps", "63 steps", "ratio", "resident above imports, 10", "63", "ratio",
          "resident, 10", "63", "ratio"), table, "bar: 1.05 for 63 steps over 10")  # fmt: skip


def peak_of_tensors(simulator: NBody) -> float:
    """The most bytes of tensors alive at once during a value with its gradient, in MB."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)

    def gradient():
        torch.autograd.grad(simulator.run(theta, seed=0).log().sum(), theta)

    gradient()  # what stays in caches is made before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        gradient()
    events = (e.nbytes() for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]")
    return max(itertools.accumulate(events)) / 1e6


@pytest.mark.parametrize("particles", [32, 64])
def test_two_processes_on_two_cores(particles):
    if len(cores()) < 2:
        pytest.skip("needs two processor cores")
    request = {"task": "forward", "particles": particles, "steps": 10}
    count = {32: 20, 64: 4}[particles]
    with peer("emulate", cores()[0]) as first, peer("emulate", cores()[1]) as second:

        def rate(*processes: Peer) -> float:
            start = time.perf_counter()
            for process in processes:
                for _ in range(count):
                    process.send(**request)
            for process in processes:
                for _ in range(count):
                    process.receive()
            return (time.perf_counter() - start) / (count * len(processes))

        rate(first, second)
        median = alternate({"one": lambda: rate(first), "two": lambda: rate(first, second)})
    show(f"{particles}^3, 10 steps; seconds of a run", ("one process", "two processes on two cores", "runs per second, ratio"),
         [(f"{median['one']:.3g}", median["two"], median["one"] / median["two"])], "bar: 1.8")  # fmt: skip
