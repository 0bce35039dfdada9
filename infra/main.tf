# The stack of one stage: a network, two functions, the resources to start combs, and a bucket. ARCHITECTURE.md
# describes the programs; the README describes the cost and the permissions of the stack.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

module "env" {
  source = "./env"
  stage  = local.stage
}

locals {
  stage      = terraform.workspace
  settings   = module.env.settings
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition

  # Regions where Fargate did not run tasks in IPv6-only subnets in autumn 2026.
  regions_without_ipv6_tasks = ["eu-west-1", "eu-north-1", "eu-central-2", "mx-central-1", "ap-southeast-5", "ap-southeast-7"]

  # Environment variables of functions and combs.
  environment = merge(
    length(var.bucket_regions) == 0 ? {} : {
      BUZZ_BUCKET_REGIONS = join(",", [for bucket, region in var.bucket_regions : "${bucket}=${region}"])
    },
    {
      BUZZ_STAGE                 = local.stage
      BUZZ_LOG                   = var.log_level
      BUZZ_RESULTS               = module.storage.results_uri
      AWS_USE_DUALSTACK_ENDPOINT = "true" # there is no route to IPv4 hosts
    },
  )
}

module "network" {
  source       = "./modules/network"
  name         = "buzz-rust-${local.stage}"
  region       = var.region
  cidr_block   = local.settings.cidr_block
  zones        = local.settings.zones
  comb_network = var.comb_network
  comb_port    = local.settings.comb_port
}

module "storage" {
  source           = "./modules/storage"
  bucket           = "buzz-rust-${local.stage}-${local.account_id}-${var.region}"
  partition        = local.partition
  results_days     = local.settings.results_days
  data_locations   = var.data_locations
  output_locations = var.output_locations
  data_kms_keys    = var.data_kms_keys
}

module "combs" {
  source       = "./modules/combs"
  stage        = local.stage
  region       = var.region
  account_id   = local.account_id
  partition    = local.partition
  arch         = var.arch
  comb_network = var.comb_network
  image_tag    = var.comb_image_tag
  cpu          = local.settings.comb_cpu
  memory_mb    = local.settings.comb_memory_mb
  port         = local.settings.comb_port
  idle_s       = local.settings.comb_idle_s
  log_days     = local.settings.log_days
  environment  = local.environment
}

module "functions" {
  source        = "./modules/functions"
  stage         = local.stage
  region        = var.region
  account_id    = local.account_id
  partition     = local.partition
  arch          = var.arch
  build_version = var.build_version
  bucket        = module.storage.bucket
  log_days      = local.settings.log_days

  # The policies allow the same locations. The programs check them too, and also for buckets that are public.
  environment = merge(local.environment, {
    BUZZ_DATA_LOCATIONS   = jsonencode(module.storage.data_locations)
    BUZZ_OUTPUT_LOCATIONS = jsonencode(var.output_locations)
  })

  subnet_ids        = module.network.function_subnet_ids
  security_group_id = module.network.function_security_group_id

  fuse = {
    zip       = var.fuse_zip
    memory_mb = local.settings.fuse_memory_mb
    disk_mb   = local.settings.fuse_disk_mb
    timeout_s = local.settings.fuse_timeout_s
  }
  hbee = {
    zip       = var.hbee_zip
    memory_mb = local.settings.hbee_memory_mb
    timeout_s = local.settings.hbee_timeout_s
    at_once   = local.settings.hbee_at_once
  }
  combs = {
    cluster_arn         = module.combs.cluster_arn
    cluster_name        = module.combs.cluster_name
    family              = module.combs.family
    task_definition_arn = module.combs.task_definition_arn
    role_arns           = module.combs.role_arns
    subnet_ids          = module.network.comb_subnet_ids
    security_group_id   = module.network.comb_security_group_id
    network             = var.comb_network
    port                = local.settings.comb_port
    cpu                 = local.settings.comb_cpu
    memory_mb           = local.settings.comb_memory_mb
    idle_s              = local.settings.comb_idle_s
  }
  limits = {
    BUZZ_MAX_SCAN_BYTES = local.settings.max_scan_bytes
    BUZZ_MAX_COST_USD   = local.settings.max_cost_usd
  }

  read_data        = module.storage.read_data
  read_results     = module.storage.read_results
  read_tasks       = module.storage.read_tasks
  exchange         = module.storage.exchange
  remove_exchanged = module.storage.remove_exchanged
  write_results    = module.storage.write_results
}
