#!/usr/bin/env python3
"""Compares the policies of the roles with the AWS calls in the code. Fails if a call has no permission, if a
permission has no call, if a resource costs while idle, or if no program reads a variable. Compares the policies for
deploying with the resources (`deploy_rights.py`).

Needs neither Terraform nor an account: policies and code are parsed as text.
"""

import re
import sys
from pathlib import Path

import deploy_rights

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "infra" / "modules"

# The crates that may call the cloud's SDK, and the role that runs each of their files. Every file with a call must be
# listed.
SDK_SOURCES = ["code/hosts/aws/src", "code/doors/lambda/src", "code/doors/client/src"]
ROLE_OF = {
    "code/hosts/aws/src/lambda.rs": "fuse",
    "code/hosts/aws/src/lambda/connections.rs": "fuse",
    "code/hosts/aws/src/combs.rs": "fuse",
    "code/hosts/aws/src/combs/tasks.rs": "fuse",
    "code/doors/lambda/src/function.rs": "fuse",
    "code/doors/client/src/stack.rs": "user",  # the command line, with the user's own permissions
}

# Actions that each SDK call needs.
SDK = {
    "invoke": ["lambda:InvokeFunction"],
    "list_tasks": ["ecs:ListTasks"],
    "describe_tasks": ["ecs:DescribeTasks"],
    "run_task": ["ecs:RunTask", "iam:PassRole"],
    "stop_task": ["ecs:StopTask"],
}

# Actions that each method of an object store needs. `put_multipart` also aborts uploads that it cannot complete.
STORE = {
    "get": ["s3:GetObject"],
    "get_opts": ["s3:GetObject"],
    "get_range": ["s3:GetObject"],
    "get_ranges": ["s3:GetObject"],
    "head": ["s3:GetObject"],
    "list": ["s3:ListBucket"],
    "list_with_delimiter": ["s3:ListBucket"],
    "put": ["s3:PutObject"],
    "put_opts": ["s3:PutObject"],
    "put_multipart": ["s3:PutObject", "s3:AbortMultipartUpload"],
    "put_multipart_opts": ["s3:PutObject", "s3:AbortMultipartUpload"],
    "delete": ["s3:DeleteObject"],
    "delete_stream": ["s3:DeleteObject"],
    "copy": ["s3:GetObject", "s3:PutObject"],
    "rename": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
}

# Sources that access an object store, by role.
STORE_SOURCES = {
    "fuse": [
        "code/data/catalog/src", "code/data/storage/src", "code/data/results/src", "code/query/plan/src", "code/query/fuse/src",
        "code/query/host/src",
        "code/data/registry/src", "code/hosts/aws/src/results.rs", "code/doors/lambda/src",
    ],
    "hbee": ["code/hosts/worker/src/hbee.rs", "code/query/hbee/src", "code/data/storage/src"],
    "comb": ["code/query/hcomb/src", "code/query/exchange/src", "code/hosts/worker/src/comb.rs", "code/hosts/worker/src/certificate.rs"],
}

# S3 returns 404 for a missing object only with the permission to list; otherwise 403.
FOR_MISSING = {"fuse": ["s3:ListBucket"], "hbee": ["s3:ListBucket"]}

# Actions that AWS performs with the role, not the program.
BY_SERVICE = {
    "functions": {
        "logs:CreateLogStream", "logs:PutLogEvents",
        "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
        "kms:Decrypt",  # by S3, for the reader of an object that is encrypted with a listed key
    },
    "execution": {
        "ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer",
        "ecr:BatchGetImage", "logs:CreateLogStream", "logs:PutLogEvents",
    },
}  # fmt: skip

# Resources that are billed by the hour, even when idle.
COSTS_WHILE_IDLE = ["aws_nat_gateway", "aws_eip", "aws_ecs_service", "aws_instance", "aws_lb", "aws_kms_key", "aws_flow_log",
                    "aws_lambda_provisioned_concurrency_config", "aws_networkfirewall_firewall", "aws_ec2_transit_gateway"]  # fmt: skip


def program(path):
    """Returns the text of a source file without its tests and comments."""
    text = path.read_text().split("#[cfg(test)]\nmod tests")[0]
    return re.sub(r"^\s*//.*$", "", text, flags=re.M)


def sources(places):
    """Yields the Rust files at or below `places`, without test files."""
    for place in places:
        path = ROOT / place
        if not path.exists():
            sys.exit(f"error: {place} does not exist: correct its path in infra/tests/permissions.py")
        found = sorted(path.rglob("*.rs")) if path.is_dir() else [path]
        yield from (file for file in found if file.name != "tests.rs" and "tests" not in file.parts)


def sdk_calls(problems):
    """Returns, by role, the actions that the SDK calls need."""
    needed = {}
    for path in sources(SDK_SOURCES):
        text = program(path)
        calls = re.findall(r"\b(?:client|lambda|ecs)\s*\.\s*([a-z_]+)\(\)", text)
        name = path.relative_to(ROOT).as_posix()
        if len(calls) != text.count(".send()"):
            problems.append(f"{name}: {text.count('.send()')} requests are sent, but {len(calls)} calls begin with `client.…()`, `lambda.…()` or `ecs.…()`: write each so")
        for call in calls:
            if call not in SDK:
                problems.append(f"{name} calls `{call}`: add the actions it needs to SDK in infra/tests/permissions.py")
            elif name not in ROLE_OF:
                problems.append(f"{name} calls `{call}`: add the role that runs it to ROLE_OF in infra/tests/permissions.py")
            else:
                for action in SDK[call]:
                    needed.setdefault(ROLE_OF[name], {}).setdefault(action, f"{name}: {call}")
    return needed


def store_calls():
    """Returns, by role, the actions that object store calls need."""
    needed = {}
    methods = "|".join(STORE)
    # Calls on a store by its usual variable names, or on the result of `.store(…)`.
    call = re.compile(rf"(?:\bstore|\bstore\([^()]*\)\??|\bobject_store)\s*\.\s*({methods})\(")
    for role, places in STORE_SOURCES.items():
        for path in sources(places):
            for method in call.findall(program(path)):
                for action in STORE[method]:
                    needed.setdefault(role, {}).setdefault(action, f"{path.relative_to(ROOT)}: {method}")
            # The writer of `object_store` that uploads in parts.
            if "BufWriter::" in program(path):
                for action in STORE["put_multipart"]:
                    needed.setdefault(role, {}).setdefault(action, f"{path.relative_to(ROOT)}: BufWriter")
    return needed


def allowed():
    """Returns, by role, the actions that the policies allow."""
    functions = (MODULES / "functions" / "roles.tf").read_text()
    combs = (MODULES / "combs" / "roles.tf").read_text()
    storage = (MODULES / "storage" / "access.tf").read_text() + (MODULES / "storage" / "outputs.tf").read_text()

    def actions(text):
        return set(re.findall(r'"([a-z0-9]+:[A-Z][A-Za-z]+)"', text)) - {"aws:SecureTransport"}

    def block(text, start):
        begin = text.index(start)
        end = re.compile(r"^}", re.M).search(text, begin).end()
        return text[begin:end]

    conditions = {"lambda:SourceFunctionArn", "iam:PassedToService"}
    parts = {
        "var.read_data": actions(block(storage, "locals {")),
        "var.read_results": actions(block(storage, 'output "read_results"')),
        "var.read_tasks": actions(block(storage, 'output "read_tasks"')),
        "var.exchange": actions(block(storage, 'output "exchange"')),
        "var.remove_exchanged": actions(block(storage, 'output "remove_exchanged"')),
        "var.record_certificates": actions(block(storage, 'output "record_certificates"')),
        "var.write_results": actions(block(storage, 'output "write_results"')),
        "local.basics": actions(functions[functions.index("interface_actions = [") : functions.index("resource ")]),
    }
    roles = {}
    for role, text in {"fuse": functions, "hbee": functions, "execution": combs, "comb": combs}.items():
        start = f'resource "aws_iam_role_policy" "{role}"'
        policy = block(text, start) if start in text else ""
        found = actions(policy)
        for part, part_actions in parts.items():
            found |= part_actions if part in policy else set()
        roles[role] = found - conditions
    return roles


def main():
    problems = []
    needed = sdk_calls(problems)
    for calls in (store_calls(), {role: dict.fromkeys(actions, "a missing object") for role, actions in FOR_MISSING.items()}):
        for role, actions in calls.items():
            for action, place in actions.items():
                needed.setdefault(role, {}).setdefault(action, place)

    for role, actions in allowed().items():
        by_service = BY_SERVICE["functions"] if role in ("fuse", "hbee") else BY_SERVICE["execution"] if role == "execution" else set()
        calls = needed.get(role, {})
        for action in sorted(set(calls) - actions):
            problems.append(f"{role} may not {action}, which it needs ({calls[action]})")
        for action in sorted(actions - set(calls) - by_service):
            problems.append(f"{role} may {action}, and makes no call that needs it")
        if role != "comb":
            for action in sorted(by_service - actions):
                problems.append(f"{role} may not {action}, which AWS does with the role")

    configuration = "".join(path.read_text() for path in (ROOT / "infra").rglob("*.tf") if not {".terraform", "tests"} & set(path.relative_to(ROOT).parts))
    for kind in COSTS_WHILE_IDLE:
        if f'resource "{kind}"' in configuration:
            problems.append(f"the configuration has a `{kind}`, which costs while idle")
    for kind in re.findall(r'vpc_endpoint_type\s*=\s*"([^"]+)"', configuration):
        if kind != "Gateway":
            problems.append(f"the configuration has an endpoint of type {kind}, which costs while idle")
    if "vpc_endpoint_type" not in configuration or configuration.count('resource "aws_vpc_endpoint"') != configuration.count("vpc_endpoint_type"):
        problems.append("each endpoint must say its type")

    # A variable that no program reads would be a setting without effect.
    code = "".join(path.read_text() for path in sources(["code/hosts/aws/src", "code/hosts/worker/src", "code/doors/lambda/src", "code/doors/cli/src"]))
    for name in sorted(set(re.findall(r"\bBUZZ_[A-Z_0-9]+", configuration))):
        if name not in code:
            problems.append(f"the configuration sets {name}, which no program reads")

    problems += deploy_rights.problems()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    counts = ", ".join(f"{role} {len(actions)}" for role, actions in allowed().items())
    print(f"permissions: each has its call, each call its permission ({counts}); deploying {deploy_rights.count()}")


if __name__ == "__main__":
    main()
