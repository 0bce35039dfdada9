# Fuse and HBee, one function each. An idle function costs nothing.

locals {
  alias = "live"
  names = { for role in ["fuse", "hbee"] : role => "${var.prefix}-${role}-${var.stage}" }
  # Built from names, since the roles need the ARNs before the functions exist.
  arns = { for role, name in local.names : role => "arn:${var.partition}:lambda:${var.region}:${var.account_id}:function:${name}" }

  # Without these variables Fuse starts no combs.
  comb_environment = var.combs == null ? {} : {
    BUZZ_COMB_CLUSTER         = var.combs.cluster_arn
    BUZZ_COMB_TASK_DEFINITION = var.combs.task_definition_arn
    BUZZ_COMB_SUBNETS         = join(",", var.combs.subnet_ids)
    BUZZ_COMB_SECURITY_GROUPS = join(",", var.combs.security_group_ids)
    BUZZ_COMB_NETWORK         = var.combs.network
    BUZZ_COMB_PORT            = tostring(var.combs.port)
    BUZZ_COMB_TLS             = tostring(var.combs.tls)
    BUZZ_COMB_VCPUS           = tostring(var.combs.cpu / 1024)
    BUZZ_COMB_MEMORY_MB       = tostring(var.combs.memory_mb)
    BUZZ_COMB_IDLE_SECONDS    = tostring(var.combs.idle_s)
    BUZZ_COMB_DISK_GB         = tostring(var.combs.disk_gb)
  }

  zips = { fuse = var.fuse.zip, hbee = var.hbee.zip }
}

# Uploaded through the bucket, which allows larger packages than a request. The hash in the name makes each a new
# object.
resource "aws_s3_object" "package" {
  for_each = local.zips

  bucket = var.bucket
  key    = "packages/${basename(each.value)}"
  source = each.value

  lifecycle {
    create_before_destroy = true
    ignore_changes        = [source] # a folder of the machine that deploys; the name holds the content's hash
  }
}

resource "aws_cloudwatch_log_group" "function" {
  for_each = local.names

  name              = "/aws/lambda/${each.value}"
  retention_in_days = var.log_days
}

# Each change of a function is published as a version. Old versions stay until `make deploy` has made five others, so that
# queries which run end with the programs that they began with, and a rollback needs no build.

resource "aws_lambda_function" "hbee" {
  function_name = local.names["hbee"]
  description   = "Buzz: runs one task of a query"
  role          = aws_iam_role.function["hbee"].arn
  s3_bucket     = var.bucket
  s3_key        = aws_s3_object.package["hbee"].key
  runtime       = "provided.al2023"
  handler       = "bootstrap"
  architectures = [var.arch]
  memory_size   = var.hbee.memory_mb
  timeout       = var.hbee.timeout_s
  publish       = true

  dynamic "vpc_config" {
    for_each = var.network[*]
    content {
      subnet_ids                  = vpc_config.value.subnet_ids
      security_group_ids          = vpc_config.value.security_group_ids
      ipv6_allowed_for_dual_stack = vpc_config.value.dual_stack
    }
  }

  environment {
    variables = var.environment
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.function["hbee"].name
  }

  # Without its policy a function cannot get a network interface.
  depends_on = [aws_iam_role_policy.hbee]
}

# The description has the deployed version; that of HBees has none, so that they are published only if they change.
resource "aws_lambda_function" "fuse" {
  function_name = local.names["fuse"]
  description   = "Buzz ${var.build_version}: takes a query, answers its rows"
  role          = aws_iam_role.function["fuse"].arn
  s3_bucket     = var.bucket
  s3_key        = aws_s3_object.package["fuse"].key
  runtime       = "provided.al2023"
  handler       = "bootstrap"
  architectures = [var.arch]
  memory_size   = var.fuse.memory_mb
  timeout       = var.fuse.timeout_s
  publish       = true

  ephemeral_storage {
    size = var.fuse.disk_mb
  }

  dynamic "vpc_config" {
    for_each = var.network[*]
    content {
      subnet_ids                  = vpc_config.value.subnet_ids
      security_group_ids          = vpc_config.value.security_group_ids
      ipv6_allowed_for_dual_stack = vpc_config.value.dual_stack
    }
  }

  environment {
    variables = merge(var.environment, local.comb_environment, {
      BUZZ_FUSE_FUNCTION        = "${local.names["fuse"]}:${local.alias}"
      BUZZ_HBEE_FUNCTION        = "${local.names["hbee"]}:${aws_lambda_function.hbee.version}"
      BUZZ_HBEE_MEMORY_MB       = tostring(var.hbee.memory_mb)
      BUZZ_HBEE_TIMEOUT_SECONDS = tostring(var.hbee.timeout_s)
      BUZZ_HBEE_CONCURRENCY     = tostring(var.hbee.at_once)
    }, { for name, limit in var.limits : name => limit if limit != "" })
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.function["fuse"].name
  }

  # Without its policy a function cannot get a network interface.
  depends_on = [aws_iam_role_policy.fuse]
}

# The name by which a stack is called: `make rollback` points it to an earlier version.
resource "aws_lambda_alias" "live" {
  name             = local.alias
  description      = "The version in use"
  function_name    = aws_lambda_function.fuse.function_name
  function_version = aws_lambda_function.fuse.version
}

# Buzz retries by itself; a retry by the service would run the query twice. A query that cannot start within five
# minutes is dropped, and watching it returns an error. Fuse submits queries to its alias.
resource "aws_lambda_function_event_invoke_config" "function" {
  for_each = { latest = null, live = aws_lambda_alias.live.name }

  function_name                = aws_lambda_function.fuse.function_name
  qualifier                    = each.value
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 300
}

# Before versions were published, both functions were one resource.
moved {
  from = aws_lambda_function.function["fuse"]
  to   = aws_lambda_function.fuse
}

moved {
  from = aws_lambda_function.function["hbee"]
  to   = aws_lambda_function.hbee
}

moved {
  from = aws_lambda_function_event_invoke_config.function["fuse"]
  to   = aws_lambda_function_event_invoke_config.function["latest"]
}
