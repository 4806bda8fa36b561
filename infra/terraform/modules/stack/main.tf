# Everything of one environment, put together: storage, who may use it, the image registry and the alarm.
data "aws_caller_identity" "here" {}
data "aws_partition" "here" {}

locals {
  partition = data.aws_partition.here.partition
}

module "storage" {
  source          = "../storage"
  name            = var.name
  partition       = local.partition
  region          = var.region
  lake_prefix     = var.lake_prefix
  noncurrent_days = var.noncurrent_days
  log_days        = var.log_days
  cold_raw        = var.cold_raw
  cold_shards     = var.cold_shards
  vpc             = var.vpc
  replica         = var.replica
  force_destroy   = var.force_destroy
}

module "policies" {
  source       = "../policies"
  partition    = local.partition
  region       = var.region
  raw_bucket   = module.storage.buckets["raw"]
  lake_bucket  = module.storage.buckets["lake"]
  log_bucket   = module.storage.buckets["logs"]
  lake_prefix  = var.lake_prefix
  kms_key_arns = module.storage.kms_key_arns
}

module "registry" {
  source        = "../registry"
  name          = var.name
  force_destroy = var.force_destroy
}

module "access" {
  source               = "../access"
  name                 = var.name
  partition            = local.partition
  region               = var.region
  policies             = module.policies.json
  image_repository_arn = module.registry.arn
  people               = var.people
  cluster              = var.cluster
  github               = var.github
  ray_on_ec2           = var.ray_on_ec2
}

module "budget" {
  source      = "../budget"
  count       = var.budget == null ? 0 : 1
  name        = var.name
  monthly_usd = var.budget.monthly_usd
  emails      = var.budget.emails
}
