#!/usr/bin/env python3
"""What --harden costs in accuracy: perplexity, how far sampling shifts, and how often the most likely token stays.

    bench/harden_cost.py [--sotto build/bin/sotto] [--docs 100] [--out FILE.csv] MODEL[,TOKENIZER] ...  --text FILE

The text is cut at <|endoftext|>. Margins other than 0 let near ties fall; with 0 the most likely token stays by
construction. The perplexity is not compared where topk takes tokens away: `outside` says how many."""

import argparse
import csv
import json
import os
import subprocess
import sys

SETTINGS = ["", "noise=0.05", "noise=0.1", "noise=0.2", "noise=0.5", "noise=1", "noise=0.2,margin=0.5", "noise=0.5,margin=1", "round=8",
            "round=6", "round=4", "round=2", "round=1", "round=0", "topk=100", "topk=20", "topk=5", "topk=20,round=4,noise=0.2"]


def measure(a, model, setting):
    path, _, tokenizer = model.partition(",")
    cmd = [a.sotto, "eval", path, "--text", a.text, "--separator", "<|endoftext|>", "--max-docs", str(a.docs), "--json", "-q"]
    cmd += ["--tokenizer", tokenizer] if tokenizer else []
    cmd += ["--harden", setting] if setting else []
    return json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("models", nargs="+")
    p.add_argument("--text", required=True)
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--docs", type=int, default=100)
    p.add_argument("--out", default="bench/results/harden.csv")
    a = p.parse_args()
    rows = []
    for model in a.models:
        for setting in SETTINGS:
            m = measure(a, model, setting)
            row = [os.path.basename(model.partition(",")[0]), setting.replace(",", " ") or "none", f"{m['perplexity']:.4f}",
                   f"{m.get('kl', 0):.5f}", f"{m.get('top1_agreement', 1):.4f}", f"{m.get('tokens_outside', 0) / m['tokens']:.4f}"]
            print("  ".join(f"{x:>14}" for x in row))
            rows.append(row)
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["model", "harden", "perplexity", "kl", "top1", "outside"])
        w.writerows(rows)
    print(f"wrote {a.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
