"""The Lund string once more, slow and plain: one event at a time, four-momenta as lists, z under a flat hat.

It shares no line with `emulate.lund` and was written from the rules alone (Sjostrand, "The Lund Monte Carlo for jet
fragmentation", 1982; Bierlich et al. 2022, section 7.1): flavours are drawn and refused one by one, and the mass that is
left is taken from the sum of the hadrons.
"""

import math
import random

CONSTITUENT = {"u": 0.325, "d": 0.325, "s": 0.5}
PSEUDOSCALAR = {("u", "d"): ("pi+", 0.13957), ("u", "s"): ("K+", 0.49368), ("d", "s"): ("K0", 0.49761)}
VECTOR = {("u", "d"): ("rho+", 0.77549), ("u", "s"): ("K*+", 0.89166), ("d", "s"): ("K*0", 0.89594)}
CHARGED = {"pi+", "K+", "rho+", "K*+"}


class Twin:
    def __init__(self, a, b, sigma, *, energy=91.2, seed=0, pions=False):
        self.a, self.b, self.sigma, self.energy = a, b, sigma, energy
        self.random = random.Random(seed)
        self.pions = pions

    def event(self):
        """A list of hadrons (name, [E, px, py, pz])."""
        while True:
            hadrons = self.attempt()
            if hadrons is not None:
                return hadrons

    def attempt(self):
        w = self.energy
        end = [{"q": "u", "p": (0.0, 0.0), "left": 1.0, "used": 0.0} for _ in range(2)]
        left = [w, 0.0, 0.0, 0.0]
        hadrons = []
        while True:
            i = 0 if self.random.random() < 0.5 else 1
            mine = end[i]
            q, name, mass = self.new_hadron(mine["q"])
            k = [self.random.gauss(0.0, self.sigma / math.sqrt(2)) for _ in range(2)]
            pt = [mine["p"][0] + k[0], mine["p"][1] + k[1]]
            mt2 = mass**2 + pt[0] ** 2 + pt[1] ** 2
            if left[0] < 0:
                return None
            w2 = left[0] ** 2 - left[1] ** 2 - left[2] ** 2 - left[3] ** 2
            stop = 0.8 + CONSTITUENT[end[0]["q"]] + CONSTITUENT[end[1]["q"]] + 2.0 * CONSTITUENT[q]
            if w2 < (stop * self.random.uniform(0.8, 1.2)) ** 2:
                break
            z = self.z(mt2)
            forward = z * mine["left"] * w
            backward = mt2 / forward
            if backward >= (1 - mine["used"]) * w:
                return None
            pz = 0.5 * (forward - backward) * (1 if i == 0 else -1)
            p = [0.5 * (forward + backward), pt[0], pt[1], pz]
            hadrons.append((name, p))
            left = [x - y for x, y in zip(left, p)]
            mine.update(q=q, p=(-k[0], -k[1]), left=mine["left"] * (1 - z), used=mine["used"] + backward / w)
        if w2 <= 0:
            return None
        return self.last_two(end, i, left, w2, k, q, name, mass, hadrons)

    def last_two(self, end, i, left, w2, k, q, name, mass, hadrons):
        other = end[1 - i]
        for _ in range(1000):
            found = self.hadron(other["q"], q)
            if found:
                break
        else:
            return None
        pt = [[end[i]["p"][0] + k[0], end[i]["p"][1] + k[1]], [other["p"][0] - k[0], other["p"][1] - k[1]]]
        mt2 = [m**2 + p[0] ** 2 + p[1] ** 2 for m, p in zip((mass, found[1]), pt)]
        wt2 = w2 + left[1] ** 2 + left[2] ** 2
        if math.sqrt(wt2) <= math.sqrt(mt2[0]) + math.sqrt(mt2[1]):
            return None
        lam = math.sqrt((wt2 - mt2[0] - mt2[1]) ** 2 - 4 * mt2[0] * mt2[1])
        sign = 1 if i == 0 else -1  # the first of the two belongs to end i and flies to its side
        if self.random.random() < 1 / (1 + math.exp(min(50.0, self.b * lam))):
            sign = -sign
        mt_left = math.sqrt(wt2)
        momentum = 0.5 * lam / mt_left  # in the frame where what is left has no pz
        rapidity = math.atanh(left[3] / left[0])
        for (px, py), m2, direction, who in zip(pt, mt2, (sign, -sign), (name, found[0])):
            e, pz = math.sqrt(m2 + momentum**2), direction * momentum
            hadrons.append((who, [e * math.cosh(rapidity) + pz * math.sinh(rapidity), px, py,
                                  e * math.sinh(rapidity) + pz * math.cosh(rapidity)]))  # fmt: skip
        return hadrons

    def z(self, mt2):
        """Under the highest value of f, found where its logarithm is flat: z^2 (a - 1) + z (1 + c) - c = 0."""
        a, c = self.a, self.b * mt2
        top = 2 * c / (1 + c + math.sqrt((1 - c) ** 2 + 4 * a * c))  # the root of the quadratic that is below 1

        def f(z):
            return (1 - z) ** a / z * math.exp(-c / z + c / top)

        while True:
            z = self.random.random()
            if 0 < z < 1 and self.random.random() * f(top) < f(z):
                return z

    def new_hadron(self, q):
        while True:
            strange = 0.0 if self.pions else 0.217
            new = self.random.choices("uds", (1, 1, strange))[0]
            found = self.hadron(q, new)
            if found:
                return new, *found

    def hadron(self, q, new):
        """A hadron of a quark and an antiquark, or None where it is refused; charge and strangeness by sign are left out."""
        if self.pions:
            if q != new:
                return PSEUDOSCALAR["u", "d"]
            return ("pi0", 0.13498) if self.random.random() < 0.5 else None
        ratio = 0.55 if "s" in (q, new) else 0.5
        vector = self.random.random() < ratio / (1 + ratio)
        if q != new:
            return (VECTOR if vector else PSEUDOSCALAR)[tuple(sorted((q, new), key="uds".index))]
        # |eta> = cos(x) |light> - sin(x) |strange>, and likewise for omega and phi, the light part half in the mean
        x = math.radians((36.0 if vector else -15.0) + 54.7)
        if vector:
            light, names = math.sin(x) ** 2, (("omega", 0.78265), ("phi", 1.01946))
        else:
            light, names = math.cos(x) ** 2, (("eta", 0.54785), ("eta'", 0.95778))
        if q != "s" and self.random.random() < 0.5:
            return ("rho0", 0.77549) if vector else ("pi0", 0.13498)
        share = light if q != "s" else 1 - light
        name, mass = names[0] if self.random.random() < share else names[1]
        if self.random.random() > {"eta": 0.6, "eta'": 0.12}.get(name, 1.0):
            return None
        return name, mass
