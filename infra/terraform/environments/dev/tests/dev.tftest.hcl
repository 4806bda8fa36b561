mock_provider "aws" {
  source = "../../mocks"
}

override_resource {
  target = module.speechmill.module.storage.aws_kms_key.this["raw"]
  values = { arn = "arn:aws:kms:us-east-1:000000000000:key/11111111-1111-1111-1111-111111111111", key_id = "11111111-1111-1111-1111-111111111111" }
}

override_resource {
  target = module.speechmill.module.storage.aws_kms_key.this["lake"]
  values = { arn = "arn:aws:kms:us-east-1:000000000000:key/22222222-2222-2222-2222-222222222222", key_id = "22222222-2222-2222-2222-222222222222" }
}

variables {
  budget = { monthly_usd = 100, emails = ["owner@example.org"] }
}

run "plan" {
  command = plan
  assert {
    condition     = output.roles == {}
    error_message = "Nobody is trusted by default, so no role is made."
  }
}

run "apply" {
  variables {
    people = {
      for role in ["ingest", "worker", "reader", "administrator"] : role => ["arn:aws:iam::000000000000:user/${role}-person"]
    }
  }
  assert {
    condition = output.storage == {
      lake       = "s3://speechmill-dev-lake-000000000000/lake"
      raw        = "s3://speechmill-dev-raw-000000000000"
      region     = "us-east-1"
      encryption = "aws:kms"
      kms_key_id = "arn:aws:kms:us-east-1:000000000000:key/22222222-2222-2222-2222-222222222222"
    }
    error_message = "The storage output is what a recipe reads."
  }
  assert {
    condition     = toset(keys(output.roles)) == toset(["ingest", "worker", "reader", "administrator"])
    error_message = "Each trusted role is made."
  }
}
