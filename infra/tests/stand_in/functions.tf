# moto does not store the log group of a function.
resource "aws_lambda_function" "fuse" {
  lifecycle {
    ignore_changes = [logging_config]
  }
}

resource "aws_lambda_function" "hbee" {
  lifecycle {
    ignore_changes = [logging_config]
  }
}
