#!/usr/bin/env python3
"""Runs `make doctor` with a stand-in for the AWS command line: in good health, and once per fault that it must find. Needs neither an
account nor a network."""

import ast
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "infra" / "bin"))

import doctor
import doctor_after
import doctor_before

ACCOUNT = "123456789012"
GROUPS = [{"grp": rest, "n": len(range(rest or 7, 1001, 7)), "total": sum(range(rest or 7, 1001, 7))} for rest in range(7)]
SUMMARY = {"tasks": 1, "cost_usd": 0.00001, "combs": 2, "combs_started": 2}


def answered(rows, **more):
    """Returns the answer of an invocation of Fuse."""
    return {"StatusCode": 200, "payload": {"status": "answered", "rows": rows, "summary": SUMMARY, **more}}


def failed(kind, message):
    """Returns the failure of a query."""
    return {"StatusCode": 200, "payload": {"status": "failed", "error": {"kind": kind, "message": message}}}


def healthy(csv):
    """Returns the rules of an account on which everything is in order, with the result `csv` behind its link."""
    return [
        (["sts get-caller-identity"], {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/deployer"}),
        (["iam simulate-principal-policy"], {}),
        (["iam get-role"], {"Role": {}}),
        (["lambda get-account-settings"], {"AccountLimit": {"UnreservedConcurrentExecutions": 1000}}),
        (["service-quotas get-service-quota"], {"Quota": {"Value": 64}}),
        (["s3api head-bucket", "buzz-rust-dev-"], "An error occurred (404) when calling the HeadBucket operation: Not Found"),
        (["s3api head-bucket"], {}),
        (["s3api get-bucket-location"], {"LocationConstraint": "us-east-2"}),
        (["s3api get-bucket-encryption"], {"ServerSideEncryptionConfiguration": {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}}),
        (["s3api get-bucket-request-payment"], {"Payer": "BucketOwner"}),
        (["s3api list-objects-v2"], 1),
        (["lambda get-function-configuration"], {"State": "Active", "Version": "7", "MemorySize": 3008, "Description": "Buzz 0.1.0", "Environment": {"Variables": {"BUZZ_RESULTS": f"s3://buzz-rust-dev-{ACCOUNT}-us-east-2/results/"}}}),
        (["s3 cp"], {}),
        (["lambda invoke", '"async"'], {"StatusCode": 200, "payload": {"status": "submitted", "query_id": "one"}}),
        (["lambda invoke", '"watch"'], answered([{"one": 1}])),
        (["lambda invoke", "SELECT 1"], answered([{"one": 1}])),
        (["lambda invoke", "COUNT(*) AS n, SUM(id)"], answered([{"n": 1000, "total": 500500}])),
        (["lambda invoke", "JOIN"], answered(GROUPS)),
        (["lambda invoke", "generate_series"], answered(None, output={"url": csv.as_uri(), "bytes": 6_000_000})),
    ]  # fmt: skip


SETTINGS = {"STAGE": "dev", "REGION": "us-east-2", "BINARIES": "folder", "DATA_LOCATIONS": "s3://lake/trips/", "OUTPUT_LOCATIONS": "s3://reports/"}
COMBS = {"COMB_NETWORK": "public_ipv4", "IMAGE_TOOL": "podman"}
KEY = "arn:aws:kms:us-east-2:123456789012:key/1"
ENCRYPTED = {"ServerSideEncryptionConfiguration": {"Rules": [{"ApplyServerSideEncryptionByDefault": {"KMSMasterKeyID": KEY}}]}}
DENIED = "An error occurred (AccessDenied) when calling the operation: Access Denied"

ROLE = f"arn:aws:iam::{ACCOUNT}:role/ci/deploy"
SESSION = {"Account": ACCOUNT, "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/deploy/me"}
CUT = "data:text/csv,id%2Ctext%0A"

# What is wrong, the rules and the settings that make it so, and the begin and a part of the line that must report it.
FAULTS = [
    ("no credentials", [(["sts"], "Unable to locate credentials")], {}, "FAIL  credentials:", "set DEPLOY_PROFILE"),
    ("a missing permission", [(["simulate"], {"denied": ["lambda:CreateAlias"]})], {}, "FAIL  rights:", "may not lambda:CreateAlias; attach infra/policies"),
    ("no permission to simulate", [(["simulate"], DENIED)], {}, "warn  rights:", "iam:SimulatePrincipalPolicy"),
    ("a permission that only combs need", [(["simulate"], {"denied": ["ec2:CreateVpc"]})], COMBS, "FAIL  rights:", "ec2:CreateVpc"),
    ("the root user", [(["sts"], {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:root"})], {}, "warn  rights:", "root user"),
    ("an unknown stage", [], {"STAGE": "qa"}, "FAIL  settings:", "stage qa is not in infra/env/conf.tf"),
    ("an unknown network", [], {"COMB_NETWORK": "nat"}, "FAIL  settings:", "COMB_NETWORK is `nat`"),
    ("an unknown processor", [], {"ARCH": "aarch64"}, "FAIL  settings:", "ARCH is `aarch64`"),
    ("no data", [], {"DATA_LOCATIONS": ""}, "warn  settings:", "DATA_LOCATIONS is empty"),
    ("an old Terraform", [], {"TF": "old-terraform"}, "FAIL  tools:", "`old-terraform` is version 1.5.7; install 1.10"),
    ("no Terraform", [], {"TF": "no-terraform"}, "FAIL  tools:", "`no-terraform` is missing"),
    ("no program for images", [], {"COMB_NETWORK": "public_ipv4", "IMAGE_TOOL": "no-podman"}, "FAIL  tools:", "COMB_NETWORK=none"),
    ("a new account", [(["get-account-settings"], {"AccountLimit": {"UnreservedConcurrentExecutions": 10}})], {}, "warn  quotas:", "L-B99A9384"),
    ("hardly any functions", [(["get-account-settings"], {"AccountLimit": {"UnreservedConcurrentExecutions": 5}})], {}, "FAIL  quotas:", "5 concurrent functions"),
    ("a region that does not answer", [(["get-account-settings"], "Could not connect to the endpoint URL")], {}, "warn  quotas:", "check REGION"),
    ("no Fargate", [(["--service-code fargate"], {"Quota": {"Value": 0}})], COMBS, "FAIL  quotas:", "L-3032A538"),
    ("no networks", [(["--service-code vpc"], {"Quota": {"Value": 0}})], COMBS, "FAIL  quotas:", "L-F678F1CE"),
    ("no right to look for ECS's role", [(["AWSServiceRoleForECS"], DENIED)], COMBS, "warn  rights:", "create-service-linked-role"),
    ("a missing data bucket", [(["head-bucket", "lake"], "An error occurred (404): Not Found")], {}, "FAIL  buckets:", "lake of DATA_LOCATIONS does not exist"),
    ("a closed data bucket", [(["head-bucket", "lake"], "An error occurred (403): Forbidden")], {}, "warn  buckets:", "may not be read by you"),
    ("a data bucket elsewhere", [(["get-bucket-location", "lake"], {"LocationConstraint": "eu-west-1"})], {}, "warn  buckets:", "BUCKET_REGIONS=lake=eu-west-1"),
    ("an encrypted data bucket", [(["get-bucket-encryption", "lake"], ENCRYPTED)], {}, "FAIL  buckets:", "DATA_KMS_KEYS"),
    ("a bucket whose reader pays", [(["get-bucket-request-payment", "lake"], {"Payer": "Requester"})], {}, "FAIL  buckets:", "lets the reader pay"),
    ("an empty location", [(["list-objects-v2", "lake"], 0)], {}, "warn  buckets:", "s3://lake/trips/ has no objects"),
    ("an encrypted bucket for results", [(["get-bucket-encryption", "reports"], ENCRYPTED)], {}, "FAIL  buckets:", "name another bucket for results"),
    ("a location without scheme", [], {"OUTPUT_LOCATIONS": "reports"}, "FAIL  buckets:", "OUTPUT_LOCATIONS has `reports`"),
    ("a state bucket of another account", [(["head-bucket", "buzz-rust-state-"], "An error occurred (403): Forbidden")], {}, "FAIL  buckets:", "belongs to another account"),
    ("a function that is not ready", [(["get-function-configuration", "--qualifier"], {"State": "Failed", "StateReason": "no role"})], {}, "FAIL  function:", "is Failed, no role"),
    ("a missing alias", [(["get-function-configuration", "--qualifier"], "ResourceNotFoundException")], {}, "FAIL  function:", "run `make deploy`"),
    ("Fuse that crashes", [(["lambda invoke", "SELECT 1"], {"FunctionError": "Unhandled", "payload": {"errorType": "Runtime.ExitError", "errorMessage": "exit status 1"}})], {}, "FAIL  fuse:", "Runtime.ExitError"),
    ("a wrong answer", [(["lambda invoke", "SELECT 1"], answered([{"one": 2}]))], {}, "FAIL  fuse:", "wrong answer [{'one': 2}]"),
    ("throttled functions", [(["lambda invoke", "Parquet", "SUM(id)"], failed("Unavailable", "TooManyRequestsException"))], {}, "FAIL  hbee:", "L-B99A9384"),
    ("no right to a missing object", [(["lambda invoke", "DeltaLake", "SUM(id)"], failed("Data", "403 AccessDenied: _delta_log"))], {}, "FAIL  delta:", "compare the roles"),
    ("an exchange with a wrong row", [(["lambda invoke", "JOIN"], answered(GROUPS[1:]))], {}, "FAIL  exchange:", "wrong answer"),
    ("no link for a large result", [(["lambda invoke", "generate_series"], answered([]))], {}, "FAIL  result:", "KeyError"),
    ("a query that never starts", [(["lambda invoke", '"watch"'], failed("Unavailable", "query one has not reported progress"))], {}, "FAIL  later:", "has not reported progress"),
    ("an old Python", [], {"OLD_PYTHON": "1"}, "FAIL  tools:", "Python is version 3.8.1; install 3.9"),
    ("no AWS command line", [], {"MISSING": "aws"}, "FAIL  tools:", "`aws` is missing"),
    ("no Rust", [], {"BINARIES": ""}, "FAIL  tools:", "`cargo` is missing"),
    ("no right to ask for quotas", [(["service-quotas"], DENIED)], COMBS, "warn  quotas:", "look at L-3032A538"),
    ("a role that may too little", [(["sts"], SESSION), (["get-role", "--role-name deploy"], {"Role": {"Arn": ROLE}}), (["simulate", f"--policy-source-arn {ROLE}"], {"denied": ["lambda:CreateAlias"]})], {}, "FAIL  rights:", f"{ROLE} may not lambda:CreateAlias"),
    ("a role that cannot be read", [(["sts"], SESSION), (["get-role"], DENIED), (["simulate", f"--policy-source-arn arn:aws:iam::{ACCOUNT}:role/deploy "], {"denied": ["lambda:CreateAlias"]})], {}, "FAIL  rights:", "may not lambda:CreateAlias"),
    ("a data bucket that does not answer", [(["head-bucket", "lake"], "Could not connect")], {}, "FAIL  buckets:", "lake of DATA_LOCATIONS: Could not connect; correct DATA_LOCATIONS"),
    ("a data location without scheme", [], {"DATA_LOCATIONS": "lake/trips"}, "FAIL  buckets:", "DATA_LOCATIONS has `lake/trips`"),
    ("a data bucket elsewhere that is named", [(["get-bucket-location", "lake"], {"LocationConstraint": "EU"})], {"BUCKET_REGIONS": "lake=eu-west-1"}, "warn  buckets:", "deploy there, or accept that"),
    ("a missing bucket for results", [(["head-bucket", "reports"], "An error occurred (404): Not Found")], {}, "FAIL  buckets:", "reports of OUTPUT_LOCATIONS does not exist"),
    ("a state bucket that does not answer", [(["head-bucket", "buzz-rust-state-"], "Could not connect")], {}, "FAIL  buckets:", "check REGION and the credentials"),
    ("an update that failed", [(["get-function-configuration", "--qualifier"], {"State": "Active", "LastUpdateStatus": "Failed", "LastUpdateStatusReason": "no image"})], {}, "FAIL  function:", "is Active, no image"),
    ("results that are nowhere", [(["get-function-configuration", "--qualifier"], {"Environment": {"Variables": {}}})], {}, "FAIL  function:", "its results are at ``"),
    ("a stack without HBees", [(["lambda invoke", "COUNT(*) AS n, SUM(id)"], answered([{"n": 1000, "total": 500500}], summary={"tasks": 0}))], {}, "FAIL  hbee:", "no HBee ran"),
    ("no room for combs", [(["lambda invoke", "JOIN"], failed("Unavailable", "You have reached the limit of vCPU"))], {}, "FAIL  exchange:", "raise the quota of Fargate"),
    ("an image that combs cannot fetch", [(["lambda invoke", "JOIN"], failed("Unavailable", "CannotPullContainerError"))], {}, "FAIL  exchange:", "try COMB_NETWORK=public_ipv4"),
    ("HBees of another build", [(["lambda invoke", "Parquet", "SUM(id)"], failed("Internal", "a task of build a reached build b"))], {}, "FAIL  hbee:", "are of different builds"),
    ("a call that is not allowed", [(["lambda invoke", "SELECT 1"], DENIED)], {}, "FAIL  fuse:", "compare the roles"),
    ("a result that is cut off", [(["lambda invoke", "generate_series"], answered(None, output={"url": CUT, "bytes": 6_000_000}))], {}, "FAIL  result:", "wrong answer 1 instead of 150001"),
    ("a query that never ends", [(["lambda invoke", '"watch"'], {"StatusCode": 200, "payload": {"status": "running"}})], {"PATIENCE": "0"}, "FAIL  later:", "timed out; look at `make logs ROLE=fuse`: a part of AWS"),
    ("a bucket that takes no object", [(["s3 cp"], DENIED)], {}, "FAIL  bucket:", "AccessDenied"),
]  # fmt: skip


VERSIONS = {"terraform": "1.11.4", "old-terraform": "1.5.7", "aws": "2.30.0", "readelf": "2.40", "podman": "4.3.1"}


def call(rules, arguments):
    """Returns what `aws` with `arguments` prints, and None, or None and its error: those of the first rule whose words occur in
    the arguments and in the event of an invocation. Writes the answer of an invocation to the file that the call names."""
    line = " ".join(arguments)
    for word in arguments:
        if word.startswith("fileb://"):
            line += " " + Path(word[len("fileb://") :]).read_text()
    found = [answer for words, answer in rules if all(word in line for word in words)]
    if not found:
        return None, f"no rule for {line}"
    answer = found[0]
    if isinstance(answer, str):
        return None, answer
    if arguments[:2] == ("iam", "simulate-principal-policy"):
        names = arguments[arguments.index("--action-names") + 1 : arguments.index("--resource-arns")]
        denied = answer.get("denied", [])
        rows = [{"EvalActionName": name, "EvalDecision": "implicitDeny" if name in denied else "allowed"} for name in names]
        return {"EvaluationResults": rows}, None
    if arguments[:2] == ("lambda", "invoke"):
        Path(arguments[-1]).write_text(json.dumps(answer["payload"]))
    return answer, None


def calls_of(module):
    """Yields the place of each line that a module reports as a fault: its file, and the first and last line of the call."""
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("bad", "warn", "skip"):
            yield module.__file__, node.lineno, node.end_lineno


class Recorded(doctor.Report):
    """A report that remembers which lines of the doctor reported a fault."""

    places = set()

    def line(self, mark, what, said, to_do=""):
        caller = sys._getframe(2)
        self.places.add((caller.f_code.co_filename, caller.f_lineno))
        super().line(mark, what, said, to_do)


def untested():
    """Returns the places of the faults that no test has made the doctor report."""
    places = [place for module in (doctor, doctor_before, doctor_after) for place in calls_of(module)]
    reported = lambda file, begin, end: any(name == file and begin <= line <= end for name, line in Recorded.places)
    return [f"{Path(file).name}:{begin}: no test makes this fault" for file, begin, end in places if not reported(file, begin, end)]


def run(csv, rules, settings):
    """Runs the doctor. Returns its lines and its exit code."""
    old = settings.get("OLD_PYTHON")
    doctor_before.sys = types.SimpleNamespace(version_info=(3, 8, 1), version="3.8.1 (default)") if old else sys
    doctor_after.PATIENCE = int(settings.get("PATIENCE", 120))
    doctor.Report = Recorded
    rules = [*rules, *healthy(csv)]
    for module in (doctor_before, doctor_after):
        module.aws_or_error = lambda *arguments, **_: call(rules, arguments)
    numbers = lambda text: tuple(int(number) for number in text.split("."))
    doctor_before.version_of = lambda program, *_: (VERSIONS[program], numbers(VERSIONS[program])) if program in VERSIONS and program != settings.get("MISSING") else None
    doctor_after.PAUSE = 0
    os.environ.clear()
    os.environ.update({**SETTINGS, **settings})
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            doctor.main()
        except SystemExit as exit:
            code = exit.code
    return printed.getvalue().splitlines(), code


def command_line(folder, path):
    """Returns a problem if the doctor does not understand a program named `aws`, which knows the caller and nothing else."""
    program = folder / "aws"
    program.write_text(
        """#!/bin/sh
case "$1 $2" in
--version*) echo aws-cli/2.30.0 ;;
"sts get-caller-identity") echo '{"Account": "123456789012", "Arn": "arn:aws:iam::123456789012:user/deployer"}' ;;
*) echo "An error occurred (AccessDenied) when calling $2" >&2; exit 254 ;;
esac
"""
    )
    program.chmod(0o755)
    environment = {**SETTINGS, "PATH": f"{folder}:{path}", "HOME": str(folder), "WHEN": "before"}
    done = subprocess.run([sys.executable, ROOT / "infra/bin/doctor.py"], env=environment, capture_output=True, text=True)
    for part in ("ok    credentials: account 123456789012", "warn  rights: cannot be simulated: An error occurred (AccessDenied)"):
        if part not in done.stdout:
            return f"no `{part}` in {done.stdout}{done.stderr}"
    return None


def main():
    problems, path = [], os.environ.get("PATH", "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        csv = folder / "result.csv"
        csv.write_text("id,text\n" + "1,x\n" * 150_000)
        for settings in ({}, COMBS):
            lines, code = run(csv, [], settings)
            ill = [line for line in lines if not line.startswith("ok")]
            checks = {line[6:].partition(":")[0] for line in lines}
            wanted = {"tools", "settings", "credentials", "rights", "quotas", "buckets", "function", "fuse", "hbee", "delta", "exchange", "result", "later", "cost"}
            if ill or code or not wanted <= checks:
                problems.append(f"a healthy stack is not found healthy: exit {code}, {ill}, without {sorted(wanted - checks)}")
        # With an image and a network that exist, neither a tool for images nor a new network is needed.
        given = {"COMB_NETWORK": "private_ipv4", "COMB_IMAGE": "registry.example.com/hcomb:1", "IMAGE_TOOL": "no-podman", "FUNCTION_SUBNETS": "subnet-1"}
        lines, code = run(csv, [(["--service-code vpc"], {"Quota": {"Value": 0}})], given)
        if code:
            problems.append(f"a stack in a network that exists is not found healthy: {lines}")
        lines, code = run(csv, [(["lambda get-function-configuration"], "ResourceNotFoundException")], {})
        if code or not lines[-1].startswith("skip  stack:"):
            problems.append(f"an account without the stack: exit {code}, {lines[-1]}")
        for what, rules, settings, begin, part in FAULTS:
            lines, code = run(csv, rules, settings)
            if not any(line.startswith(begin) and part in line for line in lines):
                problems.append(f"{what}: no line `{begin} … {part}` in {lines}")
            if code != (1 if begin.startswith("FAIL") else 0):
                problems.append(f"{what}: exit {code} after {lines}")
        for settings, begin in (({"WHEN": "after"}, "ok    function:"), ({"WHEN": "before"}, "ok    tools:")):
            lines, code = run(csv, [], settings)
            if code or not lines[0].startswith(begin):
                problems.append(f"{settings}: exit {code}, {lines}")
        lines, code = run(csv, [], {"WHEN": "soon"})
        if code != 1 or lines:
            problems.append(f"a part that does not exist: exit {code}, {lines}")
        # What is in order although it looks otherwise.
        for rules, settings, line in (
            ([(["AWSServiceRoleForECS"], "NoSuchEntity")], COMBS, "ok    rights: `make deploy` will make ECS's service role"),
            ([(["get-bucket-encryption", "lake"], ENCRYPTED)], {"DATA_KMS_KEYS": KEY}, "ok    buckets: s3://lake/trips/ is readable"),
            ([(["head-bucket", "buzz-rust-dev-"], {})], {}, f"ok    buckets: buzz-rust-dev-{ACCOUNT}-us-east-2 exists (the stack's)"),
        ):
            lines, code = run(csv, rules, settings)
            if code or line not in lines:
                problems.append(f"no line `{line}` in {lines}")
        problems += untested()
        problems += filter(None, [command_line(folder, path)])
    for problem in problems:
        print(f"error: doctor: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"doctor: a healthy stack is found healthy, and {len(FAULTS)} faults are found")


if __name__ == "__main__":
    main()
