# Policy statements for the roles: readable data and writable result locations.

locals {
  locations = concat(["s3://${var.bucket}/sample/"], var.data_locations)
  parsed = [for uri in local.locations : {
    bucket = split("/", uri)[2]
    key    = replace(uri, "/^s3://[^/]+/?/", "") # empty for the whole bucket
  }]

  # A folder, with or without a trailing slash, grants access to its content. A key without a slash can also be a file.
  patterns = [for location in local.parsed : {
    bucket = location.bucket
    keys   = location.key == "" || endswith(location.key, "/") ? ["${location.key}*"] : [location.key, "${location.key}/*"]
  }]
  buckets = { for pattern in local.patterns : pattern.bucket => pattern.keys... }

  read_objects = {
    Sid      = "ReadData"
    Effect   = "Allow"
    Action   = ["s3:GetObject"]
    Resource = sort(flatten([for bucket, keys in local.buckets : [for key in flatten(keys) : "arn:${var.partition}:s3:::${bucket}/${key}"]]))
  }

  output_objects = [for uri in var.output_locations : "arn:${var.partition}:s3:::${trimsuffix(trimprefix(uri, "s3://"), "/")}/*"]

  # With this permission S3 returns 404 instead of 403 for a missing object. One statement per bucket, since the
  # condition is on prefixes in the bucket. A listing of a whole bucket has no prefix and would not satisfy such a
  # condition.
  list_buckets = [for index, bucket in keys(local.buckets) : merge(
    {
      Sid      = "ListBucket${index}"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = ["arn:${var.partition}:s3:::${bucket}"]
    },
    contains(flatten(local.buckets[bucket]), "*") ? {} : {
      Condition = { StringLike = { "s3:prefix" = sort(distinct(flatten(local.buckets[bucket]))) } }
    },
  )]

  decrypt = [for statement in [{
    Sid      = "DecryptData"
    Effect   = "Allow"
    Action   = ["kms:Decrypt"]
    Resource = var.data_kms_keys
  }] : statement if length(var.data_kms_keys) > 0]
}
