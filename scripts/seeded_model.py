#!/usr/bin/env python3
"""Writes a model with random weights, the same for a seed: `scripts/seeded_model.py DIR [--seed N]`. It is larger than
the demo model and has its tokenizer; it says nothing of sense. `make leakage` attacks it beside trained ones: what
recovers ids here does not live on what training leaves in weights. Needs no packages."""
import argparse
import array
import json
import os
import random
import shutil
import sys

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "demo")
N_VOCAB, N_EMBD, N_LAYER, N_HEAD, N_KV, HEAD_DIM, N_FF = 4096, 384, 4, 6, 2, 64, 1024


def tensors():
    yield "model.embed_tokens.weight", (N_VOCAB, N_EMBD)
    for i in range(N_LAYER):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (N_EMBD,)
        yield layer + "self_attn.q_proj.weight", (N_HEAD * HEAD_DIM, N_EMBD)
        yield layer + "self_attn.k_proj.weight", (N_KV * HEAD_DIM, N_EMBD)
        yield layer + "self_attn.v_proj.weight", (N_KV * HEAD_DIM, N_EMBD)
        yield layer + "self_attn.o_proj.weight", (N_EMBD, N_HEAD * HEAD_DIM)
        yield layer + "post_attention_layernorm.weight", (N_EMBD,)
        yield layer + "mlp.gate_proj.weight", (N_FF, N_EMBD)
        yield layer + "mlp.up_proj.weight", (N_FF, N_EMBD)
        yield layer + "mlp.down_proj.weight", (N_EMBD, N_FF)
    yield "model.norm.weight", (N_EMBD,)
    yield "lm_head.weight", (N_VOCAB, N_EMBD)


def values(rng, dims):
    """Norms of one; matrices that keep the size of what passes through them."""
    if len(dims) == 1:
        out = array.array("f", [1.0]) * dims[0]
    else:
        deviation = dims[1] ** -0.5
        out = array.array("f", (rng.gauss(0, deviation) for _ in range(dims[0] * dims[1])))
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("dir")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    os.makedirs(a.dir, exist_ok=True)
    with open(os.path.join(DEMO, "config.json")) as f:
        config = json.load(f)
    config.update(vocab_size=N_VOCAB, hidden_size=N_EMBD, num_hidden_layers=N_LAYER, num_attention_heads=N_HEAD,
                  num_key_value_heads=N_KV, head_dim=HEAD_DIM, intermediate_size=N_FF, torch_dtype="float32")
    with open(os.path.join(a.dir, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    for name in ("generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(DEMO, name), a.dir)
    head, at = {}, 0
    for name, dims in tensors():
        size = 4
        for n in dims:
            size *= n
        head[name] = {"dtype": "F32", "shape": dims, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 64)
    rng = random.Random(a.seed)
    with open(os.path.join(a.dir, "model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, dims in tensors():
            f.write(values(rng, dims))


if __name__ == "__main__":
    main()
