output "fuse_name" {
  description = "Name of the Fuse function, which answers queries."
  value       = aws_lambda_function.fuse.function_name
}

output "hbee_name" {
  description = "Name of the function that runs one task."
  value       = aws_lambda_function.hbee.function_name
}

output "fuse_log_group" {
  description = "Log group of Fuse."
  value       = aws_cloudwatch_log_group.function["fuse"].name
}

output "hbee_log_group" {
  description = "Log group of HBees."
  value       = aws_cloudwatch_log_group.function["hbee"].name
}

output "environment" {
  description = "Variables that both functions have."
  value       = var.environment
}

output "roles" {
  description = "The roles of the functions and their policies, which must exist as long as network interfaces."
  value       = [for role in aws_iam_role.function : role.id]

  depends_on = [aws_iam_role_policy.fuse, aws_iam_role_policy.hbee]
}
