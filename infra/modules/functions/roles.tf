# What the functions may do. Each action is there because a call needs it; infra/tests/permissions.py holds this
# against the code.

locals {
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })

  interface_actions = [
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
  ]

  # The service puts a function into the VPC with the function's own role; the second statement keeps the function's
  # program from doing the same.
  in_vpc = { for name, arn in { fuse = local.fuse_arn, hbee = local.hbee_arn } : name => [
    {
      Sid      = "ServiceMakesInterfaces"
      Effect   = "Allow"
      Action   = local.interface_actions
      Resource = ["*"]
    },
    {
      Sid       = "ProgramMakesNone"
      Effect    = "Deny"
      Action    = local.interface_actions
      Resource  = ["*"]
      Condition = { ArnEquals = { "lambda:SourceFunctionArn" = arn } }
    },
  ] }
}

resource "aws_iam_role" "fuse" {
  name               = local.fuse_name
  description        = "Fuse: reads table logs, calls HBees, starts combs, writes results"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy" "fuse" {
  name = "fuse"
  role = aws_iam_role.fuse.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.in_vpc["fuse"], var.read_data, var.read_results, var.write_results, [
      {
        Sid      = "WriteLog"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.fuse.arn}:*"]
      },
      {
        Sid      = "CallHBeesAndItself"
        Effect   = "Allow"
        Action   = ["lambda:InvokeFunction"]
        Resource = [local.hbee_arn, "${local.hbee_arn}:*", local.fuse_arn, "${local.fuse_arn}:*"]
      },
      {
        Sid       = "StartCombs"
        Effect    = "Allow"
        Action    = ["ecs:RunTask"]
        Resource  = ["arn:${var.partition}:ecs:${var.region}:${var.account_id}:task-definition/${var.combs.family}:*"]
        Condition = { ArnEquals = { "ecs:cluster" = var.combs.cluster_arn } }
      },
      {
        Sid       = "LookAtCombs"
        Effect    = "Allow"
        Action    = ["ecs:DescribeTasks"]
        Resource  = ["arn:${var.partition}:ecs:${var.region}:${var.account_id}:task/${var.combs.cluster_name}/*"]
        Condition = { ArnEquals = { "ecs:cluster" = var.combs.cluster_arn } }
      },
      {
        Sid       = "FindCombs" # has no narrower form on Fargate than its condition
        Effect    = "Allow"
        Action    = ["ecs:ListTasks"]
        Resource  = ["*"]
        Condition = { ArnEquals = { "ecs:cluster" = var.combs.cluster_arn } }
      },
      {
        Sid       = "PassCombsTheirRoles"
        Effect    = "Allow"
        Action    = ["iam:PassRole"]
        Resource  = var.combs.role_arns
        Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
      },
    ])
  })
}

resource "aws_iam_role" "hbee" {
  name               = local.hbee_name
  description        = "HBee: reads data files"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy" "hbee" {
  name = "hbee"
  role = aws_iam_role.hbee.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.in_vpc["hbee"], var.read_data, var.read_results, [
      {
        Sid      = "WriteLog"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.hbee.arn}:*"]
      },
    ])
  })
}
