"""Compares the policies for deploying (`infra/policies`) with the resources of the configuration and with the calls of the verbs."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ROOT / "infra" / "policies"


def actions(service, names):
    """Returns the actions of a service from their names, separated by spaces."""
    return {f"{service}:{name}" for name in names.split()}


TAGS_EC2 = actions("ec2", "CreateTags DeleteTags")
RULES = actions(
    "ec2",
    "AuthorizeSecurityGroupEgress AuthorizeSecurityGroupIngress RevokeSecurityGroupEgress RevokeSecurityGroupIngress "
    "ModifySecurityGroupRules DescribeSecurityGroupRules",
)

# Actions with which Terraform's provider makes, reads, changes and deletes each kind of resource.
RESOURCES = {
    "aws_lambda_function": actions(
        "lambda",
        "CreateFunction DeleteFunction GetFunction GetFunctionConfiguration UpdateFunctionCode UpdateFunctionConfiguration "
        "ListVersionsByFunction PublishVersion GetFunctionCodeSigningConfig TagResource UntagResource ListTags",
    )
    | {"iam:PassRole"},
    "aws_lambda_alias": actions("lambda", "CreateAlias GetAlias UpdateAlias DeleteAlias"),
    "aws_lambda_function_event_invoke_config": actions(
        "lambda",
        "PutFunctionEventInvokeConfig GetFunctionEventInvokeConfig UpdateFunctionEventInvokeConfig DeleteFunctionEventInvokeConfig",
    ),
    "aws_s3_bucket": actions(
        "s3",
        "CreateBucket DeleteBucket ListBucket ListBucketVersions GetBucketLocation GetBucketAcl GetBucketCORS GetBucketWebsite "
        "GetBucketVersioning GetAccelerateConfiguration GetBucketRequestPayment GetBucketLogging GetLifecycleConfiguration "
        "GetReplicationConfiguration GetEncryptionConfiguration GetBucketObjectLockConfiguration GetBucketTagging "
        "GetBucketPolicy PutBucketTagging DeleteObject DeleteObjectVersion",
    ),
    "aws_s3_bucket_public_access_block": actions("s3", "GetBucketPublicAccessBlock PutBucketPublicAccessBlock"),
    "aws_s3_bucket_ownership_controls": actions("s3", "GetBucketOwnershipControls PutBucketOwnershipControls"),
    "aws_s3_bucket_server_side_encryption_configuration": actions("s3", "GetEncryptionConfiguration PutEncryptionConfiguration"),
    "aws_s3_bucket_lifecycle_configuration": actions("s3", "GetLifecycleConfiguration PutLifecycleConfiguration"),
    "aws_s3_bucket_policy": actions("s3", "GetBucketPolicy PutBucketPolicy DeleteBucketPolicy"),
    "aws_s3_object": actions("s3", "GetObject PutObject DeleteObject DeleteObjectVersion GetObjectTagging PutObjectTagging"),
    "aws_cloudwatch_log_group": actions(
        "logs",
        "CreateLogGroup DeleteLogGroup DescribeLogGroups PutRetentionPolicy DeleteRetentionPolicy ListTagsForResource "
        "TagResource UntagResource",
    ),
    "aws_iam_role": actions(
        "iam",
        "CreateRole DeleteRole GetRole UpdateRole UpdateRoleDescription UpdateAssumeRolePolicy ListRolePolicies "
        "ListAttachedRolePolicies ListInstanceProfilesForRole PutRolePermissionsBoundary DeleteRolePermissionsBoundary "
        "TagRole UntagRole",
    ),
    "aws_iam_role_policy": actions("iam", "PutRolePolicy GetRolePolicy DeleteRolePolicy"),
    "aws_ecr_repository": actions(
        "ecr",
        "CreateRepository DeleteRepository DescribeRepositories ListTagsForResource TagResource UntagResource "
        "PutImageScanningConfiguration PutImageTagMutability",
    ),
    "aws_ecr_lifecycle_policy": actions("ecr", "PutLifecyclePolicy GetLifecyclePolicy DeleteLifecyclePolicy"),
    "aws_ecs_cluster": actions("ecs", "CreateCluster DeleteCluster DescribeClusters UpdateCluster TagResource UntagResource"),
    "aws_ecs_task_definition": actions(
        "ecs", "RegisterTaskDefinition DeregisterTaskDefinition DescribeTaskDefinition TagResource UntagResource"
    )
    | {"iam:PassRole"},
    "aws_vpc": actions("ec2", "CreateVpc DeleteVpc DescribeVpcs DescribeVpcAttribute ModifyVpcAttribute DescribeNetworkAcls") | TAGS_EC2,
    "aws_default_security_group": actions("ec2", "DescribeSecurityGroups") | RULES,
    # AWS's own interfaces keep a subnet and a group in use; the provider deletes those that a function has left.
    "aws_subnet": actions(
        "ec2",
        "CreateSubnet DeleteSubnet DescribeSubnets ModifySubnetAttribute DescribeNetworkInterfaces DetachNetworkInterface "
        "DeleteNetworkInterface",
    ),
    "aws_security_group": actions(
        "ec2",
        "CreateSecurityGroup DeleteSecurityGroup DescribeSecurityGroups DescribeNetworkInterfaces DetachNetworkInterface "
        "DeleteNetworkInterface",
    ),
    "aws_vpc_security_group_egress_rule": RULES,
    "aws_vpc_security_group_ingress_rule": RULES,
    "aws_route_table": actions("ec2", "CreateRouteTable DeleteRouteTable DescribeRouteTables"),
    "aws_route": actions("ec2", "CreateRoute DeleteRoute DescribeRouteTables"),
    "aws_route_table_association": actions("ec2", "AssociateRouteTable DisassociateRouteTable DescribeRouteTables"),
    "aws_internet_gateway": actions(
        "ec2", "CreateInternetGateway DeleteInternetGateway DescribeInternetGateways AttachInternetGateway DetachInternetGateway"
    ),
    "aws_egress_only_internet_gateway": actions(
        "ec2", "CreateEgressOnlyInternetGateway DeleteEgressOnlyInternetGateway DescribeEgressOnlyInternetGateways"
    ),
    "aws_vpc_endpoint": actions("ec2", "CreateVpcEndpoint DeleteVpcEndpoints DescribeVpcEndpoints ModifyVpcEndpoint DescribePrefixLists"),
}
DATA = {
    "aws_caller_identity": actions("sts", "GetCallerIdentity"),
    "aws_partition": set(),
    "aws_availability_zones": actions("ec2", "DescribeAvailabilityZones"),
    "aws_ec2_managed_prefix_list": actions("ec2", "DescribeManagedPrefixLists"),
}

# Actions of each call that the verbs make with the AWS command line.
CALLS = {
    "sts get-caller-identity": actions("sts", "GetCallerIdentity"),
    "s3 sync": actions("s3", "ListBucket PutObject DeleteObject"),
    "s3 cp": actions("s3", "PutObject"),
    "s3api head-bucket": actions("s3", "ListBucket"),
    "s3api create-bucket": actions("s3", "CreateBucket"),
    "s3api put-bucket-versioning": actions("s3", "PutBucketVersioning"),
    "s3api put-public-access-block": actions("s3", "PutBucketPublicAccessBlock"),
    "s3api put-bucket-lifecycle-configuration": actions("s3", "PutLifecycleConfiguration"),
    "s3api list-objects-v2": actions("s3", "ListBucket"),
    "s3api get-object": actions("s3", "GetObject"),
    "s3api put-object": actions("s3", "PutObject"),
    "s3api get-bucket-location": actions("s3", "GetBucketLocation"),
    "s3api get-bucket-encryption": actions("s3", "GetEncryptionConfiguration"),
    "s3api get-bucket-request-payment": actions("s3", "GetBucketRequestPayment"),
    "iam get-role": actions("iam", "GetRole"),
    "iam create-service-linked-role": actions("iam", "CreateServiceLinkedRole"),
    "iam simulate-principal-policy": actions("iam", "SimulatePrincipalPolicy"),
    "ecr get-login-password": actions("ecr", "GetAuthorizationToken"),
    "ecr describe-repositories": actions("ecr", "DescribeRepositories"),
    # What the image tool does with the log-in.
    "ecr describe-images": actions(
        "ecr",
        "DescribeImages BatchCheckLayerAvailability InitiateLayerUpload UploadLayerPart CompleteLayerUpload PutImage BatchGetImage "
        "GetDownloadUrlForLayer",
    ),
    "ecs list-tasks": actions("ecs", "ListTasks"),
    "ecs stop-task": actions("ecs", "StopTask"),
    "ecs list-task-definitions": actions("ecs", "ListTaskDefinitions"),
    "ecs deregister-task-definition": actions("ecs", "DeregisterTaskDefinition"),
    "lambda invoke": actions("lambda", "InvokeFunction"),
    "lambda get-account-settings": actions("lambda", "GetAccountSettings"),
    "lambda get-function-configuration": actions("lambda", "GetFunctionConfiguration"),
    "lambda list-versions-by-function": actions("lambda", "ListVersionsByFunction"),
    "lambda delete-function": actions("lambda", "DeleteFunction"),
    "lambda get-alias": actions("lambda", "GetAlias"),
    "lambda update-alias": actions("lambda", "UpdateAlias"),
    "logs filter-log-events": actions("logs", "FilterLogEvents"),
    "logs describe-log-streams": actions("logs", "DescribeLogStreams"),
    "logs describe-log-groups": actions("logs", "DescribeLogGroups"),
    "cloudwatch get-metric-statistics": actions("cloudwatch", "GetMetricStatistics"),
    "service-quotas get-service-quota": actions("servicequotas", "GetServiceQuota"),
    "configure export-credentials": set(),
}

# Statements that name every resource, and why no narrower form exists.
EVERYTHING = {
    "KnowItself": "has no resource",
    "AccountLimits": "has no resource",
    "FindLogsAndMetrics": "both actions have no narrower form",
    "Doctor": "the caller's own role has any name, and quotas have none",
    "Network": "a new network has no name yet; the region bounds it",
    "FindTasks": "bounded by its cluster",
    "TaskDefinitions": "the first revision of a family has no resource yet",
    "LogInToRegistry": "has no resource",
}


def configuration():
    """Returns the text of the configuration, without its tests."""
    paths = sorted((ROOT / "infra").rglob("*.tf"))
    return "\n".join(path.read_text() for path in paths if not {".terraform", "tests"} & set(path.relative_to(ROOT).parts))


def calls():
    """Returns the calls of the verbs, each with the script that makes it. The stand-in's own calls do not count."""
    found = {}
    for path in sorted((ROOT / "infra" / "bin").iterdir()):
        if path.name.startswith("try") or path.suffix not in (".sh", ".py"):
            continue
        text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.M)
        if path.suffix == ".sh":
            pairs = re.findall(r"(?<![\w./-])aws ([a-z0-9]+) ([a-z0-9-]+)", re.sub(r"\\`[^`\n]*`", "", text))
        else:
            pairs = re.findall(r"\baws(?:_or_error)?\(\s*\"([a-z0-9-]+)\", \"([a-z0-9-]+)\"|\[\"([a-z0-9-]+)\", \"([a-z0-9-]+)\", \"--", text)
            pairs = [(a or c, b or d) for a, b, c, d in pairs]
        for service, operation in pairs:
            found.setdefault(f"{service} {operation}", path.name)
    return found


def statements():
    """Returns the statements of the policies for deploying, each with its file."""
    for path in sorted(POLICIES.glob("deploy-*.json")):
        for statement in json.loads(path.read_text())["Statement"]:
            yield path.name, statement


def problems():
    """Yields what the policies lack, what they have too much, and what the tables above do not know."""
    text = configuration()
    needed = {}
    for kind, table in (("resource", RESOURCES), ("data", DATA)):
        used = set(re.findall(rf'^{kind} "(\w+)"', text, flags=re.M))
        for name in sorted(used - set(table)):
            yield f"the configuration has {kind} `{name}`: add the actions that it needs to infra/tests/deploy_rights.py"
        for name in sorted(set(table) - used):
            yield f"infra/tests/deploy_rights.py has {kind} `{name}`, which the configuration does not have"
        for name in used & set(table):
            for action in table[name]:
                needed.setdefault(action, f"{kind} {name}")
    made = calls()
    for call in sorted(set(made) - set(CALLS)):
        yield f"infra/bin/{made[call]} calls `aws {call}`: add the actions that it needs to infra/tests/deploy_rights.py"
    for call in sorted(set(CALLS) - set(made)):
        yield f"infra/tests/deploy_rights.py has `aws {call}`, which no verb calls"
    for call in set(made) & set(CALLS):
        for action in CALLS[call]:
            needed.setdefault(action, f"aws {call}")
    allowed = {}
    for name, statement in statements():
        for action in statement["Action"]:
            allowed.setdefault(action, name)
            if "*" in action:
                yield f"infra/policies/{name} allows `{action}`: write the actions out"
        if "*" in statement["Resource"] and statement["Sid"] not in EVERYTHING:
            yield f"infra/policies/{name} allows {statement['Sid']} on everything: name the resources"
    for action in sorted(set(needed) - set(allowed)):
        yield f"infra/policies does not allow {action}, which `{needed[action]}` needs"
    for action in sorted(set(allowed) - set(needed)):
        yield f"infra/policies/{allowed[action]} allows {action}, which nothing needs"


def count():
    """Returns the number of allowed actions."""
    return len({action for _, statement in statements() for action in statement["Action"]})
