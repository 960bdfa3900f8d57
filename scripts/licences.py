#!/usr/bin/env python3
"""Checks the licence and the source of every dependency that is built into Jetmill.

Dependencies for tests only are left out: nobody receives them. The licences that may be used
are listed in deny.toml, so that this check and cargo-deny cannot disagree.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    allowed = set(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--format-version", "1", "--all-features"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    )
    members = set(metadata["workspace_members"])
    packages = {package["id"]: package for package in metadata["packages"]}
    shipped = reachable(metadata, members)
    problems = [
        f"{package['name']} {package['version']}: {problem}"
        for package in sorted((packages[id] for id in shipped - members), key=lambda p: p["name"])
        for problem in problems_of(package, allowed)
    ]
    for problem in problems:
        print(f"licences: {problem}", file=sys.stderr)
    if not problems:
        print(f"licences: {len(shipped - members)} dependencies, all allowed")
    return 1 if problems else 0


def reachable(metadata: dict, members: set[str]) -> set[str]:
    """The packages that the members reach by other than development dependencies."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    seen: set[str] = set()
    pending = list(members)
    while pending:
        id = pending.pop()
        if id in seen:
            continue
        seen.add(id)
        for dependency in nodes[id]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                pending.append(dependency["pkg"])
    return seen


def problems_of(package: dict, allowed: set[str]) -> list[str]:
    problems = []
    source = package["source"]
    if source is None:
        problems.append("comes from a folder outside the workspace")
    elif source.startswith("git+"):
        problems.append("comes from a git repository")
    licence = package["license"]
    if not licence:
        problems.append("names no licence")
    elif not satisfied(licence, allowed):
        problems.append(f"licence {licence!r} is not allowed by deny.toml")
    return problems


def satisfied(expression: str, allowed: set[str]) -> bool:
    """Whether the allowed licences satisfy an SPDX expression; `/` is an old spelling of OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def any_of() -> bool:
        result = all_of()
        while tokens[:1] == ["OR"]:
            tokens.pop(0)
            right = all_of()
            result = result or right
        return result

    def all_of() -> bool:
        result = one()
        while tokens[:1] == ["AND"]:
            tokens.pop(0)
            right = one()
            result = result and right
        return result

    def one() -> bool:
        token = tokens.pop(0)
        if token == "(":
            result = any_of()
            if tokens.pop(0) != ")":
                raise ValueError(f"cannot read the licence expression {expression!r}")
            return result
        if tokens[:1] == ["WITH"]:
            tokens.pop(0)
            token = f"{token} WITH {tokens.pop(0)}"
        return token in allowed

    result = any_of()
    if tokens:
        raise ValueError(f"cannot read the licence expression {expression!r}")
    return result


if __name__ == "__main__":
    sys.exit(main())
