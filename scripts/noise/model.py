"""Llama-family checkpoints in torch, read from their files alone: what an adversary with the files
and some patience can run. HF directories (safetensors) and llama2.c files; f32 arithmetic."""
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file

# llama2.c, version 0: these arrays in this order, each stacked over the layers (n_layer, rows, columns).
LLAMA2C = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
           "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj",
           "mlp.up_proj")


class Model:
    """w: tensor name -> f32 tensor as the file holds it ([n_out, n_in]); pairs are (i, i + m)."""

    def __init__(self, config, w):
        self.w = {name: t.float() for name, t in w.items()}
        self.d = config["hidden_size"]
        self.n_layer = config["num_hidden_layers"]
        self.n_head = config["num_attention_heads"]
        self.n_kv = config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or self.d // self.n_head
        self.eps = config["rms_norm_eps"]
        self.theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        self.n_ctx = config["max_position_embeddings"]
        self.bos = config.get("bos_token_id")
        self.w.setdefault("lm_head.weight", self.w["model.embed_tokens.weight"])
        self.n_vocab = len(self.w["model.embed_tokens.weight"])

    def layer(self, i, name):
        return self.w[f"model.layers.{i}.{name}.weight"]

    @property
    def embed(self):
        return self.w["model.embed_tokens.weight"]

    def folded(self, i, name, norm):
        """A reader with the norm weight before it taken in: [n_out, n_in]."""
        return self.layer(i, name) * self.layer(i, norm)

    @property
    def head(self):
        return self.w["lm_head.weight"] * self.w["model.norm.weight"]

    def with_weights(self, w):
        other = object.__new__(Model)
        other.__dict__ = dict(self.__dict__, w=w)
        return other

    def _rope(self, t):
        m = self.head_dim // 2
        angle = torch.outer(torch.arange(t, dtype=torch.float64),
                            self.theta ** (-torch.arange(m, dtype=torch.float64) / m))
        return angle.cos().float(), angle.sin().float()

    @torch.no_grad()
    def forward(self, ids, gates=None):
        """ids [b, t] -> log-probabilities [b, t, n_vocab]."""
        return self.logits(ids, gates).log_softmax(-1)

    def logits(self, ids, gates=None):
        """ids [b, t] -> [b, t, n_vocab]. gates, a list, gets each layer's gate values [b, t, n_ff]."""
        ids = torch.as_tensor(ids)
        b, t = ids.shape
        cos, sin = self._rope(t)
        mask = torch.full((t, t), -torch.inf).triu(1)

        def norm(x, weight):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * weight

        def heads(x, n):
            return x.view(b, t, n, self.head_dim).transpose(1, 2)

        def rotate(x):
            p, q = x.chunk(2, -1)
            return torch.cat((p * cos - q * sin, q * cos + p * sin), -1)

        x = self.embed[ids]
        for i in range(self.n_layer):
            y = norm(x, self.layer(i, "input_layernorm"))
            q = rotate(heads(y @ self.layer(i, "self_attn.q_proj").T, self.n_head))
            k = rotate(heads(y @ self.layer(i, "self_attn.k_proj").T, self.n_kv))
            v = heads(y @ self.layer(i, "self_attn.v_proj").T, self.n_kv)
            k, v = (z.repeat_interleave(self.n_head // self.n_kv, 1) for z in (k, v))
            score = (q @ k.transpose(-1, -2) / self.head_dim ** 0.5 + mask).softmax(-1)
            y = (score @ v).transpose(1, 2).reshape(b, t, -1)
            x = x + y @ self.layer(i, "self_attn.o_proj").T
            y = norm(x, self.layer(i, "post_attention_layernorm"))
            gate = y @ self.layer(i, "mlp.gate_proj").T
            if gates is not None:
                gates.append(gate)
            up = y @ self.layer(i, "mlp.up_proj").T
            x = x + (torch.nn.functional.silu(gate) * up) @ self.layer(i, "mlp.down_proj").T
        return norm(x, self.w["model.norm.weight"]) @ self.w["lm_head.weight"].T


def _read_llama2c(path):
    raw = np.fromfile(path, dtype="<i4", count=7)
    d, ff, n_layer, n_head, n_kv, vocab, ctx = map(int, raw)
    values, at = torch.from_numpy(np.fromfile(path, dtype="<f4", offset=28)), 0
    kv = n_kv * (d // n_head)

    def take(*shape):
        nonlocal at
        n = int(np.prod(shape))
        at += n
        return values[at - n:at].view(*shape)

    def halves(t, heads):
        """Rotary pairs (2i, 2i + 1) of the file -> (i, i + m)."""
        return t.view(heads, -1, 2, t.shape[-1]).transpose(1, 2).reshape(t.shape)

    w = {"model.embed_tokens.weight": take(abs(vocab), d)}
    shapes = ((d,), (d, d), (kv, d), (kv, d), (d, d), (d,), (ff, d), (d, ff), (ff, d))
    for name, shape in zip(LLAMA2C, shapes):
        for i, t in enumerate(take(n_layer, *shape)):
            t = halves(t, n_head) if "q_proj" in name else halves(t, n_kv) if "k_proj" in name else t
            w[f"model.layers.{i}.{name}.weight"] = t
    w["model.norm.weight"] = take(d)
    if vocab < 0:
        take(ctx, d // n_head)  # tables of rotary angles
        w["lm_head.weight"] = take(-vocab, d)
    return Model(dict(hidden_size=d, num_hidden_layers=n_layer, num_attention_heads=n_head,
                      num_key_value_heads=n_kv, rms_norm_eps=1e-5, rope_theta=10000.0,
                      max_position_embeddings=ctx, bos_token_id=1), w)


def write(m, path):
    """An HF directory in f32, without a tokenizer."""
    path.mkdir()
    save_file({name: t.clone(memory_format=torch.contiguous_format) for name, t in m.w.items()},
              path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": m.d,
        "intermediate_size": len(m.layer(0, "mlp.gate_proj")), "num_hidden_layers": m.n_layer,
        "num_attention_heads": m.n_head, "num_key_value_heads": m.n_kv, "head_dim": m.head_dim,
        "vocab_size": m.n_vocab, "max_position_embeddings": m.n_ctx, "rms_norm_eps": m.eps,
        "rope_theta": m.theta, "bos_token_id": m.bos, "eos_token_id": m.bos, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "float32"}))


def read(path):
    path = pathlib.Path(path)
    if path.is_file():
        return _read_llama2c(path)
    w = {}
    for f in sorted(path.glob("*.safetensors")):
        w.update(load_file(f))
    return Model(json.loads((path / "config.json").read_text()), w)
