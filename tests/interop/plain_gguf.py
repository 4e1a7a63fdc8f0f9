"""Plain GGUF files of Llama checkpoints, by the gguf package alone: what obfuscated ones are compared with. Nothing of ours
runs here. Tokens are <t0>, <t1>, ...; types as llama.cpp's converter chooses them: vectors F32, matrices `kind`, or F16
where rows are no multiple of a Q8_0 block.
"""
import json
import struct

import gguf
import numpy as np
from safetensors.torch import load_file

KINDS = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16,
         "bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}


def interleave(w, n_head):
    """Rows of rotary pairs (i, i + m) into the order of pairs (2i, 2i + 1)."""
    return w.reshape(n_head, 2, w.shape[0] // n_head // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def read_hf(path):
    """Config and tensors by GGUF name of a Llama directory."""
    c = json.loads((path / "config.json").read_text())
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}
    out = {}
    for name, t in load_file(path / "model.safetensors").items():
        a = t.float().numpy()
        if name in top:
            out[top[name]] = a
            continue
        layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        if part.endswith("q_proj") or part.endswith("k_proj"):
            a = interleave(a, heads if part.endswith("q_proj") else kv)
        out[f"blk.{layer}.{names[part]}.weight"] = a
    out.setdefault("output.weight", out["token_embd.weight"])
    rope = c.get("rope_parameters") or c
    return dict(d=c["hidden_size"], ff=c["intermediate_size"], layers=c["num_hidden_layers"], heads=heads, kv=kv,
                vocab=c["vocab_size"], ctx=c["max_position_embeddings"], eps=c["rms_norm_eps"],
                theta=rope["rope_theta"], head_dim=c.get("head_dim") or c["hidden_size"] // heads), out


def read_llama2c(path):
    """The same of a llama2.c file (version 0)."""
    data = path.read_bytes()
    d, ff, layers, heads, kv, vocab, ctx = struct.unpack_from("<7i", data)
    values, at = np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape):
        nonlocal at
        n = int(np.prod(shape))
        at += n
        return values[at - n:at].reshape(shape)

    kv_dim = d // heads * kv
    out = {"token_embd.weight": take(abs(vocab), d)}
    for name, *shape in (("attn_norm", d), ("attn_q", d, d), ("attn_k", kv_dim, d), ("attn_v", kv_dim, d),
                         ("attn_output", d, d), ("ffn_norm", d), ("ffn_gate", ff, d), ("ffn_down", d, ff),
                         ("ffn_up", ff, d)):
        for layer, t in enumerate(take(layers, *shape)):
            out[f"blk.{layer}.{name}.weight"] = t
    out["output_norm.weight"] = take(d)
    take(ctx * (d // heads))
    out["output.weight"] = out["token_embd.weight"] if vocab > 0 else take(-vocab, d)
    return dict(d=d, ff=ff, layers=layers, heads=heads, kv=kv, vocab=abs(vocab), ctx=ctx, eps=1e-5, theta=1e4,
                head_dim=d // heads), out


def write(source, path, kind, ends):
    """ends: ids that end a reply."""
    c, tensors = read_hf(source) if source.is_dir() else read_llama2c(source)
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_vocab_size(c["vocab"])
    w.add_context_length(c["ctx"])
    w.add_embedding_length(c["d"])
    w.add_block_count(c["layers"])
    w.add_feed_forward_length(c["ff"])
    w.add_head_count(c["heads"])
    w.add_head_count_kv(c["kv"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_rope_dimension_count(c["head_dim"])
    w.add_rope_freq_base(c["theta"])
    w.add_layer_norm_rms_eps(c["eps"])
    w.add_tokenizer_model("llama")
    w.add_token_list([f"<t{i}>" for i in range(c["vocab"])])
    w.add_token_scores([0.0] * c["vocab"])
    w.add_token_types([1] * c["vocab"])
    w.add_add_bos_token(False)
    for add, i in zip((w.add_eos_token_id, w.add_eot_token_id, w.add_eom_token_id), sorted(ends)):
        add(i)
    for name, t in tensors.items():
        q = KINDS["f32" if t.ndim == 1 else "f16" if kind == "q8_0" and t.shape[1] % 32 else kind]
        w.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(t), q), raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path
