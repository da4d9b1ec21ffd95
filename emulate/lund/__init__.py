"""The Lund string: a quark and its antiquark become hadrons. What simulators and emulators of hadronization share.

`generate` makes `Events` with their `History`; `String` and `Flavours` say of what, an `Emission` says how z is drawn.
"""

from emulate.lund.emission import AcceptReject, Condition, Emission
from emulate.lund.events import Events
from emulate.lund.flavours import Flavours
from emulate.lund.history import History
from emulate.lund.keyed import Keyed
from emulate.lund.loop import generate
from emulate.lund.string import String

__all__ = ["AcceptReject", "Condition", "Emission", "Events", "Flavours", "History", "Keyed", "String", "generate"]
