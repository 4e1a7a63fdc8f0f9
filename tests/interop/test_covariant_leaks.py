"""What a server could find in checkpoint files without the base weights: random numbers that were
used twice, rows that stay the same under another key.

    pytest tests/interop/test_covariant_leaks.py

The source is a small Llama with a tied head, where embedding and head start from one matrix. The
frame P is found as nobody without the source can: from the source's embedding and the result's.
"""
import itertools
import sys

import numpy as np
import pytest

import cipher
import make_checkpoints as mk
from test_transformers import ROOT, needs_engine, run_engine

sys.path.insert(0, str(ROOT / "scripts"))
from noise import model  # noqa: E402

pytestmark = needs_engine
READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
NOISY = ("--alpha-e", .2, "--alpha-h", .2, "--noise-all", .05)


def f64(t):
    return t.numpy().astype(np.float64)


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def by_chance(n):
    """Correlations of n independent pairs of numbers stay below this but once in 10^8."""
    return 5.7 / np.sqrt(n)


class Made:
    def __init__(self, tmp, label, *options):
        self.src = tmp / "src"
        if not self.src.exists():
            mk.write("llama-gqa-tied", self.src)
        seed = cipher.sha256(label.encode())
        key, dst = tmp / f"{label}.key", tmp / "-".join(map(str, ("dst", label, *options))).replace("/", "")
        cipher.write_key(key, seed[:16], seed)
        r = run_engine("obfuscate", self.src, dst, "--key", key, *options)
        assert r.returncode == 0, r.stderr
        self.m = model.read(dst)
        self.tau = cipher.permutation(seed, cipher.model_digest(self.src), self.m.n_vocab)
        self.w = {n: f64(t) for n, t in self.m.w.items() if t.dim() == 2}

    def frame(self):
        """P [d, wide] by least squares; only without noise."""
        plain = f64(model.read(self.src).embed)
        return np.linalg.lstsq(plain, self.w["model.embed_tokens.weight"][self.tau], rcond=None)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    tmp, done = tmp_path_factory.mktemp("leaks"), {}

    def get(*args):
        if args not in done:
            done[args] = Made(tmp, *args)
        return done[args]

    return get


def test_every_reader_has_a_free_part_of_its_own(made):
    """R of Q = P^T + N R, seen through one random direction of the plain space."""
    w, p = made("a").w, made("a").frame()
    assert np.abs(p @ p.T - np.eye(len(p))).max() < 1e-5
    parts = []
    for name in (n for n in w if any(r in n for r in READERS)):
        plain = w[name] @ p.T
        parts.append(np.linalg.lstsq(plain, w[name] - plain @ p, rcond=None)[0]
                     if len(plain) >= plain.shape[1] else None)
    parts = [x for x in parts if x is not None]
    assert len(parts) > 5
    assert max(correlation(a, b) for a, b in itertools.combinations(parts, 2)) < by_chance(parts[0].size)


def added(noisy, clean, p):
    """Tensor -> its noise in the plain space (keys of the layer still on it)."""
    return {n: (noisy.w[n] - w) @ p.T if w.shape[1] == p.shape[1] else p @ (noisy.w[n] - w)
            for n, w in clean.w.items()}


def test_no_two_tensors_share_noise(made):
    """Not even embedding and head, which start from one matrix."""
    clean, noisy = made("a"), made("a", *NOISY)
    noise = added(noisy, clean, clean.frame())
    assert all(n.std() > 0 for n in noise.values())
    for a, b in itertools.combinations(noise.values(), 2):
        if a.shape == b.shape:
            assert correlation(a, b) < by_chance(a.size)


def test_two_settings_share_no_noise(made):
    """Otherwise a server that gets both solves for it."""
    clean = made("a")
    one = added(made("a", *NOISY), clean, clean.frame())
    two = added(made("a", "--alpha-e", .1, "--alpha-h", .1, "--noise-all", .02), clean, clean.frame())
    for name in one:
        assert correlation(one[name], two[name]) < by_chance(one[name].size)


def test_another_key_leaves_no_row_column_or_sorted_row(made):
    """What stays equal at noise 0 are the norms of the embedding's rows (docs/covariant.md)."""
    for name, a in made("a").w.items():
        b = made("b").w[name]
        for x, y in ((a, b), (a.T, b.T), (np.sort(a, 1), np.sort(b, 1)), (np.sort(a.T, 1), np.sort(b.T, 1))):
            d = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
            assert d.min() > 1e-4 * np.median(d), name
