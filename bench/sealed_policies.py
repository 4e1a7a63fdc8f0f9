#!/usr/bin/env python3
"""A sealed model with a worker under each policy, beside the enclave alone and the model that is not sealed, in one run.

    bench/sealed_policies.py [--sotto build/bin/sotto] [--shape 0.5B | --model DIR] [--schemes lwe,otp] [--rounds 3] [--gen 64]
        [--work DIR] [--out FILE.csv]

Random weights (engine_vs_llamacpp.py) unless a model is named. SecureInfer (LLaMA-2, SGX, a GPU) says 3.7 times the enclave's
tokens per second, and 2.06 times the time of the GPU alone. Without an accelerator the worker is no faster than the enclave:
then the first cannot be above one, and what shows is the cost of the way to the worker, beside its roofs. Medians of the
rounds count."""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

from engine_vs_llamacpp import SHAPES, cpu_name, run, write_hf

POLICIES = ["paper", "adapters"]
FIELDS = ["plain_tokens_per_s", "budget_100_tokens_per_s", "worker_tokens_per_s", "worker_of_all_inside", "worker_of_plain",
          "exchanges_per_token", "trusted_us", "worker_us", "link_us", "pad_us", "pad_wait_us", "roof_trusted", "roof_worker",
          "roof_link", "roof_pads", "roof_in_turn"]


def measure(a, model, policy, scheme):
    return json.loads(run([a.sotto, "bench", "sealed", model, "--spawn", "--policy", policy, "--scheme", scheme, "--budgets", "100",
                           "--gen", str(a.gen), "--json", "-q"]).stdout)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--shape", default="0.5B")
    p.add_argument("--model")
    p.add_argument("--schemes", default="lwe,otp")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--gen", type=int, default=64)
    p.add_argument("--work", default="build/bench")
    p.add_argument("--out")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    a.out = a.out or f"bench/results/sealed_policies_{cpu_name()}.csv"
    model = a.model or f"{a.work}/{a.shape}"
    if not a.model and not os.path.exists(f"{model}/model.safetensors"):
        print(f"making {model}", file=sys.stderr)
        write_hf(model, SHAPES[a.shape])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = []
    for policy in POLICIES:
        for scheme in a.schemes.split(","):
            got = [measure(a, model, policy, scheme) for _ in range(a.rounds)]
            m = {k: statistics.median(r[k] for r in got) for k in FIELDS}
            m["of_roof"] = statistics.median(r["worker_tokens_per_s"] / r["roof_in_turn"] for r in got)
            print(f"{policy:9} {scheme:4} {m['worker_tokens_per_s']:8.2f} tokens/s: {m['worker_of_all_inside']:.2f} of the enclave "
                  f"alone, {m['worker_of_plain']:.2f} of not sealed, {m['of_roof']:.2f} of its roof")
            rows += [[commit, os.path.basename(model), policy, scheme, k, f"{v:.3f}"] for k, v in m.items()]
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["commit", "model", "policy", "scheme", "what", "value"])
        w.writerows(rows)
    print(f"wrote {a.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
