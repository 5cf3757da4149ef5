#!/usr/bin/env python3
"""Runs the cases of an outside suite and holds the result against the list of those that pass: the interoperability
scenarios with `--proxy`, the mesh cases of the Gateway API conformance kit with `--driver`.

Fails when a listed case no longer passes (three tries: machines are busy), and when one that is not listed passes
three times in a row: then it belongs on the list. `--update` writes the list from the result.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile


def scenarios(a, only, jobs):
    """Names of the scenarios that match, and of all that ran."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        argv = [sys.executable, os.path.join(a.suite, "run.py"), "--proxy", a.proxy, "--json", out.name, "-j", str(jobs)]
        for name in only:
            argv += ["--only", name]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        with open(out.name) as f:
            cases = json.load(f)["scenarios"]
    return {s["name"] for s in cases if s["verdict"] == "match"}, {s["name"] for s in cases}


def conformance(a, only, _jobs):
    """The same of the conformance kit. It fails when a case does; what counts here is the report."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        argv = [sys.executable, os.path.join(a.suite, "run.py"), "--driver", a.driver, "--kind", "mesh", "--variants",
                "--max-time", "10", "--report", out.name]
        if only:
            argv += ["--only", "^(%s)$" % "|".join(map(re.escape, only))]
        subprocess.run(argv, stdin=subprocess.DEVNULL)
        with open(out.name) as f:
            cases = json.load(f)["cases"]
    return {c["name"] for c in cases if c["result"] == "pass"}, {c["name"] for c in cases}


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--suite", required=True)
    way = ap.add_mutually_exclusive_group(required=True)
    way.add_argument("--proxy")
    way.add_argument("--driver")
    ap.add_argument("--list", required=True)
    ap.add_argument("--update", action="store_true")
    ap.add_argument("-j", type=int, default=2)
    a = ap.parse_args()
    listed = set()
    if os.path.exists(a.list):
        with open(a.list) as f:
            listed = {line.strip() for line in f if line.strip() and not line.startswith("#")}
    run = scenarios if a.proxy else conformance
    passing, ran = run(a, [], a.j)
    lost = (listed & ran) - passing
    for _ in range(2):
        if not lost:
            break
        again, _ = run(a, sorted(lost), 1)
        lost -= again
    gained = passing - listed
    for _ in range(2):
        if not gained:
            break
        gained, _ = run(a, sorted(gained), 1)
    if a.update:
        with open(a.list, "w") as f:
            f.write("# Cases that pass; written by tests/suites/ratchet.py --update.\n")
            f.writelines(f"{n}\n" for n in sorted((listed - lost) | gained))
    print(f"{len((listed & ran) - lost)} of {len(listed)} listed cases pass, {len(gained)} more that are not listed")
    for name in sorted(lost):
        print(f"no longer passes: {name}")
    for name in sorted(gained):
        print(f"passes now, add it to {a.list}: {name}")
    return 1 if (lost or gained) and not a.update else 0


if __name__ == "__main__":
    sys.exit(main())
