# Resources to start combs: repository, cluster and task definition. Fuse starts combs, and they stop themselves.

locals {
  name = "buzz-rust-hcomb-${var.stage}"

  # The repository has two host names. The default one supports IPv4 only.
  image_ipv4 = "${aws_ecr_repository.combs.repository_url}:${var.image_tag}"
  image_ipv6 = "${aws_ecr_repository.combs.registry_id}.dkr-ecr.${var.region}.on.aws/${aws_ecr_repository.combs.name}:${var.image_tag}"

  environment = merge(var.environment, {
    BUZZ_COMB_PORT         = tostring(var.port)
    BUZZ_COMB_IDLE_SECONDS = tostring(var.idle_s)
    BUZZ_COMB_MEMORY_MB    = tostring(var.memory_mb)
  })
}

resource "aws_ecr_repository" "combs" {
  name                 = local.name
  image_tag_mutability = "IMMUTABLE" # a tag is the hash of the content of its image
  force_delete         = true

  image_scanning_configuration {
    scan_on_push = true # the basic scan is free
  }
}

resource "aws_ecr_lifecycle_policy" "combs" {
  repository = aws_ecr_repository.combs.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep five images"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 5 }
      action       = { type = "expire" }
    }]
  })
}

resource "aws_ecs_cluster" "combs" {
  name = "buzz-rust-cluster-${var.stage}"

  setting {
    name  = "containerInsights"
    value = "disabled" # its metrics are billed while idle
  }
}

resource "aws_cloudwatch_log_group" "combs" {
  name              = "/buzz/${local.name}"
  retention_in_days = var.log_days
}

resource "aws_ecs_task_definition" "comb" {
  family                   = local.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory_mb
  task_role_arn            = aws_iam_role.comb.arn
  execution_role_arn       = aws_iam_role.execution.arn

  runtime_platform {
    cpu_architecture        = upper(var.arch)
    operating_system_family = "LINUX"
  }

  # Volume for spilled rows. The other files of the container are read-only.
  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([{
    name                   = "hcomb"
    image                  = var.comb_network == "ipv6_only" ? local.image_ipv6 : local.image_ipv4
    essential              = true
    memory                 = var.memory_mb
    readonlyRootFilesystem = true
    mountPoints            = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
    portMappings           = [{ containerPort = var.port, hostPort = var.port, protocol = "tcp" }]
    environment            = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    ulimits                = [{ name = "nofile", softLimit = 65535, hardLimit = 65535 }]
    stopTimeout            = 30

    healthCheck = {
      command     = ["CMD", "/hcomb", "health"] # the image has no shell
      interval    = 10
      timeout     = 5
      retries     = 3
      startPeriod = 10
    }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.combs.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "comb"
        mode                  = "non-blocking" # a failing log delivery does not block a query
        max-buffer-size       = "4m"
      }
    }
  }])
}
