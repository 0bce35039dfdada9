# What differs between stages, and the sizes that all of them start from. A stage is a Terraform workspace of the same
# name: to have another one, add it to `stages`. Anything of `defaults` may be set differently in a stage.

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
    zones = 2 # availability zones used; between two zones AWS takes $0.01 per GB and direction

    fuse_memory_mb = 3008 # also what a new account allows at most
    fuse_disk_mb   = 2048 # /tmp, for what a query reduced at Fuse spills; the first 512 MB cost nothing
    fuse_timeout_s = 900  # AWS's own limit: the longest query

    hbee_memory_mb = 2048 # AWS gives processor in proportion: one and a fifth here
    hbee_timeout_s = 300
    hbee_at_once   = 900 # invocations at once; an account has 1,000, a new one as few as 10

    comb_cpu       = 2048 # 1024 are one processor
    comb_memory_mb = 4096
    comb_port      = 3333
    comb_idle_s    = 300 # a comb that nobody asked for this long stops itself

    log_days     = 14
    results_days = 7 # results and what functions left for combs
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
