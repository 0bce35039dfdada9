output "cluster_arn" {
  description = "The cluster."
  value       = aws_ecs_cluster.combs.arn
}

output "cluster_name" {
  description = "The cluster's name."
  value       = aws_ecs_cluster.combs.name
}

output "family" {
  description = "Family of the task definition."
  value       = aws_ecs_task_definition.comb.family
}

output "task_definition_arn" {
  description = "The task definition with its revision."
  value       = aws_ecs_task_definition.comb.arn
}

output "role_arns" {
  description = "Both roles of a comb. A caller that starts combs needs the permission to pass them."
  value       = [aws_iam_role.comb.arn, aws_iam_role.execution.arn]
}

output "records_certificates" {
  description = "True if combs may record certificates."
  value       = length(aws_iam_role_policy.comb) > 0
}

output "repository_url" {
  description = "URL of the image repository; null if an image is given."
  value       = one(aws_ecr_repository.combs[*].repository_url)
}

output "log_group" {
  description = "Log group of the combs."
  value       = aws_cloudwatch_log_group.combs.name
}
