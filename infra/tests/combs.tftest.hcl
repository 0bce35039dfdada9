# Tests the resources from which combs are started.

mock_provider "aws" {
  mock_resource "aws_ecr_repository" {
    defaults = {
      repository_url = "123456789012.dkr.ecr.us-east-2.amazonaws.com/buzz-rust-hcomb-dev"
      registry_id    = "123456789012"
      arn            = "arn:aws:ecr:us-east-2:123456789012:repository/buzz-rust-hcomb-dev"
    }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:us-east-2:123456789012:log-group:group" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/role" }
  }
}

variables {
  prefix       = "buzz-rust"
  role         = { path = "/", boundary = null }
  image        = ""
  stage        = "dev"
  region       = "us-east-2"
  account_id   = "123456789012"
  partition    = "aws"
  arch         = "x86_64"
  comb_network = "public_ipv4"
  image_tag    = "0123456789abcdef"
  cpu          = 2048
  memory_mb    = 4096
  port         = 3333
  idle_s       = 300
  log_days     = 14
  environment  = { AWS_USE_DUALSTACK_ENDPOINT = "true" }
}

run "public_ipv4" {
  module {
    source = "./modules/combs"
  }

  assert {
    condition     = aws_ecs_task_definition.comb.cpu == "2048" && aws_ecs_task_definition.comb.memory == "4096" && aws_ecs_task_definition.comb.network_mode == "awsvpc" && one(aws_ecs_task_definition.comb.runtime_platform).cpu_architecture == "X86_64"
    error_message = "size and processor must be the given ones"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.comb.container_definitions)[0].image == "123456789012.dkr.ecr.us-east-2.amazonaws.com/buzz-rust-hcomb-dev:0123456789abcdef"
    error_message = "with IPv4 the image has its usual name, and the tag of its content"
  }
  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.comb.container_definitions)[0].environment : e.name => e.value } == { AWS_USE_DUALSTACK_ENDPOINT = "true", BUZZ_COMB_PORT = "3333", BUZZ_COMB_IDLE_SECONDS = "300", BUZZ_COMB_MEMORY_MB = "4096" }
    error_message = "got ${aws_ecs_task_definition.comb.container_definitions}"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.comb.container_definitions)[0].readonlyRootFilesystem && !strcontains(aws_ecs_task_definition.comb.container_definitions, "secrets")
    error_message = "a comb's files are read-only, and it is given no secrets (they would be fetched over IPv4)"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.comb.container_definitions)[0].healthCheck.command == ["CMD", "/hcomb", "health"]
    error_message = "the image has no shell: the binary checks itself"
  }
  assert {
    condition     = aws_ecr_repository.combs[0].name == "buzz-rust-hcomb-dev" && aws_ecr_repository.combs[0].image_tag_mutability == "IMMUTABLE" && aws_ecr_repository.combs[0].force_delete
    error_message = "the repository's name is part of the contract with users"
  }
  assert {
    condition     = length(aws_iam_role_policy.comb) == 0
    error_message = "without TLS a comb may do nothing"
  }
  assert {
    condition     = one(aws_ecs_cluster.combs.setting).value == "disabled"
    error_message = "Container Insights costs while idle"
  }
}

run "ipv6_only" {
  variables {
    comb_network = "ipv6_only"
    arch         = "arm64"
  }
  module {
    source = "./modules/combs"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.comb.container_definitions)[0].image == "123456789012.dkr-ecr.us-east-2.on.aws/buzz-rust-hcomb-dev:0123456789abcdef"
    error_message = "without IPv4 the image is fetched by the registry's dual-stack name, got ${aws_ecs_task_definition.comb.container_definitions}"
  }
  assert {
    condition     = one(aws_ecs_task_definition.comb.runtime_platform).cpu_architecture == "ARM64"
    error_message = "the processor must be the given one"
  }
}

run "what_ecs_may_do" {
  module {
    source = "./modules/combs"
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.execution.policy).Statement : s.Action if contains(s.Resource, "*")] == [["ecr:GetAuthorizationToken"]]
    error_message = "only the registry's log-in has no narrower form"
  }
  assert {
    condition     = jsondecode(aws_iam_role.comb.assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012" && aws_iam_role.execution.assume_role_policy == aws_iam_role.comb.assume_role_policy
    error_message = "ECS may take the roles for this account only"
  }
}

run "what_a_comb_may_do" {
  variables {
    record_certificates = [{ Sid = "RecordCertificate", Effect = "Allow", Action = ["s3:PutObject"], Resource = ["arn:aws:s3:::buzz/results/combs/certificates/*"] }]
  }
  module {
    source = "./modules/combs"
  }

  assert {
    condition     = jsonencode([for s in jsondecode(aws_iam_role_policy.comb[0].policy).Statement : [s.Action, s.Resource]]) == jsonencode([[["s3:PutObject"], ["arn:aws:s3:::buzz/results/combs/certificates/*"]]])
    error_message = "a comb may record its certificate and do nothing else: ${aws_iam_role_policy.comb[0].policy}"
  }
}

run "larger_disk" {
  variables {
    disk_gb = 100
  }
  module {
    source = "./modules/combs"
  }

  assert {
    condition     = one(aws_ecs_task_definition.comb.ephemeral_storage).size_in_gib == 100
    error_message = "the disk must be the given one"
  }
}

run "disk_that_fargate_does_not_have" {
  command = plan
  variables {
    disk_gb = 500
  }
  module {
    source = "./modules/combs"
  }
  expect_failures = [var.disk_gb]
}

run "image_of_another_registry" {
  variables {
    image = "210987654321.dkr.ecr.eu-west-1.amazonaws.com/mirror/hcomb:1a2b3c4d"
  }
  module {
    source = "./modules/combs"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.comb.container_definitions)[0].image == var.image && length(aws_ecr_repository.combs) == 0
    error_message = "the given image is taken, and no repository is made"
  }
  assert {
    condition     = flatten([for s in jsondecode(aws_iam_role_policy.execution.policy).Statement : s.Resource if s.Sid == "FetchImage"]) == ["arn:aws:ecr:eu-west-1:210987654321:repository/mirror/hcomb"]
    error_message = "ECS may fetch the given image: ${aws_iam_role_policy.execution.policy}"
  }
}
