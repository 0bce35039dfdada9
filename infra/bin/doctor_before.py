"""Checks of `make doctor` before a deployment: tools, settings, credentials, rights, quotas and buckets. Changes nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from stack_aws import aws_or_error, function_name, name_of, prefix

ROOT = Path(__file__).resolve().parents[2]

# Codes of quotas of Fargate and of networks: https://docs.aws.amazon.com/general/latest/gr/aws-service-information.html
FARGATE_VCPUS = ("fargate", "L-3032A538")
NETWORKS = ("vpc", "L-F678F1CE")

# Actions in one request to the simulator of policies.
ACTIONS_AT_ONCE = 50


def combs():
    """Returns the setting COMB_NETWORK."""
    return os.environ.get("COMB_NETWORK") or "none"


def words(name):
    """Returns the words of a setting."""
    return (os.environ.get(name) or "").split()


def refused(error):
    """Returns true if the caller lacks the permission for a call."""
    return any(word in error for word in ("AccessDenied", "Access Denied", "UnauthorizedOperation", "not authorized", "403", "Forbidden"))


def missing(error):
    """Returns true if a call failed because the resource does not exist."""
    return any(word in error for word in ("NotFound", "NoSuch", "Not Found", "404", "cannot be found"))


def version_of(program, *arguments):
    """Returns the first version number that a program prints, as text and as numbers, or None if it does not run."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return (found[0], tuple(int(number) for number in found[0].split("."))) if done.returncode == 0 and found else None


def tool(report, program, arguments, least, why):
    """Checks that a program is installed in a version that is new enough."""
    found = version_of(program, *arguments)
    wanted = ".".join(map(str, least))
    if not found:
        report.bad("tools", f"`{program}` is missing or does not run", f"install version {wanted} or later: {why}")
    elif found[1] < least:
        report.bad("tools", f"`{program}` is version {found[0]}", f"install {wanted} or later: {why}")
    else:
        report.ok("tools", f"{program} {found[0]}")


def tools(report):
    """Checks the tools of this machine."""
    if sys.version_info < (3, 9):
        report.bad("tools", f"Python is version {sys.version.split()[0]}", "install 3.9 or later: the verbs are written in it")
    tool(report, os.environ.get("TF") or "terraform", ["version"], (1, 10), "it makes the stack")
    tool(report, "aws", ["--version"], (1, 29), "it is the AWS command line")
    if not os.environ.get("BINARIES"):
        tool(report, "cargo", ["--version"], (1, 85), "it builds the programs; rustup installs it (BINARIES=folder takes built ones)")
    tool(report, "readelf", ["--version"], (2, 30), "it checks the programs (Debian: binutils)")
    if combs() == "none" or os.environ.get("COMB_IMAGE"):
        return
    wanted = words("IMAGE_TOOL") or ["docker", "podman", "buildah"]
    for program in wanted:
        works = version_of(program, "version")
        if works:
            report.ok("tools", f"{program} {works[0]} builds the image of combs")
            return
    report.bad("tools", f"none of {', '.join(wanted)} works here", "start one of them, or deploy without combs: COMB_NETWORK=none")


def settings(report, stage):
    """Checks the settings that need no account."""
    conf = (ROOT / "infra/env/conf.tf").read_text()
    block = re.search(r"^  stages = \{\n(.*?)^  \}", conf, flags=re.M | re.S)
    stages = re.findall(r"^    (\w[\w-]*) = \{", block[1], flags=re.M) if block else []
    if stage in stages:
        report.ok("settings", f"stage {stage} is in infra/env/conf.tf")
    else:
        report.bad("settings", f"stage {stage} is not in infra/env/conf.tf, which has {', '.join(stages)}", "add it there, or set STAGE")
    kinds = ("none", "public_ipv4", "private_ipv4", "ipv6_only")
    if combs() not in kinds:
        report.bad("settings", f"COMB_NETWORK is `{combs()}`", f"set it to {', '.join(kinds)}")
    if (os.environ.get("ARCH") or "x86_64") not in ("x86_64", "arm64"):
        report.bad("settings", f"ARCH is `{os.environ['ARCH']}`", "set it to x86_64 or arm64")
    if not words("DATA_LOCATIONS"):
        report.warn("settings", "DATA_LOCATIONS is empty", "set what the stack may read; until then it reads only its sample")


def credentials(report):
    """Returns the account and the ARN of the caller, or None."""
    told, error = aws_or_error("sts", "get-caller-identity")
    if error:
        report.bad("credentials", error, "log in (`aws sso login`, `aws configure`), or set DEPLOY_PROFILE")
        return None
    report.ok("credentials", f"account {told['Account']}, {told['Arn']}")
    return told["Account"], told["Arn"]


def policy_source(arn):
    """Returns the ARN of the user or role whose policies decide for a caller, or None for the root user."""
    if arn.endswith(":root"):
        return None
    session = re.fullmatch(r"arn:([\w-]+):sts::(\d+):assumed-role/([^/]+)/.*", arn)
    if not session:
        return arn
    told, _ = aws_or_error("iam", "get-role", "--role-name", session[3])
    return told["Role"]["Arn"] if told else f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}"


def statements(partition, account, region, stage):
    """Yields the actions and the resources of each statement of the policies for deploying, as this stage needs them."""
    names = {"partition": partition, "account": account, "region": region, "prefix": prefix()}
    names["role_path"] = os.environ.get("ROLE_PATH") or "/"
    files = ["deploy-stack.json"] + (["deploy-combs.json"] if combs() != "none" else [])
    for name in files:
        text = (ROOT / "infra/policies" / name).read_text()
        for key, value in names.items():
            text = text.replace(f"${{{key}}}", value)
        for statement in json.loads(text)["Statement"]:
            # A name of this stage in place of a pattern: the simulator takes a `*` in a resource literally.
            resources = [resource if resource == "*" else resource.replace("*", stage) for resource in statement["Resource"]]
            yield statement["Action"], resources, statement.get("Condition", {})


def context(condition):
    """Returns the arguments that give the simulator the values of a condition."""
    entries = []
    for pairs in condition.values():
        for key, values in pairs.items():
            value = values[0] if isinstance(values, list) else values
            entries.append({"ContextKeyName": key, "ContextKeyValues": [value.replace("*", "x")], "ContextKeyType": "string"})
    return ["--context-entries", json.dumps(entries)] if entries else []


def rights(report, account, arn, region, stage):
    """Simulates each action of the policies for deploying."""
    source = policy_source(arn)
    if source is None:
        report.warn("rights", "the caller is the account's root user, who may do everything", "use a role with infra/policies instead")
        return
    denied, simulated = [], 0
    for actions, resources, condition in statements(arn.split(":")[1], account, region, stage):
        actions = [action for action in actions if action != "iam:SimulatePrincipalPolicy"]
        for begin in range(0, len(actions), ACTIONS_AT_ONCE):
            some = actions[begin : begin + ACTIONS_AT_ONCE]
            told, error = aws_or_error(
                "iam", "simulate-principal-policy", "--policy-source-arn", source, "--action-names", *some,
                "--resource-arns", *resources, *context(condition),
            )  # fmt: skip
            if error:
                report.warn("rights", f"cannot be simulated: {error}", "allow iam:SimulatePrincipalPolicy to check them beforehand")
                return
            results = told["EvaluationResults"]
            simulated += len(some)
            denied += [row["EvalActionName"] for row in results if row["EvalDecision"] != "allowed"]
    denied = sorted(set(denied))
    if denied:
        report.bad("rights", f"{source} may not {', '.join(denied)}", "attach infra/policies to it (docs/deploy.md, Companies)")
    else:
        report.ok("rights", f"{source} may do all {simulated} actions of infra/policies")


def at_once():
    """Returns `hbee_at_once` of infra/env/conf.tf."""
    found = re.search(r"hbee_at_once\s*=\s*(\d+)", (ROOT / "infra/env/conf.tf").read_text())
    return int(found[1]) if found else 900


def quotas(report):
    """Checks the quotas of the account in the region."""
    told, error = aws_or_error("lambda", "get-account-settings")
    if error:
        report.warn("quotas", f"those of Lambda are not known: {error}", "check REGION, and allow lambda:GetAccountSettings")
    else:
        free = told["AccountLimit"].get("UnreservedConcurrentExecutions", 0)
        # As in infra/main.tf: a query leaves half of them to others.
        used = min(at_once(), max(1, free // 2))
        if free < 10:
            report.bad("quotas", f"{free} concurrent functions", "raise L-B99A9384 in Service Quotas to 100 or more: a query needs several")
        elif free < 100:
            report.warn("quotas", f"{free} concurrent functions, of which one query may use {used}", "raise L-B99A9384 in Service Quotas to 1,000")
        else:
            report.ok("quotas", f"{free} concurrent functions, of which one query may use {used}")
    if combs() == "none":
        return
    for (service, code), least, what, remedy in (
        (FARGATE_VCPUS, 2, "vCPUs of Fargate, of which a comb needs 2", "raise it in Service Quotas, or COMB_NETWORK=none"),
        (NETWORKS, 1, "networks (VPCs)", "raise it in Service Quotas, or COMB_NETWORK=none"),
    ):
        if code == NETWORKS[1] and words("FUNCTION_SUBNETS"):
            continue  # no network is made
        told, error = aws_or_error("service-quotas", "get-service-quota", "--service-code", service, "--quota-code", code)
        if error:
            report.warn("quotas", f"{what}: not known: {error}", f"look at {code} in Service Quotas")
        elif told["Quota"]["Value"] < least:
            report.bad("quotas", f"{told['Quota']['Value']:.0f} {what}", f"{remedy} ({code})")
        else:
            report.ok("quotas", f"{told['Quota']['Value']:.0f} {what}")


def region_of(bucket):
    """Returns the region of a bucket, or None if it is not known."""
    told, error = aws_or_error("s3api", "get-bucket-location", "--bucket", bucket)
    if error:
        return None
    return {None: "us-east-1", "EU": "eu-west-1"}.get(told.get("LocationConstraint"), told.get("LocationConstraint"))


def key_of(bucket):
    """Returns the customer key that encrypts a bucket by default, or None."""
    told, error = aws_or_error("s3api", "get-bucket-encryption", "--bucket", bucket)
    if error:
        return None
    rules = told["ServerSideEncryptionConfiguration"]["Rules"]
    return rules[0].get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID") if rules else None


def exists(report, bucket, setting):
    """Checks that a bucket exists and that the caller may read it."""
    _, error = aws_or_error("s3api", "head-bucket", "--bucket", bucket)
    if not error:
        return True
    if missing(error):
        report.bad("buckets", f"{bucket} of {setting} does not exist", f"create it, or correct {setting}")
    elif refused(error):
        report.warn("buckets", f"{bucket} of {setting} may not be read by you", "check that the policy of the bucket allows the stack's roles")
    else:
        report.bad("buckets", f"{bucket} of {setting}: {error}", f"correct {setting}")
    return False


def data_bucket(report, uri, region):
    """Checks a location of DATA_LOCATIONS."""
    found = re.fullmatch(r"s3://([^/]+)/?(.*)", uri)
    if not found:
        report.bad("buckets", f"DATA_LOCATIONS has `{uri}`", "write s3://bucket/prefix/")
        return
    bucket, prefix = found[1], found[2]
    if not exists(report, bucket, "DATA_LOCATIONS"):
        return
    notes = []
    place = region_of(bucket)
    known = dict(pair.split("=", 1) for pair in words("BUCKET_REGIONS") if "=" in pair)
    if place and place != region:
        to_do = "deploy there, or accept that" if known.get(bucket) == place else f"deploy there, or set BUCKET_REGIONS={bucket}={place}"
        report.warn("buckets", f"{bucket} is in {place}, the stack in {region}: reading costs $0.01 to $0.02 per GB", to_do)
        notes.append(place)
    key = key_of(bucket)
    if key and not any(key in own or own in key for own in words("DATA_KMS_KEYS")):
        report.bad("buckets", f"{bucket} is encrypted with {key}", "add the key's ARN to DATA_KMS_KEYS")
        return
    told, _ = aws_or_error("s3api", "get-bucket-request-payment", "--bucket", bucket)
    if told and told.get("Payer") == "Requester":
        report.bad("buckets", f"{bucket} lets the reader pay", "copy the data: such buckets are not supported")
        return
    told, error = aws_or_error("s3api", "list-objects-v2", "--bucket", bucket, "--prefix", prefix, "--max-keys", "1", "--query", "KeyCount")
    if error is None and not told:
        report.warn("buckets", f"{uri} has no objects", "correct DATA_LOCATIONS, or fill it")
        return
    report.ok("buckets", f"{uri} is readable" + (f", in {', '.join(notes)}" if notes else ""))


def output_bucket(report, uri):
    """Checks a location of OUTPUT_LOCATIONS."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if not uri.startswith("s3://") or not bucket:
        report.bad("buckets", f"OUTPUT_LOCATIONS has `{uri}`", "write s3://bucket/prefix/")
        return
    if not exists(report, bucket, "OUTPUT_LOCATIONS"):
        return
    key = key_of(bucket)
    if key:
        report.bad("buckets", f"{bucket} is encrypted with {key}", "name another bucket for results: the stack may use such keys only to read")
    else:
        report.ok("buckets", f"{uri} takes results")


def own_bucket(report, bucket, account, what):
    """Checks that a name of a bucket of ours is free or taken by this account."""
    _, error = aws_or_error("s3api", "head-bucket", "--bucket", bucket, "--expected-bucket-owner", account)
    if error is None:
        report.ok("buckets", f"{bucket} exists ({what})")
    elif missing(error):
        report.ok("buckets", f"{bucket} will be made ({what})")
    elif refused(error):
        report.bad("buckets", f"{bucket} ({what}) belongs to another account, or you may not read it", "set NAME_PREFIX or BACKEND_BUCKET")
    else:
        report.bad("buckets", f"{bucket} ({what}): {error}", "check REGION and the credentials")


def service_role(report):
    """Checks the role without which ECS cannot start combs."""
    if combs() == "none":
        return
    _, error = aws_or_error("iam", "get-role", "--role-name", "AWSServiceRoleForECS")
    if error is None:
        report.ok("rights", "the account has ECS's service role")
    elif missing(error):
        report.ok("rights", "`make deploy` will make ECS's service role")
    else:
        report.warn("rights", f"ECS's service role: {error}", "an administrator makes it: aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com")


def run(report, stage, region):
    """Runs the checks. Returns true if the stack exists."""
    tools(report)
    settings(report, stage)
    if not version_of("aws", "--version"):
        return False
    caller = credentials(report)
    if caller is None:
        return False
    account, arn = caller
    rights(report, account, arn, region, stage)
    service_role(report)
    quotas(report)
    if not os.environ.get("BACKEND_BUCKET"):
        own_bucket(report, f"{prefix()}-state-{account}-{os.environ.get('BACKEND_REGION') or region}", account, "Terraform's state")
    own_bucket(report, name_of(stage, f"{account}-{region}"), account, "the stack's")
    for uri in words("DATA_LOCATIONS"):
        data_bucket(report, uri, region)
    for uri in words("OUTPUT_LOCATIONS"):
        output_bucket(report, uri)
    told, _ = aws_or_error("lambda", "get-function-configuration", "--function-name", function_name("fuse", stage))
    return told is not None
