"""report: everything the stages wrote -> one self-contained HTML page."""

from pipelines.workbench import Workbench

SENTENCE = "write the report"
READS = ("design", "simulate", "train", "validate", "infer", "check", "optimise")
WRITES = ("report/index.html",)


def run(bench: Workbench) -> str:
    from pipelines import report

    path = report.write(bench.folder)
    bench.journal.append("artifact", "", path="report/index.html")  # of the whole run, where it is looked for
    return f"{path}"
