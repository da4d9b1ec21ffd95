"""Makes nbody_linear_power.json: linear power spectra and transfer functions by two public codes.

    pip install camb==2.0.5 colossus==1.4.0
    python tests/reference/nbody_linear_power.py

CAMB (Lewis, Challinor & Lasenby 2000) solves the Boltzmann equations, massless neutrinos, and its spectrum is scaled
to sigma_8. Colossus (Diemer 2018) evaluates the fitting formulae of Eisenstein & Hu (1998) for the transfer function,
with and without oscillations. Wavenumbers in h/Mpc, spectra in (Mpc/h)^3.
"""

import json
from importlib.metadata import version
from pathlib import Path

import camb
import numpy as np
from colossus.cosmology import power_spectrum

CASES = [
    {"omega_m": 0.3, "omega_b": 0.049, "h": 0.68, "n_s": 0.96, "sigma_8": 0.8},
    {"omega_m": 0.22, "omega_b": 0.049, "h": 0.74, "n_s": 1.0, "sigma_8": 0.9},
    {"omega_m": 0.4, "omega_b": 0.03, "h": 0.6, "n_s": 0.9, "sigma_8": 0.7},
]
K = np.geomspace(1e-3, 3.0, 40)


def boltzmann(omega_m: float, omega_b: float, h: float, n_s: float, sigma_8: float) -> np.ndarray:
    parameters = camb.set_params(
        H0=100 * h, ombh2=omega_b * h**2, omch2=(omega_m - omega_b) * h**2, mnu=0.0, ns=n_s, As=2e-9, TCMB=2.7255
    )
    parameters.set_matter_power(redshifts=[0.0], kmax=20.0)
    results = camb.get_results(parameters)
    power = results.get_matter_power_interpolator(nonlinear=False).P(0.0, K)
    return power * (sigma_8 / results.get_sigma8_0()) ** 2


def formulae(omega_m: float, omega_b: float, h: float, **_: float) -> dict[str, list[float]]:
    arguments = (K, h, omega_m, omega_b, 2.7255)
    return {
        "transfer": power_spectrum.modelEisenstein98(*arguments).tolist(),
        "transfer_no_wiggle": power_spectrum.modelEisenstein98ZeroBaryon(*arguments).tolist(),
    }


if __name__ == "__main__":
    cases = [{**case, "camb": boltzmann(**case).tolist(), **formulae(**case)} for case in CASES]
    codes = {name: version(name) for name in ("camb", "colossus")}
    content = {"codes": codes, "k": K.tolist(), "cases": cases}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
