variable "name" {
  description = "Value of the tag project, and the budget's name."
  type        = string
}

variable "monthly_usd" {
  description = "Budget of a month in US dollars."
  type        = number
}

variable "emails" {
  description = "Who is told."
  type        = list(string)
  validation {
    condition     = length(var.emails) > 0
    error_message = "A budget that nobody hears of warns nobody: name at least one address."
  }
}
