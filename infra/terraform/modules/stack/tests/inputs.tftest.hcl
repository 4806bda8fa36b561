# What a user may get wrong is refused before anything is made, and each option makes what it says and nothing else.
mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name            = "speechmill-test"
  region          = "us-east-1"
  noncurrent_days = 7
  log_days        = 30
}

run "a_wildcard_is_not_a_person" {
  command = plan
  module {
    source = "../access"
  }
  variables {
    partition            = "aws"
    policies             = {}
    image_repository_arn = "arn:aws:ecr:us-east-1:000000000000:repository/mock"
    people               = { reader = ["*"] }
  }
  expect_failures = [var.people]
}

run "an_unknown_role_is_refused" {
  command = plan
  module {
    source = "../access"
  }
  variables {
    partition            = "aws"
    policies             = {}
    image_repository_arn = "arn:aws:ecr:us-east-1:000000000000:repository/mock"
    people               = { owner = ["arn:aws:iam::000000000000:user/owner"] }
  }
  expect_failures = [var.people]
}

run "a_wildcard_is_not_a_folder" {
  command = plan
  module {
    source = "../policies"
  }
  variables {
    raw_bucket  = "raw"
    lake_bucket = "lake"
    lake_prefix = "*"
  }
  expect_failures = [var.lake_prefix]
}

run "sound_stays_readable_at_once" {
  command = plan
  module {
    source = "../storage"
  }
  variables {
    partition     = "aws"
    lake_prefix   = "lake"
    force_destroy = false
    cold_raw      = { days = 30, storage_class = "DEEP_ARCHIVE" }
  }
  expect_failures = [var.cold_raw]
}

run "a_bucket_has_no_dots" {
  command = plan
  module {
    source = "../bucket"
  }
  variables {
    name      = "speech.mill"
    partition = "aws"
  }
  expect_failures = [var.name]
}

run "a_budget_is_heard" {
  command = plan
  module {
    source = "../budget"
  }
  variables {
    monthly_usd = 100
    emails      = []
  }
  expect_failures = [var.emails]
}

run "nothing_is_made_that_was_not_asked_for" {
  assert {
    condition     = length(output.roles) == 0 && length(output.instance_profiles) == 0 && length(module.budget) == 0
    error_message = "No role, machine profile or budget without a variable that asks for it."
  }
}

run "only_storage_without_options" {
  module {
    source = "../storage"
  }
  variables {
    partition     = "aws"
    lake_prefix   = "lake"
    force_destroy = false
  }
  assert {
    condition     = length(aws_vpc_endpoint.s3) == 0 && length(aws_s3_bucket_replication_configuration.raw) == 0
    error_message = "Endpoint and replication are optional."
  }
  assert {
    condition     = alltrue([for key in aws_kms_key.this : key.enable_key_rotation])
    error_message = "Keys rotate."
  }
}

run "a_locked_bucket" {
  module {
    source = "../bucket"
  }
  variables {
    partition   = "aws"
    kms_key_arn = "arn:aws:kms:us-east-1:000000000000:key/11111111-1111-1111-1111-111111111111"
    log_bucket  = "logs"
    transitions = { cold = { prefix = "lake/datasets/", days = 60, storage_class = "INTELLIGENT_TIERING" } }
    expirations = { scratch = { prefix = "lake/runs/tmp/", days = 7 } }
  }
  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "Versioned."
  }
  assert {
    condition = alltrue([for rule in aws_s3_bucket_server_side_encryption_configuration.this.rule :
    rule.bucket_key_enabled && rule.apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms"])
    error_message = "SSE-KMS with a bucket key."
  }
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls, aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls, aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "Public access is blocked in all four ways."
  }
  assert {
    condition     = aws_s3_bucket_ownership_controls.this.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "The account owns every object, so ACLs mean nothing."
  }
  assert {
    condition     = [for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule.id] == ["tidy", "cold-cold", "expire-scratch"]
    error_message = "Parts and old versions go, shards get cold, scratch goes."
  }
  assert {
    condition     = aws_s3_bucket_logging.this[0].target_bucket == "logs"
    error_message = "Accesses are logged."
  }
}
