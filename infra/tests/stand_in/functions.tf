# moto forgets where a function logs, and in which network it is, whose default group it would be given at its end.
resource "aws_lambda_function" "function" {
  replace_security_groups_on_destroy = false

  lifecycle {
    ignore_changes = [logging_config]
  }
}
