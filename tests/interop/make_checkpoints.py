#!/usr/bin/env python3
"""Writes small random checkpoints with transformers, one directory per case.

    python tests/interop/make_checkpoints.py OUT [CASE ...]

Every tensor comes from the seed of its case. Matrices have a standard deviation near
1/sqrt(hidden) (0.06 to 0.16), norm weights lie around 1, biases are not zero, so that each part of
a layer moves the logits. There is no tokenizer: the cases are driven by token ids.

A case with `legacy` has config.json in the spelling of the checkpoints on the hub (rope_theta,
rope_scaling, torch_dtype); the others have what transformers 5 writes (rope_parameters, dtype).
"""
import argparse
import copy
import json
import math
import os
import zlib

import torch
from transformers import (DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config,
                          DeepseekV3ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig,
                          MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
    "deepseek-v2": (DeepseekV2Config, DeepseekV2ForCausalLM),
    "deepseek-v3": (DeepseekV3Config, DeepseekV3ForCausalLM),
}

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}


def case(family, hidden, ffn, layers, heads, kv, vocab, tied=False, rope=None, context=320,
         n_tok=48, legacy=False, patch=None, **extra):
    """One row of the table. n_tok is the length of the test sequence; patch is laid over the
    written config.json (fields that transformers itself would drop)."""
    config = dict(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=kv, vocab_size=vocab,
                  tie_word_embeddings=tied, max_position_embeddings=context,
                  rope_parameters=dict(rope or DEFAULT_ROPE), **extra)
    return dict(family=family, config=config, n_tok=n_tok, legacy=legacy, patch=patch or {})


def latent(family, hidden, ffn, layers, heads, vocab, q_rank, kv_rank, nope, rope_dim, value, **extra):
    """One row with latent attention; layers without experts unless first_k_dense_replace says so."""
    extra.setdefault("first_k_dense_replace", layers)
    return case(family, hidden, ffn, layers, heads, heads, vocab, q_lora_rank=q_rank,
                kv_lora_rank=kv_rank, qk_nope_head_dim=nope, qk_rope_head_dim=rope_dim,
                v_head_dim=value, **extra)


YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
             "original_max_position_embeddings": 32}

CASES = {
    # Llama: one key/value head per head, four heads per key/value head, one for all.
    "llama-mha": case("llama", 64, 176, 2, 4, 4, 211),
    "llama-gqa-tied": case("llama", 128, 256, 3, 8, 2, 320, tied=True, legacy=True,
                           rms_norm_eps=1e-5),
    "llama-mqa": case("llama", 96, 172, 2, 6, 1, 257, legacy=True),
    "llama-large": case("llama", 256, 512, 4, 8, 4, 600),
    "llama-rope-llama3": case("llama", 64, 160, 3, 4, 2, 233, rope=LLAMA3_ROPE, n_tok=96),
    "llama-rope-llama3-legacy": case("llama", 64, 160, 3, 4, 2, 233, rope=LLAMA3_ROPE, n_tok=96,
                                     legacy=True),
    "llama-rope-linear": case("llama", 64, 128, 2, 4, 2, 300, legacy=True,
                              rope={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    # 640 tokens where the original context was 128.
    "llama-rope-long": case("llama", 64, 128, 2, 4, 2, 251, context=1024, n_tok=640, legacy=True,
                            rope=dict(LLAMA3_ROPE, original_max_position_embeddings=128)),
    "llama-head-dim": case("llama", 64, 128, 2, 4, 2, 224, head_dim=32),
    "llama-head-dim-small": case("llama", 128, 192, 2, 4, 1, 224, head_dim=16, tied=True,
                                 legacy=True),
    # Mistral: a window shorter than the sequence, and none.
    "mistral-window": case("mistral", 64, 160, 3, 4, 2, 245, sliding_window=16, legacy=True),
    "mistral-window-mqa": case("mistral", 128, 224, 2, 8, 1, 400, sliding_window=7, head_dim=32),
    "mistral-no-window": case("mistral", 96, 128, 2, 6, 2, 260, sliding_window=None,
                              rope={"rope_type": "default", "rope_theta": 1e6}),
    # Qwen2: biases on q, k, v. The window fields are as published: present, switched off.
    "qwen2-gqa-tied": case("qwen2", 128, 192, 3, 8, 2, 340, tied=True, legacy=True,
                           rope={"rope_type": "default", "rope_theta": 1e6},
                           patch={"use_sliding_window": False, "sliding_window": 8,
                                  "max_window_layers": 1}),
    "qwen2-mha": case("qwen2", 64, 144, 2, 4, 4, 213),
    "qwen2-mqa": case("qwen2", 96, 224, 2, 6, 1, 512, legacy=True),
    # Qwen3: a norm on every query and key head; head_dim is its own field.
    "qwen3-gqa-tied": case("qwen3", 64, 176, 3, 4, 2, 307, tied=True, head_dim=32, legacy=True,
                           rope={"rope_type": "default", "rope_theta": 1e6}),
    "qwen3-mha": case("qwen3", 96, 128, 2, 6, 6, 219, head_dim=16),
    "qwen3-mqa": case("qwen3", 128, 256, 2, 8, 1, 450, head_dim=32, legacy=True),
    # Mixtral: experts in every layer; windows; as many experts used as there are.
    "mixtral-gqa": case("mixtral", 64, 112, 3, 4, 2, 241, num_local_experts=8, num_experts_per_tok=2,
                        legacy=True),
    "mixtral-window": case("mixtral", 128, 96, 2, 8, 1, 333, num_local_experts=5,
                           num_experts_per_tok=3, sliding_window=9, head_dim=32),
    "mixtral-all": case("mixtral", 96, 64, 2, 6, 6, 205, num_local_experts=3, num_experts_per_tok=3,
                        rope={"rope_type": "default", "rope_theta": 1e6}),
    # Qwen3-MoE: weights that sum to one or not; dense layers by step, by list, by both.
    "qwen3moe-gqa": case("qwen3_moe", 64, 176, 3, 4, 2, 307, head_dim=32, legacy=True,
                         num_experts=16, num_experts_per_tok=4, moe_intermediate_size=48,
                         norm_topk_prob=True, rope={"rope_type": "default", "rope_theta": 1e6}),
    "qwen3moe-step": case("qwen3_moe", 96, 128, 5, 6, 3, 219, num_experts=7, num_experts_per_tok=2,
                          moe_intermediate_size=80, decoder_sparse_step=2, mlp_only_layers=[3]),
    "qwen3moe-dense-first": case("qwen3_moe", 128, 192, 3, 8, 1, 260, tied=True, head_dim=16,
                                 num_experts=32, num_experts_per_tok=8, moe_intermediate_size=24,
                                 mlp_only_layers=[0], norm_topk_prob=True, use_sliding_window=True,
                                 sliding_window=11),
    "qwen3moe-one": case("qwen3_moe", 64, 96, 2, 4, 4, 190, num_experts=4, num_experts_per_tok=1,
                         moe_intermediate_size=64, attention_bias=True),
    # DeepSeek: latent attention. Queries plain or compressed; value heads smaller, equal, larger.
    "deepseek-v2-plain-q": latent("deepseek-v2", 64, 160, 3, 4, 231, None, 24, 16, 8, 16,
                                  rms_norm_eps=1e-3),
    "deepseek-v2-yarn": latent("deepseek-v2", 96, 128, 2, 6, 300, 40, 32, 24, 16, 24, legacy=True,
                               n_tok=96, attention_bias=True, mlp_bias=True,
                               rope=dict(YARN_ROPE, mscale=0.707, mscale_all_dim=0.5)),
    "deepseek-v2-wide-value": latent("deepseek-v2", 128, 192, 2, 8, 260, 48, 36, 12, 4, 40,
                                     tied=True, legacy=True,
                                     rope={"rope_type": "linear", "rope_theta": 10000.0,
                                           "factor": 2.0, "mscale_all_dim": 1.0}),
    "deepseek-v3-yarn": latent("deepseek-v3", 128, 256, 2, 8, 310, 48, 32, 16, 16, 24, legacy=True,
                               n_tok=96, rope=dict(YARN_ROPE, mscale=1.0, mscale_all_dim=1.0)),
    "deepseek-v3-halves": latent("deepseek-v3", 64, 144, 3, 4, 244, None, 28, 24, 8, 16,
                                 rope_interleave=False, attention_bias=True),
    "deepseek-v3-odd": latent("deepseek-v3", 96, 160, 2, 6, 277, 33, 27, 13, 6, 9,
                              rope={"rope_type": "default", "rope_theta": 1e6}),
    # Experts behind dense layers: softmax scores, of all and in groups; sigmoid scores with a bias.
    "deepseek-v2-greedy": latent("deepseek-v2", 64, 128, 3, 4, 235, None, 24, 16, 8, 16,
                                 first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=2,
                                 num_experts_per_tok=3, moe_intermediate_size=48),
    "deepseek-v2-groups": latent("deepseek-v2", 96, 128, 3, 4, 240, 32, 24, 16, 8, 16, legacy=True,
                                 first_k_dense_replace=1, n_routed_experts=12, n_shared_experts=1,
                                 num_experts_per_tok=4, moe_intermediate_size=40, n_group=4,
                                 topk_group=2, topk_method="group_limited_greedy",
                                 routed_scaling_factor=16.0, n_tok=96,
                                 rope=dict(YARN_ROPE, mscale=0.707, mscale_all_dim=0.707)),
    "deepseek-v2-all-experts": latent("deepseek-v2", 64, 128, 2, 4, 235, 24, 20, 8, 8, 16,
                                      first_k_dense_replace=0, n_routed_experts=6,
                                      n_shared_experts=1, num_experts_per_tok=2,
                                      moe_intermediate_size=56, attention_bias=True),
    "deepseek-v3-noaux": latent("deepseek-v3", 64, 128, 3, 4, 239, 32, 24, 16, 8, 16,
                                first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=1,
                                num_experts_per_tok=3, moe_intermediate_size=48, n_group=4,
                                topk_group=2),
    "deepseek-v3-noaux-yarn": latent("deepseek-v3", 96, 128, 2, 6, 250, 40, 32, 16, 8, 16,
                                     legacy=True, n_tok=96, first_k_dense_replace=0,
                                     n_routed_experts=16, n_shared_experts=2,
                                     num_experts_per_tok=4, moe_intermediate_size=32, n_group=2,
                                     topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.5,
                                     rope=dict(YARN_ROPE, mscale=1.0, mscale_all_dim=1.0)),
    "deepseek-v3-one-group": latent("deepseek-v3", 64, 96, 3, 4, 233, None, 24, 8, 8, 8,
                                    first_k_dense_replace=2, n_routed_experts=4,
                                    n_shared_experts=1, num_experts_per_tok=4,
                                    moe_intermediate_size=32, n_group=1, topk_group=1,
                                    rope_interleave=False),
    # yarn elsewhere.
    "llama-rope-yarn": case("llama", 64, 128, 2, 4, 2, 230, n_tok=96, rope=YARN_ROPE),
    "qwen2-rope-yarn": case("qwen2", 64, 128, 2, 4, 2, 230, n_tok=96, legacy=True,
                            rope=dict(YARN_ROPE, attention_factor=1.25, beta_fast=16, beta_slow=2,
                                      truncate=False, rope_theta=1e6)),
}

# Fields an engine may refuse (exit code 7) but must not ignore.
OPTIONAL = {
    "llama-attention-bias": case("llama", 64, 128, 2, 4, 2, 230, attention_bias=True, legacy=True),
    "llama-mlp-bias": case("llama", 64, 128, 2, 4, 2, 230, mlp_bias=True, legacy=True),
    "llama-gelu": case("llama", 64, 128, 2, 4, 2, 230, hidden_act="gelu", legacy=True),
    "llama-rope-dynamic": case("llama", 64, 128, 2, 4, 2, 230, n_tok=32,
                               rope={"rope_type": "dynamic", "rope_theta": 10000.0,
                                     "factor": 2.0}, context=16),
    "qwen2-window": case("qwen2", 64, 128, 3, 4, 2, 230, use_sliding_window=True,
                         sliding_window=8, max_window_layers=1, legacy=True),
    "qwen3-attention-bias": case("qwen3", 64, 128, 2, 4, 2, 230, head_dim=16, attention_bias=True),
}


def find(name):
    return CASES[name] if name in CASES else OPTIONAL[name]


def seed_of(name):
    """Cases that differ in the spelling of config.json alone share their weights."""
    return zlib.crc32(name.removesuffix("-legacy").encode())


def randomize(model, seed, hidden):
    gen = torch.Generator().manual_seed(seed)
    std = max(0.06, min(0.16, 1 / math.sqrt(hidden)))
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif name.endswith("gate.weight"):
                p.copy_(0.25 * noise)  # routers: weights of the experts that differ
            elif "embed_tokens" in name and not model.config.tie_word_embeddings:
                p.copy_(0.4 * noise)  # so that the token itself outweighs the biases
            else:
                p.copy_(std * noise)
        for name, p in sorted(model.named_buffers()):
            if name.endswith("e_score_correction_bias"):
                p.copy_(0.3 * torch.randn(p.shape, generator=gen))


def build(name, **overrides):
    """The model of a case, f32, eager attention. overrides replace fields of its config."""
    row = find(name)
    config_class, model_class = CLASSES[row["family"]]
    fields = copy.deepcopy(row["config"])
    fields.update(copy.deepcopy(overrides))
    config = config_class(**fields)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = model_class(config).float().eval()
    randomize(model, seed_of(name), fields["hidden_size"])
    model.tie_weights()
    return model


def rewrite_config(path, legacy, patch):
    file = os.path.join(path, "config.json")
    with open(file, encoding="utf-8") as f:
        config = json.load(f)
    if legacy:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        if "dtype" in config:
            config["torch_dtype"] = config.pop("dtype")
        config.pop("layer_types", None)
        if config["model_type"] == "qwen3_moe":
            config["num_experts"] = config.pop("num_local_experts")
    config.update(patch)
    with open(file, "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)


def write(name, path, dtype=torch.float32, max_shard_size="1GB"):
    """Writes the checkpoint directory of a case and returns its path."""
    row = find(name)
    model = build(name).to(dtype)
    model.save_pretrained(path, max_shard_size=max_shard_size)
    rewrite_config(path, row["legacy"], row["patch"])
    return path


def write_gpt2(path):
    """A well-formed checkpoint of an architecture that is not supported."""
    torch.manual_seed(7)
    GPT2LMHeadModel(GPT2Config(vocab_size=200, n_positions=64, n_embd=64, n_layer=2,
                               n_head=4)).save_pretrained(path)
    return path


def token_ids(name, n=None):
    """The test sequence of a case: seeded ids over the whole vocabulary."""
    row = find(name)
    gen = torch.Generator().manual_seed(seed_of(name) ^ 0x5eed)
    ids = torch.randint(0, row["config"]["vocab_size"], (row["n_tok"],), generator=gen).tolist()
    return ids[:n] if n else ids


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("out")
    ap.add_argument("cases", nargs="*", help="default: all of them")
    args = ap.parse_args()
    for name in args.cases or [*CASES, *OPTIONAL]:
        print(write(name, os.path.join(args.out, name)))
    if not args.cases:
        print(write_gpt2(os.path.join(args.out, "gpt2")))


if __name__ == "__main__":
    main()
