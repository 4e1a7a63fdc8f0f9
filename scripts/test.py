#!/usr/bin/env python3
"""Runs the C tests of a build folder, then the interop tests, and ends with `N passed, N failed`.

    scripts/test.py BUILD [--no-interop] [--only REGEX] [--jobs N]

A case is one cmocka or pytest case. A program that crashes, hangs or fails counts at least one failure.
"""
import argparse
import concurrent.futures
import glob
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TIMEOUT_S = 600


def run_c(path, env):
    start = time.monotonic()
    try:
        p = subprocess.run([path], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S)
        code, out = p.returncode, p.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as e:
        code, out = -1, (e.stdout or b"").decode("utf-8", "replace") + f"\nstopped after {TIMEOUT_S} s\n"
    total = sum(int(n) for n in re.findall(r"\[=+\] Running (\d+) test", out))
    passed = len(re.findall(r"^\[ +OK \]", out, re.M))
    skipped = sum(int(n) for n in re.findall(r"\[ +SKIPPED +\] (\d+) test", out))
    failed = max(total - passed - skipped, 1 if code or not total else 0)
    return os.path.basename(path), passed, failed, skipped, out, time.monotonic() - start


def run_c_tests(build, only, jobs, env):
    paths = [p for p in sorted(glob.glob(os.path.join(build, "bin", "test_*"))) if re.search(only, p)]
    sums = [0, 0]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for name, passed, failed, skipped, out, took in pool.map(lambda p: run_c(p, env), paths):
            note = f", {skipped} skipped" if skipped else ""
            print(f"{name:28} {passed:4} passed, {failed} failed{note}  ({took:.1f} s)", flush=True)
            if failed:
                print("    " + "\n    ".join(out.splitlines()[-60:]))
            else:
                for line in out.splitlines():
                    if re.search(r"\bskip(s|ped|ping)?\b", line) and not line.startswith("["):
                        print("    " + line)
            sums[0] += passed
            sums[1] += failed
    return sums


def run_interop(env):
    if not glob.glob(os.path.join(ROOT, "tests", "interop", "test_*.py")):
        return [0, 0]
    if subprocess.run([os.path.join(ROOT, "scripts", "venv.sh")]).returncode:
        print("interop: the Python environment could not be made")
        return [0, 1]
    with tempfile.TemporaryDirectory() as tmp:
        xml = os.path.join(tmp, "interop.xml")
        code = subprocess.run([os.path.join(ROOT, ".venv/bin/python"), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider",
                               f"--junitxml={xml}", "tests/interop"], cwd=ROOT, env=env).returncode
        try:
            suites = list(ET.parse(xml).getroot().iter("testsuite"))
        except (OSError, ET.ParseError):
            return [0, 1]
    count = lambda key: sum(int(s.get(key, 0)) for s in suites)
    failed = count("failures") + count("errors")
    passed = count("tests") - failed - count("skipped")
    return [passed, max(failed, 1 if code else 0)]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("--no-interop", action="store_true")
    a.add_argument("--only", default="")
    # The programs use two threads and more: one for every two CPUs, or they wait for each other.
    a.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    a = a.parse_args()
    build = os.path.abspath(a.build)
    env = dict(os.environ, SOTTO_BIN=os.path.join(build, "bin", "sotto"), SOTTO_CONFIG="")
    env.setdefault("SOTTO_SHARED", os.path.join(ROOT, "..", "shared"))
    passed, failed = run_c_tests(build, a.only, a.jobs, env)
    if not a.no_interop:
        more = run_interop(env)
        passed, failed = passed + more[0], failed + more[1]
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
