variable "region" {
  description = "Region of everything."
  type        = string
  default     = "us-east-1"
}

variable "people" {
  description = "ARNs of users or roles that may take a role: ingest, worker, reader, administrator."
  type        = map(list(string))
  default     = {}
}

variable "cluster" {
  description = "EKS cluster whose service accounts take the roles: namespace, and oidc_issuer (IRSA) or pod_identity (its name)."
  type        = object({ namespace = string, oidc_issuer = optional(string, ""), pod_identity = optional(string) })
  default     = null
}

variable "github" {
  description = "Repository (owner/name) whose CI pushes images."
  type        = object({ repository = string, refs = optional(list(string), ["refs/heads/main"]), provider_arn = optional(string) })
  default     = null
}

variable "vpc" {
  description = "VPC and route tables that get a gateway endpoint for S3."
  type        = object({ id = string, route_table_ids = list(string) })
  default     = null
}

variable "ray_on_ec2" {
  description = "Make instance profiles for `ray up`."
  type        = bool
  default     = false
}

variable "budget" {
  description = "Month's budget in US dollars and who is told."
  type        = object({ monthly_usd = number, emails = list(string) })
}
