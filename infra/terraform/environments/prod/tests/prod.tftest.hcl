mock_provider "aws" {
  source = "../../mocks"
}

mock_provider "aws" {
  alias  = "replica"
  source = "../../mocks"
}

variables {
  budget = { monthly_usd = 20000, emails = ["owner@example.org"] }
}

run "plan" {
  command = plan
}

run "apply" {
  variables {
    people     = { administrator = ["arn:aws:iam::000000000000:user/owner"] }
    cluster    = { namespace = "speech", oidc_issuer = "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE", pod_identity = "speech" }
    github     = { repository = "owner/speechmill" }
    vpc        = { id = "vpc-00000000", route_table_ids = ["rtb-00000000"] }
    ray_on_ec2 = true
  }
  assert {
    condition     = toset(keys(output.roles)) == toset(["ingest", "worker", "reader", "administrator", "ci"])
    error_message = "The cluster's and the CI's roles are made."
  }
  assert {
    condition     = output.instance_profiles == { worker = "speechmill-prod-worker", head = "speechmill-prod-head" }
    error_message = "The machines of `ray up` have profiles."
  }
  assert {
    condition     = strcontains(output.policies.trust["worker"], "system:serviceaccount:speech:speechmill-worker")
    error_message = "The worker role trusts its own service account."
  }
}
