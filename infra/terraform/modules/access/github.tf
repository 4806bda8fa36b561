# The CI of one repository pushes images without a stored key: GitHub signs who it is, AWS answers with an hour's session.
locals {
  github = var.github == null ? [] : [var.github]
  issuer = "token.actions.githubusercontent.com"
  github_provider = var.github == null ? null : coalesce(
    var.github.provider_arn, "${local.iam}:oidc-provider/${local.issuer}"
  )
}

resource "aws_iam_openid_connect_provider" "github" {
  count          = length([for github in local.github : github if github.provider_arn == null])
  url            = "https://${local.issuer}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "ci" {
  count = length(local.github)
  name  = "${var.name}-ci"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = local.github_provider }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = { StringEquals = {
        "${local.issuer}:aud" = "sts.amazonaws.com"
        "${local.issuer}:sub" = [for ref in local.github[count.index].refs : "repo:${local.github[count.index].repository}:ref:${ref}"]
      } }
    }]
  })
}

resource "aws_iam_role_policy" "ci" {
  count = length(local.github)
  name  = "push-image"
  role  = aws_iam_role.ci[count.index].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Sid = "LogIn", Effect = "Allow", Action = "ecr:GetAuthorizationToken", Resource = "*" }, # takes no resource
      {
        Sid    = "Push"
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer",
          "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ]
        Resource = var.image_repository_arn
      },
    ]
  })
}
