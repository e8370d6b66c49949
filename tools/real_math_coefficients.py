#!/usr/bin/env python3
"""Prints the coefficients of kernels/base/real_math.h, so that they can be checked (needs mpmath)."""
from mpmath import cos, erfc, exp, factorial, log, mp, mpf, pi, sqrt

mp.dps = 50


def show(name, values):
    print(f"{name}: " + ", ".join(f"{float(v):.17g}" for v in values))


def erfcx_factor(t, k):
    """(1 + 2x) e^(x^2) erfc x as a function of t = (x - k) / (x + k), which maps [0, inf) to [-1, 1)."""
    if t == 1:
        return 2 / sqrt(pi)  # the limit
    x = k * (1 + t) / (1 - t)
    if x > 1000:  # asymptotic series; beyond the exponent range of the product otherwise
        s, term = mpf(0), mpf(1)
        for n in range(1, 12):
            s += term
            term *= -(2 * n - 1) / (2 * x * x)
        return (1 + 2 * x) * s / (x * sqrt(pi))
    return (1 + 2 * x) * exp(x * x) * erfc(x)


def chebyshev(f, degree, nodes=128):
    """Coefficients of the interpolant at Chebyshev nodes, cut off at a degree."""
    points = [cos(pi * (mpf(j) + mpf(1) / 2) / nodes) for j in range(nodes)]
    values = [f(p) for p in points]
    out = []
    for n in range(degree + 1):
        c = 2 * sum(v * cos(n * pi * (mpf(j) + mpf(1) / 2) / nodes) for j, v in enumerate(values)) / nodes
        out.append(c / 2 if n == 0 else c)
    return out


ln2 = log(mpf(2))
head = mpf(int(ln2 * 2**32)) / 2**32
show("ln 2, its first 32 bits, and the rest", [ln2, head, ln2 - head])
show("exp: 1/13! ... 1/2!", [1 / factorial(k) for k in range(13, 1, -1)])
show("log: 2/23 ... 2/3", [mpf(2) / (2 * k + 1) for k in range(11, 0, -1)])
show("sin(pi/2 r) / r in r^2", [(-1) ** k * (pi / 2) ** (2 * k + 1) / factorial(2 * k + 1) for k in range(9, -1, -1)])
show("cos(pi/2 r) in r^2", [(-1) ** k * (pi / 2) ** (2 * k) / factorial(2 * k) for k in range(9, -1, -1)])
show("erf x / x in x^2", [(-1) ** k * 2 / sqrt(pi) / factorial(k) / (2 * k + 1) for k in range(18, -1, -1)])
show("erfcx: Chebyshev, degree 24 ... 0, k = 3.75", chebyshev(lambda t: erfcx_factor(t, mpf("3.75")), 24)[::-1])
