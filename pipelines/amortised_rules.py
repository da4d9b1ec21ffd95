"""What must hold of a study whose posterior is learnt by flows, each rule a sentence with the key to change."""

from collections.abc import Iterator

from pipelines.amortised_choice import flow_is_used, settled, spread_as_the_prior
from pipelines.study import Study


def broken(s: Study) -> Iterator[str]:
    """The sentences of the rules that `infer.method` breaks with the rest of the study."""
    infer, asked = s.infer, s.infer.method
    known = settled(s)
    method = known[0] if known else asked
    if asked == "likelihood":
        yield from _unread(s)
        return
    if infer.round_runs is not None and infer.rounds == 1:
        yield f"infer.round_runs: is only read with infer.rounds above 1. Got {infer.round_runs}; raise rounds, or take it out."
    if method == "npe":
        yield from _npe(s)
    if method == "nle":
        yield from _nle(s)


def _nle(s: Study) -> Iterator[str]:
    if not flow_is_used(s):
        yield ("infer.method: nle must have a flow as the emulator that is used, for it learns the density of the data. Got "
               f"train.champion: {s.train.champion} among {', '.join(s.emulators)}; name a flow, such as emulators: "
               "{flow: }, or use npe.")  # fmt: skip
    if getattr(s.design.entry, "aim", "") == "posterior" and s.infer.likelihood.adds_noise:
        yield ("design.aim: must be prior where infer.method is nle and the likelihood adds noise, for the flow that guides the "
               "design has not learnt that noise. Got posterior; aim by infer.rounds.")  # fmt: skip


def _unread(s: Study) -> Iterator[str]:
    for key, given in (
        ("npe", s.infer.npe is not None),
        ("rounds", s.infer.rounds > 1),
        ("round_runs", s.infer.round_runs is not None),
    ):
        if given:
            yield (f"infer.{key}: is only read with infer.method npe, nle or auto. Got method: likelihood; take it out, or "
                   "change the method.")  # fmt: skip


def _npe(s: Study) -> Iterator[str]:
    who = "npe" if s.infer.method == "npe" else "auto takes npe for a predictive likelihood, which"
    if not spread_as_the_prior(s):
        yield (f"infer.method: {who} must have points that are spread as the prior, for it learns the prior with the runs. Got the "
               f"design {s.design.entry.entry_name()}, which chooses others; use sobol, and aim runs by infer.rounds.")  # fmt: skip
    if s.infer.outside == "inflate":
        yield (f"infer.outside: must be warn, refuse or ignore where infer.method is {who.split()[0]}: a posterior has no "
               "variance of a prediction to inflate. Got inflate.")  # fmt: skip
    from emulate.amortised import NPE

    least = (s.infer.npe or NPE()).flow.minimum_runs(1)
    if s.design.runs < least:
        yield f"design.runs: must be at least {least} for infer.method npe. Got {s.design.runs}; run more points."
