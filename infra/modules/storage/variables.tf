variable "bucket" {
  description = "Name of the stack's bucket."
  type        = string
}

variable "partition" {
  description = "Partition of ARNs, usually `aws`."
  type        = string
}

variable "results_days" {
  description = "Days after which results are deleted."
  type        = number
}

variable "data_locations" {
  description = "Readable locations, as s3:// URIs."
  type        = list(string)
}

variable "output_locations" {
  description = "Folders that a query may name for its result, as s3:// URIs."
  type        = list(string)
}

variable "data_kms_keys" {
  description = "ARNs of the KMS keys that encrypt the data."
  type        = list(string)
}
