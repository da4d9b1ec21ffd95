"""What each check sees, and how often all of them are wrong: many studies with a known fault, and many with none.

The table stands in pipelines/manual/checks.md, between its two marks; what it says is held here by z-scores.
`python -m tests.checks.test_power` prints it.
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from emulate import registry
from tests.checks.stand_ins import FAULTS, study

PAGE = Path(__file__).parents[2] / "pipelines" / "manual" / "checks.md"
BEGIN, END = "<!-- what the checks see -->", "<!-- end of what the checks see -->"
_HONEST = study("honest", 0)
NAMES = [
    n
    for n in registry.names("checks")
    if all(getattr(_HONEST, x) is not None for x in registry.find("checks", n).needs)
]
TOLD = dict.fromkeys(FAULTS, 80) | {"honest": 200, "shy": 200}  # studies of the table
STUDIES = dict.fromkeys(FAULTS, 40) | {"honest": 300}  # and of the test


def fired(fault: str, seeds: range) -> dict[str, int]:
    """In how many studies a blocking finding of each check fails, and of all; what is advice by default left out of all."""
    checks = {n: registry.build("checks", {"use": n, **registry.find("checks", n).example}) for n in NAMES}
    advice = {n for n in NAMES if not any(f.blocking for f in registry.build("checks", n).find(study("honest", 0)))}
    count = dict.fromkeys((*NAMES, "all"), 0)
    for seed in seeds:
        material = study(fault, seed)
        failed = {n for n, c in checks.items() if any(f.blocking and not f.passed for f in c.find(material))}
        for name in failed:
            count[name] += 1
        count["all"] += bool(failed - advice)
    return count


def table(faults: Iterable[str] = FAULTS) -> str:
    """The table in Markdown, in per cent of studies."""
    found = {}
    for fault in faults:
        count = fired(fault, range(50_000, 50_000 + TOLD[fault]))
        found[fault] = {name: 100 * c / TOLD[fault] for name, c in count.items()}
        print(fault, found[fault], file=sys.stderr, flush=True)
    rows = ["| check | " + " | ".join(f.replace("_", " ") for f in found) + " |", "|---|" + "---|" * len(found)]
    for name in (*NAMES, "all"):
        cells = " | ".join(f"{shares[name]:.3g}" for shares in found.values())
        rows.append(f"| {f'`{name}`' if name != 'all' else 'all that block'} | {cells} |")
    return "\n".join(rows)


def documented() -> dict[str, dict[str, float]]:
    """Shares by fault and check, as the page says."""
    text = PAGE.read_text()
    lines = [x for x in text[text.index(BEGIN) : text.index(END)].splitlines() if x.startswith("|")]
    head, _, *rows = ([c.strip().strip("`") for c in x.strip("|").split("|")] for x in lines)
    faults = [h.replace(" ", "_") for h in head[1:]]
    names = [row[0].replace("all that block", "all") for row in rows]
    return {f: {n: float(row[i + 1]) / 100 for n, row in zip(names, rows, strict=True)} for i, f in enumerate(faults)}


def test_the_table_has_every_check_and_every_fault():
    said = documented()
    assert list(said) == list(FAULTS)
    assert all(list(shares) == [*NAMES, "all"] for shares in said.values())
    assert said["honest"]["all"] <= 0.05


def test_every_fault_is_seen_by_some_check():
    said = documented()
    for fault in FAULTS:
        assert fault == "honest" or max(said[fault].values()) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_checks_fire_as_often_as_the_table_says(fault):
    """z of both binomials below 4, with other seeds than the table's."""
    n, said = STUDIES[fault], documented()[fault]
    count = fired(fault, range(n))
    print(f"\n{fault}, {n} studies: " + ", ".join(f"{name} {100 * c / n:.3g} %" for name, c in count.items()))
    off = {}
    for name, share in said.items():
        p = (count[name] + share * TOLD[fault] + 1) / (n + TOLD[fault] + 2)
        z = (count[name] / n - share) / math.sqrt(p * (1 - p) * (1 / n + 1 / TOLD[fault]))
        if abs(z) > 4:
            off[name] = (count[name] / n, share)
    assert off == {}
    if fault == "honest":
        assert count["all"] <= 0.05 * n


if __name__ == "__main__":
    print(f"{BEGIN}\n{table(sys.argv[1:] or FAULTS)}\n{END}")
