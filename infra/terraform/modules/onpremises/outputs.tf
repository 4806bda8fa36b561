output "storage" {
  description = "Where the lake and raw sound are, and the table [storage] of a recipe."
  value = {
    lake         = "s3://${aws_s3_bucket.this["lake"].bucket}/${var.lake_prefix}"
    raw          = "s3://${aws_s3_bucket.this["raw"].bucket}"
    endpoint_url = var.endpoint_url
    region       = var.region
  }
}

output "policies" {
  description = "IAM policy documents by role, for the store's own users: `mc admin policy create`, `radosgw-admin` or the like."
  value       = module.policies.json
}
