"""Text that goes out: whatever names, labels and servers hold, no terminal obeys it."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner
from lakes import rules, write_lake

from manifests import schemas
from manifests.output import IN_WORDS, one_line, printable, to_json
from manifests.select import select
from pipelines.commands.cli import cli

EVIL = "\x1b]0;owned\x07\x1b[31m\x1b[2J\x9b31m\x85\r\x7f\u202egnp.\u2066\u200b\ufeff\U000e0041"
EVIL += "[red]bold[/red]\nremedy: none"
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def is_safe(text: str) -> bool:
    return not any(unicodedata.category(c) in UNSEEN and c not in IN_WORDS + "\n\t" for c in text)


def test_every_character_that_is_not_seen_is_escaped_and_every_other_stays() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in UNSEEN and character not in IN_WORDS:
            assert one_line(character).isascii()
            assert one_line(character).startswith("\\")
        else:
            assert one_line(character) == character


def test_lines_stay_lines_and_names_stay_on_one() -> None:
    assert printable("a\n\tb\x1b") == "a\n\tb\\x1b"
    assert one_line("a\n\tb") == "a\\x0a\\x09b"


def test_words_of_every_language_stay_as_they_are() -> None:
    for name in ("Grüße.wav", "会話 1.wav", "می\u200cخواهم.wav", "क्\u200dष.wav", "مكالمة.wav", "👩\u200d🚀.wav"):
        assert one_line(name) == name


@pytest.mark.parametrize("text", [EVIL, "\ud800 half", "ä" * 3, "\u2028", "\\x1b", '"', "\U000e0041"])
def test_json_is_equal_and_holds_nothing_to_obey(text: str) -> None:
    value = {text: [text, 1.5, None]}
    for indent in (None, 1):
        written = to_json(value, indent=indent)
        assert json.loads(written) == value
        assert is_safe(written)
        written.encode()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake in which names, sources, licences, errors, speakers and rules try to steer the terminal."""
    batch = [
        {"id": "a1", "duration_s": 41.0, "speech": [(0, 9), (20, 40)]},
        {"id": "b2", "duration_s": 7.0, "ingest_error": EVIL},
    ]
    made = write_lake(tmp_path_factory.mktemp("lakes") / "lake", [batch])
    key = made.recordings_key("batch-000000")
    rows = made.read(key).to_pylist()
    hurt = {"uris": [f"/in/{EVIL}.wav"], "source": EVIL, "licence": EVIL, "error": EVIL, "remedy": EVIL, "codec": EVIL}
    made.write(key, schemas.table([row | hurt for row in rows], schemas.RECORDINGS))
    select(made, rules(recordings={EVIL.replace("\n", " "): "duration_s > 100"}))
    return str(made.storage.root)


COMMANDS = [
    ["head", "LAKE"],
    ["head", "LAKE", "--view", "recordings", "--columns", "uris, source, error, remedy"],
    ["head", "LAKE", "--view", "verdicts"],
    ["head", "LAKE/recordings/batch-000000.parquet", "--columns", "recording_id, source"],
    ["head", "LAKE", "--where", f"'{EVIL}' = 1"],
    ["show", "LAKE", "a1"],
    ["show", "LAKE", "b2"],
    ["show", "LAKE", EVIL],
    ["stats", "LAKE"],
    ["stats", "LAKE", "--view", "recordings", "--by", "source, licence"],
    ["stats", "LAKE", "--histogram", "source"],
    ["query", "LAKE", "SELECT uris, source, licence, error FROM recordings"],
    ["query", "LAKE", f'SELECT 1 AS "{EVIL}"'],
    ["query", "LAKE", f"SELECT {EVIL}"],
    ["funnel", "LAKE"],
    ["what-if", "LAKE", "--rule", "speech_share > 0.9"],
    ["what-if", "LAKE", "--rule", f"x = '{EVIL}'"],
    ["diff", "LAKE", "LAKE/selections/sel"],
    ["validate", "LAKE"],
    ["head", f"/nowhere/{EVIL}"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:30].encode("ascii", "replace").decode())
@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_passes_on_what_a_terminal_obeys(lake: str, words: list[str], as_json: bool) -> None:
    done = CliRunner().invoke(cli, ["manifest", *(word.replace("LAKE", lake) for word in words), *["--json"] * as_json])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.output
    assert is_safe(done.output)
    # A long value is folded anywhere, and so may begin a line with any of its words.
    assert words[0] == "show" or not any(line.startswith("remedy: none") for line in done.output.splitlines())


def test_data_in_a_file_is_as_it_is(lake: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    query = "SELECT source FROM recordings LIMIT 1"
    CliRunner().invoke(cli, ["manifest", "query", lake, query, "--format", "csv", "-o", str(out)])
    assert EVIL in out.read_bytes().decode()


def test_markup_of_the_terminal_library_in_a_name_is_text(lake: str) -> None:
    shown = CliRunner().invoke(cli, ["manifest", "show", lake, "a1"]).output
    assert "[red]bold[/red]" in shown.replace("\n", "").replace(" ", "")
