variable "name" {
  description = "First part of every name."
  type        = string
}

variable "partition" {
  description = "aws or aws-us-gov."
  type        = string
}

variable "region" {
  description = "Region of the machines."
  type        = string
}

variable "policies" {
  description = "IAM policy documents by role, from modules/policies."
  type        = map(string)
}

variable "image_repository_arn" {
  description = "Registry that CI pushes to and machines pull from."
  type        = string
}

variable "people" {
  description = "ARNs of users or roles that may take a role: ingest, worker, reader, administrator (which also asks for MFA)."
  type        = map(list(string))
  default     = {}
  validation {
    condition     = length(setsubtract(keys(var.people), ["ingest", "worker", "reader", "administrator"])) == 0
    error_message = "The roles are ingest, worker, reader and administrator."
  }
  validation {
    condition     = alltrue([for arn in flatten(values(var.people)) : can(regex("^arn:[a-z-]+:(iam|sts)::[0-9]{12}:(user|role|assumed-role)/", arn))])
    error_message = "Name users or roles by ARN: a wildcard or a whole account would let anybody in."
  }
}

variable "cluster" {
  description = "EKS cluster whose service accounts take the roles: by IRSA (its OIDC issuer without https://), by pod identity (its name), or both."
  type        = object({ namespace = string, oidc_issuer = optional(string, ""), pod_identity = optional(string) })
  default     = null
}

variable "github" {
  description = "Repository (owner/name) and refs whose workflows push images; provider_arn where the account has GitHub's provider."
  type        = object({ repository = string, refs = optional(list(string), ["refs/heads/main"]), provider_arn = optional(string) })
  default     = null
}

variable "ray_on_ec2" {
  description = "Make instance profiles for `ray up`."
  type        = bool
  default     = false
}
