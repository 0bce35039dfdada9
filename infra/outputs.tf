output "fuse_lambda_name" {
  description = "Name of the Fuse function, whose event is a query."
  value       = module.functions.fuse_name
}

output "hbee_lambda_name" {
  description = "The function that runs one task."
  value       = module.functions.hbee_name
}

output "comb_cluster" {
  description = "Cluster in which combs run; null without combs."
  value       = one(module.combs[*].cluster_name)
}

output "comb_repository" {
  description = "URL of the repository of the combs' image; null without combs."
  value       = one(module.combs[*].repository_url)
}

output "bucket" {
  description = "The stack's bucket: results below `results/`, the sample below `sample/`, packages below `packages/`."
  value       = module.storage.bucket
}

output "log_groups" {
  description = "Log group of each role."
  value = merge(
    { fuse = module.functions.fuse_log_group, hbee = module.functions.hbee_log_group },
    { for group in module.combs[*].log_group : "comb" => group },
  )
}

output "version" {
  description = "Deployed version."
  value       = var.build_version
}

output "sizes" {
  description = "Sizes from which the costs are computed."
  value = {
    region         = var.region
    arch           = var.arch
    comb_network   = var.comb_network
    fuse_memory_mb = local.settings.fuse_memory_mb
    hbee_memory_mb = local.settings.hbee_memory_mb
    hbee_at_once   = local.at_once
    comb_cpu       = local.settings.comb_cpu
    comb_memory_mb = local.settings.comb_memory_mb
  }
}
