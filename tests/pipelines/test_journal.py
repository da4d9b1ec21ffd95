"""The journal: strict JSON, on disk before `append` returns, readable after any kill."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.journal import Journal

TEXT = st.text().filter(lambda t: "://" not in t and "=" not in t)  # an address may lose its password
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=20)


def strict(value):
    """What a value must read back as: itself, with numbers that are not finite as words."""
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, list):
        return [strict(v) for v in value]
    return {k: strict(v) for k, v in value.items()} if isinstance(value, dict) else value


def payloads(journal: Journal, after: int = 0) -> list:
    return [event["value"] for _, event in journal.read(after)]


@given(values=st.lists(VALUES, min_size=1, max_size=5))
def test_what_is_appended_is_read_in_order(values, tmp_path_factory):
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.jsonl")
    for value in values:
        journal.append("metrics", "train", value=value)
    assert payloads(journal) == [strict(v) for v in values]


def test_every_line_is_strict_json(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("metrics", "a/b", value={"x": math.nan, "y": math.inf, "z": [-math.inf]})

    def forbidden(name):
        raise AssertionError(name)

    (line,) = journal.path.read_text().splitlines()
    event = json.loads(line, parse_constant=forbidden)
    assert (event["event"], event["scope"]) == ("metrics", "a/b")
    assert event["time"].endswith("+00:00")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, np.nan]), [1.0, "nan"]),
        (torch.tensor([[1.0, 2.0]], requires_grad=True), [[1.0, 2.0]]),
        ((1, 2), [1, 2]),
        (Path("a/b.png"), "a/b.png"),
        ({3: "x"}, {"3": "x"}),
        ("postgresql://ada:love@host/db", "postgresql://***@host/db"),
    ],
)
def test_what_science_hands_over_becomes_plain(tmp_path, value, read):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("params", value=value)
    assert payloads(journal) == [read]


def test_anything_else_is_refused_before_a_byte_is_written(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    message = "^an event must hold numbers, text, lists, dicts, arrays and paths. Got object.$"
    with pytest.raises(TypeError, match=message):
        journal.append("params", value=object())
    assert not journal.path.exists()


def test_reading_goes_on_after_any_event(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.read() == []
    for i in range(5):
        journal.append("metrics", value=i)
    events = journal.read()
    for k, (offset, _) in enumerate(events):
        assert journal.read(after=offset) == events[k + 1 :]


def test_a_journal_torn_at_any_byte_gives_its_whole_lines_and_takes_new_ones(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for i in range(3):
        journal.append("metrics", value=f"{i} é")
    whole = journal.path.read_bytes()
    for cut in range(len(whole) + 1):
        torn = Journal(tmp_path / "torn.jsonl")
        torn.path.write_bytes(whole[:cut])
        kept = [f"{i} é" for i in range(whole[:cut].count(b"\n"))]
        assert payloads(torn) == kept
        seen = torn.read()[-1][0] if kept else 0
        torn.append("metrics", value="new")
        late = [f"{len(kept)} é"] if cut and whole[cut : cut + 1] == b"\n" else []  # only its newline was missing
        assert payloads(torn) == [*kept, *late, "new"]
        assert payloads(torn, after=seen) == [*late, "new"]


def test_nothing_acknowledged_is_lost_to_a_kill(tmp_path):
    code = (
        "import sys; from pipelines.journal import Journal\n"
        "journal, i = Journal(sys.argv[1]), 0\n"
        "while True:\n"
        "    journal.append('metrics', value=i); print(i, flush=True); i += 1"
    )
    journal = Journal(tmp_path / "journal.jsonl")
    writer = [sys.executable, "-c", code, str(journal.path)]
    with subprocess.Popen(writer, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        acknowledged = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().splitlines() if line]
    written = payloads(journal)
    assert written == list(range(len(written)))
    assert written[: len(acknowledged)] == acknowledged
