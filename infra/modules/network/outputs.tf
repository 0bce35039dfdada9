output "function_subnet_ids" {
  description = "Subnets of Fuse and HBees."
  value       = aws_subnet.functions[*].id
}

output "function_security_group_id" {
  description = "The one group of all functions."
  value       = aws_security_group.functions.id
}

output "comb_subnet_ids" {
  description = "Subnets of HCombs."
  value       = aws_subnet.combs[*].id
}

output "comb_security_group_id" {
  description = "The group of HCombs."
  value       = aws_security_group.combs.id
}
