"""A program as one meets them: reads an input file, writes a table and a summary, says when it is done.

python3 oscillator.py input.ini
"""

import configparser
import math
import sys
from pathlib import Path

settings = configparser.ConfigParser()
settings.read(sys.argv[1])
a, g, w = (settings.getfloat("oscillator", k) for k in ("amplitude", "damping", "frequency"))

Path("out").mkdir()
with open("out/wave.txt", "w") as f:
    print("# t x v", file=f)
    for n in range(1, 13):
        t = 0.5 * n
        x = a * math.exp(-g * t) * math.cos(w * t)
        v = -g * x - a * w * math.exp(-g * t) * math.sin(w * t)
        print(f"{t:6.2f} {x:.12e} {v:.12e}", file=f)
Path("out/summary.json").write_text(f'{{"energy": {{"start": {a * a * (w * w + g * g) / 2!r}}}}}')
print("converged")
