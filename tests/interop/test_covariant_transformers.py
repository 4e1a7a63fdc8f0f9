"""Obfuscated checkpoints in stock transformers: they load, and say what the source says.

    pytest tests/interop/test_covariant_transformers.py

The token cipher comes from cipher.py, an implementation of its own of key format, stream and
permutation.
"""
import json
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import make_checkpoints as mk
from cipher import field, model_digest, permutation, read_key, sha256
from test_transformers import (EXIT_UNSUPPORTED, F32_BOUND, GAP, ROOT, engine_greedy, greedy_of,
                               load, logits_of, needs_engine, relative, run_engine)

pytestmark = needs_engine
N_GREEDY = 256
SUPPORTED = list(mk.CASES)
WITH_BIASES = ["llama-attention-bias", "llama-mlp-bias", "qwen3-attention-bias"]


# ---- fixtures -----------------------------------------------------------------------------------

class Obfuscated:
    def __init__(self, src, dst, key, *options):
        self.src, self.dst = pathlib.Path(src), pathlib.Path(dst)
        r = run_engine("obfuscate", src, dst, "--key", key, "--verify", "--json",
                       *options)
        assert r.returncode == 0, r.stderr
        self.report = json.loads(r.stdout)
        self.key_id, self.seed = read_key(key)
        self.config = json.loads((self.dst / "config.json").read_text())
        self.tau = permutation(self.seed, model_digest(self.src), self.config["vocab_size"])

    def to(self, ids):
        return [self.tau[i] for i in ids]


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("key") / "test.key"
    assert run_engine("key", "new", path).returncode == 0
    return path


@pytest.fixture(scope="module")
def obfuscated(tmp_path_factory, key):
    root, done = tmp_path_factory.mktemp("obfuscated"), {}

    def get(name, dtype=torch.float32):
        if (name, dtype) not in done:
            src = mk.write(name, root / f"{name}-{dtype}", dtype)
            done[name, dtype] = Obfuscated(src, root / f"{name}-{dtype}-cov", key)
        return done[name, dtype]

    return get


def assert_greedy(model, prompt, want):
    """want is what the model says greedily after the prompt: in one pass over both, every token of want is
    the likeliest where it stands, or a near-tie."""
    logits = logits_of(model, prompt + want)[len(prompt) - 1:-1]
    for row, token in zip(logits, want):
        assert row.argmax() == token or row.max() - row[token] < GAP


# ---- tests --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [*SUPPORTED, *WITH_BIASES])
def test_logits_and_greedy_tokens_equal_the_source(obfuscated, name):
    """transformers on the obfuscated directory, deciphered, equals transformers on the source."""
    o = obfuscated(name)
    plain, wide = load(o.src), load(o.dst)
    assert wide.config.hidden_size > plain.config.hidden_size
    ids = mk.token_ids(name)
    got = logits_of(wide, o.to(ids))[:, o.tau]
    assert relative(got, logits_of(plain, ids)) < F32_BOUND
    want = engine_greedy(o.src, ids[:24], N_GREEDY)
    assert_greedy(plain, ids[:24], want)
    assert_greedy(wide, o.to(ids[:24]), o.to(want))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_its_source(obfuscated, dtype):
    """The stored dtype is the source's, and the mean KL divergence is small."""
    name = "llama-large"
    o = obfuscated(name, dtype)
    assert {t.dtype for t in load_file(o.dst / "model.safetensors").values()} == {dtype}
    ids = mk.token_ids(name)
    plain = torch.tensor(logits_of(load(o.src), ids)).log_softmax(-1)
    wide = torch.tensor(logits_of(load(o.dst), o.to(ids))[:, o.tau]).log_softmax(-1)
    kl = (plain.exp() * (plain - wide)).sum(-1).mean().item()
    print(f"{dtype}: mean KL {kl:.2e}, largest logit error {o.report['max_rel_err']:.2e}")
    assert kl < (2e-3 if dtype is torch.bfloat16 else 3e-5)


@pytest.mark.parametrize("name", ["llama-gqa-tied", "llama-mqa"])
def test_nothing_plain_is_left(obfuscated, name):
    """No source tokenizer, no key id, seed or source path, no value of the source; special ids moved."""
    o = obfuscated(name)
    assert {f.name for f in o.dst.iterdir()} == {"config.json", "generation_config.json",
                                                 "model.safetensors", "sotto.json",
                                                 "tokenizer.json", "tokenizer_config.json"}
    text = "".join((o.dst / f).read_text() for f in ("config.json", "generation_config.json",
                                                      "sotto.json"))
    for secret in (o.key_id.hex(), o.seed.hex(), str(o.src), model_digest(o.src).hex()):
        assert secret not in text
    manifest = json.loads((o.dst / "sotto.json").read_text())
    label = b"sotto covariant commitment 2"
    commitment = manifest.pop("commitment")
    facts = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    want = sha256(field(label) + field(o.key_id) + field(o.seed) + field(model_digest(o.src)) + field(facts))
    assert commitment == want.hex()
    plain, wide = load_file(o.src / "model.safetensors"), load_file(o.dst / "model.safetensors")
    assert "lm_head.weight" in wide
    embed, head = wide["model.embed_tokens.weight"], wide["lm_head.weight"]
    assert not torch.equal(embed, head)
    for key, t in wide.items():
        if "norm" in key or key not in plain:
            continue
        same = np.isin(t.numpy(), plain[key].numpy()).mean()
        assert same < 0.01  # of exactly equal values: chance
    source = json.loads((o.src / "config.json").read_text())
    assert o.config["bos_token_id"] == o.tau[source["bos_token_id"]]
    assert o.config["eos_token_id"] == o.tau[source["eos_token_id"]]


def test_other_architectures_are_refused_by_name(tmp_path, key):
    src = mk.write_gpt2(tmp_path / "gpt2")
    r = run_engine("obfuscate", src, tmp_path / "out", "--key", key)
    assert r.returncode == EXIT_UNSUPPORTED
    assert "GPT2LMHeadModel" in r.stderr and "LlamaForCausalLM" in r.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["gpt2"]


def test_the_demo_model_says_the_same(tmp_path, key):
    """The model that the repository ships, stored in f32: the same greedy tokens."""
    src = ROOT / "models" / "demo"
    if not (src / "model.safetensors").exists():
        pytest.skip(f"{src} is not here")
    o = Obfuscated(src, tmp_path / "demo", key, "--dtype", "f32")
    plain, wide = load(o.src), load(o.dst)
    for ids in ([plain.config.bos_token_id], [5, 700, 12], [1999, 3, 1, 850]):
        want, gaps = greedy_of(plain, ids, N_GREEDY)
        said, _ = greedy_of(wide, o.to(ids), N_GREEDY)
        assert said == o.to(want) or min(gaps) < GAP


def test_the_paper_says_what_its_keys_cost(tmp_path, key):
    """A leveled router and rotary pairs that change places are warned of; the source's experts are not
    touched under preset tight."""
    src = mk.write("mixtral-gqa", tmp_path / "src")
    tight = run_engine("obfuscate", src, tmp_path / "tight", "--key", key)
    paper = run_engine("obfuscate", src, tmp_path / "paper", "--key", key, "--preset", "paper",
                       "--beta", 8, "--gamma", 10, "--verify")
    assert tight.returncode == 0 and "experts" not in tight.stderr and "rotary" not in tight.stderr
    assert paper.returncode == 0, paper.stderr
    assert paper.stderr.count("choice of experts") == 1
    assert paper.stderr.count("rotary pairs change places") == 1
