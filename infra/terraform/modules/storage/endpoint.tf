# A gateway endpoint keeps the traffic to S3 off the NAT gateway, which would cost more than the storage, and lets it
# reach these buckets only.
resource "aws_vpc_endpoint" "s3" {
  count             = var.vpc == null ? 0 : 1
  vpc_id            = var.vpc.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.vpc.route_table_ids
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OwnBuckets"
        Effect    = "Allow"
        Principal = { AWS = "*" }
        Action    = "s3:*"
        Resource  = flatten([for bucket in [module.raw, module.lake] : [bucket.arn, "${bucket.arn}/*"]])
        Condition = { StringEquals = { "aws:PrincipalAccount" = local.account } }
      },
      {
        Sid       = "ImageLayers" # ECR serves them from a bucket of its own
        Effect    = "Allow"
        Principal = { AWS = "*" }
        Action    = "s3:GetObject"
        Resource  = "arn:${var.partition}:s3:::prod-${var.region}-starport-layer-bucket/*"
      },
    ]
  })
}
