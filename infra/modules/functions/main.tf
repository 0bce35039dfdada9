# Fuse and HBee, one function each. A function that nobody calls costs nothing.

locals {
  fuse_name = "buzz-rust-fuse-${var.stage}"
  hbee_name = "buzz-rust-hbee-${var.stage}"
  runtime   = "provided.al2023"

  # Written out, since the roles need them before the functions exist.
  fuse_arn = "arn:${var.partition}:lambda:${var.region}:${var.account_id}:function:${local.fuse_name}"
  hbee_arn = "arn:${var.partition}:lambda:${var.region}:${var.account_id}:function:${local.hbee_name}"
}

# By way of the bucket, where a package may be larger than in a request. The hash in the name makes each a new object.
resource "aws_s3_object" "fuse" {
  bucket = var.bucket
  key    = "packages/${basename(var.fuse.zip)}"
  source = var.fuse.zip

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_s3_object" "hbee" {
  bucket = var.bucket
  key    = "packages/${basename(var.hbee.zip)}"
  source = var.hbee.zip

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudwatch_log_group" "fuse" {
  name              = "/aws/lambda/${local.fuse_name}"
  retention_in_days = var.log_days
}

resource "aws_cloudwatch_log_group" "hbee" {
  name              = "/aws/lambda/${local.hbee_name}"
  retention_in_days = var.log_days
}

resource "aws_lambda_function" "hbee" {
  function_name = local.hbee_name
  description   = "Buzz ${var.build_version}: runs one task of a query"
  role          = aws_iam_role.hbee.arn
  s3_bucket     = var.bucket
  s3_key        = aws_s3_object.hbee.key
  runtime       = local.runtime
  handler       = "bootstrap"
  architectures = [var.arch]
  memory_size   = var.hbee.memory_mb
  timeout       = var.hbee.timeout_s

  replace_security_groups_on_destroy = true

  vpc_config {
    subnet_ids                  = var.subnet_ids
    security_group_ids          = [var.security_group_id]
    ipv6_allowed_for_dual_stack = true
  }

  environment {
    variables = var.environment
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.hbee.name
  }

  depends_on = [aws_iam_role_policy.hbee] # without it the function gets no network interface
}

resource "aws_lambda_function" "fuse" {
  function_name = local.fuse_name
  description   = "Buzz ${var.build_version}: takes a query, answers its rows"
  role          = aws_iam_role.fuse.arn
  s3_bucket     = var.bucket
  s3_key        = aws_s3_object.fuse.key
  runtime       = local.runtime
  handler       = "bootstrap"
  architectures = [var.arch]
  memory_size   = var.fuse.memory_mb
  timeout       = var.fuse.timeout_s

  replace_security_groups_on_destroy = true

  ephemeral_storage {
    size = var.fuse.disk_mb
  }

  vpc_config {
    subnet_ids                  = var.subnet_ids
    security_group_ids          = [var.security_group_id]
    ipv6_allowed_for_dual_stack = true
  }

  environment {
    variables = merge(var.environment, {
      BUZZ_HBEE_FUNCTION        = local.hbee_name
      BUZZ_HBEE_MEMORY_MB       = tostring(var.hbee.memory_mb)
      BUZZ_HBEE_TIMEOUT_SECONDS = tostring(var.hbee.timeout_s)
      BUZZ_HBEE_CONCURRENCY     = tostring(var.hbee.at_once)
      BUZZ_COMB_CLUSTER         = var.combs.cluster_arn
      BUZZ_COMB_TASK_DEFINITION = var.combs.task_definition_arn
      BUZZ_COMB_SUBNETS         = join(",", var.combs.subnet_ids)
      BUZZ_COMB_SECURITY_GROUPS = var.combs.security_group_id
      BUZZ_COMB_NETWORK         = var.combs.network
      BUZZ_COMB_PORT            = tostring(var.combs.port)
      BUZZ_COMB_VCPUS           = tostring(var.combs.cpu / 1024)
      BUZZ_COMB_MEMORY_MB       = tostring(var.combs.memory_mb)
    })
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.fuse.name
  }

  depends_on = [aws_iam_role_policy.fuse]
}

# Buzz repeats what failed itself; a second run by the service would be an expensive twin.

resource "aws_lambda_function_event_invoke_config" "fuse" {
  function_name          = aws_lambda_function.fuse.function_name
  maximum_retry_attempts = 0
}

resource "aws_lambda_function_event_invoke_config" "hbee" {
  function_name          = aws_lambda_function.hbee.function_name
  maximum_retry_attempts = 0
}
