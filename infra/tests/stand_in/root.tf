# moto serves all buckets on one host, and there is no instance metadata.
provider "aws" {
  s3_use_path_style       = true
  skip_metadata_api_check = true
}
