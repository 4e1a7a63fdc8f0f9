"""Masked layers end to end: `sotto` and `sotto-worker` as they are built, each a process of its own.

    pytest tests/interop/test_masked.py

What comes out is compared with the same engine without a worker: with the integer reference where a scheme is exact
(otp: every logit, every token), within stated bounds where it is not (lwe, remo). What goes wrong is made to go wrong:
workers that are killed, stopped, of another model, and every combination of options that cannot work.
"""
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading
import time

import numpy as np
import pytest

import make_checkpoints as mk

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build/bin/sotto"))
WORKER = BIN.with_name("sotto-worker")
DEMO = ROOT / "models/demo"
SHARED = pathlib.Path(os.environ.get("SOTTO_SHARED", ROOT / "../shared"))
STORIES = SHARED / "data/eval/tinystories_sample.txt"
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SOTTO_") and not k.lower().endswith("_proxy")}
# Small pools: the tests run beside others, and a pool that is full costs nothing.
SMALL = ["--pad-memory", "24M", "--threads", "1"]
EXACT = ["--deterministic", "--kv-dtype", "f32"]


def run(*args, program=BIN, timeout=120):
    return subprocess.run([program, *map(str, args), "--config="], cwd=ROOT, capture_output=True, text=True, env=ENV,
                          timeout=timeout)


def output(*args, **kw):
    r = run(*args, **kw)
    assert r.returncode == 0, r.stderr
    return r.stdout


def sotto_json(*args, **kw):
    return json.loads(output(*args, "--json", **kw))


def refused(code, says, *args, program=BIN):
    """The command fails with this code and one line that says so."""
    r = run(*args, program=program, timeout=60)
    lines = [x for x in r.stderr.splitlines() if x.startswith("sotto")]
    assert r.returncode == code, (r.returncode, r.stderr)
    assert len(lines) == 1 and says in lines[0], r.stderr
    assert r.stdout == ""


class Worker:
    """`sotto-worker` on a Unix socket or in shared memory, ready to answer."""

    def __init__(self, model, where, *args):
        self.address = where
        self.process = subprocess.Popen([WORKER, "--model", model, "--listen", where, *map(str, args), "--threads", "1",
                                         "--json", "--quiet", "--config="], stdout=subprocess.PIPE, text=True, env=ENV)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"sotto-worker ended with {self.process.wait()}")
        self.ready = json.loads(line)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def masked(worker, scheme, *more):
    where = ["--worker", worker.address] if isinstance(worker, Worker) else []
    return ["--protect", "masked", *where, *(["--scheme", scheme] if scheme else []), *SMALL, *more]


REFERENCE = ["--protect", "masked", "--reference", "masked-int", "--threads", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    d = tmp_path_factory.mktemp("masked")
    output("prepare", DEMO, "--out", d / "demo.hints", "--kit", d / "demo.kit", "-q", program=WORKER)
    return d


@pytest.fixture(scope="module")
def demo(made):
    with Worker(DEMO, f"unix:{made}/demo.sock", "--hints", made / "demo.hints", "--pairs") as w:
        yield w


# ---- the same numbers ---------------------------------------------------------------------------

DENSE = ["llama-gqa-tied", "llama-rope-llama3", "mistral-window", "qwen2-gqa-tied", "qwen3-gqa-tied",
         "deepseek-v2-plain-q", "deepseek-v3-odd"]


@pytest.mark.parametrize("name", DENSE)
def test_one_time_pads_give_the_integer_references_logits_and_tokens(name, tmp_path):
    model = mk.write(name, tmp_path / "m")
    ids = ",".join(map(str, mk.token_ids(name, 24)))
    with Worker(model, f"unix:{tmp_path}/s") as w:
        otp = masked(w, "otp", "--offload", "all", *EXACT)
        generate = ["complete", model, "--ids", ids, "-n", 256, "--temp", 0, "--ignore-eos"]
        a = sotto_json(*generate, *otp)
        b = sotto_json(*generate, *REFERENCE, *EXACT)
        assert len(a["token_ids"]) == 256 and a["token_ids"] == b["token_ids"]
        assert (a["protection"], a["scheme"], a["verified"]) == ("masked", "otp", "integrity")
        a = sotto_json("logits", model, "--ids", ids, *otp)
        b = sotto_json("logits", model, "--ids", ids, *REFERENCE, *EXACT)
        assert a["logits"] == b["logits"]  # as printed: nine digits, which is every bit of an f32


def test_the_integer_reference_is_near_plain_int8(tmp_path):
    """Both round weights to int8; the plain engine rounds rows to 16 bits, the reference to more."""
    for name in DENSE:
        model = mk.write(name, tmp_path / name)
        ids = ",".join(map(str, mk.token_ids(name, 24)))
        a = np.array(sotto_json("logits", model, "--ids", ids, *REFERENCE, *EXACT)["logits"])
        b = np.array(sotto_json("logits", model, "--ids", ids, "--dtype", "int8", *EXACT)["logits"])
        f = np.array(sotto_json("logits", model, "--ids", ids, "--dtype", "f32", *EXACT)["logits"])
        scale = np.abs(f).max()
        assert np.abs(a - b).max() / scale < 0.06, name  # two roundings of the weights: with and without norms in them
        assert np.abs(a - f).max() / scale < 0.05, name


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Stories of the shared data; without it what the demo model itself tells."""
    file = tmp_path_factory.mktemp("text") / "text"
    if STORIES.exists():
        stories = STORIES.read_text(encoding="utf-8").split("<|endoftext|>")[:16]
    else:
        print(f"{STORIES} is not there: text of the demo model instead")
        stories = [output("complete", DEMO, "-p", p, "-n", 200, "-q", "--temp", 1, "--seed", 1)
                   for p in ("Once upon a time", "One day", "Lily", "Tim and his dog")]
    file.write_text("<|endoftext|>".join(stories), encoding="utf-8")
    return file


def test_lwe_masks_keep_the_perplexity_of_int8(demo, text):
    ask = ["eval", DEMO, "--text", text, "--separator", "<|endoftext|>"]
    plain = sotto_json(*ask, "--dtype", "int8")
    lwe = sotto_json(*ask, *masked(demo, "lwe", "--offload", "all"))
    assert lwe["tokens"] == plain["tokens"] and lwe["scheme"] == "lwe-1280-12.8"
    assert abs(lwe["perplexity"] / plain["perplexity"] - 1) < 0.002


def test_lwe_masks_keep_the_most_likely_token(demo, text):
    ids = sotto_json("tokenize", DEMO, text.read_text(encoding="utf-8")[:9000])["ids"]
    same = total = 0
    for at in range(0, min(len(ids), 2000), 400):
        window = ",".join(map(str, ids[at:at + 400]))
        rows = [[line.split("\t")[1] for line in output("logits", DEMO, "--ids", window, *o).splitlines()]
                for o in (["--dtype", "int8"], masked(demo, "lwe", "--offload", "all"))]
        same += sum(a == b for a, b in zip(*rows))
        total += len(rows[0])
    assert total >= 1000 and same / total >= 0.99, (same, total)


def test_low_rank_masks_give_the_logits_within_a_thousandth_and_say_that_they_break(demo):
    ids = "1,20,300,400,45,12,87,900,33,65"
    args = ["logits", DEMO, "--ids", ids, "--json"]
    r = run(*args, *masked(demo, "remo", "--no-integrity", "--offload", "all", *EXACT))
    assert r.returncode == 0, r.stderr
    assert "breakable" in r.stderr and "not checked" in r.stderr
    remo = json.loads(r.stdout)
    assert (remo["scheme"], remo["verified"]) == ("remo (breakable)", "none")
    a = np.array(remo["logits"])
    b = np.array(sotto_json(*args[:-1], *REFERENCE, *EXACT)["logits"])
    assert np.abs(a - b).max() / np.abs(b).max() < 1e-3


BREAKS = ["--attention", "outside-breakable"]


def test_attention_outside_gives_the_same_text_and_every_output_says_that_it_breaks(demo, tmp_path):
    scheme = "otp, attention outside (breakable)"
    ask = ["--ids", "1,20,300,400,45,12,87,900,33,65"]
    inside = masked(demo, "otp", "--offload", "all", *EXACT)
    a = sotto_json("complete", DEMO, *ask, "-n", 60, "--temp", 0, *inside)
    r = run("complete", DEMO, *ask, "-n", 60, "--temp", 0, "--json", *inside, *BREAKS)
    assert r.returncode == 0, r.stderr
    b = json.loads(r.stdout)
    assert a["token_ids"] == b["token_ids"] and (b["scheme"], b["verified"]) == (scheme, "integrity")
    assert "warning: --attention outside-breakable: a worker can read prompts and replies" in r.stderr
    assert "attention: its products leave" in r.stderr and "attention: " not in run(
        "complete", DEMO, *ask, "-n", 1, *inside).stderr
    x = np.array(sotto_json("logits", DEMO, *ask, *inside)["logits"])
    y = np.array(sotto_json("logits", DEMO, *ask, *inside, *BREAKS)["logits"])
    assert 0 < np.abs(x - y).max() / np.abs(x).max() < 1e-3
    s = Server("serve", DEMO, *inside, *BREAKS)
    status, reply, headers = s.complete()
    assert status == 200 and reply["choices"][0]["text"] and headers["Sotto-Scheme"] == scheme
    state = sotto_json("status", "--url", f"http://127.0.0.1:{s.port}")
    assert state["scheme"] == scheme
    out, err = s.stop()
    assert scheme in out and "a worker can read prompts and replies" in out
    with Worker(DEMO, f"unix:{tmp_path}/s") as w:
        refused(3, "multiplies no pairs of matrices (sotto-worker --pairs)", "complete", DEMO, *ask,
                *masked(w, "otp", "--offload", "all", *EXACT), *BREAKS)
    refused(2, "--attention", "complete", DEMO, *ask, *BREAKS)
    refused(2, "--attention", "complete", DEMO, *ask, *REFERENCE, *BREAKS)
    refused(2, "want one of inside, outside-breakable", "complete", DEMO, *ask, *inside, "--attention", "outside")


def test_attention_of_a_sealed_model_leaves_only_where_its_owner_lets_it(tmp_path):
    (tmp_path / "pass").write_text("open sesame\n")
    (tmp_path / "pass").chmod(0o600)
    (tmp_path / "my.policy").write_text("o = outside\nhead = outside\nattention = outside\n")
    output("seal", "key", tmp_path / "key")
    key = ["--passphrase-file", tmp_path / "pass"]
    seal = ["seal", DEMO, tmp_path / "m.sealed", "--sign-key", tmp_path / "key", *key, "--policy"]
    refused(6, "my.policy: line 3: attention = outside: no known way", *seal, tmp_path / "my.policy")
    refused(2, "paper has no line `attention = outside`", *seal, "paper", *BREAKS)
    output(*seal, tmp_path / "my.policy", *BREAKS)
    output(*(x if x != tmp_path / "m.sealed" else tmp_path / "paper.sealed" for x in seal), "paper")
    assert "custom, attention outside (breakable)" in output("seal", "inspect", tmp_path / "m.sealed")
    ask = ["--ids", "1,20,300,400,45,12,87,900", "-n", 24, "--temp", 0, *EXACT, *key]
    for name, breaks in (("m", BREAKS), ("m", []), ("paper", [])):
        with Worker(tmp_path / f"{name}.sealed", f"unix:{tmp_path}/{name}{len(breaks)}",
                    *(["--pairs"] if breaks or name == "paper" else [])) as w:
            with_worker = ["--worker", w.address, "--scheme", "otp", "--offload", "all", *SMALL]
            got = sotto_json("complete", tmp_path / f"{name}.sealed", *ask, *with_worker, *breaks)
            assert got["scheme"] == ("otp, attention outside (breakable)" if breaks else "otp")
            first = got["token_ids"] if breaks else first
            assert got["token_ids"] == first
            if name == "paper":
                refused(6, "sealed with attention inside (policy paper)", "complete", tmp_path / "paper.sealed", *ask,
                        *with_worker, *BREAKS)


def test_the_planner_keeps_long_prompts_here_and_says_so(demo):
    ids = ",".join(str(3 + i % 1900) for i in range(200))
    for more, says in ([], "; measured: "), (["--offload", 16], "here: exchanges of 16 rows or more"), (EXACT, "here: nothing, as was asked for"):
        r = run("complete", DEMO, "--ids", ids, "-n", 8, "--json", *masked(demo, "otp", *more))
        assert r.returncode == 0 and says in r.stderr, r.stderr
        assert len(json.loads(r.stdout)["token_ids"]) == 8


def test_a_recording_holds_what_passed_and_never_goes_over_another(demo, tmp_path):
    ask = ["complete", DEMO, "--ids", "77,78,79,80", "-n", 3, *masked(demo, "otp", "--offload", "all", "--record", tmp_path / "r")]
    output(*ask)
    first = (tmp_path / "r").read_bytes()
    assert first.startswith(b"STRECORD") and (tmp_path / "r").stat().st_mode & 0o777 == 0o600
    assert b"q,k,v" in first and len(first) > 3 * 25 * 256
    refused(4, "r: File exists", *ask)
    (tmp_path / "r").unlink()
    output(*ask)
    second = (tmp_path / "r").read_bytes()
    rows = [np.frombuffer(x, dtype="<u8") for x in (first, second)]
    shared = np.intersect1d(rows[0][rows[0] > 1 << 40], rows[1][rows[1] > 1 << 40])
    assert len(shared) < 64  # names of roles only: the same prompt gives other rows


# ---- experts, embedding, a side without weights -------------------------------------------------

@pytest.mark.parametrize("name", ["mixtral-gqa", "qwen3moe-dense-first", "deepseek-v3-noaux"])
def test_experts_stay_here_or_all_see_every_row(name, tmp_path):
    model = mk.write(name, tmp_path / "m")
    generate = ["complete", model, "--ids", ",".join(map(str, mk.token_ids(name, 16))), "-n", 24, "--temp", 0,
                "--ignore-eos", *EXACT]
    with Worker(model, f"unix:{tmp_path}/s") as w:
        for experts in "local", "all":
            a = sotto_json(*generate, *masked(w, "otp", "--offload", "all", "--experts", experts))
            b = sotto_json(*generate, *REFERENCE, "--experts", experts)
            assert a["token_ids"] == b["token_ids"]


def test_a_kit_without_experts_is_refused_unless_all_see_every_row(tmp_path):
    model = mk.write("mixtral-gqa", tmp_path / "m")
    output("prepare", model, "--out", tmp_path / "h", "--kit", tmp_path / "kit", "-q", program=WORKER)
    with Worker(model, f"unix:{tmp_path}/s", "--hints", tmp_path / "h") as w:
        ask = ["complete", tmp_path / "kit", "--ids", "3,4,5", "-n", 4]
        refused(6, "--experts all", *ask, *masked(w, "lwe", "--no-integrity"))
        a = sotto_json(*ask, *masked(w, "lwe", "--no-integrity", "--experts", "all"))
        assert len(a["token_ids"]) == 4


def test_a_side_without_weights_talks_and_says_that_nothing_is_checked(demo, made, text):
    kit = made / "demo.kit"
    ask = ["complete", kit, "-p", "Once upon a time", "-n", 24, "--temp", 0, "--json"]
    refused(6, "--no-integrity", *ask[:-1], *masked(demo, "lwe"))
    refused(6, "weights", *ask[:-1], *masked(demo, "otp", "--no-integrity"))
    r = run(*ask, *masked(demo, "lwe", "--no-integrity"))
    assert r.returncode == 0 and "not checked" in r.stderr, r.stderr
    a = json.loads(r.stdout)
    assert a["verified"] == "none" and a["text"].startswith("Once upon a time")
    refused(3, "", *ask[:-1])  # without a worker a kit is no model


def test_rows_of_the_embedding_come_from_the_worker(tmp_path):
    hints = tmp_path / "h"
    output("prepare", DEMO, "--out", hints, "--embedding", "-q", program=WORKER)
    generate = ["complete", DEMO, "-p", "The dog", "-n", 24, "--temp", 0, *EXACT]
    with Worker(DEMO, f"shm:{tmp_path}/s", "--hints", hints, "--embedding") as w:
        otp = sotto_json(*generate, *masked(w, "otp", "--offload", "all", "--embedding", "remote"))
        here = sotto_json(*generate, *REFERENCE, "--embedding", "remote")
        assert otp["token_ids"] == here["token_ids"]
        lwe = sotto_json(*generate, *masked(w, "lwe", "--offload", "all", "--embedding", "remote"))
        assert len(lwe["token_ids"]) == 24


# ---- what cannot work ---------------------------------------------------------------------------

def test_every_mistake_gets_one_clear_line(demo, made, tmp_path):
    ask = ["complete", DEMO, "-p", "x", "-n", 1]
    refused(4, "worker unix:/nonexistent", *ask, "--protect", "masked", "--worker", "unix:/nonexistent")
    refused(2, "want one of lwe, otp, remo", *ask, *masked(demo, "aes"))
    refused(2, "lwe-1280-12.8", *ask, *masked(demo, "lwe", "--params", "lwe-none"))
    refused(2, "lwe-1280-12.8", *ask, *masked(demo, "lwe", "--params", "lwe-1408-6.4"))
    refused(6, "--no-integrity", *ask, *masked(demo, "remo"))
    refused(4, "absent", *ask, *masked(demo, "lwe", "--hints", tmp_path / "absent"))
    other = mk.write("llama-mqa", tmp_path / "other")
    output("prepare", other, "--out", tmp_path / "other.hints", "-q", program=WORKER)
    refused(5, "another model", *ask, *masked(demo, "lwe", "--hints", tmp_path / "other.hints"))
    broken = bytearray((made / "demo.hints").read_bytes())
    broken[len(broken) // 2] ^= 1
    (tmp_path / "broken").write_bytes(broken)
    r = run(*ask, *masked(demo, "lwe", "--hints", tmp_path / "broken"))
    assert r.returncode in (3, 5) and "model.layers" in r.stderr, r.stderr
    with Worker(other, f"unix:{tmp_path}/o") as w:
        refused(5, "model", *ask, *masked(w, "otp"))
    with Worker(DEMO, f"unix:{tmp_path}/n") as w:
        refused(3, "missing hints", *ask, *masked(w, "lwe"))
        refused(3, "sotto-worker --embedding", *ask, *masked(w, "otp", "--embedding", "remote"))
    refused(8, "pads", *ask, "--protect", "masked", "--worker", demo.address, "--scheme", "otp", "--pad-memory", "64K")


# ---- a server and its workers -------------------------------------------------------------------

class Server:
    def __init__(self, *args):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.process = subprocess.Popen([BIN, *map(str, args), "--port", str(self.port), "--config="], cwd=ROOT, env=ENV,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while self.get("/health")[0] is None:
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(self.process.communicate()[1])
            time.sleep(0.02)

    def call(self, method, path, body=None, timeout=60):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
            c.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            return c, c.getresponse()
        except OSError:
            return None, None

    def get(self, path):
        c, r = self.call("GET", path)
        return (None, "", {}) if r is None else (r.status, r.read().decode(), dict(r.getheaders()))

    def complete(self, n=8, **more):
        c, r = self.call("POST", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": n, "temperature": 0,
                                                     **more})
        return r.status, json.loads(r.read()), dict(r.getheaders())

    def wait_health(self, status, seconds=15):
        end = time.monotonic() + seconds
        while self.get("/health")[0] != status and time.monotonic() < end:
            time.sleep(0.1)
        assert self.get("/health")[0] == status

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.communicate(timeout=20)
        self.process.kill()
        return self.process.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def value(metrics, name):
    return float(next(line.split()[-1] for line in metrics.splitlines() if line.startswith(name + " ")))


def test_the_protection_shows_in_banner_headers_health_metrics_status_and_egress(demo):
    args = masked(demo, "lwe", "--show-egress", "--offload", "all")
    s = Server("proxy", DEMO, *args)
    status, reply, headers = s.complete()
    assert status == 200 and reply["choices"][0]["text"]
    assert (headers["Sotto-Protection"], headers["Sotto-Scheme"], headers["Sotto-Verified"]) == (
        "masked", "lwe-1280-12.8", "integrity")
    state = sotto_json("status", "--url", f"http://127.0.0.1:{s.port}")
    assert state["ready"] and state["protection"] == "masked" and state["verified"] == "integrity"
    assert state["health"]["exchanges"] > 0 and state["health"]["rejects"] == 0
    m = s.get("/metrics")[1]
    assert value(m, "sotto_exchanges_total") >= 8 * 25 and value(m, "sotto_pads_taken_total") >= 8 * 25
    assert value(m, 'sotto_worker_bytes_total{direction="up"}') > 1000
    assert value(m, "sotto_verification_failures_total") == 0 and value(m, "sotto_workers_quarantined") == 0
    out, err = s.stop()
    assert "protection: masked, scheme lwe-1280-12.8" in out and "128" not in out.split("\n")[0]
    assert "egress: " in err and "residues for model.layers.0.self_attn.q_proj.weight" in err
    assert "Once" not in err


def test_a_request_after_a_worker_was_lost_works_on_another_or_says_that_there_is_none(made):
    a = Worker(DEMO, f"unix:{made}/a.sock")
    b = Worker(DEMO, f"shm:{made}/b.sock")
    with a, b, Server("serve", DEMO, "--protect", "masked", "--worker", a.address, "--worker", b.address, "--scheme",
                      "otp", "--offload", "all", "--worker-timeout", "3", *SMALL) as s:
        assert s.complete()[0] == 200
        a.stop()
        results = [s.complete() for _ in range(3)]
        assert [r[0] for r in results[1:]] == [200, 200]  # at most the first one is lost with the worker
        assert results[0][0] == 200 or results[0][1]["error"]["code"] == "network"
        assert s.get("/health")[0] == 200
        b.stop()
        for _ in range(2):
            status, reply, _ = s.complete()
            assert status == 502 and reply["error"]["code"] == "network"
        assert "model.layers.0.self_attn.q_proj.weight: worker" in reply["error"]["message"]
        s.wait_health(503)
        with Worker(DEMO, a.address):  # one that comes back is found again
            s.wait_health(200)
            assert s.complete()[0] == 200
        taken = value(s.get("/metrics")[1], "sotto_pads_taken_total")
        assert s.complete()[0] == 502
        assert value(s.get("/metrics")[1], "sotto_pads_taken_total") > taken  # a try takes fresh pads


class Liar:
    """Passes frames on between a client and a worker, and changes one residue in the reply number `at`."""
    PRODUCT = 4

    def __init__(self, path, worker, at):
        self.address, self.to, self.at, self.seen = f"unix:{path}", worker.address.removeprefix("unix:"), at, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, far = self.listener.accept()[0], socket.socket(socket.AF_UNIX)
            except OSError:
                return
            far.connect(self.to)
            threading.Thread(target=self.up, args=(near, far), daemon=True).start()
            threading.Thread(target=self.down, args=(far, near), daemon=True).start()

    def up(self, near, far):
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                far.sendall(data)
        far.close()

    def down(self, far, near):
        with contextlib.suppress(OSError), far.makefile("rb") as f:
            while head := f.read(32):
                kind, length = struct.unpack_from("<8xII8xQ", head)[1:]
                payload = bytearray(f.read(length))
                self.seen += kind == self.PRODUCT
                if kind == self.PRODUCT and self.seen == self.at:
                    payload[-4] ^= 1
                near.sendall(head + payload)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def test_a_wrong_result_ends_its_request_and_its_worker(made, demo):
    with Liar(made / "liar.sock", demo, at=60) as liar, Server(
            "serve", DEMO, "--protect", "masked", "--worker", liar.address, "--worker", demo.address, "--offload", "all",
            *SMALL) as s:
        status, reply, _ = s.complete()
        assert status == 502 and reply["error"]["code"] == "integrity" and "layer" in reply["error"]["message"]
        seen = liar.seen
        assert s.complete()[0] == 200 and liar.seen == seen  # on the honest one
        m = s.get("/metrics")[1]
        assert value(m, "sotto_verification_failures_total") == 1 and value(m, "sotto_worker_rejects_total") == 1
        assert value(m, "sotto_workers_quarantined") == 1
        assert s.get("/health")[0] == 200
    with Liar(made / "liar2.sock", demo, at=60) as liar, Server(
            "serve", DEMO, "--protect", "masked", "--worker", liar.address, "--offload", "all", *SMALL) as s:
        assert s.complete()[0] == 502
        status, reply, _ = s.complete()
        assert status == 502 and "no worker is left" in reply["error"]["message"]
        s.wait_health(503)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_stream_whose_worker_dies_ends_with_an_error_that_has_a_code(made, how):
    with Worker(DEMO, f"unix:{made}/c.sock") as w, Server("serve", DEMO, *masked(w, "otp", "--offload", "all",
                                                                                  "--worker-timeout", "2")) as s:
        c, r = s.call("POST", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": 400, "stream": True,
                                                  "ignore_eos": True})
        first = r.readline()
        assert first.startswith(b"data: ")
        start = time.monotonic()
        w.process.send_signal(how)
        rest = r.read().decode()
        assert time.monotonic() - start < 10
        last = json.loads([x for x in rest.splitlines() if x.startswith("data: ")][-1][6:])
        assert last["error"]["code"] == "network" and "[DONE]" not in rest


def test_doctor_asks_a_worker(demo):
    checks = {c["check"]: c for c in sotto_json("doctor", "--worker", demo.address)["checks"]}
    assert checks["worker"]["status"] == "ok" and "lwe-1280-12.8" in checks["worker"]["detail"]
    assert checks["pads"]["status"] in ("ok", "warn")


# ---- demo and bench -----------------------------------------------------------------------------

def test_the_demo_proves_equality_under_one_time_pads(tmp_path):
    r = subprocess.run([BIN, "demo", "--protect", "masked", "--json", "-n", "24", "--config="], cwd=ROOT,
                       capture_output=True, text=True, timeout=60, env={**ENV, "TMPDIR": str(tmp_path)})
    assert r.returncode == 0, r.stderr
    d = json.loads(r.stdout)
    assert d["reply_equal"] is True and (d["protect"], d["scheme"]) == ("masked", "otp")
    assert d["reply"] == d["plain_reply"] and d["lwe_scheme"] == "lwe-1280-12.8" and d["lwe_reply"]
    assert "residues" in d["sent"] and "Lily" not in d["sent"] and "residues" in d["received"]
    assert not list(tmp_path.iterdir())


def test_the_bench_says_where_the_time_of_a_token_goes(demo):
    b = sotto_json("bench", "masked", DEMO, *masked(demo, "otp"), "--gen", 16, "--clients", "1,2")
    assert b["exchanges_per_token"] == 25 and b["tokens_per_s"] > 0 and b["plain_tokens_per_s"] > 0
    for key in ("trusted_us", "mask_us", "meanwhile_us", "check_us", "unmask_us", "worker_us", "link_us", "pad_us", "clients_2_tokens_per_s"):
        assert b[key] > 0, key
    assert b["bytes_up_per_token"] > 20000 and b["bytes_down_per_token"] > 40000
