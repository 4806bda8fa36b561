output "storage" {
  description = "The [storage] table of a recipe: terraform output -json > outputs.json; speechmill config from-terraform outputs.json"
  value       = module.speechmill.storage
}

output "roles" {
  value = module.speechmill.roles
}

output "image" {
  value = module.speechmill.image
}

output "instance_profiles" {
  value = module.speechmill.instance_profiles
}

output "policies" {
  value = module.speechmill.policies
}
