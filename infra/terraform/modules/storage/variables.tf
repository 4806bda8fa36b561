variable "name" {
  description = "First part of every name, such as speechmill-dev."
  type        = string
}

variable "partition" {
  description = "aws or aws-us-gov."
  type        = string
}

variable "region" {
  description = "Region of the buckets."
  type        = string
}

variable "lake_prefix" {
  description = "Folder of the lake in its bucket."
  type        = string
}

variable "noncurrent_days" {
  description = "How long overwritten and deleted objects can be restored."
  type        = number
}

variable "log_days" {
  description = "How long access logs are kept."
  type        = number
}

variable "cold_raw" {
  description = "When raw sound moves to a colder class; null never. Choose a class that reads at once: annotating again reads all."
  type        = object({ days = number, storage_class = string })
  default     = null
  validation {
    condition     = var.cold_raw == null || contains(["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"], try(var.cold_raw.storage_class, ""))
    error_message = "storage_class must read at once: STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING or GLACIER_IR."
  }
}

variable "cold_shards" {
  description = "When shards move to a colder class; null never."
  type        = object({ days = number, storage_class = string })
  default     = null
  validation {
    condition     = var.cold_shards == null || contains(["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"], try(var.cold_shards.storage_class, ""))
    error_message = "storage_class must read at once: STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING or GLACIER_IR."
  }
}

variable "vpc" {
  description = "VPC and route tables that get a gateway endpoint for S3; null makes none."
  type        = object({ id = string, route_table_ids = list(string) })
  default     = null
}

variable "replica" {
  description = "Versioned bucket in another region, its key and region, that takes a copy of raw sound; null makes none."
  type        = object({ bucket_arn = string, kms_key_arn = string, region = string })
  default     = null
}

variable "force_destroy" {
  description = "Let terraform destroy buckets with objects in them."
  type        = bool
}
