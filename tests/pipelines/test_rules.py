"""Rules and values of a recipe are told to be wrong before any work: exit code 1, or 2 where a --set is at fault."""

from pathlib import Path

import pytest
from forked import speechmill

from pipelines.recipes import recipe
from runtime.errors import OverrideError, RecipeError

WITHOUT = {name: f"annotate.{name}.enabled=false" for name in ("diarize", "language", "quality")}


@pytest.mark.parametrize("command", ["run", "ingest", "annotate", "select"])
def test_a_broken_rule_is_told_before_a_lake_is_made(tmp_path: Path, conversation: Path, command: str) -> None:
    words = ["--lake", str(tmp_path / "lake"), "--set", 'select.recordings.loud="speech_share >"']
    words += ["--in", str(conversation)] * (command in ("run", "ingest"))
    done = speechmill(command, "demo", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: the rule select.recordings.loud = 'speech_share >' cannot be used: Parser Error" in done.stderr
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        ("select.recordings.r=\"lang = 'en'\"", "'lang', which is not a column of recordings", "did you mean language"),
        ("select.recordings.r='language = \"en\"'", "'en', which is not a column", "single quotes: 'en'"),
        ('select.windows.r="dnsmos_ovrl > 3"', "not a column of windows", "under [select.recordings]"),
        ('select.windows.r="frobnicate > 3"', "not a column of windows", "the columns are: window_id,"),
        ('select.recordings.r="1) OR (COPY x TO y"', "cannot be used", "one complete SQL condition"),
        (WITHOUT["quality"], "reads music_likelihood, which the stage quality", "[annotate.quality]"),
        (WITHOUT["language"], "reads language_confidence, which the stage language", "[annotate.language]"),
        (WITHOUT["diarize"], "select.windows.spoken = 'num_speakers >= 1' reads", "[annotate.diarize]"),
    ],
)
def test_a_rule_over_what_the_recipe_does_not_measure_names_what_to_write(
    override: str, what: str, remedy: str
) -> None:
    with pytest.raises(OverrideError) as caught:
        recipe.load("demo", (override,))
    assert what in str(caught.value)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("select.context_s=two", "select.context_s must be a number of seconds, not 'two'"),
        ("select.context_s=inf", "select.context_s must be a finite number of seconds, not inf"),
        ('select.splits={a="x"}', "select.splits.a must be a number, not 'x'"),
        ("select.windows.few=5", "select.windows.few must be text, not 5"),
        ("annotate.vad.threshold=high", "annotate.vad.threshold must be a number, not 'high'"),
        ("annotate.vad.threshold=3", "annotate.vad.threshold must lie between 0 and 1"),
        ("annotate.diarize.batch_size=1.5", "annotate.diarize.batch_size must be a whole number, not 1.5"),
        ("annotate.quality.enabled=3", "annotate.quality.enabled must be true or false, not 3"),
        ("annotate.language.languages=en", "annotate.language.languages must be a list whose values are text, not"),
        ("annotate.piece_hours=true", "annotate.piece_hours must be a number of hours, at least 0.01, not True"),
        ("ingest.batch_hours=many", "ingest.batch_hours must be a number of hours, not 'many'"),
        ("decode.memory_gb=[]", "decode.memory_gb must be a number of gigabytes, not []"),
        ("max_failed_share=true", "max_failed_share must be a number from 0 to 1, not True"),
        ("storage.retry_s=long", "storage.retry_s must be a number of seconds, not 'long'"),
    ],
)
def test_a_value_of_another_type_is_told_by_its_whole_name(override: str, what: str) -> None:
    with pytest.raises(OverrideError) as caught:
        recipe.load("demo", (override,))
    assert str(caught.value).startswith(what)


def test_what_is_wrong_in_the_recipe_itself_is_no_fault_of_an_override(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[annotate.vad]\n[select.recordings]\nloud = "loudness > 3"\n')
    lake = str(tmp_path / "lake")
    done = speechmill("select", str(path), "--lake", lake, "--set", "select.context_s=5")
    assert (done.returncode, "did you mean loudness_lufs" in done.stderr) == (1, True)
    with pytest.raises(RecipeError) as caught:
        recipe.load(str(path), ("select.context_s=5",))
    assert not isinstance(caught.value, OverrideError)
    mended = 'select.recordings.loud="loudness_lufs > -30"'
    assert recipe.load(str(path), (mended,)).select.recordings == {"loud": "loudness_lufs > -30"}
    assert speechmill("select", str(path), "--lake", lake, "--set", mended, "--set", "select.seed=x").returncode == 2
