# One bucket as every bucket here must be: versioned, encrypted, private, TLS only, owned by the account, cleaned up after.
locals {
  arn = "arn:${var.partition}:s3:::${var.name}"

  # What a client must not do, whoever it is; an explicit Deny beats every Allow.
  denials = concat(
    [
      {
        Sid       = "DenyPlainHttp"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "s3:*"
        Resource  = [local.arn, "${local.arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "DenyOldTls"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "s3:*"
        Resource  = [local.arn, "${local.arn}/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
    ],
    # A writer may name no encryption, and gets the bucket's; it may not name a weaker one or another key.
    [for key in var.kms_key_arn == null ? [] : [var.kms_key_arn] :
      {
        Sid       = "DenyOtherEncryption"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "s3:PutObject"
        Resource  = "${local.arn}/*"
        Condition = {
          Null            = { "s3:x-amz-server-side-encryption" = "false" }
          StringNotEquals = { "s3:x-amz-server-side-encryption" = "aws:kms" }
        }
      }
    ],
    [for key in var.kms_key_arn == null ? [] : [var.kms_key_arn] :
      {
        Sid       = "DenyOtherKey"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "s3:PutObject"
        Resource  = "${local.arn}/*"
        Condition = {
          Null            = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = "false" }
          StringNotEquals = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = key }
        }
      }
    ],
    # Only these principals delete, whatever another policy of the account says. Lifecycle rules are not principals.
    [for principals in length(var.deleters) == 0 ? [] : [var.deleters] :
      {
        Sid       = "DenyDelete"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = ["s3:DeleteObject", "s3:DeleteObjectVersion"]
        Resource  = "${local.arn}/*"
        Condition = { ArnNotLike = { "aws:PrincipalArn" = principals } }
      }
    ],
  )
  policy = jsonencode({ Version = "2012-10-17", Statement = concat(local.denials, var.statements) })
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18: access logs go to log_bucket when it is set; the log bucket itself cannot log into itself
  #checkov:skip=CKV_AWS_144: replication costs a second copy of petabytes, so it is optional (modules/storage, replica)
  #checkov:skip=CKV_AWS_145: KMS with bucket keys when kms_key_arn is set; S3 delivers access logs only to SSE-S3 buckets
  #checkov:skip=CKV2_AWS_62: nothing reacts to objects: batches are found by listing the lake
  bucket        = var.name
  force_destroy = var.force_destroy
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id
  rule {
    bucket_key_enabled = var.kms_key_arn != null
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "this" {
  bucket     = aws_s3_bucket.this.id
  policy     = local.policy
  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket     = aws_s3_bucket.this.id
  depends_on = [aws_s3_bucket_versioning.this]

  rule {
    id     = "tidy"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = var.abort_multipart_days
    }
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
    dynamic "expiration" {
      for_each = var.expire_days == null ? [] : [var.expire_days]
      content {
        days = expiration.value
      }
    }
  }

  dynamic "rule" {
    for_each = var.transitions
    content {
      id     = "cold-${rule.key}"
      status = "Enabled"
      filter {
        prefix = rule.value.prefix # S3 itself leaves objects under 128 KiB, which colder classes would bill as that
      }
      transition {
        days          = rule.value.days
        storage_class = rule.value.storage_class
      }
    }
  }

  dynamic "rule" {
    for_each = var.expirations
    content {
      id     = "expire-${rule.key}"
      status = "Enabled"
      filter {
        prefix = rule.value.prefix
      }
      expiration {
        days = rule.value.days
      }
    }
  }
}

resource "aws_s3_bucket_logging" "this" {
  count         = var.log_bucket == null ? 0 : 1
  bucket        = aws_s3_bucket.this.id
  target_bucket = var.log_bucket
  target_prefix = "${var.name}/"
}
