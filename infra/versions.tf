terraform {
  required_version = ">= 1.10" # locks the state in S3 itself

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 7"
    }
  }

  # `make init` sets bucket, region and profile. A workspace is a stage.
  backend "s3" {
    key                  = "terraform.tfstate"
    workspace_key_prefix = "buzz-rust"
    use_lockfile         = true
    encrypt              = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ module = "buzz", stage = local.stage }, local.settings.tags, var.tags)
  }
}
