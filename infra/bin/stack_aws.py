"""Helpers of the verbs in Python: names of a stage, and calls of the AWS command line."""

import datetime
import json
import os
import subprocess
import sys


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def stage_and_region():
    """Returns the stage and its region. The error names all missing variables."""
    missing = [name for name in ("STAGE", "REGION") if not os.environ.get(name)]
    if missing:
        fail(f"not set: {', '.join(missing)}. Give them as `make … STAGE=dev REGION=us-east-2` or in default.env")
    if os.environ.get("DEPLOY_PROFILE"):
        os.environ["AWS_PROFILE"] = os.environ["DEPLOY_PROFILE"]
    return os.environ["STAGE"], os.environ["REGION"]


def aws_or_error(*arguments, **variables):
    """Runs an AWS command with additional environment variables. Returns its JSON and None, or None and its error."""
    command = ["aws", *arguments, "--output", "json", "--region", os.environ["REGION"]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "AWS_PAGER": "", **variables})
    except FileNotFoundError:
        fail("`aws` is not installed: it is the AWS command line (Python: awscli)")
    if done.returncode == 0:
        # Commands of `aws s3` print no JSON.
        return ({} if arguments[0] == "s3" else json.loads(done.stdout or "{}")), None
    return None, done.stderr.strip() or f"exit code {done.returncode}"


def aws(*arguments, missing=None):
    """Runs an AWS command and returns its JSON, or `missing` if the resource does not exist."""
    answer, error = aws_or_error(*arguments)
    if error is None:
        return answer
    if missing is not None and any(word in error for word in ("NotFound", "NoSuch")):
        return missing
    fail(f"`aws {' '.join(arguments[:2])}`: {error}")


def since(text):
    """Returns the time of an age such as `30m`, `2h` or `7d`."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    if not text[:-1].isdigit() or text[-1:] not in units:
        fail(f"SINCE is `{text}`; it takes minutes, hours or days, as 30m, 2h or 7d")
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**{units[text[-1]]: int(text[:-1])})


def milliseconds(time):
    """Returns the time in milliseconds since 1970, as text."""
    return str(int(time.timestamp() * 1000))


def prefix():
    """Returns the prefix of all names of a stack."""
    return os.environ.get("NAME_PREFIX") or "buzz-rust"


def name_of(what, stage):
    """Returns the name of a resource of a stack, such as `buzz-rust-hcomb-dev`."""
    return f"{prefix()}-{what}-{stage}"


def function_name(role, stage):
    """Returns the name of a function: of `fuse` or `hbee`."""
    return name_of(role, stage)


def log_group(role, stage):
    """Returns the log group of a role."""
    groups = {
        "fuse": f"/aws/lambda/{function_name('fuse', stage)}",
        "hbee": f"/aws/lambda/{function_name('hbee', stage)}",
        "comb": f"/buzz/{name_of('hcomb', stage)}",
    }
    if role not in groups:
        fail(f"ROLE is `{role}`; it can be {', '.join(groups)}")
    return groups[role]
