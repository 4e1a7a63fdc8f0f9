#!/usr/bin/env python3
"""Compares sotto's engine with llama.cpp on the same random-weight Llama shapes, on this machine, in one run.

    bench/engine_vs_llamacpp.py [--sotto build/bin/sotto] [--peer build/peer/bin] [--shapes 0.1B,0.5B] [--rounds 3]
        [--threads 2] [--work DIR] [--out FILE.csv]

Needs the peer's binaries (scripts/bench_peer.sh) and the Python packages numpy and gguf. The checkpoints are made once, in
--work, from a seed: a Hugging Face directory in bf16, and the same tensors as GGUF in BF16 and Q8_0 (rows of q and k are
not permuted as the converter would: the speed is the same, the text is noise either way). The two engines take turns, round
by round, so that a slow spell of the machine hits both; the median of the rounds counts.

Writes bench/results/engine_<cpu>.csv and prints each ratio beside its target. Exit status 1 when a target is missed."""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import time

import gguf
import numpy as np

SHAPES = {  # d_model, layers, heads, kv heads, d_ff, vocabulary
    "0.1B": (768, 12, 12, 4, 2048, 32000),
    "0.5B": (1024, 24, 16, 8, 5120, 32000),
}
N_CTX = 2048
PROMPT, GEN, BATCH = 512, 64, 8
KINDS = {"bf16": ("keep", "BF16"), "int8": ("int8", "Q8_0")}  # ours, theirs


def tensors(shape):
    """Names (Hugging Face, GGUF), shapes; norms are vectors."""
    d, n_layer, n_head, n_kv, ff, vocab = shape
    kv = d // n_head * n_kv
    yield "model.embed_tokens.weight", "token_embd.weight", (vocab, d)
    for i in range(n_layer):
        hf, gg = f"model.layers.{i}.", f"blk.{i}."
        yield hf + "input_layernorm.weight", gg + "attn_norm.weight", (d,)
        yield hf + "self_attn.q_proj.weight", gg + "attn_q.weight", (d, d)
        yield hf + "self_attn.k_proj.weight", gg + "attn_k.weight", (kv, d)
        yield hf + "self_attn.v_proj.weight", gg + "attn_v.weight", (kv, d)
        yield hf + "self_attn.o_proj.weight", gg + "attn_output.weight", (d, d)
        yield hf + "post_attention_layernorm.weight", gg + "ffn_norm.weight", (d,)
        yield hf + "mlp.gate_proj.weight", gg + "ffn_gate.weight", (ff, d)
        yield hf + "mlp.up_proj.weight", gg + "ffn_up.weight", (ff, d)
        yield hf + "mlp.down_proj.weight", gg + "ffn_down.weight", (d, ff)
    yield "model.norm.weight", "output_norm.weight", (d,)
    yield "lm_head.weight", "output.weight", (vocab, d)


def to_bf16(a):
    u = a.astype(np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(h):
    return (h.astype(np.uint32) << 16).view(np.float32)


def values(name, dims):
    """The same numbers whenever and wherever the tensor is made."""
    rng = np.random.default_rng([1, *name.encode()])
    if len(dims) == 1:
        return to_bf16(np.ones(dims, np.float32))
    return to_bf16(rng.standard_normal(dims, np.float32) * np.float32(0.02))


def write_hf(path, shape):
    d, n_layer, n_head, n_kv, ff, vocab = shape
    os.makedirs(path, exist_ok=True)
    with open(f"{path}/config.json", "w") as f:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d, "num_hidden_layers":
                   n_layer, "num_attention_heads": n_head, "num_key_value_heads": n_kv, "intermediate_size": ff,
                   "vocab_size": vocab, "max_position_embeddings": N_CTX, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                   "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1,
                   "eos_token_id": 2}, f, indent=1)
    head, at = {}, 0
    for name, _, dims in tensors(shape):
        size = 2 * int(np.prod(dims))
        head[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 64)
    with open(f"{path}/model.safetensors", "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, _, dims in tensors(shape):
            f.write(values(name, dims).tobytes())


def write_gguf(path, shape, kind):
    d, n_layer, n_head, n_kv, ff, vocab = shape
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("bench")
    w.add_context_length(N_CTX)
    w.add_embedding_length(d)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(ff)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_kv)
    w.add_rope_dimension_count(d // n_head)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("no_vocab")
    w.add_file_type({"BF16": gguf.LlamaFileType.MOSTLY_BF16, "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[kind])
    quant = {"BF16": gguf.GGMLQuantizationType.BF16, "Q8_0": gguf.GGMLQuantizationType.Q8_0}[kind]
    for name, gg, dims in tensors(shape):
        h = values(name, dims)
        if len(dims) == 1:
            w.add_tensor(gg, from_bf16(h))
        elif kind == "BF16":
            w.add_tensor(gg, h.view(np.uint8), raw_dtype=quant)
        else:
            w.add_tensor(gg, gguf.quants.quantize(from_bf16(h), quant), raw_dtype=quant)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def prepare(work, name):
    """Paths of (Hugging Face directory, {kind: GGUF file})."""
    shape = SHAPES[name]
    base = f"{work}/{name}"
    paths = base, {k: f"{base}-{their}.gguf" for k, (_, their) in KINDS.items()}
    if not os.path.exists(f"{base}/model.safetensors"):
        print(f"making {base}", file=sys.stderr)
        write_hf(base, shape)
    for k, (_, their) in KINDS.items():
        if not os.path.exists(paths[1][k]):
            print(f"making {paths[1][k]}", file=sys.stderr)
            write_gguf(paths[1][k] + ".tmp", shape, their)
            os.rename(paths[1][k] + ".tmp", paths[1][k])
    return paths


def run(cmd):
    r = subprocess.run(cmd, capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(cmd)}\nexit status {r.returncode}\n{r.stderr[-2000:]}")
    return r


def run_ours(a, model, kind, batch):
    r = run([a.sotto, "bench", "engine", model, "--json", "--dtype", KINDS[kind][0], "--threads", str(a.threads), "--prompt",
             str(PROMPT), "--gen", str(GEN), "--batch", str(batch)])
    return json.loads(r.stdout)


def run_peer(a, model, batch):
    """Tokens per second: (prefill, decode)."""
    if batch == 1:
        r = run([f"{a.peer}/llama-bench", "-m", model, "-t", str(a.threads), "-p", str(PROMPT), "-n", str(GEN), "-r", "1",
                 "-o", "json"])
        rows = json.loads(r.stdout)
        return (next(x["avg_ts"] for x in rows if x["n_gen"] == 0), next(x["avg_ts"] for x in rows if x["n_gen"] > 0))
    r = run([f"{a.peer}/llama-batched-bench", "-m", model, "-t", str(a.threads), "-tb", str(a.threads), "-c",
             str((PROMPT + GEN) * batch + 64), "-npp", str(PROMPT), "-ntg", str(GEN), "-npl", str(batch), "--output-format",
             "jsonl"])
    row = next(json.loads(line) for line in r.stdout.splitlines() if line.startswith("{"))
    return row["speed_pp"], row["speed_tg"]


def wall_ms(cmd):
    """Best of three whole processes that load the model and compute one token, the file in the page cache."""
    best = float("inf")
    for _ in range(3):
        start = time.monotonic()
        run(cmd)
        best = min(best, 1e3 * (time.monotonic() - start))
    return best


def load_ms(a, hf, file, kind):
    return (wall_ms([a.sotto, "logits", hf, "--ids", "1", "--json", "--dtype", KINDS[kind][0], "--threads", str(a.threads)]),
            wall_ms([f"{a.peer}/llama-bench", "-m", file, "-t", str(a.threads), "-p", "0", "-n", "1", "-r", "1", "--no-warmup",
                     "-o", "json"]))


def cpu_name():
    with open("/proc/cpuinfo") as f:
        text = f.read()
    name = re.search(r"model name\s*:\s*(.*)", text).group(1)
    family, model = (re.search(rf"{k}\s*:\s*(\d+)", text).group(1) for k in ("cpu family", r"model\t"))
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{name} family {family} model {model}").strip("-").lower()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sotto", default="build/bin/sotto")
    p.add_argument("--peer", default="build/peer/bin")
    p.add_argument("--shapes", default=",".join(SHAPES))
    p.add_argument("--kinds", default=",".join(KINDS))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--work", default="build/bench")
    p.add_argument("--out")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    a.out = a.out or f"bench/results/engine_{cpu_name()}.csv"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows, missed = [], 0
    for shape in a.shapes.split(","):
        hf, files = prepare(a.work, shape)
        for kind in a.kinds.split(","):
            got = {}
            for _ in range(a.rounds):
                one, many = run_ours(a, hf, kind, 1), run_ours(a, hf, kind, BATCH)
                pp, tg = run_peer(a, files[kind], 1)
                _, tg_many = run_peer(a, files[kind], BATCH)
                for k, v in {"prefill": one["prefill_tps"], "decode": one["decode_tps"], "decode8": many["decode_tps"],
                             "peer_prefill": pp, "peer_decode": tg, "peer_decode8": tg_many,
                             "read_gbps": one["read_gbps"], "roof_gbps": one["roof_gbps"]}.items():
                    got.setdefault(k, []).append(v)
            m = {k: statistics.median(v) for k, v in got.items()}
            # weight_bytes is what a token reads; the embedding, bf16 in every case, belongs to the weights too
            embed = 2 * SHAPES[shape][0] * SHAPES[shape][5]
            over = one["rss_bytes"] - one["weight_bytes"] - embed - one["kv_bytes"]
            checks = [("prefill 512, tokens/s", m["prefill"], m["peer_prefill"], 1.0, "min"),
                      ("decode, tokens/s", m["decode"], m["peer_decode"], 1.5, "min"),
                      (f"decode of {BATCH}, tokens/s", m["decode8"], m["peer_decode8"], 1.5, "min"),
                      ("start, load, one token, ms", *load_ms(a, hf, files[kind], kind), 1.0, "max"),
                      ("memory beyond weights and cache, MiB", over / 2**20, 64.0, 1.0, "max")]
            for what, ours, theirs, target, side in checks:
                ratio = ours / theirs
                ok = ratio >= target if side == "min" else ratio <= target
                missed += not ok
                print(f"{shape} {kind:5} {what:38} {ours:10.1f} {theirs:10.1f}  {ratio:5.2f}  "
                      f"(target {'>=' if side == 'min' else '<='} {target})  {'ok' if ok else 'MISSED'}")
                rows.append([commit, a.threads, shape, kind, what, f"{ours:.2f}", f"{theirs:.2f}", f"{ratio:.3f}", target, side])
            roof = m["read_gbps"] / m["roof_gbps"]
            print(f"{shape} {kind:5} decode reads {m['read_gbps']:.1f} of {m['roof_gbps']:.1f} GB/s: {roof:.2f} of the roof")
            rows.append([commit, a.threads, shape, kind, "part of the bandwidth roof", f"{m['read_gbps']:.2f}",
                         f"{m['roof_gbps']:.2f}", f"{roof:.3f}", "", ""])
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    with open(a.out, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["commit", "threads", "shape", "dtype", "what", "ours", "peer", "ratio", "target", "side"])
        w.writerows(rows)
    print(f"wrote {a.out}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
