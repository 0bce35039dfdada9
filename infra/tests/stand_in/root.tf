# moto answers on one host for all buckets, and there is no machine's metadata.
provider "aws" {
  s3_use_path_style       = true
  skip_metadata_api_check = true
}
