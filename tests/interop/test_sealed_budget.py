"""The programs within budgets of decrypted memory: the same text at every budget, with and without a worker's share, and what
`sotto bench sealed` says.

    pytest tests/interop/test_sealed_budget.py
"""
import json
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build/bin/sotto"))
DEMO = ROOT / "models/demo"
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SOTTO_")}
BUDGETS = ("", "600K", "1500K", "3M", "100M")  # of 6 MiB: all of it, 10, 25, 50 and more than 100 %


def sotto(*args, **kw):
    return subprocess.run([str(BIN), *map(str, args), "--config=", "-q"], capture_output=True, text=True, timeout=120,
                          env={**ENV, **kw.pop("env", {})}, **kw)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    d = tmp_path_factory.mktemp("budget")
    (d / "pass").write_text("a passphrase for this test\n")
    (d / "pass").chmod(0o600)
    assert sotto("seal", "key", d / "publisher.key").returncode == 0
    for policy in ("all-inside", "paper"):
        r = sotto("seal", DEMO, d / f"{policy}.sealed", "--sign-key", d / "publisher.key", "--policy", policy,
                  "--passphrase-file", d / "pass")
        assert r.returncode == 0, r.stderr
    return d


def complete(model, *args):
    r = sotto("complete", model, "-p", "Once upon a time", "-n", 60, "--temp", 0, *args)
    assert r.returncode == 0, r.stderr
    return r.stdout


@pytest.mark.parametrize("policy, more", [("all-inside", ()), ("paper", ()), ("paper", ("--reference", "masked-int"))])
def test_the_text_is_the_same_at_every_budget(place, policy, more):
    key = ("--passphrase-file", place / "pass")
    texts = {complete(place / f"{policy}.sealed", *key, *more, *(("--enclave-memory", b) if b else ())) for b in BUDGETS}
    assert len(texts) == 1
    if not more:
        assert texts == {complete(DEMO)}


def test_a_budget_that_is_too_small_says_the_least_that_works(place):
    key = ("--passphrase-file", place / "pass")
    r = sotto("complete", place / "all-inside.sealed", "-p", "x", *key, "--enclave-memory", "50K")
    assert r.returncode == 8 and "--enclave-memory" in r.stderr
    least = re.search(r"at least (\d+K)", r.stderr).group(1)
    assert complete(place / "all-inside.sealed", *key, "--enclave-memory", least) == complete(DEMO)


def test_the_bench_compares_budgets_and_leaves_nothing_behind(tmp_path):
    r = sotto("bench", "sealed", "--gen", 8, "--prompt", 8, "--budgets", "25,1", "--json", env={"TMPDIR": str(tmp_path)})
    assert r.returncode == 0, r.stderr
    b = json.loads(r.stdout)
    for key in ("plain_tokens_per_s", "aes_gbps", "decrypt_gbps", "decrypt_ratio", "budget_100_of_plain", "budget_25_of_plain",
                "budget_25_of_all_inside", "budget_1_tokens_per_s"):
        assert b[key] > 0, key
    assert b["model"] == "demo" and b["budget_100_of_all_inside"] == 1
    assert b["budget_100_bytes"] >= b["inside_bytes"] > 4 * b["budget_25_bytes"] * 0.9
    assert b["budget_1_bytes"] > b["inside_bytes"] / 100  # below the least that works, which was taken instead
    assert not list(tmp_path.iterdir())


def test_the_bench_measures_with_a_worker_too(tmp_path):
    r = sotto("bench", "sealed", "--spawn", "--scheme", "otp", "--gen", 8, "--prompt", 8, "--budgets", 100, "--json",
              env={"TMPDIR": str(tmp_path)})
    assert r.returncode == 0, r.stderr
    b = json.loads(r.stdout)
    assert b["exchanges_per_token"] == 7  # of the policy `paper`: the output projections of six layers, and the head
    for key in ("worker_tokens_per_s", "worker_of_all_inside", "worker_of_plain", "worker_us", "link_us", "trusted_us"):
        assert b[key] > 0, key
    assert not list(tmp_path.iterdir())


def test_the_bench_takes_a_sealed_file_as_it_is(place):
    r = sotto("bench", "sealed", place / "all-inside.sealed", "--passphrase-file", place / "pass", "--gen", 8, "--prompt", 8,
              "--budgets", 50, "--json")
    assert r.returncode == 0, r.stderr
    b = json.loads(r.stdout)
    assert b["budget_50_tokens_per_s"] > 0 and "plain_tokens_per_s" not in b


@pytest.mark.parametrize("args, says", [(("--budgets", "0"), "--budgets"), (("--budgets", "10,"), "--budgets"),
                                        (("--enclave-memory", "1M"), "--budgets"), (("--dtype", "int8"), "--dtype"),
                                        (("--clients", "2"), "bench masked")])
def test_the_bench_refuses_what_it_cannot_do(args, says):
    r = sotto("bench", "sealed", *args)
    assert r.returncode == 2 and says in r.stderr and r.stdout == ""
