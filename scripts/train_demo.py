#!/usr/bin/env python3
"""Trains the small demo model: a Llama-architecture story writer with its own tokenizer.

    python scripts/train_demo.py --text tinystories_sample.txt --out models/demo --seed 1

The text is UTF-8 with stories split by <|endoftext|>. The first 300 stories are the validation
set and are seen by neither the tokenizer trainer nor the optimizer; a last story without its
closing mark is cut off and left out. One row of a batch is one story: BOS, its tokens, EOS, at
most 512 tokens, so positions in training are the positions in use.

Writes a Hugging Face checkpoint directory (weights rounded to bf16), training_log.csv and the
model card. What is kept is the averaged weights (EMA) at the best validation loss. With --steps
the run is a function of the seed on one kind of CPU and thread count; --minutes only cuts it short.
"""
import argparse
import contextlib
import csv
import json
import math
import os
import random
import time

# Threads that wait do not spin: other work may share the cores. Must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

EOT = "<|endoftext|>"
N_HELD_OUT = 300
CONTEXT = 512
VOCAB = 2048
HIDDEN = 192
LAYERS = 6
HEADS = 6
KV_HEADS = 2
HEAD_DIM = 32
FFN = 512
ROPE_THETA = 10000.0
NORM_EPS = 1e-5

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)


# ---- text and tokenizer -------------------------------------------------------------------------

def read_stories(path):
    """Returns (train, validation) lists of story texts."""
    with open(path, encoding="utf-8", newline="") as f:
        parts = f.read().split(EOT)
    stories = [s for s in (p.strip() for p in parts[:-1]) if s]
    tail = parts[-1].strip()
    if tail:
        print(f"left out: last story without {EOT}, {len(tail)} characters")
    return stories[N_HELD_OUT:], stories[:N_HELD_OUT]


def train_tokenizer(stories):
    """Byte-level BPE with the GPT-2 split; id 0 is EOT, which is both BOS and EOS."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[EOT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(stories, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{EOT} $A", pair=f"{EOT} $A $B", special_tokens=[(EOT, tok.token_to_id(EOT))]
    )
    assert tok.get_vocab_size() == VOCAB and tok.token_to_id(EOT) == 0
    return tok


def encode_rows(tok, stories, with_eos):
    rows = []
    for ids in tok.encode_batch(stories):
        rows.append((ids.ids + [0] * with_eos)[:CONTEXT])
    return rows


def pad_rows(rows):
    """rows -> inputs [n, t], targets [n, t]; -100 marks what is not predicted."""
    t = max(len(r) for r in rows) - 1
    x = torch.zeros(len(rows), t, dtype=torch.long)
    y = torch.full((len(rows), t), -100, dtype=torch.long)
    for i, r in enumerate(rows):
        r = torch.tensor(r)
        x[i, : len(r) - 1] = r[:-1]
        y[i, : len(r) - 1] = r[1:]
    return x, y


def epoch_batches(rows, n_rows, rng):
    """Batches of stories of about equal length, in random order."""
    order = list(range(len(rows)))
    rng.shuffle(order)
    batches = []
    span = n_rows * 16
    for i in range(0, len(order), span):
        part = sorted(order[i : i + span], key=lambda j: len(rows[j]))
        batches += [part[j : j + n_rows] for j in range(0, len(part), n_rows)]
    rng.shuffle(batches)
    for b in batches:
        yield [rows[j] for j in b]


# ---- model: tensor names are those of the checkpoint --------------------------------------------

class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), NORM_EPS)


def rotate(x, cos, sin):
    """x [b, heads, t, d]; pairs are (i, i + d/2), as in the published Llama checkpoints."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, HEADS, HEAD_DIM).transpose(1, 2)
        k = self.k_proj(x).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2)
        v = self.v_proj(x).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k = k.repeat_interleave(HEADS // KV_HEADS, dim=1)
        v = v.repeat_interleave(HEADS // KV_HEADS, dim=1)
        # Written out: at these sizes faster on a CPU than the fused kernel's backward pass.
        scores = (q * HEAD_DIM**-0.5) @ k.transpose(-1, -2) + mask
        y = torch.softmax(scores, dim=-1, dtype=scores.dtype) @ v
        return self.o_proj(y.transpose(1, 2).reshape(b, t, HEADS * HEAD_DIM))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.up_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.down_proj = nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.self_attn = Attention()
        self.mlp = MLP()
        self.input_layernorm = RMSNorm(HIDDEN)
        self.post_attention_layernorm = RMSNorm(HIDDEN)
        self.dropout = dropout

    def forward(self, x, cos, sin, mask):
        h = self.self_attn(self.input_layernorm(x), cos, sin, mask)
        x = x + F.dropout(h, self.dropout, self.training)
        h = self.mlp(self.post_attention_layernorm(x))
        return x + F.dropout(h, self.dropout, self.training)


class Body(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(LAYERS))
        self.norm = RMSNorm(HIDDEN)
        self.dropout = dropout

    def forward(self, ids, cos, sin, mask):
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled("cpu"):
            x = x.bfloat16()
        x = F.dropout(x, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return F.dropout(self.norm(x), self.dropout, self.training)


class Llama(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.model = Body(dropout)
        self.lm_head = nn.Linear(HIDDEN, VOCAB, bias=False)
        freq = ROPE_THETA ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
        angle = torch.outer(torch.arange(CONTEXT, dtype=torch.float64), freq)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if deep else 0.02)

    def forward(self, ids, targets, reduction="mean"):
        t = ids.shape[1]
        cos, sin, mask = self.cos[:t], self.sin[:t], self.mask[:t, :t]
        if torch.is_autocast_enabled("cpu"):
            cos, sin, mask = cos.bfloat16(), sin.bfloat16(), mask.bfloat16()
        h = self.model(ids, cos, sin, mask)
        keep = targets.flatten() != -100
        logits = self.lm_head(h.flatten(0, 1)[keep])
        return F.cross_entropy(logits.float(), targets.flatten()[keep], reduction=reduction)


# ---- training -----------------------------------------------------------------------------------

def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@torch.no_grad()
def evaluate(model, rows, fast):
    """Mean nats per token after BOS, EOS not counted. fast uses bf16 arithmetic."""
    model.eval()
    total, n = 0.0, 0
    rows = sorted(rows, key=len)
    for i in range(0, len(rows), 20):
        x, y = pad_rows(rows[i : i + 20])
        with autocast() if fast else contextlib.nullcontext():
            total += model(x, y, reduction="sum").item()
        n += int((y != -100).sum())
    model.train()
    return total / n, n


def make_optimizers(model, args):
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms."""
    inner, table, plain = [], [], []
    for name, p in model.named_parameters():
        if p.dim() < 2:
            plain.append(p)
        elif name.startswith("model.layers.") and args.muon:
            inner.append(p)
        else:
            table.append(p)
    opts = [torch.optim.AdamW(
        [{"params": table, "weight_decay": args.weight_decay},
         {"params": plain, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.95), eps=1e-8)]
    if inner:
        opts.append(torch.optim.Muon(inner, lr=args.muon_lr, momentum=0.95,
                                     weight_decay=args.muon_decay))
    for o in opts:
        for g in o.param_groups:
            g["base_lr"] = g["lr"]
    return opts


def lr_scale(step, n_steps):
    warm = min(100, n_steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))


def train(args, train_rows, val_rows, save):
    """Runs the steps; calls save(ema_state) at each new best validation loss. Returns log rows."""
    rng = random.Random(args.seed)
    model = Llama(args.dropout)
    ema_model = Llama(0.0)
    ema_model.load_state_dict(model.state_dict())
    print(f"parameters: {sum(p.numel() for p in model.parameters())}")
    opts = make_optimizers(model, args)
    log, best, start = [], float("inf"), time.time()
    step, epoch, recent, timed_out = 0, 0, [], False
    while step < args.steps and not timed_out:
        epoch += 1
        for rows in epoch_batches(train_rows, args.batch, rng):
            scale = lr_scale(step, args.steps)
            x, y = pad_rows(rows)
            with autocast():
                loss = model(x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for o in opts:
                for g in o.param_groups:
                    g["lr"] = g["base_lr"] * scale
                o.step()
                o.zero_grad(set_to_none=True)
            step += 1
            decay = min(args.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for e, p in zip(ema_model.parameters(), model.parameters()):
                    e.lerp_(p, 1 - decay)
            recent.append(loss.item())
            timed_out = time.time() - start > args.minutes * 60
            if step % args.eval_every == 0 or step == args.steps or timed_out:
                val, _ = evaluate(ema_model, val_rows, fast=True)
                mean = sum(recent) / len(recent)
                recent = []
                secs = time.time() - start
                log.append([step, f"{mean:.4f}", f"{val:.4f}", f"{args.lr * scale:.6f}",
                            f"{secs:.0f}"])
                print(f"step {step}/{args.steps} epoch {epoch} train {mean:.4f} val {val:.4f} "
                      f"lr {args.lr * scale:.5f} {secs:.0f} s", flush=True)
                if val < best:
                    best = val
                    save(ema_model.state_dict(), log)
            if step >= args.steps or timed_out:
                break
    return log


# ---- files --------------------------------------------------------------------------------------

def write_json(path, obj):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        json.dump(obj, f, indent=2, ensure_ascii=False)
        f.write("\n")


def write_config(out, tok):
    tok.save(os.path.join(out, "tokenizer.json"))
    write_json(os.path.join(out, "config.json"), {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": FFN,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": NORM_EPS,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCAB,
    })
    write_json(os.path.join(out, "generation_config.json"), {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    })
    write_json(os.path.join(out, "special_tokens_map.json"),
               {"bos_token": EOT, "eos_token": EOT})
    write_json(os.path.join(out, "tokenizer_config.json"), {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {"0": {
            "content": EOT, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True}},
        "bos_token": EOT,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOT,
        "model_max_length": CONTEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })


def write_log(out, log):
    with open(os.path.join(out, "training_log.csv"), "w", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(["step", "train_loss", "val_loss", "lr", "seconds"])
        w.writerows(log)


def samples(out, seed):
    """Two continuations of the saved directory, by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    texts = []
    for prompt, opts in (
        ("Once upon a time", {"do_sample": False}),
        ("One day, a little dog named Max", {"do_sample": True, "temperature": 0.8, "top_p": 0.95}),
    ):
        torch.manual_seed(seed)
        ids = tok(prompt, return_tensors="pt").input_ids
        y = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=300,
                           pad_token_id=0, **opts)
        texts.append(tok.decode(y[0], skip_special_tokens=True))
    return texts


def write_card(out, args, facts, texts):
    quote = ["\n".join("> " + line if line else ">" for line in t.split("\n")) for t in texts]
    card = f"""---
license: other
language: en
datasets: [roneneldan/TinyStories]
library_name: transformers
pipeline_tag: text-generation
---
# Sotto demo model

A small Llama-architecture model that continues the start of a short children's story. It ships
with Sotto so that every command can be tried without a download. It knows nothing beyond simple
stories; do not use it for anything else.

| | |
|---|---|
| parameters | {facts['params']:,} (bf16, {facts['bytes']:,} bytes) |
| shape | {LAYERS} layers, hidden {HIDDEN}, {HEADS} heads of {HEAD_DIM}, {KV_HEADS} key/value heads, ffn {FFN}, context {CONTEXT}, head not tied |
| tokenizer | byte-level BPE, {VOCAB} tokens, GPT-2 split; `{EOT}` (id 0) is BOS and EOS |
| training text | {facts['n_train']:,} stories of TinyStories, {facts['train_tokens']:,} tokens |
| steps kept | {facts['best_step']} of {args.steps} ({facts['epochs']:.1f} passes over the text) |
| validation | the 300 held-out stories, {facts['val_tokens']:,} predicted tokens |
| validation loss of the bf16 weights | **{facts['loss']:.4f} nats per token** (perplexity {math.exp(facts['loss']):.3f}) |
| the same per byte | **{facts['bpb']:.4f} bits per byte** |

Measured in f32 arithmetic with the rounded weights. Each held-out story is BOS and its tokens, cut
to {CONTEXT} in all; every token after BOS is predicted, EOS is not. Bits per byte divides by the UTF-8
bytes of the predicted tokens. Neither tokenizer nor weights saw the held-out stories; which of the
checkpoints to keep was chosen on them, so the loss is slightly in its own favour.

## Prompt
BOS and the start of a story, nothing else. The chat template (`story` in Sotto) writes BOS, then the
contents of the messages separated by newlines.

## Made by
```
python scripts/train_demo.py --text tinystories_sample.txt --out models/demo{facts['options']}
```
`tinystories_sample.txt` is the first 2 MiB of a TinyStories text (Eldan and Li 2023,
arXiv:2305.07759), stories split by `{EOT}`. `training_log.csv` has the losses during training
(bf16 arithmetic, averaged weights). Recipe: Muon for the matrices inside the layers, AdamW (0.9,
0.95) for the rest, cosine learning rate, dropout {args.dropout}, averaged weights, batches of {args.batch} stories.

## Licence
The text is TinyStories, published under the Community Data License Agreement - Sharing - Version
1.0 (CDLA-Sharing-1.0, https://cdla.dev/sharing-1-0/). It is not part of this directory. Weights and
tokenizer are what that agreement calls Results (section 1.11), on whose use and publication it lays
no obligation (section 3.5); they are given under the licence of this repository.

## Samples
Greedy, from "Once upon a time":

{quote[0]}

Temperature 0.8, top-p 0.95, seed {args.seed}, from "One day, a little dog named Max":

{quote[1]}
"""
    with open(os.path.join(out, "README.md"), "w", encoding="utf-8", newline="\n") as f:
        f.write(card)


def options_given(ap, args):
    """What changes the result and differs from the defaults, plus the seed and the steps."""
    text = ""
    for a in ap._actions:
        name = a.dest.replace("_", "-")
        value = getattr(args, a.dest, None)
        if name in ("seed", "steps") or (a.default != value and name not in
                                         ("help", "text", "out", "threads")):
            text += f" --{name} {value}"
    return text


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--text", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--steps", type=int, default=760)
    ap.add_argument("--minutes", type=float, default=1e9, help="stop after this long")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--batch", type=int, default=16, help="stories per step")
    ap.add_argument("--dropout", type=float, default=0.15)
    ap.add_argument("--lr", type=float, default=2e-3, help="AdamW peak")
    ap.add_argument("--weight-decay", type=float, default=0.1)
    ap.add_argument("--muon", type=int, default=1)
    ap.add_argument("--muon-lr", type=float, default=0.01)
    ap.add_argument("--muon-decay", type=float, default=0.1)
    ap.add_argument("--ema", type=float, default=0.995)
    ap.add_argument("--eval-every", type=int, default=127)
    args = ap.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    os.makedirs(args.out, exist_ok=True)

    train_text, val_text = read_stories(args.text)
    tok = train_tokenizer(train_text)
    train_rows = encode_rows(tok, train_text, with_eos=True)
    val_rows = encode_rows(tok, val_text, with_eos=False)
    n_train = sum(len(r) - 1 for r in train_rows)
    val_bytes = sum(len(tok.decode(r[1:]).encode()) for r in val_rows)
    print(f"stories {len(train_text)}+{len(val_text)}, train tokens {n_train}, "
          f"val tokens {sum(len(r) - 1 for r in val_rows)}, val bytes {val_bytes}")
    write_config(args.out, tok)
    weights = os.path.join(args.out, "model.safetensors")

    def save(state, log):
        save_file({k: v.bfloat16().contiguous() for k, v in state.items()}, weights,
                  metadata={"format": "pt"})
        os.chmod(weights, 0o644)
        write_log(args.out, log)

    log = train(args, train_rows, val_rows, save)
    write_log(args.out, log)

    model = Llama(0.0)
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    loss, n_val = evaluate(model, val_rows, fast=False)
    best_step = int(min(log, key=lambda r: float(r[2]))[0])
    facts = {
        "params": sum(p.numel() for p in model.parameters()),
        "bytes": os.path.getsize(weights),
        "n_train": len(train_text), "train_tokens": n_train, "best_step": best_step,
        "epochs": best_step * args.batch / len(train_text),
        "val_tokens": n_val, "loss": loss, "bpb": loss * n_val / val_bytes / math.log(2),
        "options": options_given(ap, args),
    }
    print(f"bf16 weights: {loss:.4f} nats per token, {facts['bpb']:.4f} bits per byte")
    write_card(args.out, args, facts, samples(args.out, args.seed))


if __name__ == "__main__":
    main()
