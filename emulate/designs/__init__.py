"""Designs: where in the unit cube to run.

Contract: `emulate.contracts.Design`.
Smallest entry to imitate: `sobol.py`.
Tests: `tests/contracts/test_designs.py` holds every entry of this folder to the room's laws.
"""
