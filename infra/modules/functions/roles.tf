# Permissions of the functions. They depend on no network: a network is deleted before them, since Lambda removes the interfaces of
# a deleted function with its role. Each action is required by a call in the code; infra/tests/permissions.py checks this.

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

  # Lambda uses the role of the function to attach it to the VPC. The second statement denies these actions to the
  # program of the function.
  interfaces = { for role, arn in local.arns : role => [for statement in [
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
  ] : statement if var.in_network] }

  basics = { for role in keys(local.arns) : role => concat(local.interfaces[role], [{
    Sid      = "WriteLog"
    Effect   = "Allow"
    Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    Resource = ["${aws_cloudwatch_log_group.function[role].arn}:*"]
  }]) }
}

resource "aws_iam_role" "function" {
  for_each = {
    fuse = "Fuse: reads table logs, calls HBees, starts combs, writes results"
    hbee = "HBee: reads data files, exchanges rows"
  }

  name                 = "${local.names[each.key]}-${var.region}"
  path                 = var.role.path
  permissions_boundary = var.role.boundary
  description          = each.value
  assume_role_policy   = local.trust
}

resource "aws_iam_role_policy" "fuse" {
  name = "fuse"
  role = aws_iam_role.function["fuse"].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.basics["fuse"], var.read_data, var.read_results, var.write_results, var.remove_exchanged, [
      {
        Sid      = "CallHBeesAndItself"
        Effect   = "Allow"
        Action   = ["lambda:InvokeFunction"]
        Resource = flatten([for arn in values(local.arns) : [arn, "${arn}:*"]])
      },
      ], flatten([for combs in var.comb_rights[*] : [
        {
          Sid       = "StartCombs"
          Effect    = "Allow"
          Action    = ["ecs:RunTask"]
          Resource  = ["arn:${var.partition}:ecs:${var.region}:${var.account_id}:task-definition/${combs.family}:*"]
          Condition = { ArnEquals = { "ecs:cluster" = combs.cluster_arn } }
        },
        {
          Sid       = "LookAtCombs"
          Effect    = "Allow"
          Action    = ["ecs:DescribeTasks"]
          Resource  = ["arn:${var.partition}:ecs:${var.region}:${var.account_id}:task/${combs.cluster_name}/*"]
          Condition = { ArnEquals = { "ecs:cluster" = combs.cluster_arn } }
        },
        {
          Sid       = "FindCombs" # on Fargate it can only be restricted by its condition
          Effect    = "Allow"
          Action    = ["ecs:ListTasks"]
          Resource  = ["*"]
          Condition = { ArnEquals = { "ecs:cluster" = combs.cluster_arn } }
        },
        {
          Sid       = "PassCombsTheirRoles"
          Effect    = "Allow"
          Action    = ["iam:PassRole"]
          Resource  = combs.role_arns
          Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
        },
    ]]))
  })
}

resource "aws_iam_role_policy" "hbee" {
  name = "hbee"
  role = aws_iam_role.function["hbee"].id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.basics["hbee"], var.read_data, var.read_tasks, var.exchange)
  })
}
