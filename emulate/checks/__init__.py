"""Checks: how far the stand-in is from the simulator in value, in gradient and in the final answer.

Contract: `emulate.contracts.Check`.
Smallest entry to imitate: `coverage.py`.
Tests: `tests/contracts/test_checks.py` holds every entry of this folder to the room's laws.
"""
