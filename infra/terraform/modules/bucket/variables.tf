variable "name" {
  description = "Name of the bucket, unique in the world."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.name))
    error_message = "A bucket's name is 3 to 63 lower-case letters, digits and hyphens; a dot would break TLS."
  }
}

variable "partition" {
  description = "aws or aws-us-gov."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of SSE-KMS with bucket keys; null is SSE-S3."
  type        = string
  default     = null
}

variable "log_bucket" {
  description = "Bucket that takes the access logs, under this bucket's name."
  type        = string
  default     = null
}

variable "deleters" {
  description = "ARNs of the only principals that may delete objects; empty leaves it to IAM."
  type        = list(string)
  default     = []
}

variable "statements" {
  description = "Further statements of the bucket policy."
  type        = any
  default     = []
}

variable "abort_multipart_days" {
  description = "Parts of uploads that nobody finished go after so many days."
  type        = number
  default     = 7
}

variable "noncurrent_days" {
  description = "Overwritten and deleted versions go after so many days; until then they can be restored."
  type        = number
}

variable "expire_days" {
  description = "Every object goes after so many days; null keeps them."
  type        = number
  default     = null
}

variable "transitions" {
  description = "Objects under a prefix move to a colder class after so many days."
  type        = map(object({ prefix = string, days = number, storage_class = string }))
  default     = {}
}

variable "expirations" {
  description = "Objects under a prefix go after so many days."
  type        = map(object({ prefix = string, days = number }))
  default     = {}
}

variable "force_destroy" {
  description = "Let terraform destroy a bucket with objects in it."
  type        = bool
  default     = false
}
