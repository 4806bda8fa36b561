output "arn" {
  value = aws_ecr_repository.this.arn
}

output "url" {
  description = "What an image's name starts with, without its tag."
  value       = aws_ecr_repository.this.repository_url
}
