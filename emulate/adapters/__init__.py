"""Adapters: emulators and posteriors as other libraries know them, one file for each library.

- `scikit_learn`: `EmulatorRegressor`, any recipe as a regressor.
- `torch`: `Mean`, an emulator as a layer of a network.
- `numpy`: `Density`, ln p and its gradient of arrays: emcee, dynesty, ultranest, scipy.optimize, nutpie.
- `jax`: ln p, and the emulator itself, as functions that JAX differentiates: numpyro, blackjax.
- `cobaya`: `EmulatorTheory` and `EmulatorLikelihood`, named in a YAML of cobaya.

A file imports its library, and nothing else does. Smallest to imitate: `torch.py`. Tests: `tests/adapters/`.
"""
