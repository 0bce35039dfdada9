variable "name" {
  description = "Prefix of all names."
  type        = string
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "cidr_block" {
  description = "IPv4 range of the network, a /16 to /20."
  type        = string
}

variable "zones" {
  description = "How many availability zones have subnets."
  type        = number

  validation {
    condition     = contains([1, 2, 3], var.zones)
    error_message = "`zones` is ${var.zones}; it can be 1, 2 or 3."
  }
}

variable "comb_network" {
  description = "Kind of the combs' subnets: `public_ipv4` or `ipv6_only`."
  type        = string
}

variable "comb_port" {
  description = "TCP port on which combs listen."
  type        = number
}

variable "roles" {
  description = "Roles of the functions. They are deleted after the network: Lambda needs them to remove its interfaces."
  type        = list(string)
  default     = []
}
