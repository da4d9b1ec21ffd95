"""Simulators: y = f(theta, seed), one run at a time.

Contract: `emulate.contracts.Simulator`.
Smallest entry to imitate: `linear_gaussian.py`.
Tests: `tests/contracts/test_simulators.py` holds every entry of this folder to the room's laws.
"""
