# Tests both functions and their permissions.

mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/role" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { version = "3" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:us-east-2:123456789012:log-group:group" }
  }
}

variables {
  prefix        = "buzz-rust"
  role          = { path = "/", boundary = null }
  stage         = "dev"
  region        = "us-east-2"
  account_id    = "123456789012"
  partition     = "aws"
  arch          = "arm64"
  build_version = "0.1.0-test"
  bucket        = "buzz-rust-dev"
  environment   = { BUZZ_STAGE = "dev", AWS_USE_DUALSTACK_ENDPOINT = "true" }
  log_days      = 14
  network       = { subnet_ids = ["subnet-1", "subnet-2"], security_group_ids = ["sg-functions"], dual_stack = true }
  fuse          = { zip = "there/fuse-01.zip", memory_mb = 3008, disk_mb = 2048, timeout_s = 900 }
  hbee          = { zip = "there/hbee-02.zip", memory_mb = 2048, timeout_s = 300, at_once = 900 }
  combs = {
    cluster_arn         = "arn:aws:ecs:us-east-2:123456789012:cluster/buzz-rust-cluster-dev"
    cluster_name        = "buzz-rust-cluster-dev"
    family              = "buzz-rust-hcomb-dev"
    task_definition_arn = "arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev:7"
    role_arns           = ["arn:aws:iam::123456789012:role/comb", "arn:aws:iam::123456789012:role/execution"]
    subnet_ids          = ["subnet-3", "subnet-4"]
    security_group_ids  = ["sg-combs"]
    network             = "public_ipv4"
    port                = 3333
    tls                 = true
    cpu                 = 2048
    memory_mb           = 4096
    idle_s              = 300
    disk_gb             = 20
  }
  comb_rights = {
    cluster_arn  = "arn:aws:ecs:us-east-2:123456789012:cluster/buzz-rust-cluster-dev"
    cluster_name = "buzz-rust-cluster-dev"
    family       = "buzz-rust-hcomb-dev"
    role_arns    = ["arn:aws:iam::123456789012:role/comb", "arn:aws:iam::123456789012:role/execution"]
  }
  in_network       = true
  limits           = { BUZZ_MAX_SCAN_BYTES = "", BUZZ_MAX_COST_USD = "0.50" }
  read_data        = [{ Sid = "ReadData", Effect = "Allow", Action = ["s3:GetObject"], Resource = ["arn:aws:s3:::lake/*"] }]
  read_results     = [{ Sid = "ReadResults", Effect = "Allow", Action = ["s3:GetObject"], Resource = ["arn:aws:s3:::buzz/results/*"] }]
  read_tasks       = [{ Sid = "ReadTasks", Effect = "Allow", Action = ["s3:GetObject"], Resource = ["arn:aws:s3:::buzz/results/queries/*/tasks/*"] }]
  exchange         = [{ Sid = "ExchangeRows", Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject"], Resource = ["arn:aws:s3:::buzz/results/exchange/*"] }]
  remove_exchanged = [{ Sid = "RemoveExchangedRows", Effect = "Allow", Action = ["s3:DeleteObject"], Resource = ["arn:aws:s3:::buzz/results/exchange/*"] }]
  write_results    = [{ Sid = "WriteResults", Effect = "Allow", Action = ["s3:PutObject"], Resource = ["arn:aws:s3:::buzz/results/*"] }]
}

run "functions" {
  module {
    source = "./modules/functions"
  }

  assert {
    condition     = aws_lambda_function.fuse.memory_size == 3008 && aws_lambda_function.fuse.timeout == 900 && aws_lambda_function.hbee.memory_size == 2048 && aws_lambda_function.hbee.timeout == 300
    error_message = "memory and time limits must be the given ones"
  }
  assert {
    condition     = alltrue([for f in [aws_lambda_function.fuse, aws_lambda_function.hbee] : f.architectures == tolist(["arm64"]) && f.runtime == "provided.al2023" && f.handler == "bootstrap" && f.vpc_config[0].ipv6_allowed_for_dual_stack && f.vpc_config[0].security_group_ids == toset(["sg-functions"])])
    error_message = "functions run static binaries, in the network, with IPv6"
  }
  assert {
    condition     = aws_s3_object.package["fuse"].key == "packages/fuse-01.zip" && aws_lambda_function.hbee.s3_key == "packages/hbee-02.zip"
    error_message = "a package keeps its name, which holds its hash"
  }
  assert {
    condition     = [for config in values(aws_lambda_function_event_invoke_config.function) : config.maximum_retry_attempts] == [0, 0]
    error_message = "the service must not repeat a query"
  }
  assert {
    condition = aws_lambda_function.fuse.environment[0].variables == tomap({
      BUZZ_STAGE                 = "dev"
      AWS_USE_DUALSTACK_ENDPOINT = "true"
      BUZZ_FUSE_FUNCTION         = "buzz-rust-fuse-dev:live"
      BUZZ_HBEE_FUNCTION         = "buzz-rust-hbee-dev:3"
      BUZZ_HBEE_MEMORY_MB        = "2048"
      BUZZ_HBEE_TIMEOUT_SECONDS  = "300"
      BUZZ_HBEE_CONCURRENCY      = "900"
      BUZZ_COMB_CLUSTER          = "arn:aws:ecs:us-east-2:123456789012:cluster/buzz-rust-cluster-dev"
      BUZZ_COMB_TASK_DEFINITION  = "arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev:7"
      BUZZ_COMB_SUBNETS          = "subnet-3,subnet-4"
      BUZZ_COMB_SECURITY_GROUPS  = "sg-combs"
      BUZZ_COMB_NETWORK          = "public_ipv4"
      BUZZ_COMB_PORT             = "3333"
      BUZZ_COMB_TLS              = "true"
      BUZZ_COMB_VCPUS            = "2"
      BUZZ_COMB_MEMORY_MB        = "4096"
      BUZZ_COMB_IDLE_SECONDS     = "300"
      BUZZ_COMB_DISK_GB          = "20"
      BUZZ_MAX_COST_USD          = "0.50"
    })
    error_message = "got ${jsonencode(aws_lambda_function.fuse.environment[0].variables)}"
  }
  assert {
    condition     = [for group in values(aws_cloudwatch_log_group.function) : group.retention_in_days] == [14, 14]
    error_message = "logs must go by themselves"
  }
}

run "versions" {
  module {
    source = "./modules/functions"
  }

  assert {
    condition     = aws_lambda_function.fuse.publish && aws_lambda_function.hbee.publish
    error_message = "a deployment must not change the program of a query that runs"
  }
  assert {
    condition     = aws_lambda_alias.live.name == "live" && aws_lambda_alias.live.function_name == "buzz-rust-fuse-dev" && aws_lambda_alias.live.function_version == "3"
    error_message = "the alias names the newest version"
  }
  assert {
    condition     = toset([for config in values(aws_lambda_function_event_invoke_config.function) : coalesce(config.qualifier, "latest")]) == toset(["latest", "live"])
    error_message = "Fuse submits queries to its alias, whose retries must be off too"
  }
  assert {
    condition     = strcontains(aws_lambda_function.fuse.description, var.build_version) && !strcontains(aws_lambda_function.hbee.description, var.build_version)
    error_message = "a deployment publishes HBees only if they change"
  }
}

run "company" {
  variables {
    prefix = "acme-buzz"
    role   = { path = "/teams/data/", boundary = "arn:aws:iam::123456789012:policy/boundary" }
  }
  module {
    source = "./modules/functions"
  }

  assert {
    condition     = aws_lambda_function.fuse.function_name == "acme-buzz-fuse-dev" && aws_iam_role.function["hbee"].name == "acme-buzz-hbee-dev-us-east-2"
    error_message = "all names begin with the prefix"
  }
  assert {
    condition     = alltrue([for role in values(aws_iam_role.function) : role.path == "/teams/data/" && role.permissions_boundary == "arn:aws:iam::123456789012:policy/boundary"])
    error_message = "roles have the path and the boundary"
  }
}

run "what_fuse_may_do" {
  module {
    source = "./modules/functions"
  }

  assert {
    condition = toset(flatten([for s in jsondecode(aws_iam_role_policy.fuse.policy).Statement : s.Resource if contains(s.Action, "lambda:InvokeFunction")])) == toset([
      "arn:aws:lambda:us-east-2:123456789012:function:buzz-rust-hbee-dev", "arn:aws:lambda:us-east-2:123456789012:function:buzz-rust-hbee-dev:*",
      "arn:aws:lambda:us-east-2:123456789012:function:buzz-rust-fuse-dev", "arn:aws:lambda:us-east-2:123456789012:function:buzz-rust-fuse-dev:*",
    ])
    error_message = "Fuse may call HBees and itself, nobody else"
  }
  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.fuse.policy).Statement : s.Resource if contains(s.Action, "ecs:RunTask")] == [["arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev:*"]]
    error_message = "Fuse may start combs of this stage, in any revision, and nothing else"
  }
  assert {
    condition     = alltrue([for s in jsondecode(aws_iam_role_policy.fuse.policy).Statement : s.Condition.ArnEquals["ecs:cluster"] == var.combs.cluster_arn if startswith(s.Action[0], "ecs:")])
    error_message = "all that Fuse may do with tasks is within its cluster"
  }
  assert {
    condition     = jsonencode([for s in jsondecode(aws_iam_role_policy.fuse.policy).Statement : [s.Resource, s.Condition.StringEquals["iam:PassedToService"]] if contains(s.Action, "iam:PassRole")]) == jsonencode([[var.comb_rights.role_arns, "ecs-tasks.amazonaws.com"]])
    error_message = "Fuse passes both roles of a comb, to ECS, and no other"
  }
  assert {
    condition     = alltrue([for s in jsondecode(aws_iam_role_policy.fuse.policy).Statement : !contains(s.Resource, "*") || alltrue([for action in s.Action : action == "ecs:ListTasks" || startswith(action, "ec2:")])])
    error_message = "only ListTasks and the service's own network actions have no narrower form"
  }
}

run "what_an_hbee_may_do" {
  module {
    source = "./modules/functions"
  }

  assert {
    condition     = toset([for action in flatten([for s in jsondecode(aws_iam_role_policy.hbee.policy).Statement : s.Action if s.Effect == "Allow"]) : action if !startswith(action, "ec2:")]) == toset(["s3:GetObject", "s3:PutObject", "logs:CreateLogStream", "logs:PutLogEvents"])
    error_message = "an HBee reads, exchanges rows, and logs: ${aws_iam_role_policy.hbee.policy}"
  }
  assert {
    condition     = toset(flatten([for s in jsondecode(aws_iam_role_policy.hbee.policy).Statement : s.Resource if contains(s.Action, "s3:GetObject")])) == toset(["arn:aws:s3:::lake/*", "arn:aws:s3:::buzz/results/queries/*/tasks/*", "arn:aws:s3:::buzz/results/exchange/*"])
    error_message = "of the stack's own objects, an HBee may read tasks and exchanged rows only: ${aws_iam_role_policy.hbee.policy}"
  }
  assert {
    condition     = alltrue([for policy in [aws_iam_role_policy.fuse.policy, aws_iam_role_policy.hbee.policy] : toset(flatten([for s in jsondecode(policy).Statement : s.Action if s.Effect == "Deny"])) == toset([for action in flatten([for s in jsondecode(policy).Statement : s.Action if s.Effect == "Allow"]) : action if startswith(action, "ec2:")])])
    error_message = "what the service does with network interfaces, the program may not"
  }
  assert {
    condition     = alltrue([for policy in [aws_iam_role_policy.fuse.policy, aws_iam_role_policy.hbee.policy] : alltrue([for s in jsondecode(policy).Statement : alltrue([for arn in s.Resource : endswith(arn, ":*")]) if contains(s.Action, "logs:PutLogEvents")])])
    error_message = "log rights are on the group's streams: without `:*` nothing is logged"
  }
}

run "without_combs" {
  variables {
    network = null
    combs   = null

    comb_rights = null
    in_network  = false
  }
  module {
    source = "./modules/functions"
  }

  assert {
    condition     = alltrue([for f in [aws_lambda_function.fuse, aws_lambda_function.hbee] : length(f.vpc_config) == 0])
    error_message = "without combs the functions are in no network"
  }
  assert {
    condition     = [for name in keys(aws_lambda_function.fuse.environment[0].variables) : name if startswith(name, "BUZZ_COMB")] == []
    error_message = "Fuse must not know combs that do not exist, got ${jsonencode(aws_lambda_function.fuse.environment[0].variables)}"
  }
  assert {
    condition     = alltrue([for policy in [aws_iam_role_policy.fuse.policy, aws_iam_role_policy.hbee.policy] : alltrue([for s in jsondecode(policy).Statement : s.Effect == "Allow" && !contains(s.Resource, "*") && alltrue([for action in s.Action : !startswith(action, "ec2:") && !startswith(action, "ecs:") && !startswith(action, "iam:")])])])
    error_message = "without combs a role needs neither interfaces nor tasks, and no permission on everything: ${aws_iam_role_policy.fuse.policy}"
  }
}
