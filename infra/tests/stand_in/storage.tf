# moto enforces the bucket policy, which denies connections without TLS.
resource "aws_s3_bucket_policy" "stack" {
  count = 0
}
