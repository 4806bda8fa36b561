# A role for each kind of work. A role is made only where something is trusted to take it.
data "aws_caller_identity" "here" {}

locals {
  account     = data.aws_caller_identity.here.account_id
  iam         = "arn:${var.partition}:iam::${local.account}"
  workloads   = ["ingest", "worker", "reader"]
  oidc_issuer = var.cluster == null ? "" : var.cluster.oidc_issuer
  accounts    = { for role in local.workloads : role => "speechmill-${role}" } # service accounts in the cluster

  trust = {
    for role in concat(local.workloads, ["administrator"]) : role => concat(
      [for people in length(lookup(var.people, role, [])) == 0 ? [] : [var.people[role]] :
        {
          Sid       = "People"
          Effect    = "Allow"
          Principal = { AWS = people }
          Action    = "sts:AssumeRole"
          Condition = { Bool = { "aws:MultiFactorAuthPresent" = "true" } }
        } if role == "administrator"
      ],
      [for people in length(lookup(var.people, role, [])) == 0 ? [] : [var.people[role]] :
        { Sid = "People", Effect = "Allow", Principal = { AWS = people }, Action = "sts:AssumeRole" } if role != "administrator"
      ],
      [for account in local.oidc_issuer == "" || role == "administrator" ? [] : [local.accounts[role]] :
        {
          Sid       = "ServiceAccount"
          Effect    = "Allow"
          Principal = { Federated = "${local.iam}:oidc-provider/${local.oidc_issuer}" }
          Action    = "sts:AssumeRoleWithWebIdentity"
          Condition = { StringEquals = {
            "${local.oidc_issuer}:sub" = "system:serviceaccount:${var.cluster.namespace}:${account}"
            "${local.oidc_issuer}:aud" = "sts.amazonaws.com"
          } }
        }
      ],
      [for cluster in var.cluster == null || role == "administrator" ? [] : compact([var.cluster.pod_identity]) :
        {
          Sid       = "PodIdentity"
          Effect    = "Allow"
          Principal = { Service = "pods.eks.amazonaws.com" }
          Action    = ["sts:AssumeRole", "sts:TagSession"]
          Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
        }
      ],
      [for service in var.ray_on_ec2 && role == "worker" ? ["ec2.amazonaws.com"] : [] :
        { Sid = "Instances", Effect = "Allow", Principal = { Service = service }, Action = "sts:AssumeRole" }
      ],
    )
  }
  roles = { for role, statements in local.trust : role => jsonencode({ Version = "2012-10-17", Statement = statements }) if length(statements) > 0 }
}

resource "aws_iam_role" "this" {
  for_each             = local.roles
  name                 = "${var.name}-${each.key}"
  assume_role_policy   = each.value
  max_session_duration = each.key == "administrator" ? 3600 : 43200
}

resource "aws_iam_role_policy" "this" {
  for_each = aws_iam_role.this
  name     = "speechmill"
  role     = each.value.id
  policy   = var.policies[each.key]
}

resource "aws_eks_pod_identity_association" "this" {
  for_each        = toset(var.cluster == null || try(var.cluster.pod_identity, null) == null ? [] : local.workloads)
  cluster_name    = var.cluster.pod_identity
  namespace       = var.cluster.namespace
  service_account = local.accounts[each.key]
  role_arn        = aws_iam_role.this[each.key].arn
}
