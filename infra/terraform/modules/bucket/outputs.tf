output "name" {
  description = "Known before apply, and still waits for the bucket."
  value       = aws_s3_bucket.this.bucket
}

output "arn" {
  description = "Known before apply, since it is made of the name."
  value       = local.arn
}

output "policy" {
  description = "The bucket policy as JSON."
  value       = local.policy
}
