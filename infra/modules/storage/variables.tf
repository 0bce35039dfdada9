variable "bucket" {
  description = "Name of the stack's bucket."
  type        = string
}

variable "partition" {
  description = "First part of ARNs, `aws` nearly everywhere."
  type        = string
}

variable "results_days" {
  description = "Days after which results are deleted."
  type        = number
}

variable "data_locations" {
  description = "What may be read, as s3:// locations."
  type        = list(string)
}

variable "output_locations" {
  description = "Folders that results may be written to besides the stack's own, as s3:// locations."
  type        = list(string)
}

variable "data_kms_keys" {
  description = "ARNs of keys that the data is encrypted with."
  type        = list(string)
}
