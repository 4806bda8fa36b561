variable "partition" {
  description = "aws or aws-us-gov; S3-compatible stores answer to aws."
  type        = string
  default     = "aws"
}

variable "region" {
  description = "Region of the buckets and keys."
  type        = string
}

variable "raw_bucket" {
  description = "Bucket of the sound as it came."
  type        = string
}

variable "lake_bucket" {
  description = "Bucket of the lake."
  type        = string
}

variable "log_bucket" {
  description = "Bucket of the access logs, if there is one."
  type        = string
  default     = null
}

variable "lake_prefix" {
  description = "Folder of the lake in its bucket, without slashes at its ends."
  type        = string
  default     = "lake"
  validation {
    condition     = can(regex("^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", var.lake_prefix))
    error_message = "lake_prefix is a folder such as lake or team/lake: a wildcard in it would widen every policy."
  }
}

variable "kms_key_arns" {
  description = "Keys by bucket, raw and lake; empty where the store encrypts by itself."
  type        = map(string)
  default     = {}
}
