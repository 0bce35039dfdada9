variable "prefix" {
  description = "Prefix of all names."
  type        = string
}

variable "role" {
  description = "Path of the roles, and the ARN of the policy that bounds their permissions, or null."
  type = object({
    path     = string
    boundary = string
  })
}

variable "stage" {
  description = "Name of the stage."
  type        = string
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "account_id" {
  description = "The account of the stack."
  type        = string
}

variable "partition" {
  description = "Partition of ARNs, usually `aws`."
  type        = string
}

variable "arch" {
  description = "`x86_64` or `arm64`."
  type        = string
}

variable "build_version" {
  description = "Deployed version, for the descriptions of the functions."
  type        = string
}

variable "bucket" {
  description = "Bucket of the stack, to which packages are uploaded."
  type        = string
}

variable "environment" {
  description = "Variables that functions and combs share."
  type        = map(string)
}

variable "log_days" {
  description = "Retention of logs in days."
  type        = number
}

variable "network" {
  description = "Subnets and security groups of the functions; null for functions outside of a network."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
    dual_stack         = bool
  })
}

variable "fuse" {
  description = "Fuse's package and sizes."
  type = object({
    zip       = string
    memory_mb = number
    disk_mb   = number
    timeout_s = number
  })
}

variable "hbee" {
  description = "The HBees' package and sizes, and the maximum number of concurrent invocations."
  type = object({
    zip       = string
    memory_mb = number
    timeout_s = number
    at_once   = number
  })
}

variable "combs" {
  description = "Settings with which Fuse starts combs; null for a stack without combs."
  type = object({
    cluster_arn         = string
    cluster_name        = string
    family              = string
    task_definition_arn = string
    role_arns           = list(string)
    subnet_ids          = list(string)
    security_group_ids  = list(string)
    network             = string
    port                = number
    tls                 = bool
    cpu                 = number
    memory_mb           = number
    idle_s              = number
    disk_gb             = number
  })
}

variable "comb_rights" {
  description = "What Fuse may start and pass to combs; null for a stack without combs."
  type = object({
    cluster_arn  = string
    cluster_name = string
    family       = string
    role_arns    = list(string)
  })
}

variable "in_network" {
  description = "True if functions are in a network, in which Lambda makes interfaces."
  type        = bool
}

variable "limits" {
  description = "Limits of queries that set none, by variable of Fuse; empty for none."
  type        = map(string)
}

variable "read_data" {
  description = "Policy statements: read the data locations."
  type        = any
}

variable "read_results" {
  description = "Policy statements: read below `results/`, for Fuse."
  type        = any
}

variable "read_tasks" {
  description = "Policy statements: read large tasks below `results/`, for HBees."
  type        = any
}

variable "exchange" {
  description = "Policy statements: write and read exchanged rows below `results/exchange/`, for HBees."
  type        = any
}

variable "remove_exchanged" {
  description = "Policy statements: remove exchanged rows, for Fuse."
  type        = any
}

variable "write_results" {
  description = "Policy statements: write below `results/`."
  type        = any
}
