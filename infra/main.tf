# The stack of one stage: two functions, a bucket and roles; with combs also a network and the resources to start them.
# ARCHITECTURE.md describes the programs; docs/deploy.md describes the permissions of the stack.

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

  combs_on = var.comb_network != "none"
  role     = { path = var.role_path, boundary = var.permissions_boundary == "" ? null : var.permissions_boundary }

  # A query leaves half of the functions of the account to others.
  at_once = var.account_concurrency == 0 ? local.settings.hbee_at_once : min(local.settings.hbee_at_once, max(1, floor(var.account_concurrency / 2)))

  # A network of its own, unless subnets are given. Without combs and without subnets, functions are in none.
  own_network = local.combs_on && length(var.function_subnets) == 0
  given_network = length(var.function_subnets) == 0 ? null : {
    subnet_ids         = var.function_subnets
    security_group_ids = var.function_security_groups
    dual_stack         = var.comb_network == "ipv6_only"
  }
  made_network = one([for network in module.network : {
    subnet_ids         = network.function_subnet_ids
    security_group_ids = [network.function_security_group_id]
    dual_stack         = true
  }])

  # Regions where Fargate did not run tasks in IPv6-only subnets in autumn 2026.
  regions_without_ipv6_tasks = ["eu-west-1", "eu-north-1", "eu-central-2", "mx-central-1", "ap-southeast-5", "ap-southeast-7"]

  # The settings with which Fuse starts combs; null without combs.
  combs = one([for combs in module.combs : {
    cluster_arn         = combs.cluster_arn
    cluster_name        = combs.cluster_name
    family              = combs.family
    task_definition_arn = combs.task_definition_arn
    role_arns           = combs.role_arns
    subnet_ids          = local.own_network ? module.network[0].comb_subnet_ids : var.comb_subnets
    security_group_ids  = local.own_network ? [module.network[0].comb_security_group_id] : var.comb_security_groups
    network             = var.comb_network
    port                = local.settings.comb_port
    tls                 = var.comb_tls
    cpu                 = local.settings.comb_cpu
    memory_mb           = local.settings.comb_memory_mb
    idle_s              = local.settings.comb_idle_s
    disk_gb             = local.settings.comb_disk_gb
  }])

  comb_rights = one([for combs in module.combs : {
    cluster_arn  = combs.cluster_arn
    cluster_name = combs.cluster_name
    family       = combs.family
    role_arns    = combs.role_arns
  }])

  # Environment variables of functions and combs.
  environment = merge(
    length(var.bucket_regions) == 0 ? {} : {
      BUZZ_BUCKET_REGIONS = join(",", [for bucket, region in var.bucket_regions : "${bucket}=${region}"])
    },
    # The network that a stack makes has no route to IPv4 hosts.
    { for name in local.own_network || var.comb_network == "ipv6_only" ? ["AWS_USE_DUALSTACK_ENDPOINT"] : [] : name => "true" },
    var.traces_endpoint == "" ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.traces_endpoint },
    var.metrics == "off" ? {} : { BUZZ_METRICS = var.metrics },
    {
      BUZZ_STAGE   = local.stage
      BUZZ_LOG     = var.log_level
      BUZZ_RESULTS = module.storage.results_uri
    },
  )
}

# Without combs nothing is reached by a private address, and functions run outside of a network.
module "network" {
  count = local.own_network ? 1 : 0

  source       = "./modules/network"
  name         = "${var.name_prefix}-${local.stage}"
  region       = var.region
  cidr_block   = local.settings.cidr_block
  zones        = local.settings.zones
  comb_network = var.comb_network
  comb_port    = local.settings.comb_port
  roles        = module.functions.roles
}

module "storage" {
  source           = "./modules/storage"
  bucket           = "${var.name_prefix}-${local.stage}-${local.account_id}-${var.region}"
  partition        = local.partition
  results_days     = local.settings.results_days
  data_locations   = var.data_locations
  output_locations = var.output_locations
  data_kms_keys    = var.data_kms_keys
}

module "combs" {
  count = local.combs_on ? 1 : 0

  source       = "./modules/combs"
  prefix       = var.name_prefix
  role         = local.role
  image        = var.comb_image
  stage        = local.stage
  region       = var.region
  account_id   = local.account_id
  partition    = local.partition
  arch         = var.arch
  comb_network = var.comb_network
  image_tag    = var.comb_image_tag
  cpu          = local.settings.comb_cpu
  memory_mb    = local.settings.comb_memory_mb
  disk_gb      = local.settings.comb_disk_gb
  port         = local.settings.comb_port
  idle_s       = local.settings.comb_idle_s
  log_days     = local.settings.log_days
  environment  = local.environment

  record_certificates = var.comb_tls ? module.storage.record_certificates : []
}

module "functions" {
  source        = "./modules/functions"
  prefix        = var.name_prefix
  role          = local.role
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

  network     = local.own_network ? local.made_network : local.given_network
  in_network  = local.own_network || local.given_network != null
  combs       = local.combs
  comb_rights = local.comb_rights

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
    at_once   = local.at_once
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

# Before the stack could be without combs, these modules had no index.
moved {
  from = module.network
  to   = module.network[0]
}

moved {
  from = module.combs
  to   = module.combs[0]
}
