#!/usr/bin/env python3
"""Core-SVP strength of LWE parameter sets: the smaller of the primal and the dual attack.

Model: Alkim, Ducas, Poeppelmann, Schwabe, "Post-quantum key exchange - a new hope" (USENIX Security 2016), section 6:
one call of a sieve in the block dimension b, 2^(0.292 b) classical and 2^(0.265 b) quantum. Secret and error have the
same deviation; the attacker picks the best number of samples. Not modelled: hybrid attacks, reduction that is shared by
many targets under one basis, the structure of module sets.

  scripts/lwe_estimate.py          prints a table
  scripts/lwe_estimate.py --check  also compares Kyber's published figures and src/field/lwe_params.def; 1 = differs
"""
import math
import os
import re
import sys

Q = 2**32 - 2**20 + 1
CLASSICAL, QUANTUM = 0.292, 0.265
DEF = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "field", "lwe_params.def")


def log_delta(b):
    """log2 of the root Hermite factor of BKZ with blocks of b."""
    return math.log2((math.pi * b) ** (1 / b) * b / (2 * math.pi * math.e)) / (2 * (b - 1))


def primal_succeeds(q, n, sigma, samples, b):
    """The short vector shows in the last block, in a lattice of some number of samples."""
    short, log_q, step = math.log2(sigma * math.sqrt(b)), math.log2(q), log_delta(b)
    first = max(1, b - n)
    return any(short <= step * (2 * b - dim - 1) + log_q * (dim - n - 1) / dim
               for dim in range(n + first + 1, n + samples + 2))


def primal(q, n, sigma, samples, cost):
    low, high = 60, n + samples
    while low < high:
        b = (low + high) // 2
        if primal_succeeds(q, n, sigma, samples, b):
            high = b
        else:
            low = b + 1
    return cost * low


def dual(q, n, sigma, samples, cost):
    """Short vectors of the dual distinguish; a sieve gives 2^(0.2075 b) of them, the rest by repetition."""
    best = math.inf
    for b in range(60, n + samples):
        if cost * b > best:
            break
        step, log_q = log_delta(b), math.log2(q)
        dim = min(n + samples, max(n + 1, round(math.sqrt(n * log_q / step))))
        length = step * (dim - 1) + log_q * n / dim
        tau = 2**length * sigma / q
        log_advantage = 2 - 2 * math.pi**2 * tau**2 * math.log2(math.e)
        best = min(best, cost * b + max(0, -2 * log_advantage - 0.2075 * b))
    return best


def bits(n, sigma, q=Q, samples=None):
    """(classical, quantum), rounded to whole bits. None: as many samples as the attacker wants."""
    samples = samples or 4 * n
    return tuple(round(min(primal(q, n, sigma, samples, c), dual(q, n, sigma, samples, c)))
                 for c in (CLASSICAL, QUANTUM))


def read_sets(path=DEF):
    """Rows of lwe_params.def: (name, m, sigma, module, classical, quantum)."""
    row = re.compile(r'^ST_LWE\("([^"]+)", (\d+), ([\d.]+), (true|false), (\d+), (\d+), "[^"]*"\)$', re.M)
    return [(name, int(m), float(sigma), module == "true", int(c), int(s))
            for name, m, sigma, module, c, s in row.findall(open(path, encoding="utf-8").read())]


def check():
    good = True
    for name, n, want in (("Kyber-768", 768, (182, 180)), ("Kyber-1024", 1024, (255, 253))):
        got = round(primal(3329, n, 1.0, n, CLASSICAL)), round(dual(3329, n, 1.0, n, CLASSICAL))
        good &= got == want
        print(f"{name}: primal {got[0]}, dual {got[1]}" + ("" if got == want else f"; want {want[0]}, {want[1]}"))
    for name, m, sigma, module, classical, quantum in read_sets():
        got = bits(m, sigma)
        good &= got == (classical, quantum)
        kind = "module" if module else "plain"
        print(f"{name}: {kind}, {got[0]} classical, {got[1]} quantum" +
              ("" if got == (classical, quantum) else f"; lwe_params.def says {classical}, {quantum}"))
    return good


def table():
    sigmas = (3.2, 6.4, 12.8, 18.0)
    print("bits classical/quantum   " + "".join(f"sigma {s:<6}" for s in sigmas))
    for m in (1024, 1152, 1280, 1408, 1536):
        print(f"m {m:<22} " + "".join("{}/{}".format(*bits(m, s)).ljust(12) for s in sigmas))


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    table()
    if sys.argv[1:] and not check():
        sys.exit(1)
