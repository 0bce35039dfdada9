"""What `costs` and `logs` share: the stage's names, and AWS's answers by its command line."""

import datetime
import json
import os
import subprocess
import sys


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def stage_and_region():
    """The stage and its region; every missing one is named at once."""
    missing = [name for name in ("STAGE", "REGION") if not os.environ.get(name)]
    if missing:
        fail(f"not set: {', '.join(missing)}. Give them as `make … STAGE=dev REGION=us-east-2` or in default.env")
    if os.environ.get("DEPLOY_PROFILE"):
        os.environ["AWS_PROFILE"] = os.environ["DEPLOY_PROFILE"]
    return os.environ["STAGE"], os.environ["REGION"]


def aws(*arguments, missing=None):
    """The answer of one AWS command. `missing` is answered instead when the thing asked for is not there."""
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
    """The time so long ago, as `30m`, `2h` or `7d`."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    if not text[:-1].isdigit() or text[-1:] not in units:
        fail(f"SINCE is `{text}`; it takes minutes, hours or days, as 30m, 2h or 7d")
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**{units[text[-1]]: int(text[:-1])})


def milliseconds(time):
    """The time as AWS's logs count it."""
    return str(int(time.timestamp() * 1000))


def log_group(role, stage):
    """Where a role logs."""
    groups = {"fuse": f"/aws/lambda/buzz-rust-fuse-{stage}", "hbee": f"/aws/lambda/buzz-rust-hbee-{stage}", "comb": f"/buzz/buzz-rust-hcomb-{stage}"}
    if role not in groups:
        fail(f"ROLE is `{role}`; it can be {', '.join(groups)}")
    return groups[role]
