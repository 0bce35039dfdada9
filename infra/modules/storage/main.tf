# The bucket of the stack: private, encrypted, with expiring results. `destroy` deletes it with all objects, since Buzz
# computed or uploaded all of them.

resource "aws_s3_bucket" "stack" {
  bucket        = var.bucket
  force_destroy = true
}

resource "aws_s3_bucket_public_access_block" "stack" {
  bucket                  = aws_s3_bucket.stack.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "stack" {
  bucket = aws_s3_bucket.stack.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# Keys of S3: a customer-managed key would cost a dollar a month while idle.
resource "aws_s3_bucket_server_side_encryption_configuration" "stack" {
  bucket = aws_s3_bucket.stack.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "stack" {
  bucket = aws_s3_bucket.stack.id

  # Not all of `results/`: the registry of names, `results/names.json`, stays.
  rule {
    id     = "results"
    status = "Enabled"

    filter {
      prefix = "results/queries/"
    }
    expiration {
      days = var.results_days
    }
  }

  rule {
    id     = "combs"
    status = "Enabled"

    filter {
      prefix = "results/combs/"
    }
    expiration {
      days = var.results_days
    }
  }

  # Fuse removes these at the end of each query. Those of queries that broke off expire.
  rule {
    id     = "exchange"
    status = "Enabled"

    filter {
      prefix = "results/exchange/"
    }
    expiration {
      days = 1
    }
  }

  rule {
    id     = "answers"
    status = "Enabled"

    filter {
      prefix = "results/answers/"
    }
    expiration {
      days = var.results_days
    }
  }

  rule {
    id     = "broken-uploads"
    status = "Enabled"

    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_s3_bucket_policy" "stack" {
  bucket = aws_s3_bucket.stack.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "EncryptedConnectionsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.stack.arn, "${aws_s3_bucket.stack.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  depends_on = [aws_s3_bucket_public_access_block.stack]
}
