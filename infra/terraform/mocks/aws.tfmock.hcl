# What AWS would have answered, shaped so that the provider's own validation accepts it.
mock_data "aws_caller_identity" {
  defaults = { account_id = "000000000000" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::000000000000:role/mock" }
}

mock_resource "aws_ecr_repository" {
  defaults = {
    arn            = "arn:aws:ecr:us-east-1:000000000000:repository/mock"
    repository_url = "000000000000.dkr.ecr.us-east-1.amazonaws.com/mock"
  }
}

mock_resource "aws_kms_key" {
  defaults = {
    arn    = "arn:aws:kms:us-west-2:000000000000:key/33333333-3333-3333-3333-333333333333"
    key_id = "33333333-3333-3333-3333-333333333333"
  }
}
