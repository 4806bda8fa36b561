output "storage" {
  description = "Where the lake and raw sound are, and the table [storage] of a recipe: `speechmill config from-terraform` reads it."
  value = {
    lake       = "s3://${module.storage.buckets["lake"]}/${var.lake_prefix}"
    raw        = "s3://${module.storage.buckets["raw"]}"
    region     = var.region
    encryption = "aws:kms"
    kms_key_id = module.storage.kms_key_arns["lake"]
  }
}

output "roles" {
  description = "ARNs by role."
  value       = module.access.roles
}

output "image" {
  description = "What the image's name starts with, without its tag."
  value       = module.registry.url
}

output "instance_profiles" {
  description = "For the machines of `ray up`."
  value       = module.access.instance_profiles
}

output "policies" {
  description = "Everything that decides who may do what, as JSON, for review and for tests."
  value = {
    roles   = module.policies.json
    trust   = module.access.trust
    buckets = module.storage.policies
    scaling = module.access.scaling_policy
  }
}
