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
  description = "`none`: the stack has no combs and no network; Fuse reduces every query. `public_ipv4`: combs have a public address while they run, used outwards only. `private_ipv4`: they have none, and live in subnets that are given. `ipv6_only`: they have none, and live in IPv6-only subnets."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "public_ipv4", "private_ipv4", "ipv6_only"], var.comb_network)
    error_message = "COMB_NETWORK is `${var.comb_network}`; it can be none, public_ipv4, private_ipv4 or ipv6_only."
  }
  validation {
    condition     = var.comb_network != "ipv6_only" || !contains(local.regions_without_ipv6_tasks, var.region)
    error_message = "Region ${var.region} runs no IPv6-only tasks. Set COMB_NETWORK=public_ipv4 or none, or choose another region."
  }
}

variable "comb_tls" {
  description = "True if functions and combs talk to combs with TLS. Each comb makes a certificate of its own, which it records in the stack's bucket."
  type        = bool
  default     = false
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

variable "traces_endpoint" {
  description = "Collector of OpenTelemetry (OTLP over HTTP), such as `http://collector.internal:4318`, that functions and combs reach; empty sends no traces."
  type        = string
  default     = ""

  validation {
    condition     = var.traces_endpoint == "" || can(regex("^https?://[^/@]+(/.*)?$", var.traces_endpoint))
    error_message = "TRACES_ENDPOINT must begin with http:// or https://."
  }
}

variable "metrics" {
  description = "`cloudwatch`: functions and combs write metrics in CloudWatch's embedded format; `off`: none."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "cloudwatch"], var.metrics)
    error_message = "METRICS can be off or cloudwatch."
  }
}

variable "account_concurrency" {
  description = "Functions that the account may run at the same time in this region; 0 if that is not known."
  type        = number
  default     = 0
}

variable "name_prefix" {
  description = "Prefix of the names of all resources. Another than the default needs `buzz --function` in place of `--stack`."
  type        = string
  default     = "buzz-rust"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,14}[a-z0-9]$", var.name_prefix))
    error_message = "NAME_PREFIX is `${var.name_prefix}`; it has 3 to 16 small letters, digits and hyphens."
  }
}

variable "tags" {
  description = "Tags of all resources, beside those of the stage."
  type        = map(string)
  default     = {}
}

variable "role_path" {
  description = "Path of the roles, such as `/teams/data/`."
  type        = string
  default     = "/"

  validation {
    condition     = can(regex("^/([A-Za-z0-9._-]+/)*$", var.role_path))
    error_message = "ROLE_PATH is `${var.role_path}`; it begins and ends with a slash, as /teams/data/."
  }
}

variable "permissions_boundary" {
  description = "ARN of the policy that bounds the permissions of the roles; empty for none."
  type        = string
  default     = ""

  validation {
    condition     = var.permissions_boundary == "" || can(regex("^arn:[a-z-]+:iam::([0-9]{12}|aws):policy/.+$", var.permissions_boundary))
    error_message = "PERMISSIONS_BOUNDARY is `${var.permissions_boundary}`; it is the ARN of a policy, as arn:aws:iam::123456789012:policy/boundary."
  }
}

variable "function_subnets" {
  description = "Subnets of the functions in a network that exists; empty for none, or for the network that a stack with combs makes."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.function_subnets : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "FUNCTION_SUBNETS takes ids of subnets, as subnet-0123abcd subnet-4567cdef."
  }
  validation {
    condition     = length(var.function_subnets) == 0 || length(var.function_security_groups) > 0
    error_message = "FUNCTION_SUBNETS are set: name the groups of the functions in FUNCTION_SECURITY_GROUPS. They need a way out to port 443 and to the combs' port."
  }
}

variable "function_security_groups" {
  description = "Security groups of the functions in a network that exists."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.function_security_groups : can(regex("^sg-[0-9a-f]+$", id))])
    error_message = "FUNCTION_SECURITY_GROUPS takes ids of groups, as sg-0123abcd."
  }
}

variable "comb_subnets" {
  description = "Subnets of the combs in a network that exists."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.comb_subnets : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "COMB_SUBNETS takes ids of subnets, as subnet-0123abcd subnet-4567cdef."
  }
  validation {
    condition     = var.comb_network == "none" || (length(var.comb_subnets) > 0) == (length(var.function_subnets) > 0)
    error_message = "Functions and combs must be in the same network: set both of FUNCTION_SUBNETS and COMB_SUBNETS, or neither."
  }
  validation {
    condition     = var.comb_network != "private_ipv4" || length(var.comb_subnets) > 0
    error_message = "COMB_NETWORK is private_ipv4, for which no network is made: set COMB_SUBNETS to subnets that reach AWS, or choose public_ipv4."
  }
  validation {
    condition     = length(var.comb_subnets) == 0 || length(var.comb_security_groups) > 0
    error_message = "COMB_SUBNETS are set: name the groups of the combs in COMB_SECURITY_GROUPS. They must admit the functions' groups and themselves at port 3333."
  }
}

variable "comb_security_groups" {
  description = "Security groups of the combs in a network that exists."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.comb_security_groups : can(regex("^sg-[0-9a-f]+$", id))])
    error_message = "COMB_SECURITY_GROUPS takes ids of groups, as sg-0123abcd."
  }
}

variable "comb_image" {
  description = "Full name of the combs' image in another registry, which the stack then neither makes nor fills; empty for a repository of its own."
  type        = string
  default     = ""

  validation {
    condition     = var.comb_image == "" || can(regex("^[a-z0-9.:-]+/[^ ]+[:@][^ ]+$", var.comb_image))
    error_message = "COMB_IMAGE is `${var.comb_image}`; it is a full name with a tag, as registry.example.com/buzz/hcomb:1a2b3c4d."
  }
}
