#!/usr/bin/env python3
"""Runs the interoperability scenarios and holds the result against the list of those that pass.

Fails when a listed scenario no longer passes (three tries: machines are busy), and when one that is not listed passes
three times in a row: then it belongs on the list. `--update` writes the list from the result.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile


def run(suite, proxy, only, jobs):
    """Names of the scenarios that match, and of all that ran."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        argv = [sys.executable, os.path.join(suite, "run.py"), "--proxy", proxy, "--json", out.name, "-j", str(jobs)]
        for name in only:
            argv += ["--only", name]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        with open(out.name) as f:
            scenarios = json.load(f)["scenarios"]
    return {s["name"] for s in scenarios if s["verdict"] == "match"}, {s["name"] for s in scenarios}


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--suite", required=True)
    ap.add_argument("--proxy", required=True)
    ap.add_argument("--list", required=True)
    ap.add_argument("--update", action="store_true")
    ap.add_argument("-j", type=int, default=2)
    a = ap.parse_args()
    listed = set()
    if os.path.exists(a.list):
        with open(a.list) as f:
            listed = {line.strip() for line in f if line.strip() and not line.startswith("#")}
    passing, ran = run(a.suite, a.proxy, [], a.j)
    lost = (listed & ran) - passing
    for _ in range(2):
        if not lost:
            break
        again, _ = run(a.suite, a.proxy, sorted(lost), 1)
        lost -= again
    gained = passing - listed
    for _ in range(2):
        if not gained:
            break
        gained, _ = run(a.suite, a.proxy, sorted(gained), 1)
    if a.update:
        with open(a.list, "w") as f:
            f.write("# Interoperability scenarios that pass; written by tests/suites/ratchet.py --update.\n")
            f.writelines(f"{n}\n" for n in sorted((listed - lost) | gained))
    print(f"{len((listed & ran) - lost)} of {len(listed)} listed scenarios pass, {len(gained)} more that are not listed")
    for name in sorted(lost):
        print(f"no longer passes: {name}")
    for name in sorted(gained):
        print(f"passes now, add it to {a.list}: {name}")
    return 1 if (lost or gained) and not a.update else 0


if __name__ == "__main__":
    sys.exit(main())
