#!/usr/bin/env python3
"""Checks which versions `make deploy` keeps and `make rollback` chooses, with a stand-in for the AWS command line."""

import contextlib
import datetime
import io
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "infra" / "bin"))

import versions

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = 24 * 60
DEFINITION = "arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev"


class Stack:
    """A stack with one version of Fuse per age in `ages` (minutes, the newest first), whose HBees changed with each second one."""

    def __init__(self, ages, live):
        self.live, self.deleted, self.deregistered = live, [], []
        count = len(ages)
        self.fuse = [self.version(count - index, age) for index, age in enumerate(ages)]
        self.hbee = [self.version(number, DAY) for number in range(1, (count + 1) // 2 + 1)]
        for version in self.fuse:
            number = int(version["Version"])
            named = {"BUZZ_HBEE_FUNCTION": f"buzz-rust-hbee-dev:{(number + 1) // 2}", "BUZZ_COMB_TASK_DEFINITION": f"{DEFINITION}:{number}"}
            version["Environment"] = {"Variables": named}

    @staticmethod
    def version(number, age):
        """Returns a version that was published `age` minutes ago."""
        time = (NOW - datetime.timedelta(minutes=age)).strftime("%Y-%m-%dT%H:%M:%S.000+0000")
        return {"Version": str(number), "LastModified": time, "Description": f"Buzz {number}"}

    def call(self, *arguments, **_):
        """Returns the answer of a call, and None or its error."""
        values = dict(zip(arguments[2::2], arguments[3::2]))
        name = values.get("--function-name", "")
        if arguments[1] == "list-versions-by-function":
            listed = self.fuse if name == "buzz-rust-fuse-dev" else self.hbee
            return {"Versions": [{"Version": "$LATEST", "LastModified": ""}, *listed]}, None
        if arguments[1] == "get-alias":
            return {"FunctionVersion": self.live}, None
        if arguments[1] == "update-alias":
            self.live = values["--function-version"]
            return {}, None
        if arguments[1] == "delete-function":
            self.deleted.append(f"{name.split('-')[2]} {values['--qualifier']}")
            return {}, None
        if arguments[1] == "list-task-definitions":
            return {"taskDefinitionArns": [f"{DEFINITION}:{number}" for number in range(1, len(self.fuse) + 1)] + [f"{DEFINITION}2:1"]}, None
        if arguments[1] == "deregister-task-definition":
            self.deregistered.append(values["--task-definition"].rpartition("/")[2])
            return {}, None
        return None, f"unknown call {arguments}"


def run(stack, *verb, **settings):
    """Runs a verb on a stack. Returns what it printed, or its error."""
    versions.aws_or_error = stack.call
    versions.aws = lambda *arguments, **_: stack.call(*arguments)[0]
    os.environ.clear()
    os.environ.update({"STAGE": "dev", "REGION": "us-east-2", **settings})
    sys.argv = ["versions.py", *verb]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            versions.main()
        except SystemExit:
            pass
    return printed.getvalue()


def main():
    problems = []

    def expect(what, got, expected):
        if got != expected:
            problems.append(f"{what}: {got} instead of {expected}")

    eight = [DAY * index for index in range(1, 9)]
    stack = Stack(eight, live="8")
    run(stack, "prune")
    # Five versions of Fuse stay, 8 to 4, which name the versions 4 to 2 of the HBees.
    expect("prune deletes", stack.deleted, ["fuse 3", "fuse 2", "fuse 1", "hbee 1"])
    expect("prune deregisters", stack.deregistered, [f"buzz-rust-hcomb-dev:{number}" for number in (1, 2, 3)])

    stack = Stack(eight, live="1")
    run(stack, "prune")
    expect("the version in use stays", stack.deleted, ["fuse 3", "fuse 2"])

    stack = Stack([1, 2, 3, 4, 5, 20, DAY, DAY], live="8")
    run(stack, "prune")
    # Version 2 was replaced 20 minutes ago, so a query may still run with it.
    expect("a version that was replaced lately stays", stack.deleted, ["fuse 1"])

    stack = Stack(eight, live="8")
    expect("a rollback says", run(stack, "rollback").split(";")[0], "stage dev uses version 7 instead of 8")
    expect("a second rollback says", run(stack, "rollback").split(";")[0], "stage dev uses version 6 instead of 7")
    expect("a rollback to a number says", run(stack, "rollback", VERSION="3").split(";")[0], "stage dev uses version 3 instead of 6")
    expect("an unknown version", "version 12 does not exist" in run(stack, "rollback", VERSION="12"), True)
    expect("the same version", run(stack, "rollback", VERSION="3"), "error: version 3 is in use\n")
    expect("the first version", run(Stack([1], live="1"), "rollback"), "error: stage dev has no version before 1\n")
    expect("the list has the alias", [line.split()[0] for line in run(stack).splitlines() if " live " in line], ["3"])

    stack = Stack(eight, live="8")
    run(stack, "forget")
    expect("forget deregisters", len(stack.deregistered), 8)
    for problem in problems:
        print(f"error: versions: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print("versions: deployments keep what queries and rollbacks need")


if __name__ == "__main__":
    main()
