"""The code of the README's section on histograms runs, and gives what it says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_code_of_the_section_runs():
    section = (ROOT / "README.md").read_text().split("## Histograms\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    made = {}
    exec(code, made)
    counts, e, standard = (made[name] for name in ("counts", "e", "standard"))
    assert abs(float(counts.total) - 10_000) < 1e-8
    assert (
        (e.gradient - standard.gradient).abs() < 4 * (e.standard_error + standard.standard_error) + e.bias_bound
    ).all()
