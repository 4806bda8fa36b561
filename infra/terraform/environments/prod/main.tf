# The large environment: colder classes with time, a copy of the raw sound in a second region, nothing destroyed by force.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
  backend "s3" {} # terraform init -backend-config=backend.hcl (README)
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { project = local.name, environment = "prod" }
  }
}

provider "aws" {
  alias  = "replica"
  region = var.replica_region
  default_tags {
    tags = { project = local.name, environment = "prod" }
  }
}

data "aws_caller_identity" "here" {}
data "aws_partition" "here" {}

locals {
  name    = "speechmill-prod"
  account = data.aws_caller_identity.here.account_id
}

resource "aws_kms_key" "replica" {
  provider                = aws.replica
  description             = "${local.name}: copy of raw objects"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Account"
      Effect    = "Allow"
      Principal = { AWS = "arn:${data.aws_partition.here.partition}:iam::${local.account}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })
}

module "replica" {
  source          = "../../modules/bucket"
  providers       = { aws = aws.replica }
  name            = "${local.name}-replica-${local.account}"
  partition       = data.aws_partition.here.partition
  kms_key_arn     = aws_kms_key.replica.arn
  deleters        = ["arn:${data.aws_partition.here.partition}:iam::${local.account}:role/${local.name}-administrator"]
  noncurrent_days = 90
}

module "speechmill" {
  source          = "../../modules/stack"
  name            = local.name
  region          = var.region
  noncurrent_days = 90
  log_days        = 365
  cold_raw        = { days = 90, storage_class = "GLACIER_IR" }
  cold_shards     = { days = 60, storage_class = "INTELLIGENT_TIERING" }
  replica         = { bucket_arn = module.replica.arn, kms_key_arn = aws_kms_key.replica.arn, region = var.replica_region }
  people          = var.people
  cluster         = var.cluster
  github          = var.github
  vpc             = var.vpc
  ray_on_ec2      = var.ray_on_ec2
  budget          = var.budget
}
