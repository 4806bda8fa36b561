mock_provider "aws" {}

run "plain_http_is_refused" {
  command = plan
  module {
    source = "../../modules/onpremises"
  }
  variables {
    name         = "speechmill"
    endpoint_url = "http://store.example.org"
  }
  expect_failures = [var.endpoint_url]
}

run "apply" {
  variables {
    endpoint_url = "https://store.example.org"
  }
  assert {
    condition = output.storage == {
      lake         = "s3://speechmill-lake/lake"
      raw          = "s3://speechmill-raw"
      endpoint_url = "https://store.example.org"
      region       = "us-east-1"
    }
    error_message = "The storage output is what a recipe reads."
  }
  assert {
    condition     = !strcontains(jsonencode(output.policies), "kms:")
    error_message = "There is no KMS to name."
  }
}
