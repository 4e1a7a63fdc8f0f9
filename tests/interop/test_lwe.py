"""The LWE parameter sets against the estimator, and the basis of tests/test_lwe.c against hashlib's SHAKE128."""
import hashlib
import os
import re
import struct
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import lwe_estimate

DIGEST = bytes([1, 2, 3, 4, 5]) + bytes(27)


def test_the_table_states_what_the_estimator_says():
    sets = lwe_estimate.read_sets()
    assert len(sets) >= 5
    assert lwe_estimate.check()


def test_the_default_has_a_margin_and_a_weak_set_is_known():
    sets = lwe_estimate.read_sets()
    assert sets[0][0] == "lwe-1280-12.8" and sets[0][4] == 140
    assert any(classical < 128 for _, _, _, _, classical, _ in sets)


def field(data):
    return struct.pack("<I", len(data)) + data


def residues(name, m, number):
    """Attempts as src/field/lwe.h has them; one gives m + 16 words."""
    out, attempt = [], 0
    while len(out) < m:
        text = (field(b"sotto lwe basis 1") + field(name.encode()) + field(DIGEST) +
                field(struct.pack("<I", number)) + field(struct.pack("<I", attempt)))
        words = struct.unpack(f"<{m + 16}I", hashlib.shake_128(text).digest(4 * (m + 16)))
        out += [x for x in words if x < lwe_estimate.Q]
        attempt += 1
    return out[:m]


def column(name, m, module, k):
    if not module:
        return residues(name, m, k)
    block, k, out = residues(name, m, k // 256), k % 256, []
    for i in range(0, m, 256):
        b = block[i:i + 256]
        out += [b[k - t] if k >= t else -b[256 + k - t] % lwe_estimate.Q for t in range(256)]
    return out


def test_the_basis_in_the_c_test_is_what_hashlib_gives():
    sets = {name: (m, module) for name, m, _, module, _, _ in lwe_estimate.read_sets()}
    text = open(os.path.join(ROOT, "tests", "test_lwe.c"), encoding="utf-8").read()
    rows = re.findall(r'\{"(lwe-[^"]+)", (\d+), (\d+), \{(\d+)u, (\d+)u, (\d+)u\}\}', text)
    assert len(rows) == 5
    for name, k, row, *values in rows:
        got = column(name, *sets[name], int(k))
        assert got[int(row):int(row) + 3] == [int(v) for v in values]
