"""What can be asked beside the stages: costs, learning curve, sensitivity, identifiability, optimum, derivatives."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands import completion, frame
from pipelines.commands.frame import Emulator, Force, Overrides, StudyFile, command, read_study
from pipelines.commands.studies import run_stages

if TYPE_CHECKING:
    from pipelines.terminal import Terminal


@command("costs", panel=frame.QUESTIONS)
def costs(terminal: "Terminal", study: StudyFile, set_: Overrides = None,
          pilot: Annotated[int, typer.Option("--pilot", min=0, metavar="N", help="Make N runs first; they are kept.")] = 0,
          ) -> int:  # fmt: skip
    """Say what the runs took, and core-hours and time of those that are still to do."""
    loaded = read_study(terminal, study, set_)
    from pipelines import forecasts

    return forecasts.command(loaded, terminal, pilot=pilot)


@command("learning-curve", panel=frame.QUESTIONS)
def learning_curve(
    terminal: "Terminal", study: StudyFile, set_: Overrides = None, emulator: Emulator = "",
    target: Annotated[float, typer.Option("--target", help="Median error of a held-out run: 0.01 is 1 %.")] = 0.01,
    fits: Annotated[int, typer.Option("--fits", min=1, max=100, help="Fits to parts of one size, at most.")] = 4,
    epsilon: Annotated[str, typer.Option("--epsilon", metavar="A,B,...", help="Budgets of privacy in place of sizes.")] = "",
) -> int:  # fmt: skip
    """Say how many more runs an emulator needs for an error: refits to parts of the runs, and a power law.

    With --epsilon the error against the budget of privacy: refits to all runs, as many for each budget.
    """
    loaded = read_study(terminal, study, set_)
    from pipelines import learning, utility

    if epsilon:
        return utility.command(loaded, terminal, budgets=epsilon, name=emulator, fits=fits)
    return learning.command(loaded, terminal, target=target, name=emulator, parts=fits)


@command("sensitivity", panel=frame.QUESTIONS)
def sensitivity(
    terminal: "Terminal", study: StudyFile, set_: Overrides = None, emulator: Emulator = "",
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="A power of 2: base points of the indices.")] = 4096,
    pairs: Annotated[bool, typer.Option("--pairs", help="Indices of every pair of parameters too.")] = False,
) -> int:  # fmt: skip
    """Say which parameters matter: shares of the variance, elementary effects, bounds from gradients."""
    loaded = read_study(terminal, study, set_)
    from pipelines import sensitivity as indices

    return indices.command(loaded, terminal, samples=samples, name=emulator, pairs=pairs)


@command("identifiability", panel=frame.QUESTIONS)
def identifiability(
    terminal: "Terminal", study: StudyFile, set_: Overrides = None,
    points: Annotated[int, typer.Option("--points", min=1, max=1000, metavar="N", help="Points of the box at which derivatives "
                                        "are taken.")] = 3,
    emulator: Annotated[str, typer.Option("--emulator", metavar="NAME", help="Its derivatives; empty: the simulator's.",
                                         autocompletion=completion.names_of_emulators)] = "",
) -> int:  # fmt: skip
    """Say which parameters the data tell, and which in combination only: Fisher matrix, collinearity, profiles."""
    loaded = read_study(terminal, study, set_)
    from pipelines import identifiability as telling

    return telling.command(loaded, terminal, points=points, name=emulator)


@command("optimise", panel=frame.QUESTIONS)
def optimise(
    terminal: "Terminal", study: StudyFile, set_: Overrides = None, force: Force = False, emulator: Emulator = "",
    minimise: Annotated[str, typer.Option("--minimise", metavar="EXPR", help="Of outputs and parameters: mean(pk) + h.")] = "",
    maximise: Annotated[str, typer.Option("--maximise", metavar="EXPR", help="The same, for the greatest.")] = "",
    subject_to: Annotated[list[str] | None, typer.Option("--subject-to", metavar="EXPR", help="As 'pk[3] <= 2'; repeat.")] = None,
    by: Annotated[str, typer.Option("--by", metavar="CHOICE", help="Climb the emulator, or the simulator itself.",
                                   autocompletion=completion.choices("emulator", "simulator"))] = "",
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="bfgs or adam; empty: what fits.",
                                       autocompletion=completion.choices("bfgs", "adam"))] = "",
    robust: Annotated[float | None, typer.Option("--robust", metavar="K", help="Mean + K sd over the emulator's error.")] = None,
    confirm: Annotated[int | None, typer.Option("--confirm", min=0, max=100_000, metavar="N",
                                                help="True runs at the optimum.")] = None,
    starts: Annotated[int | None, typer.Option("--starts", min=1, max=4096, metavar="N", help="Points to start from.")] = None,
) -> int:  # fmt: skip
    """Find where the study's objective, or the one named here, is best; confirm it by true runs."""
    own = read_study(terminal, study, set_).optimise is not None
    from emulate.errors import InputError
    from pipelines import optimisation

    if (minimise and maximise) or not (minimise or maximise or own):
        raise InputError("optimise must be told one of --minimise and --maximise, such as --minimise \"mean(pk)\", or have a study "
                         f"with the section optimise. Got {'both' if minimise else 'none'}.")  # fmt: skip
    asked = {"minimise": minimise, "maximise": maximise, "subject_to": subject_to, "by": by, "method": method, "robust": robust,
             "confirm": confirm if own or confirm else 0, "starts": starts, "emulator": emulator}  # fmt: skip
    changes = [*(set_ or []), *optimisation.overrides(asked)]
    if own:
        return run_stages(terminal, ["optimise"], study, changes, force=force)
    return optimisation.command(read_study(terminal, study, changes), terminal)


@command("verify", panel=frame.QUESTIONS)
def verify(
    terminal: "Terminal", study: StudyFile, set_: Overrides = None,
    points: Annotated[int, typer.Option("--points", min=1, max=1000, metavar="N", help="Points of the box, inner half.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Of a stochastic simulator: seeds at a point.")] = 24,
) -> int:  # fmt: skip
    """Test the simulator's derivatives at points of the box: remainders, transposes, error bars over seeds."""
    loaded = read_study(terminal, study, set_)
    from pipelines import verification

    return verification.command(loaded, terminal, points=points, repeats=repeats)
