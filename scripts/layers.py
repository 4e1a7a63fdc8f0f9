#!/usr/bin/env python3
"""make layers: a file includes its own folder or a lower level only; folders of one level are strangers."""
import glob
import os
import re
import sys

LEVELS = {"base": 0, "crypto": 1, "text": 1, "tensor": 1, "field": 2, "attest": 2, "channel": 2, "net": 2, "model": 3,
          "engine": 4, "protect": 5, "service": 6, "audit": 7, "cli": 8}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def folder(path):
    parts = path.split("/")
    # Each protection is a stranger to the others.
    return "/".join(parts[:2]) if parts[0] == "protect" else parts[0]


def main():
    bad = 0
    files = sorted(glob.glob(os.path.join(ROOT, "src/**/*.[ch]"), recursive=True))
    for path in files:
        name = os.path.relpath(path, os.path.join(ROOT, "src"))
        own = folder(name)
        if own.split("/")[0] not in LEVELS:
            print(f"src/{name}: its folder has no level (scripts/layers.py)")
            bad += 1
            continue
        for number, line in enumerate(open(path, encoding="utf-8"), 1):
            m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not m or m.group(1).startswith("sotto/"):
                continue
            other = folder(m.group(1))
            top = other.split("/")[0]
            if top not in LEVELS:
                problem = "is no path below src/"
            elif other != own and LEVELS[top] >= LEVELS[own.split("/")[0]]:
                problem = f"goes up: {own} is level {LEVELS[own.split('/')[0]]}, {other} is level {LEVELS[top]}"
            else:
                continue
            print(f"src/{name}:{number}: includes {m.group(1)}, which {problem}")
            bad += 1
    print(f"layers: {len(files)} files, {bad} wrong includes")
    return 1 if bad else 0


sys.exit(main())
