"""Histograms: samples into bins, hard or softly with derivatives; no weight is lost, under- and overflow are bins.

Contract: `emulate.contracts.Histogram`. Gradients of expected counts with their bias: `emulate.histogram_gradients`.
Smallest entry to imitate: `hard.py`.
Tests: `tests/contracts/test_histograms.py` holds every entry of this folder to the room's laws.
"""
