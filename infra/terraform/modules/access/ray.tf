# `ray up` on EC2: workers carry the worker role; the head carries it too and may start and end machines of this cluster.
locals {
  ec2      = "arn:${var.partition}:ec2:${var.region}"
  own      = "${local.ec2}:${local.account}"
  machines = toset(var.ray_on_ec2 ? ["worker", "head"] : [])
  scaling = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Look", Effect = "Allow", Resource = "*" # describing takes no resource
        Action = [for thing in ["Images", "Instances", "InstanceTypes", "KeyPairs", "SecurityGroups", "Subnets", "Vpcs"] : "ec2:Describe${thing}"]
      },
      {
        Sid      = "StartFrom", Effect = "Allow", Action = "ec2:RunInstances"
        Resource = concat(["${local.ec2}::image/*"], [for thing in ["key-pair", "network-interface", "security-group", "subnet", "volume"] : "${local.own}:${thing}/*"])
      },
      {
        Sid       = "Start", Effect = "Allow", Action = "ec2:RunInstances", Resource = "${local.own}:instance/*"
        Condition = { StringEquals = { "aws:RequestTag/ray-cluster-name" = var.name } }
      },
      {
        Sid       = "TagAtStart", Effect = "Allow", Action = "ec2:CreateTags", Resource = ["${local.own}:instance/*", "${local.own}:volume/*"]
        Condition = { StringEquals = { "ec2:CreateAction" = "RunInstances" } }
      },
      {
        Sid       = "TagAndEnd", Effect = "Allow", Resource = "${local.own}:instance/*"
        Action    = ["ec2:CreateTags", "ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances"]
        Condition = { StringEquals = { "aws:ResourceTag/ray-cluster-name" = var.name } }
      },
      {
        Sid       = "LendWorkerRole", Effect = "Allow", Action = "iam:PassRole", Resource = "${local.iam}:role/${var.name}-worker"
        Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
      },
      {
        Sid      = "FindProfile", Effect = "Allow", Action = "iam:GetInstanceProfile"
        Resource = [for machine in ["worker", "head"] : "${local.iam}:instance-profile/${var.name}-${machine}"]
      },
    ]
  })
}

resource "aws_iam_role" "head" {
  count = var.ray_on_ec2 ? 1 : 0
  name  = "${var.name}-head"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "head" {
  #checkov:skip=CKV_AWS_355: only Describe calls are granted on *, which take no resource
  for_each = var.ray_on_ec2 ? { storage = var.policies["worker"], scaling = local.scaling } : {}
  name     = each.key
  role     = aws_iam_role.head[0].id
  policy   = each.value
}

# Machines pull the image; nothing else of the registry is theirs.
resource "aws_iam_role_policy" "pull" {
  for_each = local.machines
  name     = "pull-image"
  role     = each.key == "head" ? aws_iam_role.head[0].id : aws_iam_role.this["worker"].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Sid = "LogIn", Effect = "Allow", Action = "ecr:GetAuthorizationToken", Resource = "*" },
      {
        Sid    = "Pull", Effect = "Allow", Resource = var.image_repository_arn
        Action = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      },
    ]
  })
}

resource "aws_iam_instance_profile" "this" {
  for_each = local.machines
  name     = "${var.name}-${each.key}"
  role     = each.key == "head" ? aws_iam_role.head[0].name : aws_iam_role.this["worker"].name
}
