variable "name" {
  description = "Name of the repository."
  type        = string
}

variable "force_destroy" {
  description = "Let terraform destroy the repository with images in it."
  type        = bool
}
