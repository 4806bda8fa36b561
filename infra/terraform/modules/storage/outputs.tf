output "buckets" {
  description = "Names by kind: raw, lake, logs."
  value       = { raw = module.raw.name, lake = module.lake.name, logs = module.logs.name }
}

output "kms_key_arns" {
  description = "Keys by bucket: raw, lake."
  value       = { for kind, key in aws_kms_key.this : kind => key.arn }
}

output "policies" {
  description = "Bucket policies as JSON: raw, lake, logs."
  value       = { raw = module.raw.policy, lake = module.lake.policy, logs = module.logs.policy }
}
