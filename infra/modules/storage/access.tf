# Statements for the roles' policies: what data may be read, and where results may be written.

locals {
  locations = concat(["s3://${var.bucket}/sample/"], var.data_locations)
  parsed = [for uri in local.locations : {
    bucket = split("/", uri)[2]
    key    = replace(uri, "/^s3://[^/]+/?/", "") # `` for all of the bucket
  }]

  # A folder, named with or without its last slash, means what is in it; a key without one may also be a file.
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

  # Listing also decides between 404 and 403 for an object that is missing. One statement per bucket, since the
  # condition is on prefixes within it; a listing of all of a bucket names no prefix, and would not meet one.
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
