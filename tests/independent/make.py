#!/usr/bin/env python3
"""Two small models of one shape, trained on the same text from different random weights, in different order: a victim
and the base of an adversary who has a model of that kind but not the victim's.

    tests/independent/make.py [first|second]     # writes first/ and second/ beside itself (minutes)

Runs in the environment of tests/interop (scripts/venv.sh). SOTTO_SHARED names the folder with models/tok512.bin and
eval/tinystories_sample.txt; SOTTO_BIN the program, for its tokenizer.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from noise import model, tune  # noqa: E402

SHARED = pathlib.Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared")) / "data"
SOTTO = os.environ.get("SOTTO_BIN", str(ROOT / "build" / "bin" / "sotto"))
SHAPE = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, rms_norm_eps=1e-5,
             rope_theta=10000.0, max_position_embeddings=256, bos_token_id=1)
N_FF, N_VOCAB, STEPS, RATE = 96, 512, 1500, 4e-3
SEEDS = {"first": 1, "second": 2}


def stories():
    """Rows of 128 ids, each the start of a story."""
    text = (SHARED / "eval" / "tinystories_sample.txt").read_text(encoding="utf-8", errors="replace")
    with tempfile.NamedTemporaryFile() as batch:
        batch.write(b"\0".join(d.strip().encode() for d in text.split("<|endoftext|>") if d.strip()) + b"\0")
        batch.flush()
        said = subprocess.run([SOTTO, "tokenize", SHARED / "models" / "tok512.bin", "--batch", batch.name, "--bos"],
                              capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line)[:128] for line in said.splitlines()]
    return torch.tensor([r for r in rows if len(r) == 128])


def start(seed):
    """Random weights; head and embedding are one."""
    torch.manual_seed(seed)
    d, w = SHAPE["hidden_size"], {}
    w["model.embed_tokens.weight"] = torch.randn(N_VOCAB, d) * .2
    for i in range(SHAPE["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            w[f"{at}self_attn.{name}.weight"] = torch.randn(d, d) * d ** -.5
        w[f"{at}mlp.gate_proj.weight"], w[f"{at}mlp.up_proj.weight"] = torch.randn(2, N_FF, d) * d ** -.5
        w[f"{at}mlp.down_proj.weight"] = torch.randn(d, N_FF) * N_FF ** -.5 * .3
        for name in ("input_layernorm", "post_attention_layernorm"):
            w[f"{at}{name}.weight"] = torch.ones(d)
    w["model.norm.weight"] = torch.ones(d)
    return model.Model(SHAPE, w)


def write(m, path):
    shutil.rmtree(path, ignore_errors=True)
    model.write(m, path)
    w = {n: t.bfloat16().contiguous() for n, t in m.w.items() if n != "lm_head.weight"}
    save_file(w, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    config.update(tie_word_embeddings=True, torch_dtype="bfloat16")
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def main():
    rows = stories()
    held_out, rows = rows[:128], rows[128:]
    for name, seed in SEEDS.items():
        if name not in (sys.argv[1:] or SEEDS):
            continue
        m = tune.tune(start(seed), rows, STEPS, RATE, seed)
        write(m, HERE / name)
        print(f"{name}: {len(rows)} rows, {tune.mean_loss(m, held_out):.3f} nats per token of held-out stories", flush=True)


if __name__ == "__main__":
    main()
