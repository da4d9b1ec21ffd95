"""The settings of Pythia under which its string is that of `emulate.lund`, and those of e+ e- -> Z -> hadrons."""

from emulate.errors import InputError
from emulate.lund.flavours import Flavours
from emulate.lund.string import KINDS, String

QUARKS = {"d": 1, "u": 2, "s": 3, "c": 4, "b": 5}

_SHARED = {"strangeness": "StringFlav:probStoUD", "vector": "StringFlav:mesonUDvector", "eta": "StringFlav:etaSup",
           "vector_strange": "StringFlav:mesonSvector", "eta_prime": "StringFlav:etaPrimeSup",
           "diquark": "StringFlav:probQQtoQ"}  # fmt: skip

_HEAVY = {"c": 1.5, "b": 4.8}  # GeV
_ALONE = ("ProcessLevel:all = off",)  # strings are put in, nothing else happens
_Z = ("Beams:idA = 11", "Beams:idB = -11", "PDF:lepton = off", "WeakSingleBoson:ffbar2gmZ = on", "23:onMode = off",
     "23:onIfAny = 1 2 3 4 5")  # fmt: skip


def plain(string: String) -> tuple[str, ...]:
    """Lines that make Pythia's string the one that `string` describes.

    By default one break in a hundred has twice the width of transverse momentum, resonances have a width of mass, hadrons
    decay, and ends that are strange or hold a diquark have another a: all that is switched off.

    >>> plain(String())[:2]
    ('ProcessLevel:all = off', 'HadronLevel:Decay = off')
    """
    own = (("StringFragmentation:stopMass", string.stop), ("StringFragmentation:stopNewFlav", string.stop_new),
           ("StringFragmentation:stopSmear", string.smear))  # fmt: skip
    flavours = ((setting, getattr(string.flavours, name)) for name, setting in _SHARED.items())
    switched = ("HadronLevel:Decay = off", "StringPT:enhancedFraction = 0", "StringZ:aExtraSQuark = 0",
                "StringZ:aExtraDiquark = 0", "ParticleData:modeBreitWigner = 0")  # fmt: skip
    return (*_ALONE, *switched, *(f"{name} = {value!r}" for name, value in (*own, *flavours)))


def lines(process: str, energy: float, ends: str, flavours: str) -> tuple[str, ...]:
    """The lines of a process; the energy in GeV is checked where it is that of a string.

    Raises:
        InputError: the string is too light to be cut.
    """
    if process == "z":
        return (*_Z, f"Beams:eCM = {energy!r}")
    if ends in _HEAVY:
        least = 1.2 * (0.8 + 2 * _HEAVY[ends] + 1.0)
        if energy < least:
            raise InputError(f"pythia: energy must be at least {least:.4g} GeV for a string between {ends} and its antiquark. Got "
                             f"{energy} GeV; raise it.")  # fmt: skip
        return _ALONE if flavours == "all" else plain(String(energy=energy, flavours=KINDS[flavours]))
    string = String(energy=energy, ends=ends, flavours=KINDS.get(flavours, Flavours()))
    return _ALONE if flavours == "all" else plain(string)
