#!/usr/bin/env python3
"""A sealed model within several budgets of decrypted memory, beside all of it decrypted and beside the model that is not
sealed, in one run.

    bench/sealed_vs_plain.py [--sotto build/bin/sotto] [--shapes 0.1B,0.5B] [--rounds 3] [--gen 32] [--budgets 50,25,10]
        [--threads 2] [--work DIR] [--out FILE.csv]

Random weights (engine_vs_llamacpp.py), everything inside. Rates are the medians of the rounds, ratios those of the ratios
within each round, since the machine has slow spells. Target: decryption at 80 % or more of the cipher alone, per thread.
Exit status 1 when it is missed."""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

from engine_vs_llamacpp import SHAPES, cpu_name, run, write_hf

TARGET = 0.8


def measure(a, shape):
    model = f"{a.work}/{shape}"
    if not os.path.exists(f"{model}/model.safetensors"):
        print(f"making {model}", file=sys.stderr)
        write_hf(model, SHAPES[shape])
    cmd = [a.sotto, "bench", "sealed", model, "--gen", str(a.gen), "--budgets", a.budgets, "--threads", str(a.threads), "--json", "-q"]
    rounds = [json.loads(run(cmd).stdout) for _ in range(a.rounds)]
    return {k: statistics.median(r[k] for r in rounds) if isinstance(v, (int, float)) else v for k, v in rounds[0].items()}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--shapes", default="0.1B,0.5B")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--gen", type=int, default=32)
    p.add_argument("--budgets", default="50,25,10")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--work", default="build/bench")
    p.add_argument("--out")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    a.out = a.out or f"bench/results/sealed_{cpu_name()}.csv"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows, missed = [], 0
    for shape in a.shapes.split(","):
        m = measure(a, shape)
        load = f"{os.getloadavg()[0]:.1f}"
        rows.append([commit, load, shape, "plain", "", f"{m['plain_tokens_per_s']:.1f}", f"{m['plain_prefill_tokens_per_s']:.1f}", "", ""])
        for b in ["100", *[x for x in a.budgets.split(",") if x != "100"]]:
            k = f"budget_{b}_"
            rows.append([commit, load, shape, f"{b} %", f"{m[k + 'bytes'] / 2**20:.1f}", f"{m[k + 'tokens_per_s']:.1f}",
                         f"{m[k + 'prefill_tokens_per_s']:.1f}", f"{m[k + 'of_all_inside']:.3f}", f"{m[k + 'of_plain']:.3f}"])
        good = m["decrypt_ratio"] >= TARGET
        missed += not good
        print(f"{shape}: decrypts {m['decrypt_gbps']:.2f} GB/s per thread, the cipher alone {m['aes_gbps']:.2f}: "
              f"{m['decrypt_ratio']:.2f} (target {TARGET}){'' if good else '  MISSED'}")
        rows.append([commit, load, shape, "decryption GB/s", "", f"{m['decrypt_gbps']:.2f}", "", f"{m['decrypt_ratio']:.3f}", ""])
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(["commit", "load", "shape", "what", "mib", "decode_per_s", "prefill_per_s", "of_all_decrypted_or_cipher", "of_plain"])
        w.writerows(rows)
    for r in rows:
        print("  ".join(f"{x:>12}" for x in r[2:]))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
