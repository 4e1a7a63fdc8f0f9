"""LoRA adapters against peft: an adapter that peft saved, applied unmerged by the engine, gives the logits and the
greedy tokens of the weights that peft merged.

    pytest tests/interop/test_lora.py

The engine is build/bin/sotto, or what SOTTO_BIN names.
"""
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import make_checkpoints as mk
from test_transformers import (EXIT_UNSUPPORTED, F32_BOUND, GAP, N_GREEDY, N_PROMPT, engine_greedy, engine_json,
                               engine_logits, greedy_of, load, logits_of, needs_engine, relative, run_engine)

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = ATTENTION + ["gate_proj", "up_proj", "down_proj"]
LATENT = ["q_a_proj", "q_b_proj", "q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

# Case of make_checkpoints.py, and what LoraConfig gets. Routed experts are one parameter in transformers 5: peft turns
# names of their matrices into target_parameters and saves one pair for all experts of a layer. test_experts has the
# pairs of single experts that it saved before.
CASES = {
    "llama": ("llama-mha", dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])),
    "llama-all-linear": ("llama-gqa-tied", dict(r=16, lora_alpha=8, target_modules="all-linear")),
    "llama-head": ("llama-mqa", dict(r=4, lora_alpha=16, target_modules=["lm_head", "o_proj"])),
    "llama-regex": ("llama-large", dict(r=5, lora_alpha=12, target_modules=r".*layers\.(0|3)\.(mlp|self_attn)\.\w+_proj")),
    "llama-layers": ("llama-rope-llama3", dict(r=3, lora_alpha=6, target_modules=DENSE, layers_to_transform=[0, 2])),
    "llama-excluded": ("llama-head-dim", dict(r=4, lora_alpha=8, target_modules=DENSE,
                                              exclude_modules=["layers.0.mlp.up_proj", "k_proj"])),
    "llama-biases": ("llama-attention-bias", dict(r=2, lora_alpha=8, target_modules=ATTENTION)),
    "mistral-rslora": ("mistral-window", dict(r=16, lora_alpha=4, use_rslora=True, target_modules=DENSE)),
    "mistral-wide": ("mistral-no-window", dict(r=200, lora_alpha=100, target_modules=["down_proj", "q_proj"])),
    "qwen2-patterns": ("qwen2-gqa-tied", dict(r=8, lora_alpha=16, target_modules=DENSE,
                                              rank_pattern={"q_proj": 3, "^model.layers.1.mlp.*": 12},
                                              alpha_pattern={"layers.0.self_attn.v_proj": 40, "down_proj": 5})),
    "qwen2-one": ("qwen2-mha", dict(r=1, lora_alpha=2, target_modules=DENSE)),
    "qwen3": ("qwen3-gqa-tied", dict(r=8, lora_alpha=16, target_modules=DENSE)),
    "mixtral": ("mixtral-gqa", dict(r=8, lora_alpha=16, target_modules=["q_proj", "w1", "w2", "w3"])),
    "mixtral-router": ("mixtral-window", dict(r=2, lora_alpha=16, use_rslora=True,
                                              target_modules=["gate", "w1", "w3", "o_proj"])),
    "qwen3-moe": ("qwen3moe-step", dict(r=8, lora_alpha=16, target_modules=ATTENTION + MLP)),
    "qwen3-moe-down": ("qwen3moe-gqa", dict(r=3, lora_alpha=16, target_modules=["down_proj"])),
    "deepseek-v2": ("deepseek-v2-groups", dict(r=6, lora_alpha=12, target_modules=LATENT + MLP)),
    "deepseek-v2-plain-q": ("deepseek-v2-plain-q", dict(r=6, lora_alpha=12, target_modules=LATENT)),
    "deepseek-v3": ("deepseek-v3-noaux", dict(r=6, lora_alpha=12, use_rslora=True, target_modules=LATENT + MLP)),
}


def train(model, config):
    """What training leaves behind: both matrices of every pair different from zero."""
    torch.manual_seed(5)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "lora_A" in name:
                p.normal_(std=p.shape[1] ** -0.5)
            elif "lora_B" in name:
                p.normal_(std=0.1 * p.shape[1] ** -0.5)
    return peft


class Written:
    """A base, an adapter as peft saved it, and the merged model."""

    def __init__(self, root, case, config, **save):
        self.base, self.adapter = mk.write(case, root / "base"), root / "adapter"
        self.ids = mk.token_ids(case)
        plain = logits_of(load(self.base), self.ids)
        train(load(self.base), config).save_pretrained(self.adapter, **save)
        self.model = PeftModel.from_pretrained(load(self.base), self.adapter).merge_and_unload().eval()
        self.logits = logits_of(self.model, self.ids)
        self.moved = relative(plain, self.logits)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root, done = tmp_path_factory.mktemp("lora"), {}

    def get(name):
        if name not in done:
            case, config = CASES[name]
            done[name] = Written(root / name, case, config, save_embedding_layers=False)
        return done[name]

    return get


def assert_greedy(model, ids, *argv):
    want, gaps = greedy_of(model, ids, N_GREEDY)
    got = engine_greedy(argv[0], ids, N_GREEDY) if len(argv) == 1 else engine_json(
        "complete", argv[0], "--ids", ",".join(map(str, ids)), "-n", N_GREEDY, "--temp", 0, "--ignore-eos", "--json",
        *argv[1:])["token_ids"]
    assert len(got) == N_GREEDY
    for i, (a, b) in enumerate(zip(got, want)):
        if a != b:
            assert gaps[i] < GAP, f"token {i}: got {a}, want {b}, top-2 gap {gaps[i]:.3g}"
            break


@needs_engine
@pytest.mark.parametrize("name", CASES)
def test_logits(written, name):
    """Every logit equals that of the merged weights, while the adapter moves them a hundred bounds and more."""
    w = written(name)
    assert w.moved > 100 * F32_BOUND
    assert relative(engine_logits(w.base, w.ids, "--adapter", w.adapter), w.logits) <= F32_BOUND


@needs_engine
@pytest.mark.parametrize("name", CASES)
def test_greedy(written, name):
    w = written(name)
    assert_greedy(w.model, w.ids[:N_PROMPT], w.base, "--adapter", f"x={w.adapter}")


@needs_engine
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half(written, tmp_path, dtype):
    """An adapter that was saved in 16 bits is computed with as it is stored."""
    w = written("qwen3")
    adapter = tmp_path / "half"
    shutil.copytree(w.adapter, adapter)
    file = adapter / "adapter_model.safetensors"
    save_file({k: v.to(dtype) for k, v in load_file(file).items()}, file)
    model = PeftModel.from_pretrained(load(w.base), adapter, autocast_adapter_dtype=True).merge_and_unload().eval()
    assert relative(engine_logits(w.base, w.ids, "--adapter", adapter), logits_of(model, w.ids)) <= F32_BOUND


# Names of the routed experts' matrices in the checkpoints: one per expert.
EXPERTS = {
    "mixtral-gqa": ("block_sparse_moe", ["w1", "w2", "w3"]),
    "qwen3moe-gqa": ("mlp", ["gate_proj", "up_proj", "down_proj"]),
    "deepseek-v3-noaux": ("mlp", ["gate_proj", "up_proj", "down_proj"]),
}


@needs_engine
@pytest.mark.parametrize("case", EXPERTS)
def test_experts(tmp_path, case):
    """Adapters of routed experts, by the names that peft gave them while experts were modules, against a checkpoint
    whose matrices were merged by hand."""
    block, parts = EXPERTS[case]
    base, merged, adapter = mk.write(case, tmp_path / "base"), tmp_path / "merged", tmp_path / "adapter"
    shutil.copytree(base, merged)
    adapter.mkdir()
    weights, lora, r, alpha = load_file(base / "model.safetensors"), {}, 4, 10
    torch.manual_seed(3)
    changed = [k for k in weights if f".{block}.experts." in k and k.split(".")[-2] in parts] + \
        [k for k in weights if k.endswith(f".{block}.gate.weight")]
    assert len(changed) > 8
    for k in changed:
        n_out, n_in = weights[k].shape
        a, b = torch.randn(r, n_in) * n_in ** -0.5, torch.randn(n_out, r) * 0.1
        weights[k] = weights[k] + alpha / r * b @ a
        module = "base_model.model." + k.removesuffix(".weight")
        lora |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    save_file(lora, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": r, "lora_alpha": alpha,
         "target_modules": rf".*\.{block}\.(experts\.\d+\.({'|'.join(parts)})|gate)"}))
    model, ids = load(merged), mk.token_ids(case)
    want = logits_of(model, ids)
    assert relative(logits_of(load(base), ids), want) > 100 * F32_BOUND
    assert relative(engine_logits(base, ids, "--adapter", adapter), want) <= F32_BOUND
    assert_greedy(model, ids[:N_PROMPT], base, "--adapter", adapter)


@needs_engine
@pytest.mark.parametrize("what, config, says", [
    ("dora", dict(use_dora=True, target_modules=["q_proj"]), "use_dora"),
    ("bias", dict(bias="all", target_modules=["q_proj"]), "bias"),
    ("saved", dict(modules_to_save=["lm_head"], target_modules=["q_proj"]), "modules_to_save"),
    ("embedding", dict(target_modules=["embed_tokens", "q_proj"]), "embed_tokens"),
    ("head with copies", dict(target_modules=["lm_head"]), "save_embedding_layers=False"),
])
def test_refusals(tmp_path, what, config, says):
    """What peft can do and the engine cannot is refused by name, as peft saves it."""
    base = mk.write("llama-mha", tmp_path / "base")
    get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", r=4, **config)).save_pretrained(tmp_path / "adapter")
    r = run_engine("complete", base, "--adapter", tmp_path / "adapter", "--ids", "1,2", "-n", 1)
    assert r.returncode == EXIT_UNSUPPORTED, r.stderr
    assert says in r.stderr


@needs_engine
def test_other_base(written):
    """The message names the tensor and both shapes."""
    w, other = written("llama"), written("qwen3")
    r = run_engine("complete", other.base, "--adapter", w.adapter, "--ids", "1,2", "-n", 1)
    assert r.returncode == 3 and "lora_" in r.stderr and "another base" in r.stderr, r.stderr
