#!/usr/bin/env python3
"""Are the rows of an audit stable over seeds? Runs `sotto audit demo` once per seed and compares each row's scores.

Each seed draws other keys, noise, texts, pairs and starts; a row's interval covers the counting only. Of two draws of the
same thing a score lies in the other's 95 % interval 83 times of 100 (their difference has twice the variance), and the
intervals miss each other 6 times of 1,000. Printed: the share of pairs whose score lies in the other's interval, and the
rows whose intervals miss each other; the exit status is 1 when more than --limit of the pairs do.

usage: scripts/audit_seeds.py [--sotto build/bin/sotto] [--seeds 1,2,3,4,5] [--limit 0.05] [--keep DIR] [AUDIT OPTIONS]
e.g.   scripts/audit_seeds.py --keep /tmp/seeds --adversary worker
With --keep, the JSON of each seed is kept in DIR, and a seed that is there already is not run again.
"""
import argparse
import itertools
import json
import os
import subprocess
import sys


def audit(sotto, seed, options, keep):
    path = os.path.join(keep, f"seed{seed}.json") if keep else None
    if path and os.path.exists(path):
        return json.load(open(path))
    command = [sotto, "audit", "demo", "--seed", str(seed), "--json", "--quiet", *options]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if run.returncode:
        sys.exit(f"{' '.join(command)}: exit status {run.returncode}")
    if path:
        os.makedirs(keep, exist_ok=True)
        with open(path, "wb") as f:
            f.write(run.stdout)
    return json.loads(run.stdout)


def by_name(found):
    rows = {}
    for r in found["rows"]:
        rows[r["attack"], r["variant"], r.get("x")] = r
    return rows


def within(a, b):
    """a's score in b's interval; figures are printed to 6 digits."""
    return b["ci"][0] - 1e-6 <= a["score"] <= b["ci"][1] + 1e-6


def apart(a, b):
    return a["ci"][0] > b["ci"][1] + 1e-6 or b["ci"][0] > a["ci"][1] + 1e-6


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--seeds", default="1,2,3,4,5")
    p.add_argument("--limit", type=float, default=0.05)
    p.add_argument("--keep")
    a, options = p.parse_known_args()
    seeds = [int(s) for s in a.seeds.split(",")]
    found = [by_name(audit(a.sotto, s, options, a.keep)) for s in seeds]
    names = [n for n in found[0] if all(n in f for f in found)]
    elsewhere = {n for f in found for n in f} - set(names)
    n_pair = n_within = n_apart = 0
    worst = []
    for n in names:
        rows = [f[n] for f in found]
        pairs = list(itertools.combinations(rows, 2))
        misses = sum(apart(x, y) for x, y in pairs)
        n_pair += len(pairs)
        n_within += sum(within(x, y) + within(y, x) for x, y in pairs)
        n_apart += misses
        if misses:
            scores = [r["score"] for r in rows]
            worst.append((max(scores) - min(scores), n, scores, rows[0]["ci"]))
    if not n_pair:
        sys.exit("no row is in the audits of all seeds")
    print(f"{len(names)} rows, seeds {a.seeds}: {n_within / (2 * n_pair):.1%} of the scores lie in another seed's interval, "
          f"{n_apart / n_pair:.2%} of the pairs of intervals miss each other")
    for spread, n, scores, ci in sorted(worst, reverse=True, key=lambda w: w[0]):
        print(f"  {n[0]}, {n[1]}: " + " ".join(f"{s:.3f}" for s in scores) + f" (one interval: {ci[0]:.3f} to {ci[1]:.3f})")
    for n in sorted(elsewhere, key=str):
        print(f"  not of all seeds: {n[0]}, {n[1]}")
    return 1 if n_apart / n_pair > a.limit else 0


if __name__ == "__main__":
    sys.exit(main())
