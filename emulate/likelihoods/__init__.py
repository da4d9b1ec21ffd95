"""Likelihoods: p(data | prediction), the emulator's covariance included.

Contract: `emulate.contracts.Likelihood`.
Smallest entry to imitate: `gaussian.py`.
Tests: `tests/contracts/test_likelihoods.py` holds every entry of this folder to the room's laws.
"""
