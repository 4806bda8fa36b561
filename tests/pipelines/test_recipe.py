"""A recipe is typed: what it says wrongly is told when it is read, with what to write."""

from pathlib import Path

import pytest

from pipelines.recipes import recipe
from runtime.errors import RecipeError

SPLITS = ['"../../../x"', '"a/b"', '"."', '""', '"/tmp/x"', '"a\\u0000b"', '"a b"', '"é"', '"-a"', f'"{"a" * 65}"']
WRONG = [
    *(f"select.splits={{{split}=1.0}}" for split in SPLITS),
    'select.splits={"Train"=0.5,"train"=0.5}',
    "select.splits={a=nan}",
    "select.splits={}",
    "select.splits=5",
    'select.splits={a="x"}',
    *(f"select.splits={{{split}=1.0}}" for split in ("windows", "commits", "Versions")),
    "select.grid_s=0.0001",
    "select.continuation_s=1e-300",
    'select.recordings={""="true"}',
    'select.recordings={"a\\u001bb"="true"}',
    'select.windows={"a b"="true"}',
    'select.recordings={duplicate="true"}',
    "name=../x",
    'name=""',
    "name=5",
    "encode.encoder=../../os",
    "encode.encoder=5",
    "encode.settings=5",
    "encode.settings.num_mels=x",
    "encode.settings.num_mels=1000000000",
    "encode.settings.n_fft=1000000000",
    "annotate=5",
    "annotate.vad=5",
    "annotate.piece_hours=nan",
    "annotate.piece_hours=1e-300",
    "annotate.piece_hours=1e300",
    "decode.memory_gb=1e30",
    "storage.timeout_s=1e30",
    "ingest.max_tar_headers=1000000000000000000000000000000",
    "annotate.diarize.trust=maybe",
    "max_failed_share=x",
    "max_failed_share=2",
    'ingest.batch_hours="1"',
    "ingest.batch_hours=true",
    "ingest.source=\udc80",
    'ingest.source=""',
    'ingest.source="\\u001b[31m"',
    f"ingest.licence={'x' * 201}",
    "select.context_s=inf",
    "select.recordings={a=1}",
    "storage.concurrency=1.5",
    "storage.endpoint_url=https://user:password@host/",
]


@pytest.mark.parametrize("override", WRONG, ids=ascii)
def test_a_wrong_value_is_told_with_a_remedy(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load("demo", (override,))
    assert caught.value.remedy
    assert "password@" not in str(caught.value)


def test_datasets_of_two_encoders_differ_by_more_than_capitals() -> None:
    tables = {"a": {"encoder": "logmel"}, "A": {"encoder": "logmel"}}
    with pytest.raises(RecipeError, match="more than capitals"):
        recipe.parse({"name": "r", "annotate": {"vad": {}}, "encode": tables})


def test_a_recipe_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(RecipeError, match="not TOML"):
        recipe.load(str(tmp_path / "r.toml"))


def test_names_of_usual_forms_are_taken() -> None:
    loaded = recipe.load("demo", ("name=CD-SLM_2", "select.splits={train=0.9, dev_other=0.05, test-1=0.05}"))
    assert (loaded.name, list(loaded.select.splits)) == ("CD-SLM_2", ["train", "dev_other", "test-1"])
