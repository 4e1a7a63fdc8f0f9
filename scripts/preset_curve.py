#!/usr/bin/env python3
"""Each parameter of `sotto obfuscate` varied alone: what it costs, and what `sotto audit` still reads from the checkpoint.

    scripts/preset_curve.py                      # both models; writes docs/preset_curve.md and .csv
    scripts/preset_curve.py --models demo --draws 1 --out /tmp/x

For each setting and key: perplexity on TinyStories (deciphered with the key, as scripts/noise_sweep.py does) over the
plain model's, and the best score, over its variants, of each attack on weights, of `function`, which runs both models,
and of `frequency` and `substitution`, which have ids and other text of the kind: share of the text's token types
recovered. Two controls: attacks with the base recover all from the default, and the cost of a setting without noise is
nothing. Homophones need a model that can have them, which stories260K is and the demo model is not.

Environment and SOTTO_SHARED as for scripts/noise_sweep.py.
"""
import argparse
import csv
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np

import noise_sweep
from noise import model
from noise_sweep import Bench, evaluate, sotto, write_key

WITH_BASE = ["vma-row-sort", "vma-columns", "gate-ia", "attn-ia", "nearest", "function"]
ATTACKS = [*WITH_BASE, "frequency", "substitution"]
LARGE = ["vma-row-sort", "vma-columns"]  # that the larger model takes
DOCS_CHARS = 30000  # of the text that is scored on; what the adversary has read is four times as much, behind it
# What is varied, beside the default of the preset that follows; whether the larger model takes part.
SETTINGS = [("tight, the default", {}, True)]
SETTINGS += [(f"alpha_e {v:g}", {"alpha-e": v}, v == 1) for v in (.1, .5, 1)]
SETTINGS += [(f"alpha_e .1, homophones {v}", {"alpha-e": .1, "homophones": v}, False) for v in (1, 4)]
SETTINGS += [("alpha_h .5", {"alpha-h": .5}, False)]
SETTINGS += [(f"noise on all others {v:g}", {"noise-all": v}, v == .2) for v in (.1, .2)]
SETTINGS += [("alpha_e 1, alpha_h .5, all others .2", {"alpha-e": 1, "alpha-h": .5, "noise-all": .2}, True)]
SETTINGS += [(f"h {v}", {"h": v}, False) for v in (16, 64)]
SETTINGS += [(f"paper without noise, lambda {v:g}", {"preset": "paper", "alpha-e": 0, "alpha-h": 0, "lambda": v}, False)
             for v in (0, 1)]
SETTINGS += [("paper without noise, beta 0", {"preset": "paper", "alpha-e": 0, "alpha-h": 0, "beta": 0}, False)]
SETTINGS += [("paper", {"preset": "paper"}, True)]


def best(rows, attack):
    """The best variant's share of token types."""
    return max((r["score"] for r in rows if r["attack"] == attack and r["variant"].endswith("types")), default=None)


def tried(b):
    return LARGE if b.name == "demo" else ATTACKS


def run(b, a, options, seed):
    key, dst = b.tmp / "key", b.tmp / "dst"
    secret = write_key(key, f"preset curve {b.name} {seed}")
    flags = [x for name, value in options.items() for x in (f"--{name}", value)]
    sotto("obfuscate", b.src, dst, "--key", key, "--dtype", "f32", *flags)
    seen = model.read(dst)  # of homophones the permutation has more ids; texts keep to the first
    tau = np.array(noise_sweep.cipher.permutation(secret, noise_sweep.cipher.model_digest(b.src), seen.n_vocab))
    nats, _ = evaluate(seen, b.docs, tau)
    rows = json.loads(sotto("audit", b.src, dst, "--key", key, "--tokenizer", b.tokenizer, "--text", b.tmp / "scored",
                            "--prior", b.tmp / "read", "--attacks", ",".join(tried(b)), "--seed", seed + 1,
                            "--threads", 1, "--json"))["rows"]
    shutil.rmtree(dst)
    return {"cost": float(np.exp(nats - b.nats) - 1), **{x: best(rows, x) for x in tried(b)}}


def measure(b, a, label, options):
    runs = [run(b, a, options, seed) for seed in range(a.draws)]
    mean = {k: float(np.mean([r[k] for r in runs])) for k in runs[0]}
    most = max(mean[k] for k in tried(b))
    least = min(mean[k] for k in tried(b) if k in WITH_BASE)
    if not options and (least < .98 or abs(mean["cost"]) > .01):
        sys.exit(f"preset_curve: control failed: {b.name}: {least:.3f} recovered of the default, cost {mean['cost']:.3f}")
    return {"model": b.name, "setting": label, "draws": a.draws, "cost": mean["cost"],
            **{x: mean.get(x, "") for x in ATTACKS}, "strongest": most}


def cost(v):
    if abs(v) < 5e-4:
        return "0 %"
    return f"{100 * v:+.1f} %" if v < 1 else f"times {1 + v:.3g}"


def page(rows, command):
    out = ["# One parameter at a time", "", f"Made by `{command}`; figures in [preset_curve.csv](preset_curve.csv). "
           "Cost: perplexity on TinyStories over the plain model's. Attacks of `sotto audit`: best variant's share of the "
           f"text's token types recovered, per cent; keys per setting: {rows[0]['draws']}; chance 0.2 (stories260K) and 0.05 "
           "(demo). What the attacks are: [audit.md](audit.md); what the parameters are: [covariant.md](covariant.md).", ""]
    for name in dict.fromkeys(r["model"] for r in rows):
        out += [f"## {name}", "", "| setting | cost | " + " | ".join(ATTACKS) + " | strongest |",
                "|---" * (len(ATTACKS) + 3) + "|"]
        out += [f"| {r['setting']} | {cost(r['cost'])} | " +
                " | ".join(f"{100 * r[x]:.0f}" if r[x] != "" else "" for x in [*ATTACKS, "strongest"]) + " |" for r in rows if r["model"] == name]
        out.append("")
    return "\n".join(out).rstrip() + "\n"


def write(rows, out, command):
    with out.with_suffix(".csv").open("w", newline="") as f:
        f.write(f"# {command}\n")
        w = csv.writer(f, lineterminator="\n")
        w.writerow(rows[0])
        w.writerows([f"{v:.4g}" if isinstance(v, float) else v for v in r.values()] for r in rows)
    out.with_suffix(".md").write_text(page(rows, command))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", default="stories260K,demo")
    p.add_argument("--text", type=pathlib.Path, default=noise_sweep.SHARED / "eval" / "tinystories_sample.txt")
    p.add_argument("--docs", type=int, default=30)
    p.add_argument("--draws", type=int, default=1)
    p.add_argument("--out", type=pathlib.Path, default=noise_sweep.ROOT / "docs" / "preset_curve")
    a = p.parse_args()
    command, rows = "scripts/preset_curve.py" + "".join(f" {x}" for x in sys.argv[1:]), []
    with tempfile.TemporaryDirectory() as tmp:
        for name in a.models.split(","):
            b = Bench(name, a, pathlib.Path(tmp))
            text = a.text.read_text(encoding="utf-8", errors="replace")
            (b.tmp / "scored").write_text(text[:DOCS_CHARS])
            (b.tmp / "read").write_text(text[DOCS_CHARS:5 * DOCS_CHARS])
            for label, options, large in SETTINGS:
                if name == "demo" and not large:
                    continue
                rows.append(measure(b, a, label, options))
                print(rows[-1], file=sys.stderr, flush=True)
                write(rows, a.out, command)


if __name__ == "__main__":
    main()
