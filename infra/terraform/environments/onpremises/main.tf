# Buckets on an S3-compatible store of one's own (MinIO, Ceph), by the same provider with its AWS habits switched off.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

# Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as the store's administrator.
provider "aws" {
  region                      = var.region
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
  endpoints {
    s3 = var.endpoint_url
  }
}

variable "endpoint_url" {
  description = "URL of the store, https://."
  type        = string
}

variable "region" {
  description = "What the store calls its region."
  type        = string
  default     = "us-east-1"
}

module "speechmill" {
  source       = "../../modules/onpremises"
  name         = "speechmill"
  endpoint_url = var.endpoint_url
  region       = var.region
}

output "storage" {
  description = "Where the lake and raw sound are, and a recipe's [storage]: terraform output -json > outputs.json"
  value       = module.speechmill.storage
}

output "policies" {
  description = "IAM policy documents by role, for the store's own users."
  value       = module.speechmill.policies
}
