"""Key release with the real programs, and with a client and a recipient written here from docs/sealed.md.

    pytest tests/interop/test_release.py

A model is sealed for a public key; `sotto release` holds the private one; `sotto serve F.sealed --release` proves itself by
simulated evidence, opens it in its sandbox and answers. Then the other implementation: it opens the wrap by the
private key with `cryptography`, and asks the service for the key itself, with evidence that it signs.
"""
import base64
import hashlib
import hmac
import json
import os
import pathlib
import signal
import struct
import subprocess
import time
import urllib.error
import urllib.request

import pytest

ec = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason="skips: wants cryptography")
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build/bin/sotto"))
DEMO = ROOT / "models/demo"
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"  # RFC 8032, test 1
MEASURED = "11" * 32
SUITE = struct.pack(">HHH", 0x20, 1, 2)
ENV = {k: v for k, v in os.environ.items() if not k.startswith("SOTTO_") and not k.lower().endswith("_proxy")}


def sotto(*args, ok=True):
    r = subprocess.run([BIN, *map(str, args), "--config="], capture_output=True, text=True, env=ENV, timeout=120)
    assert not ok or r.returncode == 0, r.stderr
    return r


class Server:
    def __init__(self, *args):
        self.p = subprocess.Popen([BIN, *map(str, args), "--port", "0", "--json", "--config="], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, env=ENV)
        line = self.p.stdout.readline()
        assert line, self.p.stderr.read()
        self.about = json.loads(line)
        self.url = self.about["url"]

    def post(self, path, body):
        r = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(r, timeout=30))

    def stop(self):
        """SIGTERM; what it said."""
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
        _, err = self.p.communicate(timeout=30)
        assert self.p.returncode == 0, err
        return err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    d = tmp_path_factory.mktemp("release")
    sotto("seal", "key", d / "publisher.key")
    sotto("seal", "key", "--hpke", d / "release.key")
    sotto("seal", DEMO, d / "m.sealed", "--sign-key", d / "publisher.key", "--version", 2,
          "--recipient", f"hpke:{d / 'release.key.pub'}")
    (d / "sim.key").write_text(SEED)
    root = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)).public_key().public_bytes_raw().hex()
    (d / "policy.json").write_text(json.dumps({"version": 1, "require": ["sim"], "sim_root": root, "max_age_s": 60,
                                               "measurements": {"sim.measurement": [MEASURED]}}))
    return d


@pytest.fixture
def start():
    servers = []

    def run(*args):
        servers.append(Server(*args))
        return servers[-1]

    yield run
    for s in servers:
        if s.p.poll() is None:
            s.p.kill()
        s.p.wait()
        s.p.stdout.close()
        s.p.stderr.close()


def release(start, d, *more):
    return start("release", "--hpke-key", d / "release.key", "--policy", d / "policy.json", "--container", d / "m.sealed",
                 *more)


def proof(d, url, measured=MEASURED):
    return ["--release", url, "--evidence", "sim", "--sim-key", d / "sim.key", "--sim-measurement", measured]


def test_a_model_is_served_by_whoever_proves_itself(place, start):
    service = release(start, place, "--min-version", "demo=2")
    plain = json.loads(sotto("complete", DEMO, "-p", "Once upon a time", "-n", 8, "--temp", 0, "--json").stdout)
    served = start("serve", place / "m.sealed", "--threads", "1", *proof(place, service.url))
    assert "seccomp on" in served.about["sealed"]["sandbox"]
    reply = served.post("/v1/completions", {"model": served.about["model"], "prompt": "Once upon a time", "max_tokens": 8,
                                            "temperature": 0})
    assert plain["text"] == "Once upon a time" + reply["choices"][0]["text"]
    served.stop()
    refused = sotto("complete", place / "m.sealed", "-p", "x", *proof(place, service.url, "22" * 32), ok=False)
    assert refused.returncode == 6 and "it refused; its log says why" in refused.stderr
    assert "measurement" not in refused.stderr
    said = service.stop()
    assert "released: demo, version 2; 1 keys so far" in said
    assert "refused: " in said and "sim.measurement" in said


def test_options_that_belong_together_are_wanted_together(place):
    for more, says in ((["--release", "http://127.0.0.1:1"], "want both --release URL and --evidence KINDS"),
                       (["--evidence", "sim"], "want both"),
                       (["--release", "http://127.0.0.1:1", "--evidence", "sim"], "wants --sim-key FILE")):
        r = sotto("complete", place / "m.sealed", "-p", "x", *more, ok=False)
        assert r.returncode == 2 and says in r.stderr
    r = sotto("complete", DEMO, "-p", "x", "--evidence", "sim", ok=False)
    assert r.returncode == 2 and "only with a sealed model" in r.stderr
    r = sotto("complete", place / "m.sealed", "-p", "x", *proof(place, "http://127.0.0.1:1"), ok=False)
    assert r.returncode == 4 and "release service http://127.0.0.1:1" in r.stderr
    r = sotto("release", "--policy", place / "policy.json", ok=False)
    assert r.returncode == 2 and "--container FILE" in r.stderr
    r = sotto("release", "--hpke-key", place / "release.key", "--policy", place / "policy.json", "--container",
              place / "m.sealed", "--min-version", "nobody=2", ok=False)
    assert r.returncode == 2 and "nobody" in r.stderr


# ---- HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM; base mode, one message ----

def extract(salt, ikm):
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def expand(prk, info, n):
    out, t = b"", b""
    while len(out) < n:
        t = hmac.digest(prk, t + info + bytes([len(out) // 32 + 1]), "sha256")
        out += t
    return out[:n]


def hpke_open(sk, enc, info, sealed):
    pk = sk.public_key().public_bytes_raw()
    kem, suite = b"KEM\x00\x20", b"HPKE" + SUITE
    dh = sk.exchange(X25519PublicKey.from_public_bytes(enc))
    prk = extract(b"", b"HPKE-v1" + kem + b"eae_prk" + dh)
    shared = expand(prk, struct.pack(">H", 32) + b"HPKE-v1" + kem + b"shared_secret" + enc + pk, 32)
    hashed = b"\x00" + b"".join(extract(b"", b"HPKE-v1" + suite + label + x)
                                for label, x in ((b"psk_id_hash", b""), (b"info_hash", info)))
    secret = extract(shared, b"HPKE-v1" + suite + b"secret")
    key, nonce = (expand(secret, struct.pack(">H", n) + b"HPKE-v1" + suite + label + hashed, n)
                  for label, n in ((b"key", 32), (b"base_nonce", 12)))
    return AESGCM(key).decrypt(nonce, sealed, None)


# ---- the container, as far as it is wanted here ----

class Container:
    def __init__(self, path):
        raw = path.read_bytes()
        assert raw[:8] == b"SOTTOSEA"
        _, n_header, n_recipients, n_segment = struct.unpack_from("<IIII", raw, 8)
        header = raw[24:24 + n_header]
        at = 24 + n_header
        self.mac = raw[at:at + 32]
        self.recipients = json.loads(raw[at + 96:at + 96 + n_recipients])
        about = json.loads(header)
        self.id, self.version = bytes.fromhex(about["id"]), about["version"]
        self.digest = hashlib.sha256(raw[:16] + raw[20:24] + header).digest()

    def is_key(self, key):
        prk = extract(self.id, key)
        return expand(prk, b"sotto sealed 1 header" + self.digest, 32) == self.mac

    def bound(self):
        return self.id + struct.pack("<Q", self.version)


def test_a_wrap_opens_elsewhere(place):
    c = Container(place / "m.sealed")
    sk = ec.load_pem_private_key((place / "release.key").read_bytes(), None)
    wrap = c.recipients[0]
    assert wrap["kind"] == "hpke" and base64.b64decode(wrap["key"]) == sk.public_key().public_bytes_raw()
    key = hpke_open(sk, base64.b64decode(wrap["enc"]), b"sotto sealed 1 hpke" + c.bound(), base64.b64decode(wrap["sealed"]))
    assert c.is_key(key)


def field(*parts):
    return b"".join(struct.pack("<I", len(p)) + p for p in parts)


def ask(service, c, sk, nonce=None, model=None):
    """A client's request; the reply, or the error's status and body."""
    nonce = nonce or bytes.fromhex(service.post("/challenge", {})["nonce"])
    pk, receipt = sk.public_key().public_bytes_raw(), bytes(32)
    model = model or c.digest
    data = hashlib.sha512(field(b"sotto node report data v1", SUITE, pk, receipt, nonce, b"", model)).digest()
    statement = (b"SOTTOSIM" + struct.pack("<IIIIQ", 1, 0, 0, 0, int(time.time())) + bytes.fromhex(MEASURED) + data)
    statement += Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)).sign(statement)
    request = {
        "container": {"id": c.id.hex(), "version": c.version, "digest": c.digest.hex()},
        "wrap": c.recipients[0],
        "evidence": {"version": 1, "items": [{"kind": "sim", "evidence": base64.b64encode(statement).decode()}],
                     "binding": {"kem": 32, "kdf": 1, "aead": 2, "hpke_key": pk.hex(), "receipt_key": receipt.hex(),
                                 "nonce": nonce.hex(), "model": model.hex()}}}
    try:
        return nonce, service.post("/release", request)
    except urllib.error.HTTPError as e:
        return nonce, (e.code, e.read())


def test_another_client_gets_the_key_once(place, start):
    service = release(start, place)
    c, sk = Container(place / "m.sealed"), X25519PrivateKey.generate()
    nonce, reply = ask(service, c, sk)
    info = b"sotto release 1" + c.bound() + c.digest + nonce
    assert c.is_key(hpke_open(sk, base64.b64decode(reply["enc"]), info, base64.b64decode(reply["sealed"])))
    assert ask(service, c, sk, nonce)[1] == (400, b"")
    assert ask(service, c, sk, model=bytes(32))[1] == (400, b"")
    said = service.stop()
    assert "used before" in said


def test_a_version_below_the_minimum_stays(place, start):
    service = release(start, place, "--min-version", "3")
    assert ask(service, Container(place / "m.sealed"), X25519PrivateKey.generate())[1] == (400, b"")
    assert "below the minimum" in service.stop()
