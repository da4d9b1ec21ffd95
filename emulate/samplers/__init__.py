"""Samplers: draws from a density known up to a constant.

Contract: `emulate.contracts.Sampler`.
Smallest entry to imitate: `laplace.py`.
Tests: `tests/contracts/test_samplers.py` holds every entry of this folder to the room's laws.
"""
