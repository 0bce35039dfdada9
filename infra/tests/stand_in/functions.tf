# moto does not store the log group and the network of a function. Terraform would assign the network's default group
# when it deletes the function.
resource "aws_lambda_function" "function" {
  replace_security_groups_on_destroy = false

  lifecycle {
    ignore_changes = [logging_config]
  }
}
