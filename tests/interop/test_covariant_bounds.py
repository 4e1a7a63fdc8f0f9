"""The table of exactness in docs/covariant.md is what a checkpoint keeps.

    pytest -s tests/interop/test_covariant_bounds.py     # prints the measured figures

Both models run in f32 arithmetic on the weights as stored (scripts/noise/model.py, a forward pass of
its own), on sequences that the plain model samples itself. Noise is 0; what noise costs is in
docs/noise_sweep.md.
"""
import json
import os
import pathlib
import re
import sys

import numpy as np
import pytest
import torch

from test_transformers import ROOT, needs_engine, run_engine

sys.path.insert(0, str(ROOT / "scripts"))
import cipher  # noqa: E402
from noise import model  # noqa: E402

pytestmark = needs_engine
SHARED = pathlib.Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared")) / "data"
MODELS = {"demo": ROOT / "models" / "demo", "stories260K": SHARED / "models" / "stories260K.bin"}
ROW = re.compile(r"^\| (tight|paper) \| (f32|f16|bf16) \| ([0-9.e-]+) \| ([0-9.e-]+) \| ([0-9.]+) \|", re.M)
BOUNDS = {(m[1], m[2]): tuple(map(float, m.groups()[2:]))
          for m in ROW.finditer((ROOT / "docs" / "covariant.md").read_text())}


def sampled(m, n_rows=12, n_tok=40):
    """Sequences [n_rows, n_tok] that the model says itself, after BOS."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.full((n_rows, 1), m.bos)
    for _ in range(n_tok - 1):
        p = m.forward(ids)[:, -1].exp()
        ids = torch.cat((ids, torch.multinomial(p, 1, generator=generator)), 1)
    return ids


@pytest.fixture(scope="module")
def plain():
    done, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices

    def get(name):
        if name not in done:
            m = model.read(MODELS[name])
            ids = sampled(m)
            done[name] = m, ids, m.logits(ids)
        return done[name]

    yield get
    torch.set_num_threads(threads)


def test_the_table_has_every_row():
    assert set(BOUNDS) == {(p, t) for p in ("tight", "paper") for t in ("f32", "f16", "bf16")}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("preset,dtype", [(p, t) for p in ("tight", "paper") for t in ("f32", "f16", "bf16")])
def test_a_checkpoint_stays_within_the_table(plain, tmp_path, name, preset, dtype):
    if not MODELS[name].exists():
        pytest.skip(f"{MODELS[name]} is not here")
    m, ids, want = plain(name)
    key, dst = tmp_path / "key", tmp_path / "dst"
    seed = cipher.sha256(f"{name} {preset}".encode())
    cipher.write_key(key, seed[:16], seed)
    r = run_engine("obfuscate", MODELS[name], dst, "--key", key, "--preset", preset, "--alpha-e", 0,
                   "--alpha-h", 0, "--dtype", dtype, "--verify", "--json")
    assert r.returncode == 0, r.stderr
    tau = torch.tensor(cipher.permutation(seed, cipher.model_digest(MODELS[name]), m.n_vocab))
    with torch.no_grad():
        got = model.read(dst).logits(tau[ids])[..., tau]
    error = float(((got - want).abs().amax(-1) / want.abs().amax(-1)).max())
    p, q = want.double().log_softmax(-1), got.double().log_softmax(-1)
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    top1 = float((want.argmax(-1) == got.argmax(-1)).double().mean())
    print(f"\n{name} {preset} {dtype}: logit error {error:.2e} (verify {json.loads(r.stdout)['max_rel_err']:.2e}), "
          f"KL {kl:.2e}, top-1 {top1:.4f}")
    most_error, most_kl, least_top1 = BOUNDS[preset, dtype]
    assert error <= most_error
    assert kl <= most_kl
    assert top1 >= least_top1


def test_a_llama2c_file_is_calibrated_with_the_tokenizer_beside_it(tmp_path):
    if not MODELS["stories260K"].exists():
        pytest.skip(f"{MODELS['stories260K']} is not here")
    key, text = tmp_path / "key", tmp_path / "text"
    cipher.write_key(key, bytes(16), bytes(32))
    text.write_text("Once upon a time there was a little girl. She had a dog, and the dog had a ball.\n" * 4)
    alone = tmp_path / "alone.bin"
    alone.symlink_to(MODELS["stories260K"])
    for src, rc in ((MODELS["stories260K"], 0), (alone, 2)):
        r = run_engine("obfuscate", src, tmp_path / f"dst{rc}", "--key", key, "--preset", "paper", "--calibrate", text)
        assert r.returncode == rc, r.stderr
