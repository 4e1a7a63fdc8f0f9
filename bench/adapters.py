#!/usr/bin/env python3
"""What one LoRA adapter costs: `sotto bench engine` with an adapter to every linear layer, beside the same model without.

    bench/adapters.py [--sotto build/bin/sotto] [--shapes 0.1B,0.5B] [--ranks 16] [--rounds 5] [--gen 64] [--threads 2]
        [--work DIR] [--out FILE.csv]

Random weights (engine_vs_llamacpp.py), bf16 and int8; every request takes the adapter. The two take turns within a round,
and ratios (with / without) are the medians of the rounds' ratios, since the machine has slow spells. `roof` is what reading
the adapter's f32 matrices beside the base's weights would leave of decoding one sequence."""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

import numpy as np

from engine_vs_llamacpp import SHAPES, cpu_name, run, tensors, write_hf

PROMPT = 256


def write_adapter(path, shape, rank):
    """peft's files; returns the values of all matrices."""
    os.makedirs(path, exist_ok=True)
    head, at, values = {"__metadata__": {"format": "pt"}}, 0, []
    rng = np.random.default_rng(1)
    for name, _, dims in tensors(shape):
        if not name.endswith("_proj.weight"):
            continue
        n_out, n_in = dims
        module = f"base_model.model.{name.removesuffix('.weight')}"
        for side, rows, columns in (("A", rank, n_in), ("B", n_out, rank)):
            values.append((rng.standard_normal((rows, columns)) * 0.02).astype(np.float32))
            head[f"{module}.lora_{side}.weight"] = {"dtype": "F32", "shape": [rows, columns],
                                                    "data_offsets": [at, at + values[-1].nbytes]}
            at += values[-1].nbytes
    text = json.dumps(head).encode()
    with open(f"{path}/adapter_model.safetensors", "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for v in values:
            f.write(v.tobytes())
    with open(f"{path}/adapter_config.json", "w") as f:
        json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none", "target_modules":
                   ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}, f)
    return at


def measure(a, model, adapter, dtype, batch):
    cmd = [a.sotto, "bench", "engine", model, "--dtype", dtype, "--batch", str(batch), "--prompt", str(PROMPT), "--gen",
           str(a.gen), "--threads", str(a.threads), "--json", "-q"]
    rounds = []
    for _ in range(a.rounds):
        plain = json.loads(run(cmd).stdout)
        rounds.append((plain, json.loads(run([*cmd, "--adapter", adapter]).stdout)))
    median = {k: statistics.median(plain[k] for plain, _ in rounds) for k in ("prefill_tps", "decode_tps", "matrix_bytes")}
    ratio = {k: statistics.median(other[k] / plain[k] for plain, other in rounds) for k in ("prefill_tps", "decode_tps")}
    return median, ratio


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--shapes", default="0.1B,0.5B")
    p.add_argument("--ranks", default="16")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--gen", type=int, default=64)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--work", default="build/bench")
    p.add_argument("--out")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    a.out = a.out or f"bench/results/adapters_{cpu_name()}.csv"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = []
    for shape in a.shapes.split(","):
        model = f"{a.work}/{shape}"
        if not os.path.exists(f"{model}/model.safetensors"):
            print(f"making {model}", file=sys.stderr)
            write_hf(model, SHAPES[shape])
        for rank in map(int, a.ranks.split(",")):
            adapter = f"{model}-adapter-{rank}"
            size = write_adapter(adapter, SHAPES[shape], rank)
            for dtype in ("keep", "int8"):
                for batch in (1, 8):
                    m, r = measure(a, model, adapter, dtype, batch)
                    roof = m["matrix_bytes"] / (m["matrix_bytes"] + size)
                    rows.append([commit, f"{os.getloadavg()[0]:.1f}", shape, "bf16" if dtype == "keep" else dtype, rank, batch,
                                 f"{m['decode_tps']:.1f}", f"{r['decode_tps']:.3f}", f"{r['prefill_tps']:.3f}", f"{roof:.3f}"])
                    print("  ".join(f"{x:>8}" for x in rows[-1][1:]), flush=True)
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(["commit", "load", "shape", "dtype", "rank", "batch", "decode_per_s", "decode_ratio", "prefill_ratio", "roof"])
        w.writerows(rows)


if __name__ == "__main__":
    main()
