# moto does not store the log group of a function.
resource "aws_lambda_function" "function" {
  lifecycle {
    ignore_changes = [logging_config]
  }
}
