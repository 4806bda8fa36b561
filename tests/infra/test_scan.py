"""Checkov over modules, rendered policies and Dockerfile: no failed check, and a reason for each that is skipped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tools import INFRA, tool


def scan(folder: Path, *frameworks: str) -> list[dict[str, Any]]:
    """Results, one a framework."""
    options = ["--skip-download", "--compact", "-o", "json"]
    command = [tool("checkov"), "-d", str(folder), "--framework", *frameworks, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    results: list[dict[str, Any]] = found if isinstance(found, list) else [found]
    assert sorted(result["check_type"] for result in results) == sorted(frameworks)
    assert all(result["summary"]["parsing_errors"] == 0 for result in results)
    return results


def test_no_check_fails_and_each_skipped_one_has_a_reason() -> None:
    for result in scan(INFRA, "terraform", "dockerfile"):
        assert [(check["check_id"], check["resource"]) for check in result["results"]["failed_checks"]] == []
        assert result["summary"]["passed"] > {"terraform": 100, "dockerfile": 10}[result["check_type"]]
        reasons = {check["check_result"]["suppress_comment"] for check in result["results"]["skipped_checks"]}
        assert all(len(reason.split()) > 5 for reason in reasons), reasons


def test_no_rendered_policy_fails_a_check_and_a_careless_one_would(outputs: dict[str, Any], tmp_path: Path) -> None:
    """In the modules checkov sees references; here it sees what they become."""
    policies = outputs["policies"]["value"]
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    text = ""
    for role, policy in (policies["roles"] | {"careless": json.dumps(everything)}).items():
        text += f'resource "aws_iam_policy" "{role}" {{\n  policy = <<JSON\n{policy}\nJSON\n}}\n'
    for kind, policy in policies["buckets"].items():
        text += f'resource "aws_s3_bucket_policy" "{kind}" {{\n  bucket = "b"\n  policy = <<JSON\n{policy}\nJSON\n}}\n'
    (tmp_path / "rendered.tf").write_text(text)
    (result,) = scan(tmp_path, "terraform")
    failed = [check["resource"] for check in result["results"]["failed_checks"]]
    assert set(failed) == {"aws_iam_policy.careless"}
    assert len(failed) > 3
    checked = {check["resource"] for check in result["results"]["passed_checks"]}
    assert {f"aws_iam_policy.{role}" for role in policies["roles"]} <= checked
