"""Cluster files against what reads them. KubeRay's schema is in no package: its fields are held against a list."""

from __future__ import annotations

import copy
import json
import secrets
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_clusters import ROOT, TwoNodes, need_namespaces
from small_runs import digests, make_input, run_command
from tools import INFRA, tool

from pipelines.commands.cli import cli
from pipelines.units.engines import Group
from pipelines.units.engines.ray import _pool_sizes

KINDS = ["rayjob", "raycluster"]
# The fields that we use, of ray.io/v1 as in KubeRay's custom resource definitions.
JOB = {
    "entrypoint": str, "submissionMode": str, "backoffLimit": int, "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int, "rayClusterSpec": dict,
}  # fmt: skip
CLUSTER = {
    "rayVersion": str, "authOptions": dict, "enableInTreeAutoscaling": bool, "autoscalerOptions": dict,
    "headGroupSpec": dict, "workerGroupSpecs": list,
}  # fmt: skip
GROUP = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict, "template": dict,
}  # fmt: skip


def documents(kind: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / "ray" / f"{kind}.yaml").read_text()))


def cluster(kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = documents(kind)[1]["spec"]
    return spec["rayClusterSpec"] if kind == "rayjob" else spec


def groups(kind: str) -> list[dict[str, Any]]:
    return [cluster(kind)["headGroupSpec"], *cluster(kind)["workerGroupSpecs"]]


def has(found: dict[str, Any], known: dict[str, type], needed: set[str]) -> None:
    assert needed <= found.keys() <= known.keys()
    for key, value in found.items():
        assert type(value) is known[key], key


@pytest.mark.parametrize("kind", KINDS)
def test_kuberays_fields_are_its_own(kind: str) -> None:
    account, ray = documents(kind)
    assert (ray["apiVersion"], ray["kind"].lower()) == ("ray.io/v1", kind)
    if kind == "rayjob":
        has(ray["spec"], JOB, {"entrypoint", "rayClusterSpec"})
    has(cluster(kind), CLUSTER, {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"})
    assert cluster(kind)["authOptions"] == {"mode": "token"}  # KubeRay knows this, and disabled
    has(cluster(kind)["headGroupSpec"], GROUP, {"rayStartParams", "template"})
    for group in cluster(kind)["workerGroupSpecs"]:
        has(group, GROUP, GROUP.keys())  # type: ignore[arg-type]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(kind):
        assert all(type(value) is str for value in group["rayStartParams"].values())  # ray reads a command line
        assert group["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]


@pytest.mark.parametrize("kind", KINDS)
def test_kubernetes_accepts_every_pod_and_account(kind: str, tmp_path: Path) -> None:
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"p{n}"},
            "spec": copy.deepcopy(group["template"]["spec"]),
        }
        for n, group in enumerate(groups(kind))
    ]
    assert kubernetes(tmp_path, [documents(kind)[0], *pods]) == 0
    pods[0]["spec"]["containers"][0]["resource"] = {}  # a field that Kubernetes does not have
    assert kubernetes(tmp_path, pods) != 0


def kubernetes(folder: Path, resources: list[dict[str, Any]]) -> int:
    """Exit code of kubernetes-validate, which carries the schemas of Kubernetes."""
    file = folder / "resources.yaml"
    file.write_text("\n---\n".join(json.dumps(resource) for resource in resources))
    return subprocess.run([tool("kubernetes-validate"), "--strict", file], capture_output=True).returncode


@pytest.mark.parametrize("kind", KINDS)
def test_pods_hold_no_privilege_and_gpus_are_asked_for_by_the_gpu_group_alone(kind: str) -> None:
    for group in groups(kind):
        spec = group["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        (container,) = spec["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        asked = "nvidia.com/gpu" in container["resources"]["limits"]
        assert asked == (group.get("groupName") == "gpu")


def test_both_kuberay_files_describe_one_cluster() -> None:
    assert cluster("rayjob") == cluster("raycluster")


def test_the_job_finds_room_in_the_least_cluster_and_lets_it_grow() -> None:
    words = documents("rayjob")[1]["spec"]["entrypoint"].split()
    least, most = map(int, words[words.index("--workers") + 1].split(".."))
    machines = [(1, cluster("rayjob")["headGroupSpec"])]
    machines += [(group["minReplicas"], group) for group in cluster("rayjob")["workerGroupSpecs"]]
    nodes = []
    for count, group in machines:
        (container,) = group["template"]["spec"]["containers"]
        cpus = float(group["rayStartParams"].get("num-cpus", container["resources"]["limits"]["cpu"]))
        nodes += [{"Alive": True, "Resources": {"CPU": cpus}}] * count
    assert _pool_sizes([Group("annotate", list)], (least, most), nodes) == [(1, 400)]
    cpu = cluster("rayjob")["workerGroupSpecs"][0]
    assert most == cpu["maxReplicas"] * int(cpu["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])


def test_ray_up_accepts_its_file_and_finds_a_planted_fault() -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    for name, node in config["available_node_types"].items():
        assert node["node_config"]["IamInstanceProfile"]["Name"].endswith("head" if name == "head" else "worker")
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config | {"max_worker": 2})


@pytest.fixture(scope="module")
def milled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with input and recipe, and the digests of the lake that one process makes of it."""
    folder = tmp_path_factory.mktemp("milled")
    make_input(folder, 2)
    subprocess.run(run_command(folder, folder / "whole"), cwd=ROOT, check=True, timeout=300)
    return folder, digests(folder / "whole")


def filled(line: str, folder: Path, lake: Path) -> str:
    """A documented command over that input; nothing but its names is replaced."""
    for word, value in {"cd-slm": folder / "recipe.toml", "RAW/": folder / "in", "LAKE": lake}.items():
        assert f" {word}" in line
        line = line.replace(f" {word}", f" {value}")
    return line


@pytest.mark.slow
def test_kuberays_job_runs_with_the_token_that_kuberay_hands_to_every_container(
    milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    need_namespaces()
    head, cpu, _ = groups("rayjob")
    starts = [
        " ".join([start, *(f"--{key}={value}" for key, value in group["rayStartParams"].items())])
        for start, group in (("ray start --head", head), ("ray start --address=HEAD:6379", cpu))
    ]
    token = secrets.token_hex(16)
    operator = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}  # what it sets for authOptions
    entrypoint = filled(documents("rayjob")[1]["spec"]["entrypoint"], milled[0], tmp_path / "lake")
    with TwoNodes(head=starts[0], other=starts[1], dashboard=True, token=False, env=operator) as nodes:
        printed = nodes.shell(1, f"ray job submit --address http://{nodes.ip}:8265 -- {entrypoint}")
    assert "succeeded" in printed
    assert token not in printed
    assert digests(tmp_path / "lake") == milled[1]


@pytest.mark.slow
def test_ray_ups_cluster_runs_with_the_token_that_is_copied_to_every_machine(
    milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    need_namespaces()
    config = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())
    assert config["file_mounts"] == {"/home/speechmill/.ray/auth_token": "~/.ray/auth_token"}  # which TwoNodes copies
    assert "useradd --create-home --uid 10001 speechmill" in (INFRA / "image" / "Dockerfile").read_text()
    container = dict(option.split(" ")[1].split("=") for option in config["docker"]["run_options"] if "--env" in option)
    head, other = (
        config[f"{role}_start_ray_commands"][-1].replace("$RAY_HEAD_IP", "HEAD") for role in ("head", "worker")
    )
    # Without `ray stop`, which would end every Ray of the machine that both nodes are on.
    head = head.replace(" --autoscaling-config=~/ray_bootstrap_config.yaml", "")  # it would ask AWS for machines
    (line,) = (line for line in (INFRA / "README.md").read_text().splitlines() if line.startswith("ray exec"))
    told = filled(line.split("'")[1], milled[0], tmp_path / "lake")
    with TwoNodes(head=head, other=other, env=container) as nodes:
        nodes.shell(1, told)
    assert digests(tmp_path / "lake") == milled[1]


def test_a_login_shell_of_the_image_finds_what_ray_up_calls() -> None:
    """Debian's login shells forget the PATH of the image; both programs lie where they look all the same."""
    (line,) = (line for line in (INFRA / "image" / "Dockerfile").read_text().splitlines() if "ln -s" in line)
    *programs, folder = line.split("ln -s ")[1].split()
    assert [Path(program).name for program in programs] == ["ray", "speechmill"]
    assert folder.rstrip("/") in ["/usr/local/bin", "/usr/bin", "/bin"]


def test_the_documented_commands_for_beam_hand_its_options_on() -> None:
    blocks = (INFRA / "beam" / "README.md").read_text().split("```")[1::2]
    lines = [shlex.split(block.replace("\\\n", " ")) for block in blocks if block.strip().startswith("speechmill run")]
    runners = []
    for line in lines:
        given = cli.commands["run"].make_context("run", line[2:]).params
        assert (given["recipe"], given["engine"]) == ("my.toml", "beam")
        runners.append(given["beam_options"][:2])
    assert runners == [("--runner", "DataflowRunner"), ("--runner", "FlinkRunner")]
