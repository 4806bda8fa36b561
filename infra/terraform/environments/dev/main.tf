# The small environment: everything goes soon, and `terraform destroy` takes the sound with it.
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
    tags = { project = local.name, environment = "dev" }
  }
}

locals {
  name = "speechmill-dev"
}

module "speechmill" {
  source          = "../../modules/stack"
  name            = local.name
  region          = var.region
  noncurrent_days = 7
  log_days        = 30
  force_destroy   = true
  people          = var.people
  cluster         = var.cluster
  github          = var.github
  vpc             = var.vpc
  ray_on_ec2      = var.ray_on_ec2
  budget          = var.budget
}
