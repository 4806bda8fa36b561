output "roles" {
  description = "ARNs by role, of those that something may take."
  value       = merge({ for role, made in aws_iam_role.this : role => made.arn }, { for made in aws_iam_role.ci : "ci" => made.arn })
}

output "trust" {
  description = "Trust policies as JSON by role."
  value       = local.roles
}

output "scaling_policy" {
  description = "What the head of a Ray cluster on EC2 may do besides the worker's, as JSON."
  value       = local.scaling
}

output "instance_profiles" {
  description = "Names for the machines of `ray up`: worker, head."
  value       = { for machine, profile in aws_iam_instance_profile.this : machine => profile.name }
}
