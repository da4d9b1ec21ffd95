"""Checks: how far the stand-in is from the simulator in value, in gradient and in the final answer.

Contract: `emulate.contracts.Check`.
Smallest entry to imitate: `coverage.py`.
Tests: `tests/contracts/test_checks.py` holds every entry of this folder to the room's laws, `tests/checks/test_power.py` what
each sees and how often it is wrong.

False alarms: 1 in 20 is shared by all blocking tests of a study (Bonferroni). A check says by `alarms` how many it makes and
by `chance` how often each fails what is right: coverage, too narrow and too wide, 0.005 each; calibration, in the box and by
region, 0.005 each; recovery 0.01; tarp and predictive 0.005; confirmation, shift and chi2, 0.0025 each. 0.005 is left to the
weights of true runs. A check whose bound is a size, as of an error or a share, has no such rate: what is within it passes.
"""
