#!/usr/bin/env python3
"""What noise in an obfuscated checkpoint costs, and what a server with the base weights still reads.

    scripts/noise_sweep.py                # both models, every setting; writes docs/noise_sweep.*
    scripts/noise_sweep.py --models demo --draws 1 --docs 20 --settings tight:0:0:0,tight:.2:.05:0 --out /tmp/x

For each model and setting: `sotto obfuscate`, then from the files alone the perplexity on TinyStories
(deciphered with the key), how often the most likely next token is the plain model's, and the share of
the vocabulary that each attack of scripts/noise/attacks.py recovers without the key. Scored on the
tokens that occur in the text: as types, and weighted by how often they occur. Two controls: without
noise every attack must recover all, and against an unrelated base (same shape, random weights) next to
nothing; the run fails otherwise. Seeds are fixed, keys too.

Runs in the environment of tests/interop (scripts/venv.sh). SOTTO_SHARED names the folder with
models/stories260K.bin, models/tok512.bin and eval/tinystories_sample.txt.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "interop")]

import cipher  # noqa: E402
from noise import attacks, model, report, tune  # noqa: E402

SHARED = pathlib.Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared")) / "data"
SOTTO = os.environ.get("SOTTO_BIN", str(ROOT / "build" / "bin" / "sotto"))
SEPARATOR = "<|endoftext|>"
ROTATED = [("tight", 0, 0, 0), ("tight", .1, .05, 0)]
TUNE = "AdamW, rate 1e-3 falling to 0, batches of 16 x 128 tokens, all weights"
# preset : alpha_e : alpha_h : noise on every matrix
SETTINGS = [("tight", e, h, 0) for e, h in
            ((0, 0), (.05, .05), (.1, .05), (.2, .05), (.5, .05), (1, .05), (0, .2), (.2, .2), (.5, .2), (1, .2), (2, 1))]
SETTINGS += [("tight", 0, 0, s) for s in (.02, .05, .1)]
SETTINGS += [("paper", e, h, 0) for e, h in ((0, 0), (.1, .05), (1, .2))]


def source(name):
    """Path of the model, path of its tokenizer."""
    if name == "demo":
        return ROOT / "models" / "demo", ROOT / "models" / "demo"
    return SHARED / "models" / "stories260K.bin", SHARED / "models" / "tok512.bin"


def sotto(*argv):
    r = subprocess.run([SOTTO, *map(str, argv)], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"noise_sweep: sotto {argv[0]}: {r.stderr.strip()}")
    return r.stdout


def write_key(path, label):
    """A key file whose seed is a hash of the label."""
    seed, key_id = (hashlib.sha256(f"{label} {part}".encode()).digest() for part in ("seed", "id"))
    cipher.write_key(path, key_id[:16], seed)
    return seed


def documents(tokenizer, text, n, n_ctx, tmp):
    docs = [d.strip() for d in text.read_text(encoding="utf-8", errors="replace").split(SEPARATOR)]
    batch = tmp / "docs"
    batch.write_bytes(b"\0".join(d.encode() for d in [d for d in docs if d][:n]) + b"\0")
    return [json.loads(line)[:n_ctx] for line in sotto("tokenize", tokenizer, "--batch", batch, "--bos").splitlines()]


def evaluate(m, docs, tau):
    """Nats per token and the most likely next token at every place, in plain ids."""
    back, nats, top = np.argsort(tau), 0.0, []
    for at in range(0, len(docs), 10):
        part = docs[at:at + 10]
        ids = np.zeros((len(part), max(map(len, part))), int)
        for row, doc in zip(ids, part):
            row[:len(doc)] = doc
        said = m.forward(tau[ids])
        for row, doc in zip(said, part):
            n = len(doc) - 1
            nats -= float(row[torch.arange(n), torch.as_tensor(tau[doc[1:]])].double().sum())
            top.append(back[row[:n].argmax(-1).numpy()])
    top = np.concatenate(top)
    return nats / len(top), top


class Bench:
    """One model, its text, and what is scored."""

    def __init__(self, name, a, tmp):
        self.name, self.tmp = name, tmp
        self.src, self.tokenizer = source(name)
        self.base = model.read(self.src)
        self.docs = documents(self.tokenizer, a.text, a.docs, self.base.n_ctx, tmp)
        self.n = self.base.n_vocab
        self.count = np.bincount(np.concatenate([d[1:] for d in self.docs]), minlength=self.n)
        self.types = np.flatnonzero(self.count)
        self.nats, self.top = evaluate(self.base, self.docs, np.arange(self.n))
        said = sotto("eval", self.src, "--text", a.text, "--separator", SEPARATOR, "--max-docs", a.docs, "--json",
                     *([] if self.src.is_dir() else ["--tokenizer", self.tokenizer]))
        engine = json.loads(said)["nats_per_token"]
        if abs(engine - self.nats) > 2e-3:
            sys.exit(f"noise_sweep: {name}: {self.nats:.5f} nats per token here, {engine:.5f} by sotto eval")

    def unrelated(self):
        """The same shape with random weights: an adversary with another model."""
        torch.manual_seed(1)
        return self.base.with_weights({k: torch.randn(t.shape) * t.std() + t.mean() if t.dim() == 2 else t
                                       for k, t in self.base.w.items()})

    def score(self, guess, tau):
        right = guess[tau] == np.arange(self.n)
        return float(right[self.types].mean()), float((right * self.count).sum() / self.count.sum())

    def compile(self, src, setting, seed):
        """The obfuscated model and its token cipher (plain id -> cipher id)."""
        preset, e, h, every = setting
        key, dst = self.tmp / "key", self.tmp / "dst"
        secret = write_key(key, f"noise sweep {self.name} {seed}")
        sotto("obfuscate", src, dst, "--key", key, "--preset", preset, "--alpha-e", e, "--alpha-h", h,
              "--noise-all", every, "--dtype", "f32")
        victim = model.read(dst)
        shutil.rmtree(dst)
        return victim, np.array(cipher.permutation(secret, cipher.model_digest(src), self.n))

    def attack(self, base, victim, tau, noise, seed):
        out = {"types": {}, "text": {}}
        for name, attack in attacks.ATTACKS.items():
            out["types"][name], out["text"][name] = self.score(attack(base, victim, noise, seed), tau)
        return out

    def draw(self, setting, seed, base=None):
        victim, tau = self.compile(self.src, setting, seed)
        nats, top = evaluate(victim, self.docs, tau)
        return {"perplexity": float(np.exp(nats)), "top1": float((top == self.top).mean()),
                **self.attack(base or self.base, victim, tau, attacks.Noise(*setting[1:]), seed)}

    def rotated(self, setting):
        """The server has no base, but the checkpoint that an earlier key made with the same settings: does it learn
        which new id is which old one?"""
        old, tau_old = self.compile(self.src, setting, 100)
        new, tau = self.compile(self.src, setting, 101)
        noise = attacks.Noise(*(2 ** .5 * x for x in setting[1:]))  # of both
        out = {"types": {}, "text": {}}
        for name, attack in attacks.ATTACKS.items():
            old_id = attack(old, new, noise, 0)
            out["types"][name], out["text"][name] = self.score(np.argsort(tau_old)[old_id], tau)
        return {"setting": setting, **out}

    def tuned(self, text, steps):
        """The victim is a fine-tune of the base on another text, obfuscated without noise."""
        ids = json.loads(sotto("tokenize", self.tokenizer, "--file", text, "--json"))["ids"]
        rows = torch.tensor(ids[:len(ids) // 128 * 128]).view(-1, 128)
        rows[:, 0] = self.base.bos
        held_out, rows = rows[:64], rows[64:]
        m, src = tune.tune(self.base, rows, steps), self.tmp / "tuned"
        model.write(m, src)
        victim, tau = self.compile(src, ("tight", 0, 0, 0), 0)
        shutil.rmtree(src)
        # Scored on the text that the victim is for; noise of the size that such a step leaves, as a guess.
        held = held_out[:, 1:].numpy().ravel()
        self.count, old = np.bincount(held, minlength=self.n), self.count
        self.types, old_types = np.flatnonzero(self.count), self.types
        step = tune.moved(self.base, m)
        out = {"steps": steps, "before": tune.mean_loss(self.base, held_out), "after": tune.mean_loss(m, held_out),
               "moved": step, **self.attack(self.base, victim, tau, attacks.Noise(step, step, step), 0)}
        self.count, self.types = old, old_types
        return out

    def row(self, setting, draws, base=None):
        runs = [self.draw(setting, seed, base) for seed in range(draws)]
        mean = lambda pick: float(np.mean([pick(r) for r in runs]))
        ppl = mean(lambda r: r["perplexity"])
        return {"model": self.name, "preset": "unrelated" if base else setting[0], "alpha_e": setting[1],
                "alpha_h": setting[2], "noise_all": setting[3], "draws": draws, "perplexity": ppl,
                "perplexity_change": ppl / float(np.exp(self.nats)) - 1, "top1": mean(lambda r: r["top1"]),
                "types": {n: mean(lambda r: r["types"][n]) for n in attacks.ATTACKS},
                "text": {n: mean(lambda r: r["text"][n]) for n in attacks.ATTACKS}, "chance": 1 / self.n}


def check_controls(rows):
    """No attack is silently broken, and none knows the answer."""
    for r in rows:
        clean = r["preset"] == "tight" and not (r["alpha_e"] or r["alpha_h"] or r["noise_all"])
        for name, score in r["types"].items():
            if (clean and score < .98) or (r["preset"] == "unrelated" and score > .03):
                sys.exit(f"noise_sweep: control failed: {r['model']}, {name}: {100 * score:.1f} % of the types "
                         f"{'without noise' if clean else 'against an unrelated base'}")


def page(done, a, command):
    out = ["# Noise: what it costs, what it hides", "", f"Made by `{command}`; figures in [noise_sweep.csv]"
           f"({a.out.name}.csv). What the settings and attacks are: [covariant.md](covariant.md).", "",
           f"![Accuracy against recovery]({a.out.name}.svg)", ""]
    for b, rows, rotated, tuned in done:
        out += [f"## {b.name}",
                f"Vocabulary {b.n}; scored on the {len(b.types)} tokens that occur in the text ({a.docs} stories, "
                f"{sum(map(len, b.docs)) - len(b.docs)} predicted tokens; plain perplexity {np.exp(b.nats):.4f}). "
                f"Keys per setting: {a.draws}. Attacks: per cent of types / of the text recovered; chance "
                f"{100 / b.n:.2f}. Unrelated base: the same attack by a server with random weights of this shape.", "",
                report.table(rows),
                "Rotation: the server has no base, but kept the checkpoint of the last key. Share of the new ids that it "
                "matches with their old ones, so that what it counted under the old key still counts:", "",
                report.rotated_table(rotated)]
        if tuned:
            out += [f"The victim is a private fine-tune of the base on {a.tune_text.name} ({TUNE}), obfuscated without "
                    "noise; the server has the base only. Scored on the tokens of held-out parts of that text.", "",
                    report.tuned_table(tuned)]
    return "\n".join(out).rstrip() + "\n"


def write(done, a, command):
    by_model = [rows for _, rows, _, _ in done]
    report.write_csv(a.out.with_suffix(".csv"), [r for rows in by_model for r in rows], command)
    a.out.with_suffix(".svg").write_text(report.picture(by_model, command))
    a.out.with_suffix(".md").write_text(page(done, a, command))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", default="stories260K,demo")
    p.add_argument("--text", type=pathlib.Path, default=SHARED / "eval" / "tinystories_sample.txt")
    p.add_argument("--docs", type=int, default=100)
    p.add_argument("--draws", type=int, default=2)
    p.add_argument("--settings", help="preset:alpha_e:alpha_h:noise_all, apart by commas; default: all")
    p.add_argument("--tune", default="30,300", help="steps of fine-tuned victims; empty: none")
    p.add_argument("--tune-text", type=pathlib.Path, default=SHARED / "eval" / "tinyshakespeare.txt")
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "noise_sweep")
    a = p.parse_args()
    settings = SETTINGS
    if a.settings:
        settings = [(s.split(":")[0], *map(float, s.split(":")[1:])) for s in a.settings.split(",")]
    command = "scripts/noise_sweep.py" + "".join(f" {x}" for x in sys.argv[1:])
    done = []
    with tempfile.TemporaryDirectory() as tmp:
        for name in a.models.split(","):
            if not source(name)[0].exists():
                print(f"{name}: {source(name)[0]} is not here; skipped", file=sys.stderr)
                continue
            b, rows = Bench(name, a, pathlib.Path(tmp)), []
            for s in [*settings, None]:
                start = time.monotonic()
                rows.append(b.row(s, a.draws) if s else b.row(("tight", 0, 0, 0), 1, b.unrelated()))
                print(f"{name} {report.setting(rows[-1])}: perplexity {report.change(rows[-1]['perplexity_change'])}, "
                      + ", ".join(f"{n} {100 * v:.1f} %" for n, v in rows[-1]["types"].items())
                      + f" ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
            check_controls(rows)
            rotated = [b.rotated(s) for s in ROTATED]
            tuned = [b.tuned(a.tune_text, int(steps)) for steps in a.tune.split(",") if steps]
            done.append((b, rows, rotated, tuned))
            write(done, a, command)  # after each model: the next one takes its time


if __name__ == "__main__":
    main()
