"""The M/M/1 queue: arrivals at rate a, services of mean s, one server.

The time in the system is exponential with rate 1/s - a, so its mean is T = s / (1 - a s) and dT/ds = 1 / (1 - a s)^2 = 4
at a = 1/2, s = 1. The wait before service obeys W_(i+1) = max(0, W_i + S_i - A_(i+1)) (Lindley 1952), solved by
W_i = U_i - min_(j <= i) U_j with U the walk of S - A. A path is continuous in s, and its slope is the sum of the services
since the server was last idle, over s: infinitesimal perturbation analysis (Ho & Cao 1983; Suri & Zazanis 1988), which is
unbiased here. Started empty, the mean over a block of c customers is below T by a share of 1/c.
"""

RATE, SERVICE = 0.5, 1.0


def time_in_system(s: float = SERVICE) -> tuple[float, float]:
    """T and dT/ds."""
    return s / (1 - RATE * s), 1 / (1 - RATE * s) ** 2
