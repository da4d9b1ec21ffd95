"""Makes nbody_linear_power.json: linear power spectra and transfer functions by two public codes.

    pip install camb==2.0.5 colossus==1.4.0
    python tests/reference/nbody_linear_power.py

CAMB (Lewis, Challinor & Lasenby 2000) solves the Boltzmann equations, massless neutrinos, and its spectrum is scaled
to sigma_8. Colossus (Diemer 2018) evaluates the fitting formulae of Eisenstein & Hu (1998) for the transfer function,
with and without oscillations. Wavenumbers in h/Mpc, spectra in (Mpc/h)^3.

The universes, by CAMB at twice its default accuracy and without C_l (with them its spectrum differs by 0.1 % at
k = 0.03 h/Mpc whatever the accuracy), are normalised by A_s at k = 0.05/Mpc and come with its sigma_8
today and its growth sigma_8(z) / sigma_8(0), radiation included; omega_r is the radiation today.
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
UNIVERSES = [
    {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.965, "A_s": 2.1e-9},
    {"omega_m": 0.28, "omega_b": 0.045, "h": 0.7, "n_s": 0.95, "A_s": 2.3e-9, "omega_k": 0.05},
    {"omega_m": 0.34, "omega_b": 0.05, "h": 0.65, "n_s": 0.98, "A_s": 1.9e-9, "omega_k": -0.05, "w0": -1.1, "wa": 0.2},
    {"omega_m": 0.3, "omega_b": 0.049, "h": 0.67, "n_s": 0.96, "A_s": 2.1e-9, "w0": -0.8, "wa": -0.6},
]
REDSHIFTS = [0.0, 0.5, 1.0, 3.0, 9.0]
K = np.geomspace(1e-3, 3.0, 40)


def boltzmann(omega_m: float, omega_b: float, h: float, n_s: float, sigma_8: float) -> np.ndarray:
    parameters = camb.set_params(
        H0=100 * h, ombh2=omega_b * h**2, omch2=(omega_m - omega_b) * h**2, mnu=0.0, ns=n_s, As=2e-9, TCMB=2.7255
    )
    parameters.set_matter_power(redshifts=[0.0], kmax=20.0)
    results = camb.get_results(parameters)
    power = results.get_matter_power_interpolator(nonlinear=False).P(0.0, K)
    return power * (sigma_8 / results.get_sigma8_0()) ** 2


def universe(omega_m, omega_b, h, n_s, A_s, omega_k=0.0, w0=-1.0, wa=0.0) -> dict:
    parameters = camb.CAMBparams(WantCls=False)
    parameters.set_cosmology(
        H0=100 * h, ombh2=omega_b * h**2, omch2=(omega_m - omega_b) * h**2, omk=omega_k, mnu=0.0, nnu=3.044, TCMB=2.7255
    )
    parameters.InitPower.set_params(As=A_s, ns=n_s)
    parameters.set_dark_energy(w=w0, wa=wa, dark_energy_model="ppf")
    parameters.set_matter_power(redshifts=REDSHIFTS, kmax=20.0, silent=True)
    parameters.set_accuracy(AccuracyBoost=2.0)
    results = camb.get_results(parameters)
    sigma_8 = results.get_sigma8()[::-1]  # CAMB goes forward in time
    return {
        "camb": results.get_matter_power_interpolator(nonlinear=False).P(0.0, K).tolist(),
        "camb_sigma_8": float(sigma_8[0]),
        "camb_growth": (sigma_8 / sigma_8[0]).tolist(),
        "omega_r": float(results.get_Omega("photon") + results.get_Omega("neutrino")),
    }


def formulae(omega_m: float, omega_b: float, h: float, **_: float) -> dict[str, list[float]]:
    arguments = (K, h, omega_m, omega_b, 2.7255)
    return {
        "transfer": power_spectrum.modelEisenstein98(*arguments).tolist(),
        "transfer_no_wiggle": power_spectrum.modelEisenstein98ZeroBaryon(*arguments).tolist(),
    }


if __name__ == "__main__":
    cases = [{**case, "camb": boltzmann(**case).tolist(), **formulae(**case)} for case in CASES]
    codes = {name: version(name) for name in ("camb", "colossus")}
    universes = [{**case, **universe(**case)} for case in UNIVERSES]
    content = {"codes": codes, "k": K.tolist(), "cases": cases, "redshifts": REDSHIFTS, "universes": universes}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
