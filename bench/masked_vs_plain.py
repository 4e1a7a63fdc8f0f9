#!/usr/bin/env python3
"""Decoding through a worker on this machine against the plain int8 engine, in one run, and where each microsecond goes.

    bench/masked_vs_plain.py [--sotto build/bin/sotto] [--shapes 0.5B] [--schemes lwe,otp] [--rounds 3] [--gen 64]
        [--clients 1,2,4,8,16] [--work DIR] [--out FILE.csv]

This side and the plain engine have one CPU, the worker another; they talk through shared memory. Random weights
(engine_vs_llamacpp.py). Hints are made once per shape. Medians of the rounds count. Target: with one client at least 0.6 of
the plain engine's tokens per second. Exit status 1 when it is missed."""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

from engine_vs_llamacpp import SHAPES, cpu_name, run, write_hf

TARGET = 0.6
COSTS = ["token_us", "trusted_us", "mask_us", "meanwhile_us", "check_us", "unmask_us", "rest_us", "worker_us", "link_us", "pad_us", "pad_wait_us"]


def prepare(a, shape):
    """Paths of the model and of its hints."""
    model = f"{a.work}/{shape}"
    hints = model + ".hints"
    if not os.path.exists(f"{model}/model.safetensors"):
        print(f"making {model}", file=sys.stderr)
        write_hf(model, SHAPES[shape])
    if not os.path.exists(hints):
        print(f"making {hints}", file=sys.stderr)
        run([os.path.join(os.path.dirname(a.sotto), "sotto-worker"), "prepare", model, "--out", hints, "-q"])
    return model, hints


def measure(a, model, hints, scheme):
    cmd = [a.sotto, "bench", "masked", model, "--spawn", "--pin", "--scheme", scheme, "--gen", str(a.gen), "--clients", a.clients,
           "--json", "-q"]
    return json.loads(run(cmd + (["--hints", hints] if scheme == "lwe" else [])).stdout)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--shapes", default="0.5B")
    p.add_argument("--schemes", default="lwe,otp")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--gen", type=int, default=64)
    p.add_argument("--clients", default="1,2,4,8,16")
    p.add_argument("--work", default="build/bench")
    p.add_argument("--out")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    a.out = a.out or f"bench/results/masked_{cpu_name()}.csv"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows, missed = [], 0
    for shape in a.shapes.split(","):
        model, hints = prepare(a, shape)
        for scheme in a.schemes.split(","):
            got = [measure(a, model, hints, scheme) for _ in range(a.rounds)]
            m = {k: statistics.median(r[k] for r in got) if isinstance(v, float | int) else v for k, v in got[0].items()}
            missed += m["ratio"] < TARGET
            print(f"{shape} {m['scheme']:16} {m['tokens_per_s']:8.2f} tokens/s, plain {m['plain_tokens_per_s']:8.2f}: {m['ratio']:.2f}  "
                  f"(target >= {TARGET})  {'ok' if m['ratio'] >= TARGET else 'MISSED'}")
            print("    " + ", ".join(f"{k[:-3].replace('_', ' ')} {m[k]:.0f} us" for k in COSTS))
            print("    " + ", ".join(f"{n} clients {m[f'clients_{n}_tokens_per_s']:.1f}/s" for n in a.clients.split(",")))
            for k, v in m.items():
                if isinstance(v, float | int):
                    rows.append([commit, shape, m["scheme"], k, f"{v:.3f}"])
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["commit", "shape", "scheme", "what", "value"])
        w.writerows(rows)
    print(f"wrote {a.out}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
