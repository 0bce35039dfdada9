#!/usr/bin/env python3
"""Checks the dependencies of the workspace: each is used, has a licence that deny.toml allows, comes from crates.io, and
exists in one version, apart from the duplicates that deny.toml lists.

    python3 code/testkit/lint/dependencies.py

Reads `cargo metadata` and the sources, and needs no network once the dependencies are downloaded. deny.toml has the
format of cargo-deny.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# (crate, dependency): reason why no source names it.
NAMED_NOWHERE = {
    ("buzz-testkit", "datafusion-sqllogictest"): "never compiled: tests read its files where cargo keeps them",
}


def metadata():
    """Returns `cargo metadata` for the target of this machine."""
    host = re.search(r"^host: (.+)$", subprocess.check_output(["rustc", "-vV"], text=True), re.M)[1]
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host]
    return json.loads(subprocess.check_output(command, cwd=ROOT))


def code(folder, places):
    """Returns the Rust sources below `places` of a crate's folder, without comments."""
    texts = (path.read_text() for place in places for path in sorted((folder / place).rglob("*.rs")))
    return re.sub(r"^\s*//.*$", "", "\n".join(texts), flags=re.M)


def unused(packages):
    """Yields a problem for each dependency that the sources of its crate do not name."""
    for package in packages:
        folder = Path(package["manifest_path"]).parent
        texts = {None: code(folder, ["src"]), "build": "", "dev": code(folder, ["src", "tests", "examples", "benches"])}
        for dependency in package["dependencies"]:
            name, kind = dependency["name"], dependency["kind"]
            written = (dependency["rename"] or name).replace("-", "_")
            named = re.search(rf"\b{written}\b", texts[kind])
            if (package["name"], name) in NAMED_NOWHERE:
                if named:
                    yield f"{package['name']} uses {name}: remove the exception from code/testkit/lint/dependencies.py"
            elif kind != "build" and not named:
                yield f"{package['name']} does not use its {'dev-' if kind else ''}dependency {name}: remove it from {folder.relative_to(ROOT)}/Cargo.toml"


def untaken(packages):
    """Yields a problem for each dependency of the workspace that no crate takes."""
    declared = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["dependencies"]
    taken = {dependency["name"] for package in packages for dependency in package["dependencies"]}
    for name in sorted(set(declared) - taken - {package["name"] for package in packages}):
        yield f"Cargo.toml declares {name} in [workspace.dependencies], and no crate takes it"


def permits(expression, allowed):
    """Evaluates an SPDX expression: true if the `allowed` licences fulfil it."""
    parts = re.findall(r"\(|\)|\bAND\b|\bOR\b|[^\s()/]+(?: WITH [^\s()/]+)?|/", expression)
    operators = {"AND": "and", "OR": "or", "/": "or", "(": "(", ")": ")"}
    return eval(" ".join(operators.get(part) or str(part in allowed) for part in parts))


def wrong(packages, rules):
    """Yields a problem for each package with a licence, source or second version that `rules` do not allow."""
    allowed = set(rules["licenses"]["allow"])
    extra = {entry["crate"]: set(entry["allow"]) for entry in rules["licenses"].get("exceptions", [])}
    versions = defaultdict(list)
    for package in packages:
        name, licence = package["name"], package["license"] or "none"
        versions[name].append(package["version"])
        if not permits(licence, allowed | extra.get(name, set())):
            yield f"{name} {package['version']} has the licence {licence}, which deny.toml does not allow"
        if package["source"] and package["source"] != "registry+" + rules["sources"]["allow-registry"][0]:
            yield f"{name} {package['version']} comes from {package['source']}; use crates.io"
    skipped = {entry["crate"] for entry in rules["bans"]["skip"]}
    for name, found in sorted(versions.items()):
        others = [version for version in found if f"{name}@{version}" not in skipped]
        if len(others) > 1:
            yield f"{name} is compiled in versions {', '.join(sorted(found))}: use one, or add the older to `skip` in deny.toml with the crate that needs it"
    for entry in sorted(skipped):
        name, _, version = entry.partition("@")
        if len(versions[name]) < 2 or version not in versions[name]:
            yield f"deny.toml skips {entry}, which is not a second version: remove the entry"


def main():
    facts = metadata()
    members = set(facts["workspace_members"])
    ours = [package for package in facts["packages"] if package["id"] in members]
    used = {node["id"] for node in facts["resolve"]["nodes"]}
    resolved = [package for package in facts["packages"] if package["id"] in used]
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    problems = [*unused(ours), *untaken(ours), *wrong(resolved, rules)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"dependencies: {len(resolved)} packages, each used and permitted; {len(rules['bans']['skip'])} known duplicates")


if __name__ == "__main__":
    main()
