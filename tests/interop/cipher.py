"""The token cipher, derived from key file and source by an implementation of its own: HKDF on hmac,
ChaCha20 in Python integers. It checks key format, stream and permutation from outside, and tells
the scripts that score attacks what the right answer is.
"""
import hashlib
import hmac
import struct

MODEL_FILES = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
               "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
               "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"}


def sha256(data):
    return hashlib.sha256(data).digest()


def model_digest(path):
    """Of a directory, or of one file, which counts as model.bin."""
    def line(f, name):
        data = f.read_bytes()
        return f"{hashlib.sha256(data).hexdigest()} {len(data)} {name}\n"

    if path.is_file():
        return sha256(line(path, "model.bin").encode())
    return sha256("".join(
        line(f, f.name) for f in sorted(path.iterdir(), key=lambda f: f.name.encode())
        if f.name in MODEL_FILES or f.name.endswith((".safetensors", ".safetensors.index.json"))
    ).encode())


KEY_HEAD = "<8sI16sI16sq"  # magic, version, id, wrap, salt, created


def read_key(path):
    """Id and seed of a key file that is not wrapped."""
    data = path.read_bytes()
    magic, version, key_id, wrap, _salt, created = struct.unpack_from(KEY_HEAD, data)
    n, seed, check = struct.unpack_from("<I32s32s", data, struct.calcsize(KEY_HEAD))
    assert (magic, version, wrap, n) == (b"SOTTOKEY", 2, 0, 32) and created > 0
    assert check == sha256(data[:-32])
    return key_id, seed


def write_key(path, key_id, seed):
    data = struct.pack(KEY_HEAD, b"SOTTOKEY", 2, key_id, 0, bytes(16), 1) + field(seed)
    path.write_bytes(data + sha256(data))
    path.chmod(0o600)


def hkdf(ikm, salt, info):
    prk = hmac.digest(salt, ikm, "sha256")
    return hmac.digest(prk, info + b"\1", "sha256")


def chacha20(key):
    """The key stream as bytes, zero nonce, counter from 0 (RFC 8439)."""
    mask = 0xffffffff

    def rotl(v, n):
        return (v << n | v >> (32 - n)) & mask

    def quarter(x, a, b, c, d):
        for p, q, r, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[p] = (x[p] + x[q]) & mask
            x[r] = rotl(x[r] ^ x[p], n)

    start = [0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, *struct.unpack("<8I", key), 0, 0, 0, 0]
    while True:
        x = list(start)
        for _ in range(10):
            for i in range(4):
                quarter(x, i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(x, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        yield from struct.pack("<16I", *((a + b) & mask for a, b in zip(x, start)))
        start[12] += 1


def field(data):
    return struct.pack("<I", len(data)) + data


def permutation(seed, digest, n):
    stream = chacha20(hkdf(seed, b"sotto stream 1", field(digest) + field(b"tau")))

    def u64():
        return int.from_bytes(bytes(next(stream) for _ in range(8)), "little")

    def below(m):
        reject = (1 << 64) % m
        while (v := u64()) < reject:
            pass
        return v % m

    p = list(range(n))
    for i in range(n, 1, -1):
        j = below(i)
        p[i - 1], p[j] = p[j], p[i - 1]
    return p
