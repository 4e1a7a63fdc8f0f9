#!/usr/bin/env python3
"""How fast `sotto obfuscate` compiles, against the f32 GEMM rate that OpenBLAS reaches on this machine in the same run.

    bench/obfuscate_rate.py [--sotto build/bin/sotto] [--gemm build/bin/bench_gemm] [--rounds 3] [--threads 2]
        [--memory 256M,2G] [--work DIR] [--out FILE.csv]

Needs numpy. Makes a random Llama of 0.5B in bf16 (once, in --work, as engine_vs_llamacpp.py does), then round by round
measures the GEMM rate, compiles (preset tight), and measures the GEMM rate again; medians count. GFLOP are those that
the algebra asks for (keys times weights; drawing keys is not counted). Rates per second of wall time are what a user
waits for and say little on a busy machine; rates per second of CPU time leave out other processes and waiting. Memory
is the highest resident size, without key matrices, against --memory. Times of larger models are their GFLOP over the
measured rate: what is predicted is the compilation of tensors, on a disk that keeps up.

Writes bench/results/obfuscate_<cpu>.csv and prints each figure beside its target. Exit status 1 when one is missed."""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import types

try:
    import gguf  # noqa: F401  (only engine_vs_llamacpp.py needs it)
except ImportError:
    sys.modules["gguf"] = types.ModuleType("gguf")
from engine_vs_llamacpp import cpu_name, run, write_hf, SHAPES  # noqa: E402

TARGET = 0.70
# d_model, layers, heads, kv heads, head_dim, d_ff, vocabulary, h
LARGER = {"Llama 8B": (4096, 32, 32, 8, 128, 14336, 128256, 128), "Qwen2.5 14B": (5120, 48, 40, 8, 128, 13824, 152064, 120),
          "Llama 70B": (8192, 80, 64, 8, 128, 28672, 128256, 128)}
PAPER = ("Qwen2.5 14B", 96, 3.43)  # cores, minutes (arXiv 2603.01499)


def gflop(shape):
    """The products of st_cov_part_flop(): readers with folding their key, writers, mixing inside heads."""
    d, layers, heads, kv, dh, ff, vocab, h = shape
    wide, spare = d + 2 * h, 2 * h
    reads = [heads * dh, kv * dh, kv * dh, ff, ff]
    per_layer = sum(2 * n * d * wide + 2 * d * spare * wide for n in reads) + 2 * (heads * dh + ff) * d * wide
    per_layer += 2 * d * dh * dh * (2 * heads + 2 * kv)
    return 1e-9 * (layers * per_layer + 2 * 2 * vocab * d * wide + 2 * d * spare * wide)


def size(text):
    return int(text[:-1]) << {"M": 20, "G": 30}[text[-1]]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--gemm", default="build/bin/bench_gemm")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--memory", default="256M,2G")
    p.add_argument("--work", default="build/bench")
    p.add_argument("--out")
    a = p.parse_args()
    os.environ.pop("OPENBLAS_CORETYPE", None)  # a slower kernel than the machine's
    os.makedirs(a.work, exist_ok=True)
    a.out = a.out or f"bench/results/obfuscate_{cpu_name()}.csv"
    src, dst, key = f"{a.work}/0.5B", f"{a.work}/0.5B.cov", f"{a.work}/bench.key"
    if not os.path.exists(f"{src}/model.safetensors"):
        print(f"making {src}", file=sys.stderr)
        write_hf(src, SHAPES["0.5B"])
    if not os.path.exists(key):
        run([a.sotto, "key", "new", key])

    def gemm():
        return json.loads(run([a.gemm, str(a.threads), "2048", "2"]).stdout)

    def compile_once(memory):
        shutil.rmtree(dst, ignore_errors=True)
        r = json.loads(run([a.sotto, "obfuscate", src, dst, "--key", key, "--memory", memory, "--threads", str(a.threads),
                            "--json"]).stdout)
        shutil.rmtree(dst)
        return r

    rows = []
    for memory in a.memory.split(","):
        got = {}
        for _ in range(a.rounds):
            before, c, after = gemm(), compile_once(memory), gemm()
            top = max(before["gflops"], after["gflops"]), max(before["gflop_per_cpu_second"], after["gflop_per_cpu_second"])
            for k, v in {"GEMM, GFLOP/s": top[0], "GEMM, GFLOP per CPU second": top[1],
                         "compile, GFLOP/s": c["gflop"] / c["tensor_seconds"],
                         "compile, GFLOP per CPU second": c["gflop"] / c["tensor_cpu_seconds"],
                         "compile, part of the GEMM rate": c["gflop"] / c["tensor_seconds"] / top[0],
                         "compile, part of the GEMM rate per CPU second": c["gflop"] / c["tensor_cpu_seconds"] / top[1],
                         "GFLOP": c["gflop"], "seconds, tensors": c["tensor_seconds"], "seconds, all": c["seconds"],
                         "MiB beyond key matrices": (c["peak_rss_bytes"] - c["key_bytes"]) / 2**20}.items():
                got.setdefault(k, []).append(v)
        m = {k: statistics.median(v) for k, v in got.items()}
        for k, v in m.items():
            target = TARGET if k.startswith("compile, part") else size(memory) / 2**20 if k.startswith("MiB") else ""
            rows.append(["0.5B", memory, k, v, target, ">=" if target == TARGET else "<=" if target else ""])
    rate = m["compile, GFLOP per CPU second"]
    for name, shape in LARGER.items():
        rows.append([name, "", "GFLOP", gflop(shape), "", ""])
        rows.append([name, "", f"predicted minutes, {a.threads} idle cores", gflop(shape) / rate / a.threads / 60, "", ""])
    name, cores, minutes = PAPER
    rows.append([name, "", f"predicted minutes, {cores} such cores, if they scaled", gflop(LARGER[name]) / rate / cores / 60, "", ""])
    rows.append([name, "", f"the paper's minutes, {cores} cores (2 x Xeon 8457C)", minutes, "", ""])

    missed = 0
    for shape, memory, what, v, target, side in rows:
        ok = True if side == "" else v >= target if side == ">=" else v <= target
        missed += not ok
        verdict = f"(target {side} {target:g})  {'ok' if ok else 'MISSED'}" if side else ""
        print(f"{shape:12} {memory:5} {what:48} {v:10.3f}  {verdict}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["commit", "threads", "shape", "memory", "what", "value", "target", "side"])
        w.writerows([commit, a.threads, s, mem, what, f"{v:.3f}", t, side] for s, mem, what, v, t, side in rows)
    print(f"wrote {a.out}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
