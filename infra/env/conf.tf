# Settings of each stage, and the default sizes of all stages. A stage is a Terraform workspace of the same name. To add
# a stage, add it to `stages`. A stage can override any value of `defaults`.

locals {
  stages = {
    dev = {
      cidr_block = "10.0.0.0/16"
      tags       = { env = "dev" }
    }
    prod = {
      cidr_block = "10.1.0.0/16"
      tags       = { env = "prod" }
    }
  }

  defaults = {
    zones = 2 # availability zones used; AWS charges $0.01 per GB and direction between two zones

    fuse_memory_mb = 3008 # also the maximum of a new account
    fuse_disk_mb   = 2048 # /tmp, for spilled rows of queries that Fuse reduces; the first 512 MB cost nothing
    fuse_timeout_s = 900  # limit of AWS, and thus of the longest query

    hbee_memory_mb = 2048 # AWS allocates processors in proportion to memory: 1.2 here
    hbee_timeout_s = 300
    hbee_at_once   = 900 # concurrent invocations of a query, at most half of those that the account may have: 1,000, and as few as 10 for a new one

    comb_cpu       = 2048 # 1024 are one processor
    comb_memory_mb = 4096
    comb_disk_gb   = 20 # for rows that do not fit in memory; up to 200, of which all above 20 cost $0.00011 per GB and hour
    comb_port      = 3333
    comb_idle_s    = 300 # a comb without a query for this time stops itself

    # Limits of queries that do not set these options themselves.
    max_scan_bytes = "" # such as "1TB"
    max_cost_usd   = "" # such as "0.50"

    log_days     = 14
    results_days = 7 # results, and files from functions to combs
  }
}

variable "stage" {
  description = "Name of the stage, a key of `stages`."
  type        = string
}

output "settings" {
  description = "The stage's address range, tags and sizes."
  value       = merge(local.defaults, try(local.stages[var.stage], {}))

  precondition {
    condition     = contains(keys(local.stages), var.stage)
    error_message = "Stage `${var.stage}` is not in infra/env/conf.tf, which has ${join(", ", keys(local.stages))}. Add it there, with an address range of its own, or choose one of these."
  }
}
