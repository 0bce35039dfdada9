variable "region" {
  description = "AWS region of the stack, such as `us-east-2`. Preferably the region of the data."
  type        = string
}

variable "arch" {
  description = "Processor of the functions and the combs: `x86_64` or `arm64`. The packages must have been built for it."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.arch)
    error_message = "ARCH is `${var.arch}`; it can be x86_64 or arm64."
  }
}

variable "comb_network" {
  description = "`none`: the stack has no combs and no network; Fuse reduces every query. `public_ipv4`: combs have a public address while they run, used outwards only. `ipv6_only`: they have none, and live in IPv6-only subnets."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "public_ipv4", "ipv6_only"], var.comb_network)
    error_message = "COMB_NETWORK is `${var.comb_network}`; it can be none, public_ipv4 or ipv6_only."
  }
  validation {
    condition     = var.comb_network != "ipv6_only" || !contains(local.regions_without_ipv6_tasks, var.region)
    error_message = "Region ${var.region} runs no IPv6-only tasks. Set COMB_NETWORK=public_ipv4 or none, or choose another region."
  }
}

variable "data_locations" {
  description = "Locations that the stack may read: `s3://bucket/prefix/`, `s3://bucket/key`, or `s3://bucket` for a whole bucket. Nothing else is readable."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for uri in var.data_locations : can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^*?]*)?$", uri))])
    error_message = "DATA_LOCATIONS has ${jsonencode([for uri in var.data_locations : uri if !can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^*?]*)?$", uri))])}; each must be like s3://bucket/prefix/, without * and ?."
  }
}

variable "output_locations" {
  description = "Folders that a query may name for its result: `s3://bucket/prefix/`, or `s3://bucket`."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for uri in var.output_locations : can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/([^*?]*/)?)?$", uri))])
    error_message = "OUTPUT_LOCATIONS has ${jsonencode([for uri in var.output_locations : uri if !can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/([^*?]*/)?)?$", uri))])}; each must be a folder like s3://bucket/prefix/, with its last slash and without * and ?."
  }
}

variable "bucket_regions" {
  description = "Regions of data buckets outside the stack's region. Saves a request to S3 that looks up the region."
  type        = map(string)
  default     = {}
}

variable "data_kms_keys" {
  description = "ARNs of the customer keys that encrypt data, if any: the roles may decrypt with them."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.data_kms_keys : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", arn))])
    error_message = "DATA_KMS_KEYS takes full key ARNs, as arn:aws:kms:us-east-2:123456789012:key/…, not aliases."
  }
}

variable "fuse_zip" {
  description = "Path of Fuse's package. Its name holds the hash of its content."
  type        = string
}

variable "hbee_zip" {
  description = "Path of the HBees' package. Its name holds the hash of its content."
  type        = string
}

variable "comb_image_tag" {
  description = "Tag of the combs' image in the stack's repository: the hash of its content. Empty without combs."
  type        = string
  default     = ""
}

variable "build_version" {
  description = "Deployed version, such as `0.1.0-1a2b3c4` or `0.1.0-1a2b3c4-dirty`. Shown by the functions' descriptions and the output `version`."
  type        = string
}

variable "log_level" {
  description = "Log filter of the programs: `error`, `warn`, `info` or `debug` for Buzz itself, or by crate, such as `warn,buzz=info,buzz_fuse=debug`."
  type        = string
  default     = "info"
}
