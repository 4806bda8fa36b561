"""Under --json an error is one document on stdout, with the exit code that it has without."""

import json
import sys

import pytest
from forked import speechmill

from manifests.corrupt import CorruptFileError
from pipelines.commands.endings import BUG, end


@pytest.mark.parametrize(
    ("words", "code", "kind", "message", "remedy"),
    [
        (
            ["select", "demo", "--lake", "/nowhere/lake"],
            1,
            "SpeechmillError",
            "there is no lake at",
            "speechmill ingest",
        ),
        (["select", "demo", "--lake", "x", "--set", "select.seed=x"], 2, "OverrideError", "select.seed", "--set"),
        (["run", "demo", "--lake", "x"], 2, "MissingParameter", "--in", "see --help"),
        (["manifest", "head", "/nowhere/lake"], 1, "ChoiceError", "there is no /nowhere/lake", "name a lake"),
        (["models", "where", "nope"], 1, "SpeechmillError", "no model 'nope'", "silero-vad"),
    ],
)
def test_an_error_is_a_document(words: list[str], code: int, kind: str, message: str, remedy: str) -> None:
    done = speechmill(*words, "--json")
    assert done.returncode == code, done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert message in error["message"]
    assert remedy in error["remedy"]
    assert done.stderr  # people are told too


@pytest.mark.parametrize(
    ("error", "code", "kind", "remedy"),
    [
        (KeyboardInterrupt(), 130, "KeyboardInterrupt", "run the same command again to resume"),
        (OSError(28, "No space left on device"), 1, "OSError", "free some space"),
        (CorruptFileError.of("selections/s/funnel.json", "is cut"), 1, "CorruptFileError", "speechmill select"),
        (KeyError("https://me:secret@host/x"), 1, "KeyError", BUG),
    ],
)
def test_every_kind_of_end_has_its_document(
    error: BaseException,
    code: int,
    kind: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["speechmill", "run", "--json"])
    with pytest.raises(SystemExit) as left:
        end(error)
    shown = capsys.readouterr()
    told = json.loads(shown.out)["error"]
    assert (left.value.code, told["type"], remedy in told["remedy"]) == (code, kind, True)
    assert "secret" not in shown.out + shown.err
    monkeypatch.setattr(sys, "argv", ["speechmill", "run", "--", "--json"])  # an option of Beam
    with pytest.raises(SystemExit):
        end(error)
    assert capsys.readouterr().out == ""


def test_models_are_listed_as_a_document() -> None:
    listed = json.loads(speechmill("models", "list", "--json").stdout)["models"]
    silero = next(row for row in listed if row["name"] == "silero-vad")
    assert (silero["installed"], silero["remedy"], silero["licence"]) == (True, None, "MIT")
    verified = json.loads(speechmill("models", "verify", "silero-vad", "--json").stdout)["models"]
    assert [(row["name"], row["error"]) for row in verified] == [("silero-vad", None)]
