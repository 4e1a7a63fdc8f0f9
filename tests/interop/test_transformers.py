"""The engine against transformers: same checkpoint directory, same token ids, same numbers.

    pytest tests/interop/test_transformers.py

The engine is build/bin/sotto, or what SOTTO_BIN names. Without it the engine's half is skipped; the
tests of the reference itself still run. SOTTO_BIN naming a missing file is a failure.
"""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

import make_checkpoints as mk

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOTTO = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build" / "bin" / "sotto"))
needs_engine = pytest.mark.skipif(
    "SOTTO_BIN" not in os.environ and not SOTTO.exists(), reason=f"{SOTTO} is not built")

F32_BOUND = 1e-4   # max |a - b| over max |b| where the engine keeps everything in f32
HALF_BOUND = 2e-3  # where the key/value cache is bf16: a value near a rounding edge may flip
GAP = 1e-4         # a greedy divergence is excused below this top-2 gap of the reference
N_GREEDY = 64
N_PROMPT = 24
EXIT_UNSUPPORTED = 7

torch.set_num_threads(2)


# ---- both sides ---------------------------------------------------------------------------------

def run_engine(*argv):
    return subprocess.run([str(SOTTO), *map(str, argv)], capture_output=True, text=True,
                          timeout=120)


def engine_json(*argv):
    r = run_engine(*argv)
    assert r.returncode == 0, f"exit code {r.returncode}: {r.stderr.strip()}"
    return json.loads(r.stdout)


def comma(ids):
    return ",".join(map(str, ids))


def engine_logits(path, ids, *options):
    out = engine_json("logits", path, "--ids", comma(ids), "--json", *options)
    logits = np.asarray(out["logits"], dtype=np.float64)
    assert out["n_tokens"] == len(ids)
    assert logits.shape == (len(ids), out["vocab_size"])
    return logits


def engine_greedy(path, ids, n):
    return engine_json("complete", path, "--ids", comma(ids), "-n", n, "--temp", 0,
                       "--ignore-eos", "--json")["token_ids"]


def load(path):
    """The checkpoint in transformers: f32 arithmetic whatever the file holds, plain attention, one expert at a
    time."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager")
    return model.eval()


class RoundedCache(DynamicCache):
    """Keys and values as a bf16 cache returns them, in f32."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states.bfloat16().float(), value_states.bfloat16().float(),
                              *args, **kwargs)


@torch.no_grad()
def logits_of(model, ids, cache=None):
    r = model(torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None)
    return r.logits[0].double().numpy()


@torch.no_grad()
def greedy_of(model, ids, n):
    """n greedy tokens and the top-2 gap at each of them, without any stop token."""
    out, gaps, cache = [], [], None
    x = torch.tensor([ids])
    for _ in range(n):
        r = model(x, past_key_values=cache, use_cache=True)
        cache = r.past_key_values
        top = torch.topk(r.logits[0, -1], 2)
        out.append(int(top.indices[0]))
        gaps.append(float(top.values[0] - top.values[1]))
        x = top.indices[:1].view(1, 1)
    return out, gaps


def relative(a, b):
    """max |a - b| over max |b|"""
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


# ---- fixtures -----------------------------------------------------------------------------------

class Written:
    """A checkpoint directory and what transformers says about it."""

    def __init__(self, name, path):
        self.path = path
        self.ids = mk.token_ids(name)
        self.model = load(path)
        self.logits = logits_of(self.model, self.ids)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """checkpoint(name) writes a case once and computes its reference once."""
    root, done = tmp_path_factory.mktemp("checkpoints"), {}

    def get(name):
        if name not in done:
            done[name] = Written(name, mk.write(name, root / name))
        return done[name]

    return get


@pytest.fixture(scope="module")
def excused():
    """Counts greedy divergences that a near tie of the reference explains."""
    seen = []
    yield seen
    print(f"\ngreedy divergences excused by a top-2 gap under {GAP}: {len(seen)}")
    for line in seen:
        print(f"  {line}")


# ---- the reference itself -----------------------------------------------------------------------

@pytest.mark.parametrize("name", mk.CASES)
def test_reference_is_not_degenerate(checkpoint, name):
    """The random logits spread out and depend on the position, so equality means something."""
    logits = checkpoint(name).logits
    assert np.isfinite(logits).all()
    assert logits.std(axis=1).min() > 0.3
    assert len(set(logits.argmax(axis=1).tolist())) > min(12, len(logits) // 4)


@pytest.mark.parametrize("name", mk.CASES)
def test_reference_is_reproducible(checkpoint, name):
    """The written directory, its config rewritten or not, loads back as the model that was built."""
    c = checkpoint(name)
    assert relative(c.logits, logits_of(mk.build(name), c.ids)) < 1e-6


@pytest.mark.parametrize("name", mk.CASES)
def test_reference_rounding_is_far_below_the_bound(checkpoint, name):
    """transformers in f64 agrees with itself in f32 to a tenth of the bound used for the engine."""
    c = checkpoint(name)
    assert relative(c.logits, logits_of(mk.build(name).double(), c.ids)) < F32_BOUND / 10


def with_parameters(name, part, value):
    """The model of a case with every parameter whose name holds `part` set to value."""
    model = mk.build(name)
    with torch.no_grad():
        for key, p in [*model.named_parameters(), *model.named_buffers()]:
            if part in key:
                p.fill_(value)
    return model


FEATURES = {
    "llama3 rope": ("llama-rope-llama3", {"rope_parameters": dict(mk.DEFAULT_ROPE,
                                                                  rope_theta=500000.0)}),
    "linear rope": ("llama-rope-linear", {"rope_parameters": mk.DEFAULT_ROPE}),
    "long rope": ("llama-rope-long", {"rope_parameters": dict(mk.DEFAULT_ROPE,
                                                              rope_theta=500000.0)}),
    "rope theta": ("qwen2-gqa-tied", {"rope_parameters": mk.DEFAULT_ROPE}),
    "norm epsilon": ("llama-gqa-tied", {"rms_norm_eps": 1e-2}),
    "sliding window": ("mistral-window", {"sliding_window": None}),
    "window of 16, not 17": ("mistral-window", {"sliding_window": 17}),
    "biases": ("qwen2-mha", "bias"),
    "query and key norms": ("qwen3-mha", "self_attn.q_norm"),
    "number of experts used": ("mixtral-gqa", {"num_experts_per_tok": 3}),
    "mixtral window": ("mixtral-window", {"sliding_window": None}),
    "weights that sum to one": ("qwen3moe-gqa", {"norm_topk_prob": False}),
    "interleaved pairs": ("deepseek-v3-odd", {"rope_interleave": False}),
    "yarn": ("llama-rope-yarn", {"rope_parameters": mk.DEFAULT_ROPE}),
    "mscale of all dimensions": ("deepseek-v2-yarn",
                                 {"rope_parameters": dict(mk.YARN_ROPE, mscale=0.707)}),
    "norms of the latents": ("deepseek-v3-yarn", "kv_a_layernorm"),
    "groups of experts": ("deepseek-v2-groups", {"topk_method": "greedy"}),
    "bias of the router": ("deepseek-v3-noaux", "e_score_correction_bias"),
    "scale of the experts": ("deepseek-v3-noaux", {"routed_scaling_factor": 1.0}),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_feature_moves_the_logits(checkpoint, feature):
    """Leaving the feature out breaks the bound a hundred times over, so the engine cannot skip it."""
    name, change = FEATURES[feature]
    if isinstance(change, str):
        other = with_parameters(name, change, 0.0 if change == "bias" or "correction_bias" in change else 1.0)
    else:
        other = mk.build(name, **change)
    c = checkpoint(name)
    assert relative(logits_of(other, c.ids), c.logits) > 100 * F32_BOUND


# ---- the engine ---------------------------------------------------------------------------------

@needs_engine
@pytest.mark.parametrize("name", mk.CASES)
def test_logits(checkpoint, name):
    """Every logit of every position equals the reference's within 1e-4 of the largest."""
    c = checkpoint(name)
    assert relative(engine_logits(c.path, c.ids), c.logits) <= F32_BOUND


@needs_engine
@pytest.mark.parametrize("name", mk.CASES)
def test_greedy(checkpoint, excused, name):
    """64 greedy tokens through the key/value cache equal the reference's, near ties aside."""
    c = checkpoint(name)
    prompt = c.ids[:N_PROMPT]
    want, gaps = greedy_of(c.model, prompt, N_GREEDY)
    got = engine_greedy(c.path, prompt, N_GREEDY)
    assert len(got) == N_GREEDY
    for i, (a, b) in enumerate(zip(got, want)):
        if a != b:
            assert gaps[i] < GAP, f"token {i}: got {a}, want {b}, top-2 gap {gaps[i]:.3g}"
            excused.append(f"{name}: token {i}, gap {gaps[i]:.3g}")
            break


@needs_engine
@pytest.mark.parametrize("name", ["llama-gqa-tied", "qwen3-mqa"])
def test_sharded(checkpoint, tmp_path, name):
    """A checkpoint cut into many shards with an index gives the very logits of the single file."""
    c = checkpoint(name)
    mk.write(name, tmp_path / name, max_shard_size="60KB")
    shards = list((tmp_path / name).glob("model-*.safetensors"))
    assert len(shards) >= 3 and not (tmp_path / name / "model.safetensors").exists()
    assert np.array_equal(engine_logits(tmp_path / name, c.ids), engine_logits(c.path, c.ids))


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def half(request, tmp_path_factory):
    """half(name) is a case saved in a 16-bit type, its reference in f32."""
    root, done = tmp_path_factory.mktemp("half"), {}

    def get(name):
        if name not in done:
            done[name] = Written(name, mk.write(name, root / name, dtype=request.param))
        return done[name]

    return get


HALF_CASES = ["llama-gqa-tied", "mistral-window", "qwen2-mha", "qwen3-mqa"]
MIXTURES = ["mixtral-gqa", "qwen3moe-gqa"]
LATENT = ["deepseek-v2-yarn", "deepseek-v3-noaux"]


@needs_engine
@pytest.mark.parametrize("name", HALF_CASES + MIXTURES + LATENT)
def test_half_weights(half, name):
    """f16 and bf16 weights with f32 activations (--deterministic) and an f32 cache give the logits of the
    same weights widened to f32, within 1e-4."""
    c = half(name)
    assert relative(engine_logits(c.path, c.ids, "--deterministic", "--kv-dtype", "f32"), c.logits) <= F32_BOUND


@needs_engine
@pytest.mark.parametrize("name", HALF_CASES + MIXTURES)
def test_half_weights_and_cache(half, name):
    """With f32 activations, a bf16 key/value cache (the default of a 16-bit model) is the only difference
    from f32: the logits are those of the reference with such a cache, within 2e-3."""
    c = half(name)
    want = logits_of(c.model, c.ids, RoundedCache(config=c.model.config))
    assert relative(engine_logits(c.path, c.ids, "--deterministic"), want) <= HALF_BOUND


@needs_engine
@pytest.mark.parametrize("name", LATENT)
def test_half_weights_and_cache_of_latent_attention(half, name, monkeypatch):
    """The same for latent attention, where the reference caches what keys and values are made from and the engine
    the keys and values themselves."""
    c = half(name)

    def rounded(expand):
        return lambda *latent: tuple(t.bfloat16().float() for t in expand(*latent))

    for layer in c.model.model.layers:
        monkeypatch.setattr(layer.self_attn, "expand_kv", rounded(layer.self_attn.expand_kv))
    want = logits_of(c.model, c.ids)
    assert relative(want, c.logits) > F32_BOUND
    assert relative(engine_logits(c.path, c.ids, "--deterministic"), want) <= HALF_BOUND


@needs_engine
@pytest.mark.parametrize("name", HALF_CASES)
def test_half_defaults(half, name):
    """With the default options, where long prompts also round activations to bf16, the engine is at least as
    close to f32 as the reference that computes wholly in bf16."""
    c = half(name)
    theirs = relative(logits_of(load(c.path).to(torch.bfloat16), c.ids), c.logits)
    assert relative(engine_logits(c.path, c.ids), c.logits) <= theirs


def typical_error(a, b):
    """max |a - b| over max |b| that three of four positions keep to."""
    assert np.isfinite(a).all()
    return float(np.quantile(np.abs(a - b).max(axis=1) / np.abs(b).max(), 0.75))


@needs_engine
@pytest.mark.parametrize("name", MIXTURES)
def test_half_mixtures(half, name):
    """The same for mixtures of experts, and int8 within a twentieth. Where rounding sends a token to another expert,
    its logits move altogether and later positions with them, so not the worst position is compared."""
    c = half(name)
    theirs = typical_error(logits_of(load(c.path).to(torch.bfloat16), c.ids), c.logits)
    assert typical_error(engine_logits(c.path, c.ids), c.logits) <= theirs
    assert typical_error(engine_logits(c.path, c.ids, "--dtype", "int8"), c.logits) <= 0.05


@needs_engine
def test_both_spellings_of_the_config(checkpoint):
    """rope_parameters and rope_theta with rope_scaling mean the same numbers."""
    new, old = checkpoint("llama-rope-llama3"), checkpoint("llama-rope-llama3-legacy")
    assert np.array_equal(engine_logits(new.path, new.ids), engine_logits(old.path, old.ids))


@needs_engine
@pytest.mark.parametrize("name", mk.OPTIONAL)
def test_right_or_refused(checkpoint, name):
    """A field that changes the numbers is either computed or refused, never ignored."""
    c = checkpoint(name)
    r = run_engine("logits", c.path, "--ids", comma(c.ids), "--json")
    if r.returncode == EXIT_UNSUPPORTED:
        assert r.stderr.strip() and not r.stdout.strip()
    else:
        assert r.returncode == 0, r.stderr
        got = np.asarray(json.loads(r.stdout)["logits"], dtype=np.float64)
        assert relative(got, c.logits) <= F32_BOUND


@needs_engine
@pytest.mark.parametrize("command", [("logits",), ("complete", "-n", "4", "--temp", "0")],
                         ids=["logits", "complete"])
def test_unsupported_architecture(tmp_path, command):
    """An unknown architecture is refused by its name, with the list of those supported."""
    path = mk.write_gpt2(tmp_path / "gpt2")
    r = run_engine(command[0], path, "--ids", "1,2,3", *command[1:], "--json")
    assert r.returncode == EXIT_UNSUPPORTED
    assert "architecture 'GPT2LMHeadModel' is not supported; supported: " in r.stderr
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM",
                 "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"):
        assert name in r.stderr.split("supported: ", 1)[1]


@needs_engine
@pytest.mark.parametrize("ids", ["320", "1,2,-1", "1,,2", "x", ""])
def test_bad_ids(checkpoint, ids):
    """Token ids outside the vocabulary or not numbers end in a usage or input error, not output."""
    r = run_engine("logits", checkpoint("llama-gqa-tied").path, "--ids", ids, "--json")
    assert r.returncode in (2, 3)
    assert r.stderr.strip() and not r.stdout.strip()
