#!/usr/bin/env python3
"""versions.py [rollback|prune|forget]: lists the versions of a stack's Fuse, or

rollback  points the alias `live` of Fuse to an earlier version (VERSION=7, by default the one before), without a build
prune     deletes versions and task definitions that no kept version of Fuse names
forget    removes all task definitions of a stack that was deleted

A version of Fuse names the version of the HBees and the task definition of the combs that belong to it."""

import datetime
import os
import re
import sys

from stack_aws import aws, aws_or_error, fail, function_name, name_of, stage_and_region

# Versions of Fuse that are kept, the one in use apart.
KEPT = 5

# Versions that were replaced less than this ago are kept too: a query that runs 15 minutes may need them.
RECENT = datetime.timedelta(minutes=30)


def versions(role, stage):
    """Returns the published versions of a function, the newest first."""
    told = aws("lambda", "list-versions-by-function", "--function-name", function_name(role, stage), missing={"Versions": []})
    published = [version for version in told["Versions"] if version["Version"] != "$LATEST"]
    return sorted(published, key=lambda version: int(version["Version"]), reverse=True)


def live(stage):
    """Returns the number of the version in use."""
    told = aws("lambda", "get-alias", "--function-name", function_name("fuse", stage), "--name", "live", missing={})
    if not told:
        fail(f"stage {stage} has no alias `live` in {os.environ['REGION']}: run `make deploy`")
    return told["FunctionVersion"]


def variables(version):
    """Returns the environment variables of a version."""
    return version.get("Environment", {}).get("Variables", {})


def named(version):
    """Returns the version of the HBees and the task definition that a version of Fuse names."""
    return variables(version).get("BUZZ_HBEE_FUNCTION", "").rpartition(":")[2], variables(version).get("BUZZ_COMB_TASK_DEFINITION", "")


def modified(version):
    """Returns the time at which a version was published."""
    return datetime.datetime.fromisoformat(re.sub(r"\.\d+|(?<=[+-]\d\d)(?=\d\d$)", lambda found: ":" if not found[0] else "", version["LastModified"]))


def kept(published, current, now):
    """Returns the versions of Fuse to keep: the one in use, the newest ones, and those that were replaced lately."""
    replaced = [now, *(modified(version) for version in published)]
    return [
        version
        for index, version in enumerate(published)
        if version["Version"] == current or index < KEPT or now - replaced[index] < RECENT
    ]


def show(stage):
    """Prints the versions of Fuse."""
    current = live(stage)
    for version in versions("fuse", stage):
        mark = "live" if version["Version"] == current else ""
        print(f"{version['Version']:>5}  {version['LastModified'][:16].replace('T', ' ')}  {mark:4}  {version.get('Description', '')}")


def rollback(stage):
    """Points the alias to an earlier version."""
    current = live(stage)
    published = [version["Version"] for version in versions("fuse", stage)]
    older = [number for number in published if int(number) < int(current)]
    wanted = os.environ.get("VERSION") or (older[0] if older else "")
    if not wanted:
        fail(f"stage {stage} has no version before {current}")
    if wanted not in published:
        fail(f"version {wanted} does not exist; `make versions` lists those of stage {stage}: {', '.join(published)}")
    if wanted == current:
        fail(f"version {wanted} is in use")
    aws("lambda", "update-alias", "--function-name", function_name("fuse", stage), "--name", "live", "--function-version", wanted)
    print(f"stage {stage} uses version {wanted} instead of {current}; `make deploy` makes the newest one live again")


def prune(stage):
    """Deletes what no kept version needs. A failure is only reported: the next deployment tries again."""
    published = versions("fuse", stage)
    if not published:
        return
    keep = kept(published, live(stage), datetime.datetime.now(datetime.timezone.utc))
    hbees, definitions = ({named(version)[part] for version in keep} for part in (0, 1))
    doomed = [("fuse", version["Version"]) for version in published if version not in keep]
    newest = versions("hbee", stage)
    doomed += [("hbee", version["Version"]) for version in newest[1:] if version["Version"] not in hbees]
    for role, number in doomed:
        _, error = aws_or_error("lambda", "delete-function", "--function-name", function_name(role, stage), "--qualifier", number)
        if error:
            print(f"warning: version {number} of {function_name(role, stage)} stays: {error}", file=sys.stderr)
    if any(named(version)[1] for version in published):
        deregister(stage, definitions)


def deregister(stage, keep):
    """Removes the task definitions of the combs that are not in `keep`."""
    told, error = aws_or_error("ecs", "list-task-definitions", "--family-prefix", name_of("hcomb", stage))
    if error:
        print(f"warning: the task definitions of {name_of('hcomb', stage)} stay: {error}", file=sys.stderr)
        return
    for arn in told["taskDefinitionArns"]:
        # The prefix also finds the families of stages whose names begin alike.
        if arn in keep or arn.rpartition("/")[2].partition(":")[0] != name_of("hcomb", stage):
            continue
        _, error = aws_or_error("ecs", "deregister-task-definition", "--task-definition", arn)
        if error:
            print(f"warning: {arn} stays: {error}", file=sys.stderr)


def main():
    stage, _ = stage_and_region()
    verbs = {"": show, "rollback": rollback, "prune": prune, "forget": lambda stage: deregister(stage, set())}
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb not in verbs:
        fail(f"versions.py: `{verb}` is not a verb")
    verbs[verb](stage)


if __name__ == "__main__":
    main()
