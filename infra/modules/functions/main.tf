# Fuse and HBee, one function each. An idle function costs nothing.

locals {
  names = { for role in ["fuse", "hbee"] : role => "buzz-rust-${role}-${var.stage}" }
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
    BUZZ_COMB_VCPUS           = tostring(var.combs.cpu / 1024)
    BUZZ_COMB_MEMORY_MB       = tostring(var.combs.memory_mb)
    BUZZ_COMB_IDLE_SECONDS    = tostring(var.combs.idle_s)
  }

  functions = {
    fuse = {
      does    = "takes a query, answers its rows"
      sizes   = var.fuse
      disk_mb = var.fuse.disk_mb
      environment = merge(local.comb_environment, {
        BUZZ_HBEE_FUNCTION        = local.names.hbee
        BUZZ_HBEE_MEMORY_MB       = tostring(var.hbee.memory_mb)
        BUZZ_HBEE_TIMEOUT_SECONDS = tostring(var.hbee.timeout_s)
        BUZZ_HBEE_CONCURRENCY     = tostring(var.hbee.at_once)
      }, { for name, limit in var.limits : name => limit if limit != "" })
    }
    hbee = {
      does        = "runs one task of a query"
      sizes       = var.hbee
      disk_mb     = 512 # included in the price
      environment = {}
    }
  }
}

# Uploaded through the bucket, which allows larger packages than a request. The hash in the name makes each a new
# object.
resource "aws_s3_object" "package" {
  for_each = local.functions

  bucket = var.bucket
  key    = "packages/${basename(each.value.sizes.zip)}"
  source = each.value.sizes.zip

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudwatch_log_group" "function" {
  for_each = local.names

  name              = "/aws/lambda/${each.value}"
  retention_in_days = var.log_days
}

resource "aws_lambda_function" "function" {
  for_each = local.functions

  function_name = local.names[each.key]
  description   = "Buzz ${var.build_version}: ${each.value.does}"
  role          = aws_iam_role.function[each.key].arn
  s3_bucket     = var.bucket
  s3_key        = aws_s3_object.package[each.key].key
  runtime       = "provided.al2023"
  handler       = "bootstrap"
  architectures = [var.arch]
  memory_size   = each.value.sizes.memory_mb
  timeout       = each.value.sizes.timeout_s

  ephemeral_storage {
    size = each.value.disk_mb
  }

  dynamic "vpc_config" {
    for_each = var.network[*]
    content {
      subnet_ids                  = vpc_config.value.subnet_ids
      security_group_ids          = vpc_config.value.security_group_ids
      ipv6_allowed_for_dual_stack = true
    }
  }

  environment {
    variables = merge(var.environment, each.value.environment)
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.function[each.key].name
  }

  # Without its policy a function cannot get a network interface.
  depends_on = [aws_iam_role_policy.fuse, aws_iam_role_policy.hbee]
}

# Buzz retries by itself; a retry by the service would run the query twice. A query that cannot start within five
# minutes is dropped, and watching it returns an error.
resource "aws_lambda_function_event_invoke_config" "function" {
  for_each = aws_lambda_function.function

  function_name                = each.value.function_name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 300
}
