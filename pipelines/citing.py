"""What a study rests on: the works that its entries, its methods and its libraries ask to be cited, each with its reason."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from emulate.contracts import Entry
from emulate.references import cited, references

if TYPE_CHECKING:
    from emulate.emulator import Emulator
    from pipelines.study import Study
    from pipelines.terminal import Terminal

Where = Callable[[Any], bool]

# Works that the docstring of an entry names for one of its settings: they count where that is set.
_ONLY: dict[str, dict[str, Where]] = {
    "gaussian": dict.fromkeys(("hartlap2007", "sellentin2016", "percival2022"), lambda e: bool(e.simulations)),
    "mlp": {"czarnecki2017": lambda e: e.sobolev != 0, "seitzer2022": lambda e: e.heads == "variance"},
    "multifidelity": {"perdikaris2017": lambda e: e.coupling == "nonlinear"},
    "svgp": {"gardner2018": lambda e: e.exact},
    "hmc": {"parno2018": lambda e: e.mass == "bent", "hoffman2021": lambda e: e.trajectory == "auto"},
    "policy": {"williams1992": lambda e: e.exploration > 0},
    "nbody": {"angulo2016": lambda e: e.amplitudes == "fixed" or e.pair, "dai2018": lambda e: e.pgd is not None,
              "rampf2025": lambda e: e.scheme == "bullfrog"},
}  # fmt: skip

# Works that an entry rests on and that its docstring does not name, as most are a setting's.
_BESIDE: dict[str, dict[str, tuple[str, Where]]] = {
    "nbody": {
        "list2024": ("steps that know perturbation theory", lambda e: e.scheme == "bullfrog"),
        "feng2016": ("FastPM's factors of kick and drift", lambda e: e.scheme == "fastpm"),
        "eisenstein1998": ("the transfer function", lambda e: e.transfer in ("eisenstein_hu", "no_wiggle")),
        "lewis2000": ("the transfer function of CAMB", lambda e: e.transfer == "camb"),
    },
    "lund": {"andersson1983": ("the Lund model of strings", lambda e: True)},
    "pythia": {"bierlich2022": ("Pythia 8 makes the events", lambda e: True)},
    "active": {
        "cohn1996": ("points that take most off the emulator's variance", lambda e: True),
        "liu2017": ("what left-out runs say of it", lambda e: e.aim == "prior"),
    },
    "policy": {"towers2024": ("the environment is one of gymnasium", lambda e: e.environment != "lqr")},
    "transition": {"towers2024": ("the environment is one of gymnasium", lambda e: e.environment != "lqr")},
}  # fmt: skip

# Methods of a study that are no entry of a room.
_METHODS: tuple[tuple[str, str, Callable[["Study"], bool]], ...] = (
    ("heitmann2006", "emulators learn principal components of the outputs", lambda s: s.simulator.outputs.size > 1),
    ("lei2018", "conformal error bars", lambda s: any(r.calibrate == "conformal" for r in _recipes(s))),
    ("abadi2016", "private training", lambda s: bool(_private(s))),
    ("mironov2017", "Renyi divergences add up the privacy spent", lambda s: "rdp" in _private(s)),
    ("koskela2020", "privacy loss distributions add up what is spent", lambda s: "pld" in _private(s)),
    ("minka2001", "where runs finish, by a classifier", lambda s: s.infers and s.infer.feasible),
    ("papamakarios2016", "the posterior by npe", lambda s: s.infers and s.infer.method in ("npe", "auto")),
    ("papamakarios2019", "the likelihood by nle", lambda s: s.infers and s.infer.method == "nle"),
    ("durkan2019", "flows learn what is inferred", lambda s: s.infers and s.infer.method != "likelihood"),
    ("deistler2022", "rounds of runs where the posterior lies", lambda s: s.infers and _npe_rounds(s)),
    ("wilks1938", "intervals of profile likelihoods", lambda s: s.infers and bool(s.infer.profile)),
    ("vehtari2021", "R-hat and effective sample sizes", lambda s: s.infers),
    ("christen2005", "delayed acceptance", lambda s: s.infers and s.check.delayed_acceptance > 0),
    ("powell1978", "BFGS on the box", lambda s: s.optimise is not None and s.optimise.method != "adam"),
    ("kingma2015", "Adam on the box", lambda s: s.optimise is not None and s.optimise.method != "bfgs"),
    ("hestenes1969", "constraints of the optimum", lambda s: s.optimise is not None and bool(s.optimise.subject_to)),
)
_LIBRARIES: tuple[tuple[str, str, Callable[["Study"], bool]], ...] = (
    ("paszke2019", "torch: all tensors and their derivatives", lambda s: True),
    ("harris2020", "numpy: all tables", lambda s: True),
    ("virtanen2020", "scipy: searches, factorisations and laws of chance", lambda s: True),
    ("zuko", "zuko: normalizing flows", lambda s: _flows(s)),
    ("kumar2019", "arviz: draws and what is said of them", lambda s: s.infers),
    ("hunter2007", "matplotlib: the figures of the report", lambda s: True),
    ("rocklin2015", "dask: runs on many workers", lambda s: s.cluster.use != "serial"),
    ("zaharia2018", "mlflow: the record of the study", lambda s: s.tracking.uri != "off"),
)


def _recipes(s: "Study") -> list[Any]:
    return [e for _, e in entries({"emulators": s.emulators}) if hasattr(e, "calibrate")]


def _private(s: "Study") -> set[str]:
    return {r.privacy.accountant for r in _recipes(s) if r.privacy is not None}


def _npe_rounds(s: "Study") -> bool:
    return s.infer.rounds > 1 and s.infer.method in ("npe", "auto")


def _flows(s: "Study") -> bool:
    names = {e.entry_name() for _, e in used(s)}
    return bool(names & {"flow", "variational"}) or (s.infers and s.infer.method in ("npe", "nle", "auto"))


def entries(part: Any, path: str = "") -> Iterator[tuple[str, Entry]]:
    """The entries of rooms in a part of a study, each with the place where it stands, those within others too."""
    if isinstance(part, Entry):
        yield path, part
    if isinstance(part, Mapping):
        inner = ((str(k), v) for k, v in part.items())
    elif isinstance(part, tuple | list):
        inner = ((str(i), v) for i, v in enumerate(part))
    elif is_dataclass(part) and not isinstance(part, type):
        inner = ((f.name, getattr(part, f.name)) for f in fields(part) if f.init)
    else:
        return
    for name, value in inner:
        yield from entries(value, f"{path}.{name}" if path else name)


def used(study: "Study") -> list[tuple[str, Entry]]:
    """The entries that a study works with: without those of the posterior where it asks for none, or draws without them."""
    parts: dict[str, Any] = {"simulator": study.simulator, "design": study.design.entry, "emulators": study.emulators,
                             "simulate.jacobians": study.simulate.jacobians, "validate.gradient": study.validate.gradient,
                             "checks": study.checks}  # fmt: skip
    if study.infers:
        parts |= {"infer.likelihood": study.infer.likelihood}
        if study.infer.method != "npe":
            parts |= {"infer.sampler": study.infer.sampler}
            if any("recovery" in c.needs for c in study.checks.values()):
                parts |= {"check.sampler": study.check.sampler}
    return [found for path, part in parts.items() for found in entries(part, path)]


def of_emulator(emulator: "Emulator") -> dict[str, list[str]]:
    """`works` of an emulator alone: a study of its recipe that makes no runs, draws nothing, and keeps no record."""
    alone: Any = SimpleNamespace(
        simulator=SimpleNamespace(outputs=emulator.outputs), emulators=emulator.recipe, checks={}, infers=False, optimise=None,
        design=SimpleNamespace(entry=None), simulate=SimpleNamespace(jacobians=None), validate=SimpleNamespace(gradient=None),
        cluster=SimpleNamespace(use="serial"), tracking=SimpleNamespace(uri="off"))  # fmt: skip
    found = {key: [w.replace("emulators", "the emulator", 1) for w in why] for key, why in works(alone).items()}
    return {key: why for key, why in found.items() if key != "hunter2007"}  # no report


def works(study: "Study") -> dict[str, list[str]]:
    """The keys of the works that a study rests on, with the reasons, in the order in which they are met."""
    found: dict[str, list[str]] = {}
    for path, entry in used(study):
        name = entry.entry_name()
        only, beside = _ONLY.get(name, {}), _BESIDE.get(name, {})
        for key in cited(inspect.getdoc(type(entry)) or ""):
            if key not in only or only[key](entry):
                found.setdefault(key, []).append(f"{path} is {name}")
        for key, (why, where) in beside.items():
            if where(entry):
                found.setdefault(key, []).append(f"{path} is {name}: {why}")
    for key, why, where in (*_METHODS, *_LIBRARIES):
        if where(study):
            found.setdefault(key, []).append(why)
    return found


def itself() -> str:
    """The BibTeX of this version of emulate."""
    here = version("emulate")
    return f"@software{{emulate,\n  title = {{emulate: differentiable stand-ins for simulators}},\n  version = {{{here}}}\n}}"


def command(found: Mapping[str, list[str]], what: str, terminal: "Terminal") -> int:
    """Print the BibTeX of the works found, each after its reasons."""
    known = references()
    told = [{"key": "emulate", "reasons": [f"{what} by it"], "bibtex": itself()}]
    told += [
        {"key": key, "reasons": list(dict.fromkeys(why)), "bibtex": known[key].bibtex} for key, why in found.items()
    ]
    terminal.give(references=told)
    for work in told if not terminal.json else ():
        lines = [*(f"% {reason}" for reason in work["reasons"]), work["bibtex"], ""]
        terminal.console.print("\n".join(lines), soft_wrap=True, markup=False, emoji=False)
    return 0
