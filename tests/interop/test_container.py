"""A sealed container read from docs/sealed.md alone, with another implementation of every primitive.

    pytest tests/interop/test_container.py

`sotto seal` makes containers of models/demo; what is here verifies signatures, mac and digests and decrypts every
segment, and compares the tensors with those of the checkpoint. And the other way: a container that is written here is
one that `sotto` opens.
"""
import hashlib
import json
import os
import pathlib
import struct
import subprocess

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", ROOT / "build/bin/sotto"))
DEMO = ROOT / "models/demo"
SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def sotto(*args, code=0):
    r = subprocess.run([BIN, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert r.returncode == code, r.stderr
    return r.stdout + r.stderr


def hkdf(key, salt, info):
    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def field(b):
    return struct.pack("<I", len(b)) + b


def associated(header, entry, k, last):
    u64 = lambda v: field(struct.pack("<Q", v))
    shape = b"".join(struct.pack("<Q", d) for d in entry["shape"])
    return (field(b"sotto sealed 1 segment") + field(bytes.fromhex(header["id"])) + u64(header["version"])
            + field(entry["name"].encode()) + field(entry["dtype"].encode()) + field(shape)
            + field(entry["place"].encode()) + u64(k) + field(bytes([last])))


def size(entry):
    if "bytes" in entry:
        return entry["bytes"]
    n = SIZES[entry["dtype"]]
    for d in entry["shape"]:
        n *= d
    return n


def split(entry):
    n, step = size(entry), entry["segment_bytes"]
    return [min(step, n - at) for at in range(0, n, step)]


class Container:
    def __init__(self, raw, seed):
        magic, version, n_header, n_recipients, n_segment = struct.unpack_from("<8sIIII", raw)
        assert (magic, version) == (b"SOTTOSEA", 1)
        at = 24
        text, at = raw[at:at + n_header], at + n_header
        mac, at = raw[at:at + 32], at + 32
        signed, at = raw[at:at + 64], at + 64
        recipients, at = raw[at:at + n_recipients], at + n_recipients
        signed_recipients, at = raw[at:at + 64], at + 64
        digests, at = raw[at:at + 32 * n_segment], at + 32 * n_segment
        self.header = h = json.loads(text)
        self.recipients = json.loads(recipients)
        assert text.startswith(b'{"publisher":"' + h["publisher"].encode() + b'"')
        self.digest = s = hashlib.sha256(raw[:16] + raw[20:24] + text).digest()
        publisher = Ed25519PublicKey.from_public_bytes(bytes.fromhex(h["publisher"]))
        publisher.verify(signed, b"sotto sealed 1 header" + s + mac)
        publisher.verify(signed_recipients, b"sotto sealed 1 recipients" + s + recipients)
        assert hashlib.sha256(digests).hexdigest() == h["digests"]
        ident = bytes.fromhex(h["id"])
        content = hkdf(seed, ident, b"sotto sealed 1 content key")
        assert mac == hkdf(content, ident, b"sotto sealed 1 header" + s)
        self.cipher = AESGCM(hkdf(content, ident, b"sotto sealed 1 segments"))
        self.nonces, self.data, number = set(), {}, 0
        for entry in h["entries"]:
            parts = split(entry)
            for k, n in enumerate(parts):
                n += 28 if entry["place"] == "inside" else 0
                stored, at = raw[at:at + n], at + n
                assert hashlib.sha256(stored).digest() == digests[32 * number:32 * number + 32]
                number += 1
                self.data[entry["name"]] = self.data.get(entry["name"], b"") + self.plain(entry, k, len(parts), stored)
        assert (at, number) == (len(raw), n_segment)

    def plain(self, entry, k, n, stored):
        if entry["place"] == "outside":
            return stored
        assert stored[:12] not in self.nonces
        self.nonces.add(stored[:12])
        with pytest.raises(InvalidTag):
            self.cipher.decrypt(stored[:12], stored[12:], associated(self.header, entry, k + 1, k + 1 == n))
        return self.cipher.decrypt(stored[:12], stored[12:], associated(self.header, entry, k, k + 1 == n))


def tensors(path):
    """name -> (dtype, shape, bytes) of a safetensors file."""
    raw = path.read_bytes()
    n = struct.unpack_from("<Q", raw)[0]
    return {k: (v["dtype"], v["shape"], raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in json.loads(raw[8:8 + n]).items() if k != "__metadata__"}


@pytest.fixture
def secrets(tmp_path):
    passphrase, key = tmp_path / "passphrase", tmp_path / "publisher.key"
    passphrase.write_text("a passphrase of a test\n")
    passphrase.chmod(0o600)
    key.write_text(os.urandom(32).hex() + "\n")
    key.chmod(0o600)
    return passphrase, key, bytes.fromhex(key.read_text())


@pytest.mark.parametrize("policy", ["all-inside", "paper", "adapters"])
def test_what_sotto_seals_is_read_by_another(policy, secrets, tmp_path):
    passphrase, key, seed = secrets
    path = tmp_path / "demo.sealed"
    sotto("seal", DEMO, path, "--policy", policy, "--passphrase-file", passphrase, "--sign-key", key, "--version", 7)
    c = Container(path.read_bytes(), seed)
    assert c.header["version"] == 7 and c.header["policy"] == policy and c.header["kind"] == "model"
    assert [r["kind"] for r in c.recipients] == ["passphrase"]
    want = tensors(DEMO / "model.safetensors")
    sealed = {e["name"]: e for e in c.header["entries"] if "shape" in e}
    assert set(sealed) == set(want)
    for name, (dtype, shape, data) in want.items():
        assert (sealed[name]["dtype"], sealed[name]["shape"]) == (dtype, shape)
        assert c.data[name] == data, name
    for e in c.header["entries"]:
        if "bytes" in e:
            assert c.data[e["name"]] == (DEMO / e["name"]).read_bytes()
    shown = json.loads(sotto("seal", "inspect", path, "--check", "--json", "-q"))
    assert shown["digest"] == c.digest.hex() and shown["checked"] is True
    assert [e["name"] for e in shown["entries"]] == [e["name"] for e in c.header["entries"]]


def test_what_another_writes_sotto_opens(secrets, tmp_path):
    """The recipients are taken over from a container that sotto made: same id, version and content key."""
    passphrase, key, seed = secrets
    path, mine = tmp_path / "demo.sealed", tmp_path / "mine.sealed"
    sotto("seal", DEMO, path, "--passphrase-file", passphrase, "--sign-key", key)
    raw = path.read_bytes()
    c = Container(raw, seed)
    n_header, n_recipients = struct.unpack_from("<II", raw, 12)
    at = 24 + n_header + 96
    recipients = raw[at:at + n_recipients]
    signer, ident = Ed25519PrivateKey.from_private_bytes(seed), bytes.fromhex(c.header["id"])
    header, stored = dict(c.header, name="mine"), []
    for e in header["entries"]:
        at, parts = 0, split(e)
        for k, n in enumerate(parts):
            data, at = c.data[e["name"]][at:at + n], at + n
            nonce = os.urandom(12)
            stored.append(nonce + c.cipher.encrypt(nonce, data, associated(header, e, k, k + 1 == len(parts)))
                          if e["place"] == "inside" else data)
    digests = b"".join(hashlib.sha256(s).digest() for s in stored)
    public = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    header = {"publisher": public, **{k: v for k, v in header.items() if k != "publisher"},
              "digests": hashlib.sha256(digests).hexdigest()}
    text = json.dumps(header, separators=(",", ":")).encode()
    fixed = struct.pack("<8sIIII", b"SOTTOSEA", 1, len(text), len(recipients), len(stored))
    s = hashlib.sha256(fixed[:16] + fixed[20:] + text).digest()
    mac = hkdf(hkdf(seed, ident, b"sotto sealed 1 content key"), ident, b"sotto sealed 1 header" + s)
    mine.write_bytes(fixed + text + mac + signer.sign(b"sotto sealed 1 header" + s + mac) + recipients
                     + signer.sign(b"sotto sealed 1 recipients" + s + recipients) + digests + b"".join(stored))
    ask = ("-p", "Once upon a time", "--temp", "0", "-n", "12", "-q")
    assert sotto("complete", mine, "--passphrase-file", passphrase, "--publisher", public, *ask) == sotto(
        "complete", DEMO, *ask)
    assert json.loads(sotto("seal", "inspect", mine, "--check", "--json", "-q"))["name"] == "mine"
