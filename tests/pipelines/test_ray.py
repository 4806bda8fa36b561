"""Ray as anybody has it who has set nothing: the documented commands, its tokens, and what a lost node costs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import speechmill
from ray_clusters import ROOT, TwoNodes, alone, documented, need_namespaces
from small_runs import digests, make_input, run_words

from pipelines.units.engines import Engine
from runtime.errors import SpeechmillError


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    """Two nodes that the documented commands start, with a dashboard for jobs; the second has a GPU by name."""
    need_namespaces()
    with TwoNodes(0, 1, dashboard=True) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def milled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with input and recipe, and the digests of the lake that one process makes of it."""
    folder = tmp_path_factory.mktemp("milled")
    make_input(folder, 3)
    assert speechmill(*run_words(folder, folder / "whole")).returncode == 0
    return folder, digests(folder / "whole")


def filled(line: str, folder: Path, lake: Path) -> str:
    """A command of docs/operating.md over that input."""
    given = {"RECIPE": folder / "recipe.toml", "s3://raw/": folder / "in", "s3://lake/lake": lake, "HEAD": "10.77.0.1"}
    for word, value in given.items():
        line = line.replace(word, str(value))
    return line


@pytest.mark.slow
@pytest.mark.parametrize("line", ["--ray-address HEAD:6379", "ray job submit"])
def test_the_documented_commands_make_the_lake_of_one_process_and_print_no_error_of_ray(
    line: str, cluster: TwoNodes, milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, expected = milled
    printed = cluster.shell(1, filled(documented(line), folder, tmp_path / "lake"))
    assert digests(tmp_path / "lake") == expected
    assert "object store" not in printed
    assert "InvalidAuthToken" not in printed
    token = (cluster.homes[0] / ".ray/auth_token").read_text()
    logs = [path.read_text(errors="replace") for path in (tmp_path / "lake/runs").rglob("*") if path.is_file()]
    assert logs
    assert not any(token in text for text in [printed, *logs])


def driver(cluster: TwoNodes, home: Path, address: str | None, **more: str) -> subprocess.CompletedProcess[str]:
    """A driver on the first node with a home of its own; where its units were, or the error."""
    env = {key: value for key, value in cluster.env.items() if key != "HOME"} | {"HOME": str(home)} | more
    said = f"import sys; sys.argv[1:] = [{address!r}]; import where; where.told()"
    words = cluster.inside(1, sys.executable, "-c", said)
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["home", "variable", "path", "mode", "auto", "RAY_ADDRESS"])
def test_a_driver_brings_its_token_from_wherever_ray_looks_for_one(
    where: str, cluster: TwoNodes, tmp_path: Path
) -> None:
    file = cluster.homes[0] / ".ray/auth_token"
    more, home, address = {}, cluster.homes[0], cluster.address
    if where == "variable":
        more, home = {"RAY_AUTH_TOKEN": file.read_text()}, tmp_path
    elif where == "path":
        more, home = {"RAY_AUTH_TOKEN_PATH": str(file)}, tmp_path
    elif where == "mode":
        more = {"RAY_AUTH_MODE": "token"}
    elif where == "auto":
        address = "auto"
    elif where == "RAY_ADDRESS":
        more, address = {"RAY_ADDRESS": address}, None
    done = driver(cluster, home, address, **more)
    assert done.stdout.startswith("[['10.77.0."), done.stdout + done.stderr
    assert file.read_text() not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "token", "what", "remedy"),
    [
        ({}, "", "asks for a token, and none is in RAY_AUTH_TOKEN, in a file", "`ray get-auth-token`"),
        ({}, "0" * 64, "refuses the token in ~/.ray/auth_token", "`ray get-auth-token`"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "", "refuses the token in RAY_AUTH_TOKEN", "`ray get-auth-token`"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/x"}, "", "or is empty: /nowhere/x", "unset RAY_AUTH_TOKEN_PATH"),
        ({"RAY_AUTH_MODE": "disabled"}, "0" * 64, "asks for a token, but RAY_AUTH_MODE is disabled", "unset"),
    ],
)
def test_a_driver_without_the_right_token_is_told_at_once_where_to_get_it(
    more: dict[str, str], token: str, what: str, remedy: str, cluster: TwoNodes, tmp_path: Path
) -> None:
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text(token)
    done = driver(cluster, tmp_path, cluster.address, **more)
    error, _, advice = done.stdout.partition(" remedy: ")
    assert f"the Ray cluster at {cluster.address} " in error, done.stdout + done.stderr
    assert what in error
    assert remedy in advice
    assert "0" * 64 not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_driver_with_a_token_works_on_a_cluster_that_asks_for_none() -> None:
    need_namespaces()
    start = "ray start --head --num-cpus=1 --object-store-memory=100000000 --include-dashboard=false"
    ask = f'{sys.executable} -c "import where; where.told()"'  # and an address
    script = f"""
        {start} && ray get-auth-token --generate > /dev/null && HEAD=$(hostname -I | cut -d " " -f 1)
        {ask} ${{HEAD:-127.0.0.1}}:6379; {ask} auto; RAY_AUTH_MODE=token {ask} auto
    """
    done = alone("bash", "-c", script)
    told = done.stdout.splitlines()[-3:]
    assert told[:2] == ["[['127.0.0.1']]"] * 2, done.stdout + done.stderr
    assert "RAY_AUTH_MODE is token, but the Ray cluster at auto was started without tokens" in told[2]


def test_an_address_of_ray_client_is_refused_with_the_one_to_give() -> None:
    with pytest.raises(SpeechmillError, match="ray://head:10001 is an address of Ray Client") as caught:
        list(Engine("ray", None, "ray://head:10001").run([1], []))
    assert "HOST:PORT" in caught.value.remedy


@pytest.mark.slow
def test_a_worker_restarts_after_its_node_and_all_that_lay_there_are_gone(cluster: TwoNodes) -> None:
    """Nothing of ours lies in an object store: the worker is made anew from what the cluster knows of it."""
    words = cluster.inside(1, sys.executable, "-c", "import where; where.stored()", cluster.address)
    lines = []
    with subprocess.Popen(words, cwd=ROOT, env=cluster.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if not line.strip().endswith(("10.77.0.2", "control True")):  # Ray prints of the dead node
                continue
            lines.append(line.split())
            if len(lines) == 3:
                cluster.kill(2)
                cluster.start(2)
    assert process.returncode == 0
    *units, control = lines
    assert [place for _, place in units] == ["10.77.0.2"] * 12
    assert {float(kept) for kept, _ in units} == {0.0}
    assert float(control[0]) >= 10_000_000
