# What each role may do, as JSON and nothing else: no resource is made here, so AWS and an S3-compatible store share it.
#
# Listing is granted on whole buckets: a condition on s3:prefix would turn "no such key" into "access denied", because S3
# answers 404 only to those who may list.
locals {
  raw     = "arn:${var.partition}:s3:::${var.raw_bucket}"
  lake    = "arn:${var.partition}:s3:::${var.lake_bucket}"
  folders = { for folder in ["recordings", "annotations", "selections", "datasets", "runs"] : folder => "${local.lake}/${var.lake_prefix}/${folder}/*" }
  # What a run writes for itself: which unit each worker is at, chunks of long recordings, files on their way.
  scratch = [for folder in ["tmp", "pieces", "attempts", "*/working"] : "${local.lake}/${var.lake_prefix}/runs/${folder}/*"]

  list = {
    for bucket, arn in { raw = local.raw, lake = local.lake } : bucket =>
    { Sid = "List${title(bucket)}", Effect = "Allow", Action = ["s3:ListBucket", "s3:GetBucketLocation"], Resource = arn }
  }
  read_raw = { Sid = "ReadRaw", Effect = "Allow", Action = "s3:GetObject", Resource = "${local.raw}/*" }

  # PutObject covers the conditional put and every step of a multipart upload but its abort.
  put     = ["s3:PutObject", "s3:AbortMultipartUpload"]
  add_raw = { Sid = "AddRaw", Effect = "Allow", Action = local.put, Resource = "${local.raw}/*" }

  # What killed writers left, too: their scratch files, and uploads that nobody will finish.
  sweep      = { Sid = "SweepScratch", Effect = "Allow", Action = "s3:DeleteObject", Resource = local.scratch }
  unfinished = { Sid = "ListUnfinished", Effect = "Allow", Action = "s3:ListBucketMultipartUploads", Resource = local.lake }

  # Only through S3: a stolen session cannot use the keys by themselves. Reading and a multipart put need Decrypt.
  via_s3 = { StringEquals = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" } }
  decrypt = {
    for bucket, key in var.kms_key_arns : bucket =>
    { Sid = "Decrypt${title(bucket)}", Effect = "Allow", Action = "kms:Decrypt", Resource = key, Condition = local.via_s3 }
  }
  encrypt = {
    for bucket, key in var.kms_key_arns : bucket =>
    { Sid = "Encrypt${title(bucket)}", Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = key, Condition = local.via_s3 }
  }

  # A null where there is no key, dropped below.
  statements = {
    # Brings sound in and names it in the lake. Never deletes, never sees what was made of the sound.
    ingest = [
      local.list["raw"], local.read_raw, local.add_raw, local.list["lake"],
      { Sid = "ReadLake", Effect = "Allow", Action = "s3:GetObject", Resource = [local.folders["recordings"], local.folders["runs"]] },
      { Sid = "WriteLake", Effect = "Allow", Action = local.put, Resource = [local.folders["recordings"], local.folders["runs"]] },
      local.sweep, local.unfinished, lookup(local.encrypt, "raw", null), lookup(local.encrypt, "lake", null),
    ]
    # Runs `speechmill run`: reads sound, writes the whole lake, deletes its own scratch files and nothing else.
    worker = [
      local.list["raw"], local.read_raw, local.list["lake"],
      { Sid = "ReadLake", Effect = "Allow", Action = "s3:GetObject", Resource = values(local.folders) },
      { Sid = "WriteLake", Effect = "Allow", Action = local.put, Resource = values(local.folders) },
      local.sweep, local.unfinished, lookup(local.decrypt, "raw", null), lookup(local.encrypt, "lake", null),
    ]
    # Trains on shards and studies manifests; no raw sound and no logs of runs.
    reader = [
      local.list["lake"],
      { Sid = "ReadLake", Effect = "Allow", Action = "s3:GetObject", Resource = [for folder, arn in local.folders : arn if folder != "runs"] },
      lookup(local.decrypt, "lake", null),
    ]
    # Erases and restores what must be, versions included, and reads the access logs. Cannot change how buckets are protected.
    administrator = concat(
      [
        {
          Sid      = "List", Effect = "Allow"
          Action   = ["s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation"]
          Resource = [local.raw, local.lake]
        },
        {
          Sid = "Data", Effect = "Allow"
          Action = concat(local.put, [
            "s3:GetObject", "s3:GetObjectVersion", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:RestoreObject",
          ])
          Resource = ["${local.raw}/*", "${local.lake}/*"]
        },
      ],
      [for bucket in var.log_bucket == null ? [] : ["arn:${var.partition}:s3:::${var.log_bucket}"] :
        { Sid = "ListLogs", Effect = "Allow", Action = ["s3:ListBucket", "s3:GetBucketLocation"], Resource = bucket }
      ],
      [for bucket in var.log_bucket == null ? [] : ["arn:${var.partition}:s3:::${var.log_bucket}"] :
        { Sid = "ReadLogs", Effect = "Allow", Action = "s3:GetObject", Resource = "${bucket}/*" }
      ],
      [lookup(local.encrypt, "raw", null), lookup(local.encrypt, "lake", null)],
    )
  }
}
