"""Obfuscated GGUF files in unmodified llama.cpp: they load, and say what the source says. No line of ours runs there.

    pytest tests/interop/test_covariant_llamacpp.py

The reference is transformers on the source checkpoint, or llama.cpp on a plain GGUF that the gguf package wrote.
"""
import json
import os
import pathlib

import gguf
import numpy as np
import pytest
import torch

import make_checkpoints as mk
import plain_gguf
from cipher import model_digest, permutation, read_key, write_key
from llama_peer import Peer
from test_transformers import EXIT_UNSUPPORTED, GAP, ROOT, load, logits_of, needs_engine, run_engine

pytestmark = needs_engine
SHARED = pathlib.Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared"))
STORIES = SHARED / "data" / "models" / "stories260K.bin"
DEMO = ROOT / "models" / "demo"
N_PROMPT, N_GREEDY = 24, 256

CASES = ["llama-gqa-tied", "llama-mqa", "llama-rope-llama3", "llama-rope-linear", "llama-head-dim",
         "llama-attention-bias", "llama-mlp-bias", "llama-rope-yarn", "mistral-no-window", "qwen2-gqa-tied",
         "qwen3-gqa-tied", "mixtral-gqa", "qwen3moe-gqa", "deepseek-v2-plain-q", "deepseek-v2-greedy",
         "deepseek-v3-yarn", "deepseek-v3-noaux"]
# What llama.cpp would compute otherwise, and the word that says so.
REFUSED = {"qwen3moe-step": "dense layers", "deepseek-v2-groups": "groups of experts",
           "deepseek-v2-yarn": "mscale", "qwen3moe-dense-first": "dense layers", "qwen3-attention-bias": "bias"}


# ---- both sides ---------------------------------------------------------------------------------

class Gguf:
    """An obfuscated GGUF file and what deciphers it."""

    def __init__(self, src, dst, key, *options):
        self.src, self.dst = pathlib.Path(src), pathlib.Path(dst)
        self.run = run_engine("obfuscate", src, dst, "--key", key, "--format", "gguf", *options)
        if "covariant obfuscation supports" in self.run.stderr:
            pytest.skip(self.run.stderr.strip())
        assert self.run.returncode == 0, self.run.stderr
        self.reader = gguf.GGUFReader(str(dst))
        n = len(self.field("tokenizer.ggml.tokens"))
        self.tau = permutation(read_key(key)[1], model_digest(self.src), n)
        self.back = np.argsort(self.tau)

    def field(self, name):
        f = self.reader.get_field(name)
        return None if f is None else f.contents()

    def arch(self, name):
        return self.field(f"{self.field('general.architecture')}.{name}")

    def tensor(self, name):
        return next((t for t in self.reader.tensors if t.name == name), None)

    def to(self, ids):
        return [self.tau[i] for i in ids]

    def plain(self, ids):
        return [int(self.back[i]) for i in ids]

    def ends(self):
        """The plain ids that end a reply."""
        names = [f"tokenizer.ggml.{n}_token_id" for n in ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")]
        return {self.plain([self.field(n)])[0] for n in names if self.field(n) is not None}


@torch.no_grad()
def greedy_without(model, ids, n, banned):
    """n greedy tokens that are not banned, and the top-2 gap at each."""
    out, gaps, cache = [], [], None
    x = torch.tensor([ids])
    for _ in range(n):
        r = model(x, past_key_values=cache, use_cache=True)
        cache = r.past_key_values
        logits = r.logits[0, -1].clone()
        logits[list(banned)] = -torch.inf
        top = torch.topk(logits, 2)
        out.append(int(top.indices[0]))
        gaps.append(float(top.values[0] - top.values[1]))
        x = top.indices[:1].view(1, 1)
    return out, gaps


def log_softmax(row):
    row = row - row.max()
    return row - np.log(np.exp(row).sum())


@pytest.fixture(scope="module")
def peer():
    with Peer() as p:
        yield p


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("key") / "test.key"
    write_key(path, bytes(16), bytes(range(32)))  # fixed, so that every figure below is
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, key):
    root, done = tmp_path_factory.mktemp("gguf"), {}

    def get(name, *options):
        options = options or ("--dtype", "f32")
        if (name, options) not in done:
            src = {"demo": DEMO, "stories": STORIES}.get(name)
            if src is None:
                src = root / name
                if not src.exists():
                    mk.write(name, src)
            done[name, options] = Gguf(src, root / f"{name}-{len(done)}.gguf", key, *options)
        return done[name, options]

    return get


# ---- every architecture against transformers ----------------------------------------------------

@pytest.mark.parametrize("name", CASES)
def test_logits_and_greedy_tokens_equal_transformers_on_the_source(made, peer, name):
    o = made(name)
    model, ids = load(o.src), mk.token_ids(name)[:N_PROMPT]
    banned = o.ends()
    n_vocab = len(o.tau)
    one, got = peer.complete(o.dst, [{"prompt": o.to(ids), "n": 1, "probs": n_vocab},
                                     {"prompt": o.to(ids), "n": N_GREEDY}])
    want, gaps = greedy_without(model, ids, N_GREEDY, banned)
    first = np.array([one["logprobs"][0].get(str(c), -np.inf) for c in o.tau])
    seen = np.isfinite(first) & ~np.isin(np.arange(n_vocab), list(banned))
    reference = log_softmax(logits_of(model, ids)[-1])
    assert seen.sum() > n_vocab // 2
    offset = (first - reference)[seen]  # the two leave out different ids from the sum
    assert np.abs(offset - np.median(offset)).max() < 2e-3
    for w, s, gap in zip(want, o.plain(got["ids"]), gaps):
        if w != s:
            assert gap < 10 * GAP
            break


@pytest.mark.parametrize("name, word", REFUSED.items())
def test_what_llamacpp_would_run_differently_is_refused_by_name(tmp_path, key, name, word):
    src = mk.write(name, tmp_path / "src")
    r = run_engine("obfuscate", src, tmp_path / "x.gguf", "--key", key, "--format", "gguf")
    assert r.returncode == EXIT_UNSUPPORTED
    assert word in r.stderr and "llama.cpp" in r.stderr
    assert not (tmp_path / "x.gguf").exists()


# ---- real models against a plain GGUF -----------------------------------------------------------

@pytest.fixture(scope="module")
def plain(tmp_path_factory, made):
    """plain(model, kind): a GGUF of the source in that precision, with the ends of the obfuscated one."""
    root, done = tmp_path_factory.mktemp("plain"), {}

    def get(model, kind):
        if (model, kind) not in done:
            src = DEMO if model == "demo" else STORIES
            path = root / f"{model}-{kind}.gguf"
            done[model, kind] = plain_gguf.write(src, path, kind, made(model).ends())
        return done[model, kind]

    return get


def need(model):
    if model == "stories" and not STORIES.exists():
        pytest.skip(f"{STORIES} is not here")


def prompts_of(n_vocab, n, length, seed):
    rng = np.random.default_rng(seed)
    return [[1, *map(int, rng.integers(3, n_vocab, length - 1))] for _ in range(n)]


@pytest.mark.parametrize("model", ["stories", "demo"])
def test_256_greedy_tokens_equal_those_of_the_plain_model(made, plain, peer, model):
    need(model)
    o = made(model)
    prompts = [[1], *prompts_of(len(o.tau), 5, 8, 3)]
    want = peer.complete(plain(model, "f32"), [{"prompt": p, "n": 256} for p in prompts])
    got = peer.complete(o.dst, [{"prompt": o.to(p), "n": 256} for p in prompts])
    for w, g in zip(want, got):
        assert len(w["ids"]) == 256
        assert o.plain(g["ids"]) == w["ids"]


def distributions(peer, path, contexts, order):
    """Log-probabilities [context, id] after each context, ids in the plain order."""
    n = len(order)
    rows = peer.complete(path, [{"prompt": [int(order[i]) for i in c], "n": 1, "probs": n} for c in contexts])
    return np.array([[r["logprobs"][0].get(str(int(i)), -np.inf) for i in order] for r in rows])


def kl(p, q):
    """Mean KL(p || q); what both leave out (ends of reply) counts for nothing."""
    both = np.isfinite(p) & np.isfinite(q)
    terms = np.where(both, np.exp(np.where(both, p, 0)) * (np.where(both, p, 0) - np.where(both, q, 0)), 0)
    return terms.sum(1).mean()


@pytest.fixture(scope="module")
def contexts(made, plain, peer):
    """Beginnings of what the plain model says itself."""
    o, out = made("stories"), []
    for p in prompts_of(len(o.tau), 8, 4, 9):
        said, = peer.complete(plain("stories", "f32"), [{"prompt": p, "n": 128}])
        out += [(p + said["ids"])[:k] for k in range(8, 128, 6)]
    return out


@pytest.fixture(scope="module")
def exact(made, plain, peer, contexts):
    return distributions(peer, plain("stories", "f32"), contexts, np.arange(len(made("stories").tau)))


# Each precision's KL to plain F32 over that of the plain model; four keys gave 0.6 to 1.2 at hidden size 64 + 64.
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_precision_costs_about_what_it_costs_the_plain_model(made, plain, peer, request, kind):
    need("stories")
    contexts, exact = request.getfixturevalue("contexts"), request.getfixturevalue("exact")
    o = made("stories", "--dtype", kind)
    identity = np.arange(len(o.tau))
    rounded = distributions(peer, plain("stories", kind), contexts, identity)
    wide = distributions(peer, o.dst, contexts, o.tau)
    own, ours, between = kl(exact, rounded), kl(exact, wide), kl(rounded, wide)
    print(f"{kind}: KL to plain F32: plain {own:.2e}, obfuscated {ours:.2e}; between them {between:.2e}")
    assert ours < 1.5 * own


# ---- what engines stumble over ------------------------------------------------------------------

def test_head_sizes_are_explicit_and_the_width_need_not_divide_by_the_heads(made):
    """Without key_length llama.cpp takes width / heads and stops with `invalid n_rot`."""
    for name, head_dim in (("llama-gqa-tied", 16), ("llama-head-dim", 32), ("qwen3-gqa-tied", 32)):
        o = made(name)
        assert o.arch("attention.key_length") == o.arch("attention.value_length") == head_dim
        assert o.arch("rope.dimension_count") == head_dim
    assert made("llama-gqa-tied").arch("embedding_length") != 16 * 8


def test_the_head_is_always_there_though_the_source_ties_it(made):
    """Without output.weight llama.cpp silently takes token_embd."""
    o = made("llama-gqa-tied")
    head, embed = o.tensor("output.weight"), o.tensor("token_embd.weight")
    assert head is not None and head.shape.tolist() == embed.shape.tolist()
    assert not np.array_equal(head.data, embed.data)


def test_eps_is_scaled_by_kappa_squared(made):
    o = made("llama-gqa-tied")
    d, wide = 128, o.arch("embedding_length")
    assert o.arch("attention.layer_norm_rms_epsilon") == pytest.approx(1e-5 * d / wide, rel=1e-6)
    norm = o.tensor("blk.0.attn_norm.weight").data
    assert np.ptp(norm) == 0 and norm[0] == pytest.approx((d / wide) ** 0.5, rel=1e-6)


def test_special_ids_are_those_of_the_source_enciphered(tmp_path, key):
    src = mk.write("llama-mha", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    for eos in (2, [3, 4, 5]):
        config.update(bos_token_id=1, eos_token_id=eos, pad_token_id=0)
        (src / "config.json").write_text(json.dumps(config))
        (src / "generation_config.json").unlink(missing_ok=True)
        o = Gguf(src, tmp_path / f"{eos}.gguf", key)
        assert o.plain([o.field("tokenizer.ggml.bos_token_id")]) == [1]
        assert o.plain([o.field("tokenizer.ggml.padding_token_id")]) == [0]
        assert o.ends() == set(np.atleast_1d(eos))


def test_a_model_without_an_end_does_not_end_at_a_stray_id(tmp_path, key):
    src = mk.write("llama-mha", tmp_path / "src")
    config = json.loads((src / "config.json").read_text())
    config.update(bos_token_id=1, eos_token_id=None, pad_token_id=None)
    (src / "config.json").write_text(json.dumps(config))
    (src / "generation_config.json").unlink(missing_ok=True)
    assert Gguf(src, tmp_path / "x.gguf", key).ends() == {1}


def test_tokens_are_opaque_words_that_llamacpp_reads_back(made, peer):
    """Text prompts and id prompts give the same reply; nothing is put in front; other text is an error."""
    o = made("stories") if STORIES.exists() else made("demo")
    words = o.field("tokenizer.ggml.tokens")
    assert words == [chr(0x4E00 + i // 512) + chr(0xAC00 + i % 512) for i in range(len(o.tau))]
    assert o.field("tokenizer.ggml.model") == "llama"
    assert set(o.field("tokenizer.ggml.token_type")) == {1}
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        assert o.field(f"tokenizer.ggml.{name}") is False
    for prompt in (o.to([1]), o.to([1, 2, 0, 300, 299]), list(range(len(o.tau) - 1, len(o.tau) - 200, -1))):
        by_id, by_text, bad = peer.complete(o.dst, [{"prompt": prompt, "n": 24, "probs": 3},
                                                    {"prompt": "".join(words[i] for i in prompt), "n": 24, "probs": 3},
                                                    {"prompt": "Once upon a time", "n": 1}])
        assert by_text == by_id
        assert by_id["text"] == "".join(words[i] for i in by_id["ids"])
        assert "error" in bad


def test_q8_0_needs_rows_of_whole_blocks_and_says_where_it_has_none(made):
    """stories260K: 172 neurons are no multiple of 32, so down_proj stays F16."""
    need("stories")
    o = made("stories", "--dtype", "q8_0")
    kinds = {t.name.split(".", 2)[-1]: t.tensor_type.name for t in o.reader.tensors}
    assert kinds["ffn_down.weight"] == "F16"
    assert kinds["attn_q.weight"] == kinds["ffn_up.weight"] == kinds["attn_output.weight"] == "Q8_0"
    assert {t.tensor_type.name for t in o.reader.tensors if len(t.shape) == 1} == {"F32"}
    assert "5 matrices are stored as f16" in o.run.stderr


def test_q8_0_blocks_are_those_of_the_gguf_package(made):
    need("stories")
    exact, rounded = made("stories"), made("stories", "--dtype", "q8_0")
    for name in ("token_embd.weight", "blk.2.attn_output.weight", "blk.0.ffn_gate.weight"):
        want = gguf.quants.quantize(exact.tensor(name).data, gguf.GGMLQuantizationType.Q8_0)
        got = rounded.tensor(name).data
        assert (want != got).mean() < 1e-3  # ties


def test_a_sliding_window_becomes_the_context_length(made):
    assert made("mistral-window").arch("context_length") == 16


def test_routers_and_vectors_are_f32_and_experts_stand_in_one_tensor(made):
    o = made("qwen3moe-gqa", "--dtype", "bf16")
    assert o.tensor("blk.0.ffn_gate_inp.weight").tensor_type.name == "F32"
    assert o.tensor("blk.0.ffn_up_exps.weight").shape.tolist()[-1] == 16
    assert o.tensor("blk.0.ffn_up_exps.weight").tensor_type.name == "BF16"


def test_the_manifest_is_in_the_metadata_and_holds_no_secret(made, key):
    o = made("llama-gqa-tied")
    manifest = json.loads(o.field("sotto.manifest"))
    assert (manifest["version"], manifest["format"], manifest["dtype"]) == (3, "gguf", "f32")
    key_id, seed = read_key(key)
    data = o.dst.read_bytes()
    for secret in (seed, seed.hex().encode(), str(o.src).encode(), model_digest(o.src).hex().encode()):
        assert secret not in data
