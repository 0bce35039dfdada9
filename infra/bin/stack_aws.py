"""Helpers of `costs` and `logs`: names of a stage, and calls of the AWS command line."""

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


def aws(*arguments, missing=None):
    """Runs an AWS command and returns its JSON, or `missing` if the resource does not exist."""
    command = ["aws", *arguments, "--output", "json", "--region", os.environ["REGION"]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "AWS_PAGER": ""})
    except FileNotFoundError:
        fail("`aws` is not installed: it is the AWS command line (Python: awscli)")
    if done.returncode == 0:
        return json.loads(done.stdout or "{}")
    if missing is not None and any(word in done.stderr for word in ("NotFound", "NoSuch")):
        return missing
    fail(f"`aws {' '.join(arguments[:2])}`: {done.stderr.strip()}")


def since(text):
    """Returns the time of an age such as `30m`, `2h` or `7d`."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    if not text[:-1].isdigit() or text[-1:] not in units:
        fail(f"SINCE is `{text}`; it takes minutes, hours or days, as 30m, 2h or 7d")
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**{units[text[-1]]: int(text[:-1])})


def milliseconds(time):
    """Returns the time in milliseconds since 1970, as text."""
    return str(int(time.timestamp() * 1000))


def log_group(role, stage):
    """Returns the log group of a role."""
    groups = {"fuse": f"/aws/lambda/buzz-rust-fuse-{stage}", "hbee": f"/aws/lambda/buzz-rust-hbee-{stage}", "comb": f"/buzz/buzz-rust-hcomb-{stage}"}
    if role not in groups:
        fail(f"ROLE is `{role}`; it can be {', '.join(groups)}")
    return groups[role]
