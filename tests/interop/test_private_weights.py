"""Weights that the trusted side may not have: a kit, a worker that serves only sides that prove what they run, and an
attested preparer; the real programs, TLS, simulated evidence.

    pytest tests/interop/test_private_weights.py

What comes out is compared with the integer reference of the whole model (otp: every logit and token) and with the model
under the same masks (lwe). Then what must not work: no evidence, evidence of another machine, a preparer that is not
one, a worker whose replies are changed on their way.
"""
import datetime
import ipaddress
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading

import pytest

x509 = pytest.importorskip("cryptography.x509", reason="skips: wants cryptography")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build/bin/sotto"))
WORKER = BIN.with_name("sotto-worker")
DEMO = ROOT / "models/demo"
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"  # RFC 8032, test 1
TRUSTED, PREPARER = "11" * 32, "22" * 32  # what the two machines measure
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SOTTO_") and not k.lower().endswith("_proxy")}
ASK = ["--ids", "77,78,79,80", "-n", 24, "--temp", 0, "--ignore-eos", "--json"]
EXACT = ["--deterministic", "--kv-dtype", "f32", "--threads", 1]


def run(program, *args, timeout=120):
    return subprocess.run([program, *map(str, args), "--config="], cwd=ROOT, capture_output=True, text=True, env=ENV,
                          timeout=timeout)


def output(program, *args):
    r = run(program, *args)
    assert r.returncode == 0, r.stderr
    return r.stdout


def refused(code, says, *args):
    r = run(BIN, *args, timeout=60)
    lines = [x for x in r.stderr.splitlines() if x.startswith("sotto")]
    assert r.returncode == code and len(lines) == 1 and says in lines[0], (r.returncode, r.stderr)
    assert r.stdout == ""


def make_certificate(d):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(key, hashes.SHA256()))
    (d / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (d / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                  serialization.NoEncryption()))


class Worker:
    """`sotto-worker` over TLS, ready to answer."""

    def __init__(self, d, name, *args):
        self.log = open(d / f"{name}.log", "w+")
        self.process = subprocess.Popen(
            [WORKER, "--model", DEMO, "--listen", "tls://127.0.0.1:0", "--tls-cert", d / "cert.pem", "--tls-key",
             d / "key.pem", "--threads", "1", *map(str, args), "--json", "--config="], stdout=subprocess.PIPE,
            stderr=self.log, text=True, env=ENV)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError((d / f"{name}.log").read_text())
        self.ready = json.loads(line)
        self.address = self.ready["listening"][0]

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.said()
        self.process.stdout.close()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    d = tmp_path_factory.mktemp("private")
    make_certificate(d)
    (d / "sim.key").write_text(SEED)
    root = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)).public_key().public_bytes_raw().hex()
    made = json.loads(output(WORKER, "prepare", DEMO, "--out", d / "demo.hints", "--kit", d / "demo.kit", "--json"))
    for name, measured, more in ("trusted", TRUSTED, {"engine": [made["kit_digest"]]}), ("preparer", PREPARER, {}):
        (d / f"{name}.json").write_text(json.dumps({"version": 1, "require": ["sim"], "sim_root": root, "max_age_s": 60,
                                                    "measurements": {"sim.measurement": [measured]}, **more}))
    return d


@pytest.fixture(scope="module")
def worker(place):
    with Worker(place, "worker", "--hints", place / "demo.hints", "--private-weights", "--client-policy",
                place / "trusted.json") as w:
        yield w


@pytest.fixture(scope="module")
def preparer(place):
    with Worker(place, "preparer", "--preparer", "--evidence", "sim", "--sim-key", place / "sim.key",
                "--sim-measurement", PREPARER, "--private-weights", "--client-policy", place / "trusted.json") as w:
        yield w


def sides(d, worker, preparer, scheme, measured=TRUSTED):
    o = ["--protect", "masked", "--worker", worker, "--worker-ca", d / "cert.pem", "--scheme", scheme, "--pad-memory",
         "24M", "--private-weights", "--evidence", "sim", "--sim-key", d / "sim.key", "--sim-measurement", measured]
    return o + (["--preparer", preparer, "--preparer-policy", d / "preparer.json"] if preparer else [])


def test_one_time_pads_of_a_kit_give_the_integer_references_tokens_and_logits(place, worker, preparer):
    assert worker.ready["private_weights"] and preparer.ready["preparer"]
    reference = ["--protect", "masked", "--reference", "masked-int", *EXACT]
    otp = sides(place, worker.address, preparer.address, "otp") + EXACT
    a = json.loads(output(BIN, "complete", place / "demo.kit", *ASK, *otp))
    b = json.loads(output(BIN, "complete", DEMO, *ASK, *reference))
    assert a["token_ids"] == b["token_ids"] and len(a["token_ids"]) == 24
    assert (a["scheme"], a["verified"]) == ("otp", "integrity")
    ids = ["--ids", "5,6,7,8,9,10", "--json"]
    a = json.loads(output(BIN, "logits", place / "demo.kit", *ids, *otp))
    b = json.loads(output(BIN, "logits", DEMO, *ids, *reference))
    assert a["logits"] == b["logits"]


def test_a_kit_under_lwe_says_what_the_model_says_and_checks_replies(place, worker, preparer):
    lwe = sides(place, worker.address, preparer.address, "lwe") + EXACT
    r = run(BIN, "complete", place / "demo.kit", *ASK, *lwe)
    assert r.returncode == 0 and "not checked" not in r.stderr, r.stderr
    a = json.loads(r.stdout)
    b = json.loads(output(BIN, "complete", DEMO, *ASK, "--protect", "masked", "--reference", "masked-int", *EXACT))
    assert a["token_ids"] == b["token_ids"]
    assert (a["scheme"], a["verified"]) == ("lwe-1280-12.8", "integrity")


def test_who_does_not_prove_itself_gets_no_hint_and_no_product(place, worker, preparer):
    kit = ["complete", place / "demo.kit", *ASK[:-1]]
    open_side = ["--protect", "masked", "--worker", worker.address, "--worker-ca", place / "cert.pem", "--no-integrity"]
    refused(6, "serves only sides that prove what they run", *kit, *open_side)
    refused(5, "your evidence was not accepted", *kit, *sides(place, worker.address, preparer.address, "lwe", "33" * 32))
    assert "client refused: policy.sim.measurement: 3333" in worker.said()
    refused(6, "--no-integrity", *kit, *sides(place, worker.address, None, "lwe"))
    refused(6, "knows the pad", *kit, *sides(place, worker.address, None, "otp"), "--no-integrity")
    refused(2, "has the weights", "complete", DEMO, *ASK[:-1], *sides(place, worker.address, preparer.address, "lwe"))


@pytest.mark.parametrize("changed", ["model.safetensors", "masked.json", "config.json"])
def test_a_kit_that_somebody_changed_gets_nothing(place, worker, preparer, tmp_path, changed):
    """The genuine program on the genuine machine, the right model's name, and one byte of the kit that is not the owner's."""
    kit = tmp_path / "changed.kit"
    shutil.copytree(place / "demo.kit", kit)
    data = bytearray((kit / changed).read_bytes())
    if changed == "model.safetensors":
        data[-1] ^= 1
    else:
        data += b" \n"
    (kit / changed).write_bytes(data)
    refused(5, "your evidence was not accepted", "complete", kit, *ASK[:-1],
            *sides(place, worker.address, preparer.address, "otp"))


def test_doctor_says_what_a_worker_wants(place, worker):
    r = run(BIN, "doctor", "--worker", worker.address, "--worker-ca", place / "cert.pem", "--json")
    check = {c["check"]: c for c in json.loads(r.stdout)["checks"]}["worker"]
    assert check["status"] == "warn" and "serves only sides that prove what they run" in check["detail"]


def test_who_is_no_preparer_is_sent_no_secret(place, worker, preparer):
    kit = ["complete", place / "demo.kit", *ASK[:-1]]
    with Worker(place, "plain", "--evidence", "sim", "--sim-key", place / "sim.key", "--sim-measurement",
                PREPARER) as plain:
        refused(3, "is no preparer", *kit, *sides(place, worker.address, plain.address, "otp"))
    with Worker(place, "other", "--preparer", "--evidence", "sim", "--sim-key", place / "sim.key", "--sim-measurement",
                "44" * 32) as other:
        refused(6, "its evidence: policy.sim.measurement", *kit, *sides(place, worker.address, other.address, "otp"))
    (place / "weak.json").write_text(json.dumps({"version": 1, "require": "any"}))
    weak = sides(place, worker.address, preparer.address, "otp")
    weak[weak.index("--preparer-policy") + 1] = place / "weak.json"
    refused(6, "names no measurements", *kit, *weak)
    r = run(WORKER, "--model", DEMO, "--listen", "tls://127.0.0.1:0", "--tls-cert", place / "cert.pem", "--tls-key",
            place / "key.pem", "--private-weights", "--client-policy", place / "weak.json")
    assert r.returncode == 6 and "any program on such a machine would get the weights" in r.stderr


class Liar(threading.Thread):
    """A worker that asks nobody for evidence, hands everything on to a real one, and changes one product."""
    PRODUCT = 4

    def __init__(self, d, to, at):
        super().__init__(daemon=True)
        self.at, self.seen = at, 0
        host, port = to[len("tls://"):].rsplit(":", 1)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(d / "cert.pem", d / "key.pem")
        self.client = ssl.create_default_context(cafile=str(d / "cert.pem"))
        self.to = (host, int(port))
        self.server = server
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tls://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self):
        near = self.server.wrap_socket(self.listener.accept()[0], server_side=True)
        far = self.client.wrap_socket(socket.create_connection(self.to), server_hostname=self.to[0])
        buffer = bytearray()
        while True:
            pending = [s for s in (near, far) if s.pending()] or select.select([near, far], [], [], 30)[0]
            for s in pending:
                data = s.recv(65536)
                if not data:
                    return
                if s is near:
                    far.sendall(data)
                    continue
                buffer += data
                while len(buffer) >= 32 and len(buffer) >= 32 + struct.unpack_from("<Q", buffer, 24)[0]:
                    length = 32 + struct.unpack_from("<Q", buffer, 24)[0]
                    self.seen += struct.unpack_from("<I", buffer, 12)[0] == self.PRODUCT
                    if self.seen == self.at:
                        buffer[length - 4] ^= 1
                        self.at = 0
                    near.sendall(buffer[:length])
                    del buffer[:length]


@pytest.mark.parametrize("scheme", ["lwe", "otp"])
def test_a_changed_product_is_found_by_a_side_without_weights(place, preparer, scheme):
    with Worker(place, "open", "--hints", place / "demo.hints") as w:
        liar = Liar(place, w.address, at=30)
        side = sides(place, liar.address, preparer.address, scheme)
        side.remove("--private-weights")  # towards the worker: this one asks nobody
        for option in "--evidence", "--sim-key", "--sim-measurement":
            del side[side.index(option):side.index(option) + 2]
        with Worker(place, "preparer2", "--preparer", "--evidence", "sim", "--sim-key", place / "sim.key",
                    "--sim-measurement", PREPARER) as p:
            side[side.index("--preparer") + 1] = p.address
            r = run(BIN, "complete", place / "demo.kit", *ASK[:-1], *side)
        assert r.returncode == 5 and "is not the product that was asked for" in r.stderr, r.stderr
        assert liar.at == 0  # it was changed
