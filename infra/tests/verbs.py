#!/usr/bin/env python3
"""Checks on which place the verbs of the Makefile run, by `make --dry-run`: this machine, or a stack, which costs money.
Runs nothing and needs no account."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Arguments, the line `STAGE=…` of default.env, what must be among the commands, what must not.
LOCAL, STACK, UPLOAD, NOTE = "buzz query code/examples/", "stack.sh query", "stack.sh sample", "note: "
CASES = [
    (["run-query"], "", [LOCAL], [STACK, NOTE]),
    (["run-query"], "dev", [LOCAL], [STACK, NOTE]),
    (["run-query", "STAGE=dev"], "", [STACK, NOTE], [LOCAL]),
    (["run-query", "STAGE=dev"], "prod", [STACK, NOTE], [LOCAL]),
    (["run-query", "STAGE="], "dev", [LOCAL], [STACK, NOTE]),
    (["stack-query", "STAGE=dev"], "", [STACK], [LOCAL, NOTE]),
    (["stack-query"], "dev", [STACK], [LOCAL, NOTE]),
    (["sample"], "dev", ["buzz sample"], [UPLOAD, NOTE]),
    (["sample", "STAGE=dev"], "", [UPLOAD, NOTE], []),
    (["stack-sample", "STAGE=dev"], "", ["buzz sample", UPLOAD], [NOTE]),
    (["run-integ-local"], "dev", [LOCAL], [STACK, NOTE]),
    (["run-integ-aws", "STAGE=dev"], "", [UPLOAD, STACK], [LOCAL, NOTE]),
    (["run-integ-aws"], "dev", [UPLOAD, STACK], [LOCAL, NOTE]),
]  # fmt: skip


def commands(folder, arguments, environment):
    """Returns the commands that `make` would run in `folder`."""
    made = subprocess.run(["make", "--dry-run", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    return made.stdout + made.stderr


def main():
    # A verb that runs this script must not pass its own variables on.
    environment = {name: value for name, value in os.environ.items() if name not in ("STAGE", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "Makefile", folder)
        cases = [(*case, environment) for case in CASES]
        # A stage in the environment is not typed with the verb either.
        cases.append((["run-query"], "", [LOCAL], [STACK, NOTE], {**environment, "STAGE": "dev"}))
        for arguments, stage, expected, excluded, variables in cases:
            Path(folder, "default.env").write_text(f"STAGE={stage}\n" if stage else "")
            printed = commands(folder, arguments, variables)
            case = f"`make {' '.join(arguments)}` with STAGE={stage} in default.env"
            problems += [f"{case} does not run `{part}`" for part in expected if part not in printed]
            problems += [f"{case} runs `{part}`" for part in excluded if part in printed]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"verbs: {len(CASES) + 1} calls run on the place that they name")


if __name__ == "__main__":
    main()
