# Two roles. With the execution role, ECS starts a comb. The task role of the program has no permissions, since a comb only
# processes the data that it receives; with TLS, it may record its certificate.

locals {
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${var.partition}:ecs:${var.region}:${var.account_id}:*" }
      }
    }]
  })
}

resource "aws_iam_role" "comb" {
  name                 = "${local.name}-${var.region}"
  path                 = var.role.path
  permissions_boundary = var.role.boundary
  description          = "What a comb's program may do"
  assume_role_policy   = local.trust
}

resource "aws_iam_role_policy" "comb" {
  count = length(var.record_certificates) > 0 ? 1 : 0

  name = "record-certificate"
  role = aws_iam_role.comb.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = var.record_certificates
  })
}

resource "aws_iam_role" "execution" {
  name                 = "${local.name}-execution-${var.region}"
  path                 = var.role.path
  permissions_boundary = var.role.boundary
  description          = "What ECS may do to start a comb: fetch its image, write its log"
  assume_role_policy   = local.trust
}

resource "aws_iam_role_policy" "execution" {
  name = "start-comb"
  role = aws_iam_role.execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for statement in [
      {
        Sid      = "LogInToRegistry" # does not support resource-level permissions
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = ["*"]
      },
      {
        Sid      = "FetchImage"
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"]
        Resource = local.repositories
      },
      {
        Sid      = "WriteLog"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.combs.arn}:*"]
      },
    ] : statement if statement.Sid == "WriteLog" || length(local.repositories) > 0]
  })
}
