output "bucket" {
  description = "Name of the stack's bucket."
  value       = aws_s3_bucket.stack.bucket
}

output "results_uri" {
  description = "Location of results."
  value       = "s3://${var.bucket}/results/"
}

output "read_data" {
  description = "Policy statements: read the data locations."
  value       = concat([local.read_objects], local.list_buckets, local.decrypt)
}

output "data_locations" {
  description = "Locations that queries may read: the sample and the data locations."
  value       = local.locations
}

output "read_tasks" {
  description = "Policy statements: read the tasks that do not fit into an invocation."
  value = [{
    Sid      = "ReadTasks"
    Effect   = "Allow"
    Action   = ["s3:GetObject"]
    Resource = ["arn:${var.partition}:s3:::${var.bucket}/results/queries/*/tasks/*"]
  }]
}

output "exchange" {
  description = "Policy statements for HBees: write the objects through which they exchange rows, and read those of others."
  value = [{
    Sid      = "ExchangeRows"
    Effect   = "Allow"
    Action   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    Resource = ["arn:${var.partition}:s3:::${var.bucket}/results/exchange/*"]
  }]
}

output "remove_exchanged" {
  description = "Policy statements for Fuse: remove the exchanged objects of a query that has ended."
  value = [{
    Sid      = "RemoveExchangedRows"
    Effect   = "Allow"
    Action   = ["s3:DeleteObject"]
    Resource = ["arn:${var.partition}:s3:::${var.bucket}/results/exchange/*"]
  }]
}

output "record_certificates" {
  description = "Policy statements for combs that use TLS: write the fingerprint of their certificate, and read nothing."
  value = [{
    Sid      = "RecordCertificate"
    Effect   = "Allow"
    Action   = ["s3:PutObject"]
    Resource = ["arn:${var.partition}:s3:::${var.bucket}/results/combs/certificates/*"]
  }]
}

output "read_results" {
  description = "Policy statements for Fuse's own objects: read below `results/`, and get 404 for missing objects. Fuse does not let a query read there."
  value = [
    {
      Sid      = "ReadResults"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["arn:${var.partition}:s3:::${var.bucket}/results/*"]
    },
    {
      Sid       = "ListResults"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = ["arn:${var.partition}:s3:::${var.bucket}"]
      Condition = { StringLike = { "s3:prefix" = ["results/*"] } }
    },
  ]
}

output "write_results" {
  description = "Policy statements: write below `results/` and the output locations, and read the latter through presigned links."
  value = concat([{
    Sid      = "WriteResults"
    Effect   = "Allow"
    Action   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    Resource = concat(["arn:${var.partition}:s3:::${var.bucket}/results/*"], local.output_objects)
    }], [for statement in [{
      Sid      = "ReadOutputs"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = local.output_objects
  }] : statement if length(local.output_objects) > 0])
}
