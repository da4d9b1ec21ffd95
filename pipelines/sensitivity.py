"""`emulate sensitivity`: which parameters an emulator's outputs depend on, how sure that is, and what would make it surer."""

from typing import TYPE_CHECKING

import numpy as np

from emulate.errors import InputError
from emulate.indices import Indices
from pipelines import files
from pipelines.beside import beside, noted
from pipelines.engine import synchronise
from pipelines.learning import chosen
from pipelines.terminal import Stopwatch
from pipelines.workbench import Workbench

if TYPE_CHECKING:
    from emulate.emulator import Emulator
    from emulate.runs import Outputs, Runs
    from pipelines.study import Study
    from pipelines.terminal import Terminal

_SCOPE = "sensitivity"
_SHOWN = 6  # outputs of the table and of MLflow; the files hold all
_KEY = ("alone, with others: first-order and total Sobol index, shares of the variance over the prior. at most: bound of the "
        "total from gradients. mu*, sigma: size and spread of what the output moves by per whole range.")  # fmt: skip
_ROUNDING = 1e-12  # of the largest effect of an output
_TOLD = 0.02  # a half-width worth a word on how to narrow it


def command(study: "Study", terminal: "Terminal", *, samples: int, name: str = "", pairs: bool = False) -> int:
    """Print, draw and keep the indices of an emulator of the study; only files of earlier stages are read."""
    from pipelines.figures import sensitivity as figures

    if samples < 2048 or samples & (samples - 1):
        raise InputError(f"--samples must be a power of 2, 2048 or more. Got {samples}; 4096 is the default.")
    watch = Stopwatch()
    with beside(study, terminal) as bench:
        name = chosen(bench, name)
        if not (bench.folder / "emulators" / name).exists():
            raise InputError(f"sensitivity needs the emulator {name!r}, which was not trained in {study.folder} yet. Run "
                             "`emulate train` first, or `emulate run`.")  # fmt: skip
        emulator = bench.emulator(name)
        found = measured(bench, emulator, samples, pairs=pairs)
        seconds = watch.seconds
        shown = leading(emulator.outputs)
        _print(bench, name, found, emulator.outputs)
        sentences = [found["sobol"].sentence(output) + _pair(found["sobol"], output) for output in shown]
        for sentence in sentences:
            terminal.say(sentence)
        if advice := narrower(found["sobol"], shown):
            terminal.say(advice)
        folder = bench.folder / _SCOPE
        frames = [f.to_pandas() for f in found.values()]
        rows = [[x if isinstance(x, str) or np.isfinite(x) else "" for x in row]
                for f in frames for row in f.itertuples(index=False)]  # fmt: skip
        files.write_csv(folder / "indices.csv", list(frames[0].columns), rows)
        body = {"emulator": name, "sentences": sentences, **{k: f.to_dict() for k, f in found.items()}}
        files.write_json(folder / "indices.json", body)
        terminal.give(study=study.name, **body, paths={"folder": str(folder)})
        with noted(bench, _SCOPE):
            bench.figures(_SCOPE, {
                "sobol": (figures.shares(emulator.space, emulator.outputs, found["sobol"], found["dgsm"]),
                          f"Sobol indices of {name}: the share of the variance that a parameter makes alone (filled) and with "
                          "all others (open), with 95 % intervals of the samples and the emulator's own error; no total lies "
                          f"above the black line that the gradients give. {sentences[0]}"),
                "morris": (figures.effects(emulator.space, emulator.outputs, found["morris"]),
                           f"Elementary effects of {name}: how far an output moves when a parameter crosses its prior, and "
                           "how much that depends on where the others stand."),
            })  # fmt: skip
            bench.journal.append("params", _SCOPE, params={"emulator": name, "samples": samples})
            bench.journal.append("metrics", _SCOPE, metrics={**_metrics(found, shown), "seconds": seconds})
            for file in ("indices.csv", "indices.json"):
                bench.journal.append("artifact", _SCOPE, path=f"{_SCOPE}/{file}")
    terminal.say(f"Figures and numbers in {folder}; `emulate report --force` puts them on the page.")
    synchronise(study, terminal)
    return 0


def measured(bench: Workbench, emulator: "Emulator", samples: int, *, pairs: bool = False) -> dict[str, Indices]:
    """Sobol and derivative-based indices and elementary effects, by method; the first held against the held-out runs
    where there are enough of them."""
    from emulate.anchored import LEAST, anchored
    from emulate.screening import dgsm, morris
    from emulate.sensitivity import sobol

    with bench.terminal.bar("Sobol indices", total=samples) as tick:
        shares = sobol(emulator, seed=bench.seed("sensitivity/sobol"), n=samples, pairs=pairs, progress=tick)
    seed, runs = bench.seed("sensitivity/held out"), _held_out(bench)
    if runs is not None and len(runs) >= LEAST:
        with bench.terminal.bar("held-out runs", total=len(runs)) as tick:
            shares = anchored(shares, emulator, runs, seed=seed, progress=tick)
    with bench.terminal.bar("elementary effects", total=samples // 32) as tick:
        effects = morris(emulator, seed=bench.seed("sensitivity/morris"), trajectories=samples // 32, progress=tick)
    with bench.terminal.bar("gradients", total=samples // 8) as tick:
        slopes = dgsm(emulator, seed=bench.seed("sensitivity/dgsm"), n=samples // 8, progress=tick)
    return {"sobol": shares, "morris": effects, "dgsm": slopes}


def _held_out(bench: Workbench) -> "Runs | None":
    """The finished held-out runs that are stored, None before the design stage."""
    there = (bench.folder / "design" / "points.csv").exists() and (bench.folder / "store" / "store.json").exists()
    return bench.runs_of("held_out").finished() if there else None


def leading(outputs: "Outputs") -> list[str]:
    """The first fields by the names of their indices: a vector as a whole, a number by itself."""
    return [f.name if f.size > 1 else label for f in outputs.fields[:_SHOWN]
            for label in [outputs.labels[outputs.slices[f.name].start]]]  # fmt: skip


def narrower(found: Indices, shown: list[str]) -> str:
    """What makes the widest interval of the shown outputs narrower, where it is wide."""
    widest = ("", 0.0, 0.0)
    for output in shown:
        j = found.column(output)
        if output in found.undefined:
            continue
        m = found["total"]
        i = int(np.argmax(np.hypot(m.sampling[:, j], m.emulator[:, j])))
        if max(m.sampling[i, j], m.emulator[i, j]) > max(widest[1:]):
            widest = (output, float(m.sampling[i, j]), float(m.emulator[i, j]))
    output, sampling, emulator = widest
    if max(sampling, emulator) < _TOLD:
        return ""
    if emulator > sampling:
        return (f"The intervals of {output} are as wide as they are because of the emulator's own error ({emulator:.2g} of "
                f"the variance; {sampling:.2g} from the samples): more runs of the simulator narrow them.")  # fmt: skip
    return (f"The intervals of {output} are as wide as they are because of the number of samples ({sampling:.2g} of the "
            f"variance; {emulator:.2g} from the emulator's error): a higher --samples narrows them.")  # fmt: skip


def _print(bench: Workbench, name: str, found: dict[str, Indices], outputs: "Outputs") -> None:
    rows, shown = [], leading(outputs)
    for output, field in zip(shown, outputs.fields):
        unit = "%" if field.size > 1 and field.positive else field.unit  # fractions, as the indices of such fields are
        for i, parameter in enumerate(found["sobol"].parameters):
            cells = [_cell(found[method], measure, i, output, unit)
                     for method, measure in (("sobol", "first"), ("sobol", "total"), ("dgsm", "bound"), ("morris", "mu_star"),
                                             ("morris", "sigma"))]  # fmt: skip
            rows.append((output if i == 0 else "", parameter, *cells))
    bench.terminal.table(f"{bench.study.name}: sensitivity of {name}, with 95 % intervals",
                         ("output", "parameter", "alone", "with others", "at most", "mu*", "sigma"), rows)  # fmt: skip
    bench.terminal.say(_KEY)
    held = found["sobol"].settings.get("held_out")
    bench.terminal.say(f"Intervals hold the error of the samples, and that of the emulator as "
                       f"{f'{held} held-out runs' if held else 'its own predicted variance'} show it.")  # fmt: skip
    left = len(found["sobol"].outputs) - len(shown)
    if left:
        bench.terminal.say(f"The indices of {left} more outputs, one by one, are in indices.csv.")


def _pair(found: Indices, output: str) -> str:
    """The pair of parameters that work together most, where pairs were asked for."""
    if "second" not in {m.name for m in found.measures} or output in found.undefined:
        return ""
    m, j = found["second"], found.column(output)
    i = int(np.argmax(m.value[:, j]))
    value, low, high = (100 * float(x[i, j]) for x in (m.value, m.low, m.high))
    return f" The strongest pair is {m.terms[i].replace(':', ' with ')}: {value:.2g} % ({low:.2g} to {high:.2g} %)."


def _cell(found: Indices, measure: str, i: int, output: str, unit: str) -> str:
    m, j = found[measure], found.column(output)
    value, low, high = m.value[i, j], m.low[i, j], m.high[i, j]
    if not np.isfinite(value):
        return "undefined"
    if found.method == "morris":
        seen = value > _ROUNDING * found["mu_star"].value[:, j].max()
        return f"{value * (100 if unit == '%' else 1) if seen else 0:.3g} {unit}".strip()
    if measure == "bound":
        return f"{100 * high:.3g} %" if high < 1 else "100 %"
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _metrics(found: dict[str, Indices], shown: list[str]) -> dict[str, float]:
    """`pk/omega_m/total` and the like; undefined ones are left out."""
    wanted = {"first": "sobol", "total": "sobol", "bound": "dgsm", "mu_star": "morris"}
    metrics = {f"{output}/{parameter}/{measure}": float(found[method][measure].value[i, found[method].column(output)])
               for output in shown for i, parameter in enumerate(found["sobol"].parameters)
               for measure, method in wanted.items()}  # fmt: skip
    return {k: v for k, v in metrics.items() if np.isfinite(v)}
