# Resources to start combs: repository, cluster and task definition. Fuse starts combs, and they stop themselves.

locals {
  name = "${var.prefix}-hcomb-${var.stage}"

  # The repository has two host names. The default one supports IPv4 only.
  images = [for repository in aws_ecr_repository.combs : var.comb_network == "ipv6_only"
    ? "${repository.registry_id}.dkr-ecr.${var.region}.on.aws/${repository.name}:${var.image_tag}"
  : "${repository.repository_url}:${var.image_tag}"]
  image = var.image != "" ? var.image : one(local.images)

  # Repositories that the image may be fetched from: the stack's own, or that of an image which is given, if it is in ECR.
  given        = try(regex("^([0-9]{12})\\.dkr[.-]ecr\\.([a-z0-9-]+)\\.[a-z.]+/([^:@]+)", var.image), [])
  repositories = concat(aws_ecr_repository.combs[*].arn, [for parts in [local.given] : "arn:${var.partition}:ecr:${parts[1]}:${parts[0]}:repository/${parts[2]}" if length(parts) == 3])

  environment = merge(var.environment, {
    BUZZ_COMB_PORT         = tostring(var.port)
    BUZZ_COMB_IDLE_SECONDS = tostring(var.idle_s)
    BUZZ_COMB_MEMORY_MB    = tostring(var.memory_mb)
  })
}

resource "aws_ecr_repository" "combs" {
  count = var.image == "" ? 1 : 0

  name                 = local.name
  image_tag_mutability = "IMMUTABLE" # a tag is the hash of the content of its image
  force_delete         = true

  image_scanning_configuration {
    scan_on_push = true # the basic scan is free
  }
}

resource "aws_ecr_lifecycle_policy" "combs" {
  count = length(aws_ecr_repository.combs)

  repository = aws_ecr_repository.combs[count.index].name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep six images: those of five versions, and the next"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 6 }
      action       = { type = "expire" }
    }]
  })
}

resource "aws_ecs_cluster" "combs" {
  name = "${var.prefix}-cluster-${var.stage}"

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
  skip_destroy             = true # earlier versions of Fuse start combs by it; `make deploy` and `make destroy` remove it

  runtime_platform {
    cpu_architecture        = upper(var.arch)
    operating_system_family = "LINUX"
  }

  # Fargate gives 20 GB by default, and takes 21 to 200.
  dynamic "ephemeral_storage" {
    for_each = var.disk_gb > 20 ? [var.disk_gb] : []
    content {
      size_in_gib = ephemeral_storage.value
    }
  }

  # Volume for spilled rows. The other files of the container are read-only.
  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([{
    name                   = "hcomb"
    image                  = local.image
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

# Before an image could be given, these resources had no index.
moved {
  from = aws_ecr_repository.combs
  to   = aws_ecr_repository.combs[0]
}

moved {
  from = aws_ecr_lifecycle_policy.combs
  to   = aws_ecr_lifecycle_policy.combs[0]
}
