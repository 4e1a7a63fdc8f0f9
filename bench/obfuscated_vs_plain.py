#!/usr/bin/env python3
"""Compares an obfuscated checkpoint with its plain source on the same stock engine, in one run: time per token of decode,
and time to the first token of a prompt of 512.

    bench/obfuscated_vs_plain.py [--sotto build/bin/sotto] [--peer build/peer/bin] [--shapes 0.1B] [--rounds 3] [--threads 2]
        [--work DIR] [--out FILE.csv]

The engines are llama.cpp (scripts/bench_peer.sh) and our own. Both files are bf16, of random weights
(engine_vs_llamacpp.py). Plain and obfuscated take turns; medians count. Target: (d + 2h) / d x 1.02, the growth of the
hidden size. Exit status 1 when it is missed.

Both are read from the disk anew first, as on a server that they were copied to: the pages of a file that was just written
lie scattered in memory, more so the rows of an obfuscated one, and a scattered page costs a few per cent more to read."""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys

from engine_vs_llamacpp import PROMPT, SHAPES, cpu_name, prepare, run, run_ours, run_peer


def obfuscate(a, name, hf):
    """Paths of the obfuscated (Hugging Face directory, GGUF file), and the new hidden size."""
    key, base = f"{a.work}/bench.key", f"{a.work}/{name}-obfuscated"
    if not os.path.exists(key):
        run([a.sotto, "key", "new", key, "-q"])
    for path, form in ((base, "hf"), (base + ".gguf", "gguf")):
        if not os.path.exists(path):
            print(f"making {path}", file=sys.stderr)
            run([a.sotto, "obfuscate", hf, path, "--key", key, "--format", form, "--dtype", "bf16", "-q"])
    with open(f"{base}/config.json") as f:
        return base, base + ".gguf", json.load(f)["hidden_size"]


def read_anew(path):
    files = [path] if os.path.isfile(path) else [os.path.join(path, f) for f in os.listdir(path) if f.endswith(".safetensors")]
    for name in files:
        fd = os.open(name, os.O_RDWR)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while os.read(fd, 8 << 20):
            pass
        os.close(fd)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--peer", default="build/peer/bin")
    p.add_argument("--shapes", default="0.1B")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--work", default="build/bench")
    p.add_argument("--out")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    a.out = a.out or f"bench/results/obfuscated_{cpu_name()}.csv"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows, missed = [], 0
    for shape in a.shapes.split(","):
        hf, files = prepare(a.work, shape)
        wide_hf, wide_file, wide = obfuscate(a, shape, hf)
        bound = wide / SHAPES[shape][0] * 1.02
        got = {}
        for path in (hf, files["bf16"], wide_hf, wide_file):
            read_anew(path)
        for _ in range(a.rounds):
            for engine, paths in (("llama.cpp", (files["bf16"], wide_file)), ("sotto", (hf, wide_hf))):
                for which, path in zip(("plain", "obfuscated"), paths):
                    if engine == "sotto":
                        r = run_ours(a, path, "bf16", 1)
                        prefill, decode = r["prefill_tps"], r["decode_tps"]
                    else:
                        prefill, decode = run_peer(a, path, 1)
                    got.setdefault((engine, "decode, ms per token"), {}).setdefault(which, []).append(1e3 / decode)
                    got.setdefault((engine, f"first token of {PROMPT}, ms"), {}).setdefault(which, []).append(1e3 * PROMPT / prefill)
        for (engine, what), v in got.items():
            plain, obfuscated = (statistics.median(v[k]) for k in ("plain", "obfuscated"))
            ratio = obfuscated / plain
            missed += ratio > bound
            print(f"{shape} {engine:10} {what:26} {plain:9.2f} {obfuscated:9.2f}  {ratio:.3f}  (target <= {bound:.3f})  "
                  f"{'ok' if ratio <= bound else 'MISSED'}")
            rows.append([commit, a.threads, shape, engine, what, f"{plain:.3f}", f"{obfuscated:.3f}", f"{ratio:.3f}", f"{bound:.3f}"])
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["commit", "threads", "shape", "engine", "what", "plain", "obfuscated", "ratio", "target"])
        w.writerows(rows)
    print(f"wrote {a.out}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
