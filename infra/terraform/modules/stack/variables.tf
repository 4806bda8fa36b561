variable "name" {
  description = "First part of every name, and the value of the tag project."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,40}$", var.name))
    error_message = "name is 3 to 41 lower-case letters, digits and hyphens: bucket names are made of it."
  }
}

variable "region" {
  description = "Region of everything."
  type        = string
}

variable "lake_prefix" {
  description = "Folder of the lake in its bucket."
  type        = string
  default     = "lake"
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
  description = "When raw sound moves to a colder class; null never."
  type        = object({ days = number, storage_class = string })
  default     = null
}

variable "cold_shards" {
  description = "When shards move to a colder class; null never."
  type        = object({ days = number, storage_class = string })
  default     = null
}

variable "vpc" {
  description = "VPC and route tables that get a gateway endpoint for S3; null makes none."
  type        = object({ id = string, route_table_ids = list(string) })
  default     = null
}

variable "replica" {
  description = "Versioned bucket in another region that takes a copy of raw sound; null makes none."
  type        = object({ bucket_arn = string, kms_key_arn = string, region = string })
  default     = null
}

variable "force_destroy" {
  description = "Let terraform destroy buckets and the image registry with what is in them."
  type        = bool
  default     = false
}

variable "people" {
  description = "ARNs of users or roles that may take a role: ingest, worker, reader, administrator."
  type        = map(list(string))
  default     = {}
}

variable "cluster" {
  description = "EKS cluster whose service accounts take the roles; null makes none."
  type        = object({ namespace = string, oidc_issuer = optional(string, ""), pod_identity = optional(string) })
  default     = null
}

variable "github" {
  description = "Repository whose CI pushes images; null makes none."
  type        = object({ repository = string, refs = optional(list(string), ["refs/heads/main"]), provider_arn = optional(string) })
  default     = null
}

variable "ray_on_ec2" {
  description = "Make instance profiles for `ray up`."
  type        = bool
  default     = false
}

variable "budget" {
  description = "Month's budget in US dollars and who is told; null makes none."
  type        = object({ monthly_usd = number, emails = list(string) })
  default     = null
}
