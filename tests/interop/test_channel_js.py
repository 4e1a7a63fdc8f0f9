"""HPKE, binary HTTP and Oblivious HTTP both ways against npm packages (@hpke/core, bhttp-js), every suite and form.
Skipped, with the reason, without node or when the packages cannot be had."""
import os
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("SOTTO_BIN", HERE.parents[1] / "build/bin/sotto")).parent
PEER = BIN / "peer_channel"


@pytest.fixture(scope="session")
def modules():
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not here")
    where = BIN.parent / "npm"
    where.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_text()
    done = where / "package.json"
    if not (where / "node_modules").is_dir() or done.read_text() != wanted:
        done.write_text(wanted)
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--fetch-retries=0"]
        try:
            p = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=60)
            why = p.returncode and next((x for x in p.stderr.splitlines() if x.startswith("npm error")), "no reason")
        except subprocess.TimeoutExpired:
            why = "it took more than a minute"
        if why:
            shutil.rmtree(where / "node_modules", ignore_errors=True)
            pytest.skip(f"npm cannot install: {why}")
    return where


@pytest.mark.parametrize("case,n", [("hpke-to", 6), ("hpke-from", 6), ("ohttp-to", 12), ("ohttp-from", 12)])
def test_every_suite_and_form_agrees(modules, case, n):
    p = subprocess.run(["node", HERE / "channel_peer.mjs", modules, PEER, case], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    assert p.stdout.split() == [str(n)]
