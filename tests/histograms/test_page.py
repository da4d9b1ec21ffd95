"""The code of the page histograms.md runs, and gives what it says."""

from tests.pages import MANUAL, blocks


def test_the_code_of_the_page_runs():
    (code,) = [b.text for b in blocks(MANUAL / "histograms.md", "python")]
    made = {}
    exec(code, made)
    counts, e, standard = (made[name] for name in ("counts", "e", "standard"))
    assert abs(float(counts.total) - 10_000) < 1e-8
    assert (
        (e.gradient - standard.gradient).abs() < 4 * (e.standard_error + standard.standard_error) + e.bias_bound
    ).all()
