"""optimise: where the objective of the study is best -> that point, what true runs say of it, and findings."""

from pipelines.workbench import Workbench

SENTENCE = "find where the objective is best, and confirm it by true runs"
READS = ("design", "simulate", "train", "validate")
WRITES = ("optimise/optimum.json", "optimise/findings.json")


def run(bench: Workbench) -> str:
    from pipelines import optimisation

    found, _ = optimisation.solve(bench)
    return optimisation.capital(found.sentence)
