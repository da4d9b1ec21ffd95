"""A job ends when its queue says: no run is begun that would be lost."""

import time

import pytest

from pipelines import walltime


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:00:01", 1), ("01:30:00", 5400), ("2-00:00:30", 172830), (" 100:00:00 ", 360000), ("10:00", None),
     ("90", None), ("1h", None), ("", None), ("-1:00:00", None), ("1:2:3:4", None)],
)  # fmt: skip
def test_limits_are_read_where_they_mean_one_thing(text, seconds):
    assert walltime.seconds(text) == seconds


def test_the_end_is_that_of_the_script_or_of_the_queue():
    assert walltime.end({}) is None
    assert walltime.end({"SLURM_JOB_END_TIME": "1800000000"}) == 1.8e9
    assert walltime.end({"SLURM_JOB_END_TIME": "soon"}) is None
    assert walltime.end({"SLURM_JOB_END_TIME": "1", "EMULATE_JOB_END": "1800000000"}) == 1.8e9


def test_a_run_is_begun_when_it_fits_with_a_margin():
    now = time.time()
    assert walltime.enough(1e9, None)
    assert walltime.enough(10.0, now + 100)
    assert not walltime.enough(80.0, now + 100)
    assert not walltime.enough(0.0, now + 1)


def test_a_job_script_notes_its_end(tmp_path):
    import subprocess

    (line,) = walltime.prologue("01:00:00")
    said = subprocess.run(["sh", "-c", f"{line}; echo $EMULATE_JOB_END"], capture_output=True, text=True, check=True)
    assert abs(float(said.stdout) - time.time() - 3600) < 60
    assert walltime.prologue("soon") == []
