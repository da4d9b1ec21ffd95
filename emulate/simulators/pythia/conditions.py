"""The settings of Pythia under which its string is that of `emulate.lund`, and those of e+ e- -> Z -> hadrons."""

from emulate.lund.string import String

QUARKS = {"d": 1, "u": 2, "s": 3, "c": 4, "b": 5}

_SHARED = {"strangeness": "StringFlav:probStoUD", "vector": "StringFlav:mesonUDvector", "eta": "StringFlav:etaSup",
           "vector_strange": "StringFlav:mesonSvector", "eta_prime": "StringFlav:etaPrimeSup",
           "diquark": "StringFlav:probQQtoQ"}  # fmt: skip

ALONE = ("ProcessLevel:all = off",)  # strings are put in, nothing else happens
Z = ("Beams:idA = 11", "Beams:idB = -11", "PDF:lepton = off", "WeakSingleBoson:ffbar2gmZ = on", "23:onMode = off",
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
    return (*ALONE, *switched, *(f"{name} = {value!r}" for name, value in (*own, *flavours)))
