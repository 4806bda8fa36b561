# Raw and lake buckets on an S3-compatible store. Only what such stores share: encryption at rest, access logs and the
# users that carry the policies are set with the store's own tools (README).
locals {
  buckets = { raw = "${var.name}-raw", lake = "${var.name}-lake" }
  scratch = "${var.lake_prefix}/runs/tmp/"
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18: access logs are the store's own; few stores have the S3 call
  #checkov:skip=CKV_AWS_144: replication between sites is the store's own
  #checkov:skip=CKV_AWS_145: encryption at rest is the store's own; there is no KMS to name
  #checkov:skip=CKV2_AWS_6: nothing is public unless a policy says so, and few stores have the call that forbids it
  #checkov:skip=CKV2_AWS_62: nothing reacts to objects: batches are found by listing the lake
  for_each = local.buckets
  bucket   = each.value
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "DenyPlainHttp"
      Effect    = "Deny"
      Principal = { AWS = "*" }
      Action    = "s3:*"
      Resource  = ["arn:aws:s3:::${each.value}", "arn:aws:s3:::${each.value}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each   = local.buckets
  bucket     = aws_s3_bucket.this[each.key].id
  depends_on = [aws_s3_bucket_versioning.this]

  rule {
    id     = "tidy"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
  }

  dynamic "rule" {
    for_each = each.key == "lake" ? [local.scratch] : []
    content {
      id     = "expire-scratch"
      status = "Enabled"
      filter {
        prefix = rule.value
      }
      expiration {
        days = 7
      }
    }
  }
}

module "policies" {
  source      = "../policies"
  region      = var.region
  raw_bucket  = local.buckets["raw"]
  lake_bucket = local.buckets["lake"]
  lake_prefix = var.lake_prefix
}
