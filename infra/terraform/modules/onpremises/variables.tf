variable "name" {
  description = "First part of the buckets' names."
  type        = string
}

variable "endpoint_url" {
  description = "URL of the store, for the recipe."
  type        = string
  validation {
    condition     = startswith(var.endpoint_url, "https://")
    error_message = "The buckets refuse plain HTTP: give an https:// URL."
  }
}

variable "region" {
  description = "What the store calls its region."
  type        = string
  default     = "us-east-1"
}

variable "lake_prefix" {
  description = "Folder of the lake in its bucket."
  type        = string
  default     = "lake"
}

variable "noncurrent_days" {
  description = "How long overwritten and deleted objects can be restored."
  type        = number
  default     = 30
}
