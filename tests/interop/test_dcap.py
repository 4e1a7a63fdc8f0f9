"""Intel evidence: `sotto attest verify` and dcap-qvl (Rust) say the same of real quotes, and what dcap-qvl refuses is
refused. Needs $SOTTO_SHARED/data/evidence and the built program (SOTTO_BIN, default build/bin/sotto).

    pytest tests/interop/test_dcap.py
"""
import datetime
import json
import os
import pathlib
import random
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOTTO = os.environ.get("SOTTO_BIN", str(ROOT / "build/bin/sotto"))
EVIDENCE = pathlib.Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared")) / "data/evidence"
pytestmark = pytest.mark.skipif(not EVIDENCE.exists(), reason="SOTTO_SHARED has no data/evidence")
dcap_qvl = pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed (requirements.txt)")

JUNE_2025 = 1750500000
STATUSES = ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
            "OutOfDateConfigurationNeeded"]
SAMPLES = [("tdx", "tdx/dcapqvl_v4.dat", "collateral/dcapqvl_tdx.json"),
           ("sgx", "sgx/dcapqvl_v3.dat", "collateral/dcapqvl_sgx.json")]


def ours(kind, quote, collateral, when, tmp_path):
    """The verdict's JSON object; any known status is good enough, as it is for dcap-qvl."""
    policy, evidence = tmp_path / "policy.json", tmp_path / "quote"
    policy.write_text(json.dumps({"version": 1, "require": [kind], "tcb": {kind: STATUSES}}))
    evidence.write_bytes(quote)
    time = datetime.datetime.fromtimestamp(when, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    r = subprocess.run([SOTTO, "attest", "verify", evidence, "--policy", policy, "--endorsements", EVIDENCE / collateral,
                        "--time", time, "--json", "--config="], capture_output=True, text=True, timeout=60)
    assert r.returncode in (0, 3, 5, 6, 7), r.stderr
    return json.loads(r.stdout) if r.stdout else {"verdict": "fail"}


def theirs(quote, collateral, when):
    """dcap-qvl's report, None when it refuses."""
    try:
        return dcap_qvl.verify(quote, dcap_qvl.QuoteCollateralV3.from_json((EVIDENCE / collateral).read_text()), when)
    except ValueError:
        return None


@pytest.mark.parametrize("kind, file, collateral", SAMPLES)
def test_status_and_advisories_are_the_same(kind, file, collateral, tmp_path):
    quote = (EVIDENCE / file).read_bytes()
    want, got = theirs(quote, collateral, JUNE_2025), ours(kind, quote, collateral, JUNE_2025, tmp_path)
    assert got["verdict"] == "pass"
    assert got["claims"][f"{kind}.tcb_status"] == want.status
    assert got["claims"][f"{kind}.advisories"] == ",".join(want.advisory_ids)


@pytest.mark.parametrize("kind, file, collateral", SAMPLES)
def test_a_time_that_dcap_qvl_refuses_is_refused(kind, file, collateral, tmp_path):
    quote = (EVIDENCE / file).read_bytes()
    for when in (JUNE_2025 - 365 * 86400, JUNE_2025 + 60 * 86400, JUNE_2025 + 20 * 365 * 86400):
        assert theirs(quote, collateral, when) is None
        assert ours(kind, quote, collateral, when, tmp_path)["verdict"] == "fail"


@pytest.mark.parametrize("kind, file, collateral", SAMPLES)
def test_damage_that_dcap_qvl_refuses_is_refused(kind, file, collateral, tmp_path):
    rng = random.Random(7)
    quote = (EVIDENCE / file).read_bytes()
    refused = 0
    for at in rng.sample(range(4600), 60):
        damaged = bytearray(quote)
        damaged[at] ^= 1 << rng.randrange(8)
        # dcap-qvl lets some bytes of the certificates' text change; here none may, whatever it says.
        refused += theirs(bytes(damaged), collateral, JUNE_2025) is None
        assert ours(kind, bytes(damaged), collateral, JUNE_2025, tmp_path)["verdict"] == "fail", at
    assert refused > 20
