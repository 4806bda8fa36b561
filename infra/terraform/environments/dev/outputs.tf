output "storage" {
  description = "Where the lake and raw sound are, and a recipe's [storage]: terraform output -json > outputs.json; speechmill config from-terraform outputs.json"
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
