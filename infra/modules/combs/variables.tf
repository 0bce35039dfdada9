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

variable "image" {
  description = "Full name of an image in another registry; empty for the stack's own repository."
  type        = string
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

variable "comb_network" {
  description = "`public_ipv4`, `private_ipv4` or `ipv6_only`: selects the host name from which the image is pulled."
  type        = string
}

variable "image_tag" {
  description = "Tag of the image in the stack's repository."
  type        = string
}

variable "cpu" {
  description = "CPU units of one comb: 1024 are one processor."
  type        = number
}

variable "memory_mb" {
  description = "Memory of one comb."
  type        = number
}

variable "disk_gb" {
  description = "Disk of one comb, for spilled rows: 20 to 200 GB."
  type        = number
  default     = 20

  validation {
    condition     = var.disk_gb >= 20 && var.disk_gb <= 200
    error_message = "`comb_disk_gb` is ${var.disk_gb}; it can be 20 to 200."
  }
}

variable "port" {
  description = "TCP port on which combs listen."
  type        = number
}

variable "idle_s" {
  description = "Seconds without a query after which a comb stops itself."
  type        = number
}

variable "log_days" {
  description = "Retention of logs in days."
  type        = number
}

variable "record_certificates" {
  description = "Policy statements for combs that use TLS: record their certificate; empty without TLS."
  type = list(object({
    Sid      = string
    Effect   = string
    Action   = list(string)
    Resource = list(string)
  }))
  default = []
}

variable "environment" {
  description = "Variables that functions and combs share."
  type        = map(string)
}
