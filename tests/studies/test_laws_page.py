"""What `speechmill study fit` writes: figures, a page that loads nothing, and JSON as it is documented."""

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner
from documented_json import documented, held, holds, paths
from law_tables import CHINCHILLA, sampled

from pipelines.commands.cli import cli


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups, of which one identifies no law, a run with two evaluations, one that fits badly, and a metric."""
    points = sampled(CHINCHILLA, 0.002)
    rows = ["corpus,params,tokens,loss,flops,accuracy"]
    columns = (points.params.tolist(), points.tokens.tolist(), points.loss.tolist())
    for index, (n, d, loss) in enumerate(zip(*columns, strict=True)):
        loss *= 1.1 if index == 40 else 1
        rows.append(f"web <b>,{n},{d},{loss},{6 * n * d},{1 - loss / 6}")
    rows += [rows[1].rsplit(",", 1)[0] + ",0.4", "web <b>,1e8,1e10,nan,1,1"]
    rows += [f"books,{n}e8,2e9,3.{n},1e18,0.4" for n in range(1, 4)]
    path = tmp_path_factory.mktemp("table") / "runs <i>.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def written(table: Path) -> tuple[dict, str, Path]:
    """The document, the page and the folder of the figures."""
    folder = table.parent
    words = [
        str(table),
        "--by",
        "corpus",
        "--metric",
        "accuracy",
        "--frame-rate",
        "80",
        "--page",
        f"{folder}/page.html",
    ]
    words += ["--plots", str(folder / "figures"), "--starts", "100", "--resamples", "100", "--gamma", "1", "--json"]
    done = CliRunner().invoke(cli, ["study", "fit", *words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), (folder / "page.html").read_text(), folder / "figures"


def test_the_page_runs_one_script_by_its_hash_and_loads_nothing(written: tuple[dict, str, Path]) -> None:
    _, page, _ = written
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert digest.replace("+", "&#43;") in policy[1] or digest in policy[1]
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)


def test_names_are_text_on_the_page(written: tuple[dict, str, Path]) -> None:
    _, page, _ = written
    assert "web &lt;b&gt;" in page
    assert "runs &lt;i&gt;.csv" in page
    assert "<b>" not in page


def test_ids_of_figures_are_unique_and_what_they_refer_to_is_there(written: tuple[dict, str, Path]) -> None:
    _, page, _ = written
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)
    assert "var(--ink)" in page
    assert "#1c2430" not in page.partition("<main>")[2]


def test_figures_are_drawn_for_each_group_that_has_a_law(written: tuple[dict, str, Path]) -> None:
    document, _, folder = written
    names = {path.name for path in folder.iterdir()}
    assert names == {f"web__b_-{name}.svg" for name in ("isoflops", "frontier", "range", "errors", "curvature")}
    for path in folder.iterdir():
        root = ElementTree.parse(path).getroot()
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert len(texts) > 5, path
    refused, fitted = document["fits"]
    assert "too few" in refused["error"]["message"]
    assert [one["line"] for one in fitted["misfits"]["runs"]] == [42]


def test_the_documents_have_the_keys_that_are_documented(
    table: Path, written: tuple[dict, str, Path], tmp_path: Path
) -> None:
    fitted = next(one for one in written[0]["fits"] if "error" not in one)
    of_table = {key: value for key, value in written[0].items() if key != "fits"}
    one = of_table | {key: value for key, value in fitted.items() if key != "group"}
    (tmp_path / "fit.json").write_text(json.dumps(one))
    words = ["study", "plan", "--budgets", "1e21", "--frame-rate", "80", "--json"]
    plain = CliRunner().invoke(cli, words)
    following = CliRunner().invoke(cli, [*words, "--from-fit", str(tmp_path / "fit.json"), "--spend", "3e21"])
    printed = {
        "study fit": set(paths(one)),
        "study plan": {path for done in (plain, following) for path in paths(json.loads(done.stdout))},
    }
    documents = documented()
    for command, found in printed.items():
        unknown = {path for path in found if not any(holds(key, path) for key in documents[command])}
        assert not unknown, (command, unknown)
        missing = {key for key in documents[command] if not any(held(key, path) for path in found)}
        assert missing <= {"unidentified[].*", "warnings[]"}, (command, missing)
