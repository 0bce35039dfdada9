# Tests the bucket and the permissions to read data.

mock_provider "aws" {}

variables {
  bucket         = "buzz-rust-dev-123456789012-us-east-2"
  partition      = "aws"
  results_days   = 7
  data_locations = ["s3://lake/trips/", "s3://lake/rates", "s3://other", "s3://third/"]
  data_kms_keys  = ["arn:aws:kms:us-east-2:123456789012:key/1"]

  output_locations = ["s3://reports/daily/", "s3://dump"]
}

run "bucket" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.stack.block_public_acls && aws_s3_bucket_public_access_block.stack.block_public_policy && aws_s3_bucket_public_access_block.stack.ignore_public_acls && aws_s3_bucket_public_access_block.stack.restrict_public_buckets
    error_message = "the bucket must be private"
  }
  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.stack.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "the bucket must be encrypted, at no cost"
  }
  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.stack.rule : rule.expiration[0].days if rule.id == "results"]) == 7
    error_message = "results must go by themselves"
  }
  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.stack.rule : rule.expiration[0].days if rule.id == "answers"]) == 7
    error_message = "kept answers must go by themselves"
  }
}

run "reading" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition = output.read_data[0].Resource == tolist([
      "arn:aws:s3:::buzz-rust-dev-123456789012-us-east-2/sample/*",
      "arn:aws:s3:::lake/rates", "arn:aws:s3:::lake/rates/*", "arn:aws:s3:::lake/trips/*",
      "arn:aws:s3:::other/*", "arn:aws:s3:::third/*",
    ])
    error_message = "got ${jsonencode(output.read_data[0].Resource)}"
  }
  assert {
    condition = jsonencode({ for s in output.read_data : one(s.Resource) => try(s.Condition.StringLike["s3:prefix"], "all") if contains(s.Action, "s3:ListBucket") }) == jsonencode({
      "arn:aws:s3:::buzz-rust-dev-123456789012-us-east-2" = ["sample/*"]
      "arn:aws:s3:::lake"                                 = ["rates", "rates/*", "trips/*"]
      "arn:aws:s3:::other"                                = "all"
      "arn:aws:s3:::third"                                = "all"
    })
    error_message = "got ${jsonencode(output.read_data)}"
  }
  assert {
    condition     = alltrue([for statement in concat(output.read_data, output.read_results, output.read_tasks, output.write_results) : !contains(statement.Resource, "*") && alltrue([for arn in statement.Resource : !startswith(arn, "arn:aws:s3:::*")])])
    error_message = "a data policy may not speak of everything"
  }
  assert {
    condition     = flatten([for statement in output.read_data : statement.Resource if contains(statement.Action, "kms:Decrypt")]) == ["arn:aws:kms:us-east-2:123456789012:key/1"]
    error_message = "decryption is for the listed keys only"
  }
}

run "own_objects" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition     = jsonencode([for s in output.read_tasks : [s.Action, s.Resource]]) == jsonencode([[["s3:GetObject"], ["arn:aws:s3:::buzz-rust-dev-123456789012-us-east-2/results/queries/*/tasks/*"]]])
    error_message = "HBees read large tasks and no other object of the stack, got ${jsonencode(output.read_tasks)}"
  }
  assert {
    condition     = jsonencode([for s in concat(output.exchange, output.remove_exchanged) : [s.Action, s.Resource]]) == jsonencode([[["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], ["arn:aws:s3:::buzz-rust-dev-123456789012-us-east-2/results/exchange/*"]], [["s3:DeleteObject"], ["arn:aws:s3:::buzz-rust-dev-123456789012-us-east-2/results/exchange/*"]]])
    error_message = "rows are exchanged and removed below results/exchange/ only, got ${jsonencode(output.exchange)} and ${jsonencode(output.remove_exchanged)}"
  }
  assert {
    condition     = tolist(output.data_locations) == tolist(["s3://buzz-rust-dev-123456789012-us-east-2/sample/", "s3://lake/trips/", "s3://lake/rates", "s3://other", "s3://third/"])
    error_message = "programs must check the locations that the policy allows, got ${jsonencode(output.data_locations)}"
  }
  assert {
    condition     = alltrue([for s in output.read_data : alltrue([for arn in s.Resource : !strcontains(arn, "/results")]) && !strcontains(jsonencode(try(s.Condition, {})), "results")])
    error_message = "the statements for data may not cover results, got ${jsonencode(output.read_data)}"
  }
}

run "writing" {
  module {
    source = "./modules/storage"
  }

  assert {
    condition = jsonencode([for s in output.write_results : { (join(",", s.Action)) = s.Resource }]) == jsonencode([
      { "s3:PutObject,s3:AbortMultipartUpload" = ["arn:aws:s3:::buzz-rust-dev-123456789012-us-east-2/results/*", "arn:aws:s3:::reports/daily/*", "arn:aws:s3:::dump/*"] },
      { "s3:GetObject" = ["arn:aws:s3:::reports/daily/*", "arn:aws:s3:::dump/*"] },
    ])
    error_message = "got ${jsonencode(output.write_results)}"
  }
}

run "no_data" {
  variables {
    output_locations = []
    data_locations   = []
    data_kms_keys    = []
  }
  module {
    source = "./modules/storage"
  }
  assert {
    condition     = length(output.read_data) == 2 && !strcontains(jsonencode(output.read_data), "kms:")
    error_message = "without data locations only the sample is readable, got ${jsonencode(output.read_data)}"
  }
}
