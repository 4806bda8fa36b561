# Raw sound cannot be made again: a copy of it in another region, where var.replica names a versioned bucket there.
locals {
  replicated = var.replica == null ? [] : [var.replica]
  replication_policy = [for replica in local.replicated : jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "ReadSource", Effect = "Allow", Resource = module.raw.arn
        Action = ["s3:GetReplicationConfiguration", "s3:ListBucket"]
      },
      {
        Sid    = "ReadVersions", Effect = "Allow", Resource = "${module.raw.arn}/*"
        Action = ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging"]
      },
      {
        Sid    = "WriteReplica", Effect = "Allow", Resource = "${replica.bucket_arn}/*"
        Action = ["s3:ReplicateObject", "s3:ReplicateTags"] # no ReplicateDelete: a deletion here does not reach the copy
      },
      {
        Sid       = "Decrypt", Effect = "Allow", Resource = aws_kms_key.this["raw"].arn, Action = "kms:Decrypt"
        Condition = { StringEquals = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" } }
      },
      {
        Sid       = "Encrypt", Effect = "Allow", Resource = replica.kms_key_arn, Action = "kms:Encrypt"
        Condition = { StringEquals = { "kms:ViaService" = "s3.${replica.region}.amazonaws.com" } }
      },
    ]
  })]
}

resource "aws_iam_role" "replication" {
  count = length(local.replicated)
  name  = "${var.name}-replication"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "s3.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account }, ArnLike = { "aws:SourceArn" = module.raw.arn } }
    }]
  })
}

resource "aws_iam_role_policy" "replication" {
  count  = length(local.replicated)
  name   = "replicate"
  role   = aws_iam_role.replication[count.index].id
  policy = local.replication_policy[count.index]
}

resource "aws_s3_bucket_replication_configuration" "raw" {
  count      = length(local.replicated)
  bucket     = module.raw.name
  role       = aws_iam_role.replication[count.index].arn
  depends_on = [module.raw] # replication needs versioning on first

  rule {
    id     = "raw"
    status = "Enabled"
    filter {}
    delete_marker_replication {
      status = "Disabled"
    }
    source_selection_criteria {
      sse_kms_encrypted_objects {
        status = "Enabled"
      }
    }
    destination {
      bucket        = local.replicated[count.index].bucket_arn
      storage_class = "GLACIER_IR"
      encryption_configuration {
        replica_kms_key_id = local.replicated[count.index].kms_key_arn
      }
    }
  }
}
