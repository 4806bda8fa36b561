# The three buckets and their keys. Raw sound and the lake have a key each, so that who reads one cannot read the other.
data "aws_caller_identity" "here" {}

locals {
  account = data.aws_caller_identity.here.account_id
  buckets = { for kind in ["raw", "lake", "logs"] : kind => "${var.name}-${kind}-${local.account}" }
  root    = "arn:${var.partition}:iam::${local.account}:root"

  # Sound is deleted on request, by a person with MFA, and by nobody else.
  administrator = "arn:${var.partition}:iam::${local.account}:role/${var.name}-administrator"

  # IAM decides who uses the key, and only for S3; whoever administers the account administers the key.
  key_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Sid = "Account", Effect = "Allow", Principal = { AWS = local.root }, Action = "kms:*", Resource = "*" },
    ]
  })
}

resource "aws_kms_key" "this" {
  for_each                = toset(["raw", "lake"])
  description             = "${var.name}: ${each.key} objects"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = local.key_policy
}

resource "aws_kms_alias" "this" {
  for_each      = aws_kms_key.this
  name          = "alias/${var.name}-${each.key}"
  target_key_id = each.value.key_id
}

module "logs" {
  source          = "../bucket"
  name            = local.buckets["logs"]
  partition       = var.partition
  noncurrent_days = 30
  expire_days     = var.log_days
  force_destroy   = var.force_destroy
  deleters        = [local.administrator]
  statements = [{
    Sid       = "TakeAccessLogs"
    Effect    = "Allow"
    Principal = { Service = "logging.s3.amazonaws.com" }
    Action    = "s3:PutObject"
    Resource  = "arn:${var.partition}:s3:::${local.buckets["logs"]}/*"
    Condition = {
      StringEquals = { "aws:SourceAccount" = local.account }
      ArnLike      = { "aws:SourceArn" = [for kind in ["raw", "lake"] : "arn:${var.partition}:s3:::${local.buckets[kind]}"] }
    }
  }]
}

module "raw" {
  source          = "../bucket"
  name            = local.buckets["raw"]
  partition       = var.partition
  kms_key_arn     = aws_kms_key.this["raw"].arn
  log_bucket      = module.logs.name
  deleters        = [local.administrator]
  noncurrent_days = var.noncurrent_days
  force_destroy   = var.force_destroy
  transitions = var.cold_raw == null ? {} : {
    raw = { prefix = "", days = var.cold_raw.days, storage_class = var.cold_raw.storage_class }
  }
}

module "lake" {
  source          = "../bucket"
  name            = local.buckets["lake"]
  partition       = var.partition
  kms_key_arn     = aws_kms_key.this["lake"].arn
  log_bucket      = module.logs.name
  noncurrent_days = var.noncurrent_days
  force_destroy   = var.force_destroy
  transitions = var.cold_shards == null ? {} : {
    shards = { prefix = "${var.lake_prefix}/datasets/", days = var.cold_shards.days, storage_class = var.cold_shards.storage_class }
  }
  expirations = { scratch = { prefix = "${var.lake_prefix}/runs/tmp/", days = 7 } } # what killed writers left
}
