#!/usr/bin/env python3
"""Shows that the simulator finds what it should: applies each patch of crates/simulator/mutants to a
copy of the sources, and expects a broken invariant. A patch that does not apply is a failure.

    scripts/mutants.py [NAME ...] [--seeds 4000] [--steps 2000] [--release]
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MUTANTS = ROOT / "crates/simulator/mutants"
# One place for all, so that only what a patch touches is built again; the dependencies are shared.
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
COPY = TARGET / "mutants"


def copy():
    """The sources as they are now; a file that is the same keeps its time, so that little is built."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout
    kept = {COPY / ".git"}
    (COPY / ".git").mkdir(parents=True, exist_ok=True)
    for name in filter(None, listed.split("\0")):
        source, to = ROOT / name, COPY / name
        kept.add(to)
        if not source.is_file() or (to.is_file() and to.read_bytes() == source.read_bytes()):
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, to)
    for old in [path for path in COPY.rglob("*") if path.is_file() and path not in kept]:
        old.unlink()


def simulate(name, options):
    """Builds the copy and runs it; gives the summary, or what went wrong."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    command = ["cargo", "run", "-q", "-p", "simulator", *(["--release"] if options.release else []), "--",
               "--seeds", str(options.seeds), "--steps", str(options.steps), "--shorten", "0",
               "--mutant", name, *(["--flow"] if name.startswith("flow-") else [])]
    run = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True,
                         timeout=options.timeout)
    lines = run.stdout.strip().splitlines()
    if run.returncode not in (0, 1) or not lines:
        return {"error": run.stderr.strip()[-2000:]}
    return json.loads(lines[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--timeout", type=int, default=1200, help="seconds for each")
    parser.add_argument("--release", action="store_true")
    options = parser.parse_args()
    patches = sorted(MUTANTS.glob("*.patch"))
    chosen = [p for p in patches if not options.names or p.stem in options.names]
    missed = set(options.names) - {p.stem for p in chosen}
    print(f"{'mutant':<28} {'broken invariant':<32} {'seed':>6} {'steps':>6}")
    for patch in chosen:
        copy()
        # Its first lines are words; from the first `---` on it is a patch.
        applied = subprocess.run(["git", "apply", "--whitespace=nowarn", str(patch)], cwd=COPY,
                                 env={**os.environ, "GIT_DIR": "/nonexistent", "GIT_CEILING_DIRECTORIES": str(COPY.parent)},
                                 capture_output=True, text=True)
        if applied.returncode != 0:
            print(f"{patch.stem:<28} does not apply: {applied.stderr.strip()}")
            missed.add(patch.stem)
            continue
        found = simulate(patch.stem, options)
        if found.get("broken"):
            print(f"{patch.stem:<28} {found['broken']:<32} {found['seed']:>6} {found['step']:>6}", flush=True)
        else:
            why = found.get("error") or f"not found in {found['seeds']} seeds of {options.steps} steps"
            print(f"{patch.stem:<28} {why}", flush=True)
            missed.add(patch.stem)
    if missed:
        print("not found:", ", ".join(sorted(missed)), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
