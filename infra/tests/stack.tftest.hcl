# Plans and applies the complete stack of stage `dev` with mocked providers. TF_WORKSPACE=dev must be set, since a stage
# is a workspace.

mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["us-east-2a", "us-east-2b", "us-east-2c"] }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/role" }
  }
  mock_resource "aws_vpc" {
    defaults = { ipv6_cidr_block = "2600:1f16:abc:d00::/56" }
  }
}

variables {
  region         = "us-east-2"
  fuse_zip       = "packages/fuse-0123456789abcdef.zip"
  hbee_zip       = "packages/hbee-0123456789abcdef.zip"
  comb_network   = "public_ipv4"
  comb_image_tag = "0123456789abcdef"
  build_version  = "0.1.0-test"
}

run "names" {
  assert {
    condition     = output.fuse_lambda_name == "buzz-rust-fuse-dev" && output.hbee_lambda_name == "buzz-rust-hbee-dev" && output.comb_cluster == "buzz-rust-cluster-dev"
    error_message = "names are part of the contract with users"
  }
  assert {
    condition     = output.bucket == "buzz-rust-dev-123456789012-us-east-2"
    error_message = "the bucket's name must be of this account, got ${output.bucket}"
  }
  assert {
    condition     = output.log_groups == { fuse = "/aws/lambda/buzz-rust-fuse-dev", hbee = "/aws/lambda/buzz-rust-hbee-dev", comb = "/buzz/buzz-rust-hcomb-dev" }
    error_message = "got ${jsonencode(output.log_groups)}"
  }
  assert {
    condition     = output.sizes.fuse_memory_mb == 3008 && output.sizes.hbee_memory_mb == 2048 && output.sizes.comb_cpu == 2048 && output.sizes.comb_memory_mb == 4096
    error_message = "default sizes are part of the contract with users, got ${jsonencode(output.sizes)}"
  }
}

run "locations" {
  variables {
    data_locations   = ["s3://lake/trips/"]
    output_locations = ["s3://reports/daily/"]
  }
  assert {
    condition     = jsondecode(module.functions.environment.BUZZ_DATA_LOCATIONS) == ["s3://buzz-rust-dev-123456789012-us-east-2/sample/", "s3://lake/trips/"] && jsondecode(module.functions.environment.BUZZ_OUTPUT_LOCATIONS) == ["s3://reports/daily/"]
    error_message = "programs must know the allowed locations, got ${jsonencode(module.functions.environment)}"
  }
}

run "traces_and_metrics" {
  variables {
    traces_endpoint = "http://collector.internal:4318"
    metrics         = "cloudwatch"
  }
  assert {
    condition     = module.functions.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.internal:4318" && module.functions.environment["BUZZ_METRICS"] == "cloudwatch"
    error_message = "programs must know where traces go and that metrics are wanted, got ${jsonencode(module.functions.environment)}"
  }
}

run "tls_to_combs" {
  variables {
    comb_tls = true
  }
  assert {
    condition     = module.combs[0].records_certificates
    error_message = "combs that use TLS must be allowed to record their certificates"
  }
}

run "traces_to_no_place" {
  command = plan
  variables {
    traces_endpoint = "collector.internal:4318"
    metrics         = "statsd"
  }
  expect_failures = [var.traces_endpoint, var.metrics]
}

run "with_combs" {
  assert {
    condition     = !contains(keys(module.functions.environment), "OTEL_EXPORTER_OTLP_ENDPOINT") && !contains(keys(module.functions.environment), "BUZZ_METRICS")
    error_message = "traces and metrics are off unless a setting asks for them"
  }

  assert {
    condition     = !module.combs[0].records_certificates
    error_message = "TLS is an option, and combs without it have no permissions"
  }
  assert {
    condition     = length(module.network) == 1 && output.comb_cluster == "buzz-rust-cluster-dev" && module.functions.environment["AWS_USE_DUALSTACK_ENDPOINT"] == "true"
    error_message = "a stack with combs has a network without a route to IPv4 hosts"
  }
}

run "without_combs" {
  command = plan
  variables {
    comb_network   = "none"
    comb_image_tag = ""
  }
  assert {
    condition     = length(module.network) == 0 && length(module.combs) == 0 && output.comb_cluster == null && output.comb_repository == null
    error_message = "a stack without combs has no network, cluster and repository"
  }
  assert {
    condition     = !contains(keys(module.functions.environment), "AWS_USE_DUALSTACK_ENDPOINT") && toset(keys(output.log_groups)) == toset(["fuse", "hbee"])
    error_message = "outside of a network functions reach AWS over IPv4, got ${jsonencode(module.functions.environment)}"
  }
}

run "network_that_exists" {
  command = plan
  variables {
    comb_network             = "private_ipv4"
    function_subnets         = ["subnet-1", "subnet-2"]
    function_security_groups = ["sg-1"]
    comb_subnets             = ["subnet-3"]
    comb_security_groups     = ["sg-3"]
    name_prefix              = "acme-buzz"
  }
  assert {
    condition     = length(module.network) == 0 && length(module.combs) == 1 && !contains(keys(module.functions.environment), "AWS_USE_DUALSTACK_ENDPOINT")
    error_message = "no network is made beside the one that exists"
  }
  assert {
    condition     = output.fuse_lambda_name == "acme-buzz-fuse-dev" && output.bucket == "acme-buzz-dev-123456789012-us-east-2"
    error_message = "all names begin with the prefix"
  }
}

run "functions_in_a_network_without_combs" {
  command = plan
  variables {
    comb_network             = "none"
    function_subnets         = ["subnet-1"]
    function_security_groups = ["sg-1"]
  }
  assert {
    condition     = length(module.network) == 0 && length(module.combs) == 0
    error_message = "subnets alone make nothing"
  }
}

run "private_combs_without_subnets" {
  command = plan
  variables {
    comb_network = "private_ipv4"
  }
  expect_failures = [var.comb_subnets]
}

run "functions_and_combs_in_different_networks" {
  command = plan
  variables {
    function_subnets         = ["subnet-1"]
    function_security_groups = ["sg-1"]
  }
  expect_failures = [var.comb_subnets]
}

run "subnets_without_groups" {
  command = plan
  variables {
    comb_network     = "none"
    function_subnets = ["subnet-1"]
  }
  expect_failures = [var.function_subnets]
}

run "wrong_names" {
  command = plan
  variables {
    name_prefix          = "Acme"
    role_path            = "teams"
    permissions_boundary = "boundary"
    comb_image           = "hcomb"
  }
  expect_failures = [var.name_prefix, var.role_path, var.permissions_boundary, var.comb_image]
}

run "new_account" {
  command = plan
  variables {
    comb_network        = "none"
    account_concurrency = 10
  }
  assert {
    condition     = output.sizes.hbee_at_once == 5
    error_message = "a query leaves half of the functions to others, got ${output.sizes.hbee_at_once}"
  }
}

run "large_account" {
  command = plan
  variables {
    comb_network        = "none"
    account_concurrency = 5000
  }
  assert {
    condition     = output.sizes.hbee_at_once == 900
    error_message = "the setting of the stage bounds a query, got ${output.sizes.hbee_at_once}"
  }
}

run "ipv6_only" {
  command = plan
  variables {
    comb_network = "ipv6_only"
  }
}

run "ipv6_only_where_fargate_lacks_it" {
  command = plan
  variables {
    comb_network = "ipv6_only"
    region       = "eu-west-1"
  }
  expect_failures = [var.comb_network]
}

run "unknown_comb_network" {
  command = plan
  variables {
    comb_network = "nat"
  }
  expect_failures = [var.comb_network]
}

run "unknown_processor" {
  command = plan
  variables {
    arch = "aarch64"
  }
  expect_failures = [var.arch]
}

run "wildcard_in_a_location" {
  command = plan
  variables {
    data_locations = ["s3://lake/trips/*.parquet"]
  }
  expect_failures = [var.data_locations]
}

run "location_without_scheme" {
  command = plan
  variables {
    data_locations = ["lake/trips"]
  }
  expect_failures = [var.data_locations]
}

run "output_that_is_no_folder" {
  command = plan
  variables {
    output_locations = ["s3://reports/daily"]
  }
  expect_failures = [var.output_locations]
}

run "alias_of_a_key" {
  command = plan
  variables {
    data_kms_keys = ["alias/lake"]
  }
  expect_failures = [var.data_kms_keys]
}
