"""Obfuscated GGUF files in unmodified llama.cpp: they load, and say what the source says. No line of ours runs there.

    pytest tests/interop/test_covariant_llamacpp.py

The reference is transformers on the source checkpoint, or llama.cpp on a plain GGUF that the gguf package wrote.
"""
import os
import pathlib

import gguf
import numpy as np
import pytest
import torch

import make_checkpoints as mk
import plain_gguf
from cipher import model_digest, permutation, read_key
from llama_peer import Peer
from test_transformers import EXIT_UNSUPPORTED, GAP, ROOT, load, logits_of, needs_engine, run_engine

pytestmark = needs_engine
SHARED = pathlib.Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared"))
STORIES = SHARED / "data" / "models" / "stories260K.bin"
DEMO = ROOT / "models" / "demo"
N_PROMPT, N_GREEDY = 24, 64

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
    assert run_engine("key", "new", path).returncode == 0
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
    got, = peer.complete(o.dst, [{"prompt": o.to(ids), "n": N_GREEDY, "probs": n_vocab}])
    want, gaps = greedy_without(model, ids, N_GREEDY, banned)
    first = np.array([got["logprobs"][0].get(str(c), -np.inf) for c in o.tau])
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


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_precision_costs_as_much_as_it_costs_the_plain_model(made, plain, peer, request, kind):
    need("stories")
    contexts = request.getfixturevalue("contexts")
    o = made("stories", "--dtype", kind)
    identity = np.arange(len(o.tau))
    exact = distributions(peer, plain("stories", "f32"), contexts, identity)
    rounded = distributions(peer, plain("stories", kind), contexts, identity)
    wide = distributions(peer, o.dst, contexts, o.tau)
    own, ours, between = kl(exact, rounded), kl(exact, wide), kl(rounded, wide)
    print(f"{kind}: KL to plain F32: plain {own:.2e}, obfuscated {ours:.2e}; between them {between:.2e}")
    assert ours < 1.5 * own
