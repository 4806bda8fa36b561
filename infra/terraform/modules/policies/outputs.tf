output "json" {
  description = "IAM policy documents by role: ingest, worker, reader, administrator."
  value = {
    for role, statements in local.statements : role =>
    jsonencode({ Version = "2012-10-17", Statement = [for statement in statements : statement if statement != null] })
  }
}
