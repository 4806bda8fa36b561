"""Each recogniser behind its contract: by itself, on what it is for, and on mistakes. Hub weights are not here: models
of random weights in the format of CTC models and of Allosaurus stand for them, and are held against their libraries.
"""

import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import ArraySound

from pipelines.stages import recognisers
from pipelines.stages.recognisers import RECOGNISERS, Phone, Recogniser
from pipelines.stages.recognisers.espeak import parse
from pipelines.stages.recognisers.hama import joined
from runtime import models
from runtime.errors import SpeechmillError

SYMBOLS = ["p", "t", "k", "aː", "ɛ", "iː", "n", "s", "ʃ", "oʊ"]


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wav2Vec2ForCTC with a vocabulary of phones, as transformers saves one."""
    import torch
    from tiny_models import SPEECH
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("ctc")
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *SYMBOLS])}
    torch.manual_seed(1)
    config = Wav2Vec2Config(
        **SPEECH, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        vocab_size=len(vocabulary), pad_token_id=0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    return folder


@pytest.fixture(scope="module")
def allosaurus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Allosaurus as its package reads one, of random weights: 8 kHz, frames of 30 ms, two languages."""
    import torch
    from allosaurus.am.allosaurus_torch import AllosaurusTorchModel

    folder = tmp_path_factory.mktemp("allosaurus")
    network = {"model": "allosaurus", "feat_size": 120, "hidden_size": 8, "layer_size": 1, "proj_size": 0}
    network |= {"phone_size": len(SYMBOLS) + 1, "lang_size_dict": {}}
    features = {
        "model": "mfcc_hires", "backend": "numpy", "sample_rate": 8000, "cmvn": "speaker", "window_size": 0.025,
        "window_shift": 0.01, "feature_window": 3, "dtype": "float32", "cep_size": 40, "bank_size": 40, "low_freq": 40,
        "high_freq": -200, "use_energy": False, "dither": 0.0,
    }  # fmt: skip
    for name, told in {"am": network, "pm": features, "lm": {"model": "phone_ipa", "backend": "numpy"}}.items():
        (folder / f"{name}_config.json").write_text(json.dumps(told))
    (folder / "phone.txt").write_text("".join(f"{symbol} {n + 1}\n" for n, symbol in enumerate(SYMBOLS)))
    (folder / "inventory").mkdir()
    (folder / "inventory/few.txt").write_text("".join(f"{symbol} {n + 1}\n" for n, symbol in enumerate(SYMBOLS[:4])))
    language = {"LanguageName": "Few", "ISO6393": "few", "GlottoCode": "few1234", "phonelists": "few.txt"}
    (folder / "inventory/index.json").write_text(json.dumps([language]))
    torch.manual_seed(0)
    model = AllosaurusTorchModel(Namespace(**network))
    torch.save(model.state_dict(), folder / "model.pt")
    return folder


@pytest.fixture
def load(ctc: Path, allosaurus: Path) -> Callable[..., Recogniser]:
    def loaded(name: str, language: str | None = None) -> Recogniser:
        path = {"ctc": ctc, "allosaurus": allosaurus}.get(name) or models.resolve(str(RECOGNISERS[name].model))[0]
        return recognisers.load(name, path, language, "cpu")

    return loaded


@pytest.mark.parametrize("name", ["hama", "pocketsphinx", "ctc", "allosaurus"])
def test_what_is_heard_depends_on_the_sound_alone(name: str, load: Callable, conversation: Path) -> None:
    """Not on what was heard before, nor on how often: bytes must not depend on the worker."""
    recogniser = load(name)
    speech = ArraySound.from_file(conversation).samples[0][7 * 16000 : 13 * 16000 : 16000 // recogniser.sample_rate]
    rate = recogniser.sample_rate
    first, other = speech[: 3 * rate], speech[3 * rate :]
    before = recogniser.phones(first)
    recogniser.phones(0.1 * other)
    assert recogniser.phones(first) == before
    assert load(name).phones(first) == before
    assert recogniser.phones(other) != before
    assert before == sorted(before, key=lambda phone: phone.start_s)
    assert all(0 <= phone.start_s <= phone.end_s <= 3.1 for phone in before)
    assert all(phone.symbol.strip() for phone in before)


@pytest.mark.parametrize("name", ["hama", "pocketsphinx", "ctc", "allosaurus"])
def test_slivers_silence_and_clipping_are_no_errors(name: str, load: Callable) -> None:
    recogniser = load(name)
    for samples in (np.zeros(0), np.zeros(1), np.full(399, 0.5), np.zeros(16000), np.full(8000, 3.0)):
        phones = recogniser.phones(samples.astype(np.float32))
        assert isinstance(phones, list)
    assert recogniser.phones(np.zeros(3, np.float32)) == []


QUILTER = {
    "hama": "m ɪ s t ɚ k w ɪ l t ɚ ɪ z ð i ə p ɑ s ə l ə v ð ə m ɪ d ə l k l æ s ɪ z æ n d w i ɑ ɹ g l æ d t ə w ɛ l "
    "k ə m h ɪ z g ɑ s p ə l",
    "pocketsphinx": "M IH S T ER K W IH L T ER IH Z DH IY AH P AA S AH L AH V DH AH M IH D AH L K L AE S AH Z AE N D "
    "W IY AA R G L AE D T AH W EH L K AH M HH IH Z G AA S P AH L",
}
"""Mister Quilter is the apostle of the middle classes, and we are glad to welcome his gospel."""


@pytest.mark.recordings
@pytest.mark.parametrize(("name", "error"), [("hama", 0.3), ("pocketsphinx", 0.7)])
def test_real_recognisers_hear_what_is_said(name: str, error: float, load: Callable, recordings: Path) -> None:
    """Phone error below a bound, which the same phones in another order do not meet."""
    from torchaudio.functional import edit_distance

    said = QUILTER[name].split()
    heard = [p.symbol for p in load(name).phones(ArraySound.from_file(recordings / "leopard/test.wav").samples[0])]
    assert edit_distance(said, heard) / len(said) < error
    shuffled = np.random.default_rng(0).permutation(heard).tolist()
    assert edit_distance(said, shuffled) / len(said) > error


def test_ctc_hears_what_the_library_decodes(ctc: Path, load: Callable, conversation: Path) -> None:
    import torch
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    speech = ArraySound.from_file(conversation).samples[0][7 * 16000 : 12 * 16000]
    phones = load("ctc").phones(speech)
    assert len({phone.symbol for phone in phones}) > 2
    given = Wav2Vec2FeatureExtractor.from_pretrained(ctc)(speech, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        logits = Wav2Vec2ForCTC.from_pretrained(ctc).eval()(**given).logits[0]
    tokenizer = Wav2Vec2CTCTokenizer(str(ctc / "vocab.json"), word_delimiter_token="|")
    told = tokenizer.decode(logits.argmax(-1), output_char_offsets=True).char_offsets
    expected = [(one["char"], one["start_offset"], one["end_offset"]) for one in told if one["char"] in SYMBOLS]
    frame_s = 5 / len(logits)
    found = [(phone.symbol, phone.start_s / frame_s, phone.end_s / frame_s) for phone in phones]
    assert found == [(symbol, pytest.approx(start), pytest.approx(end)) for symbol, start, end in expected]


def test_allosaurus_hears_what_its_package_decodes(allosaurus: Path, load: Callable, conversation: Path) -> None:
    import soundfile
    from allosaurus.am.factory import read_am
    from allosaurus.app import Recognizer
    from allosaurus.lm.factory import read_lm
    from allosaurus.pm.factory import read_pm

    speech = ArraySound.from_file(conversation).samples[0][7 * 16000 : 12 * 16000 : 2]
    settings = Namespace(model="x", device_id=-1, lang="ipa", approximate=False, prior=None)
    package = Recognizer(*(read(allosaurus, settings) for read in (read_pm, read_am, read_lm)), settings)
    file = allosaurus.parent / "speech.wav"
    soundfile.write(file, (np.clip(speech, -1, 1) * 32767).round().astype(np.int16), 8000)
    for language in (None, "few"):
        phones = load("allosaurus", language).phones(speech)
        told = package.recognize(str(file), language or "ipa", timestamp=True).splitlines()
        assert [f"{phone.start_s:.3f} {phone.symbol}" for phone in phones] == [
            " ".join(line.split()[::2]) for line in told
        ]
        assert {phone.symbol for phone in phones} <= set(SYMBOLS[: 4 if language else None])
    assert phones
    with pytest.raises(SpeechmillError, match="no inventory of the language 'xyz'"):
        load("allosaurus", "xyz")


def test_the_stage_gives_each_recogniser_sound_at_its_rate(allosaurus: Path, ctc: Path, conversation: Path) -> None:
    from pipelines.stages.phonemes import Phonemes, PhonemesConfig

    sound = ArraySound(ArraySound.from_file(conversation).samples[:, 7 * 16000 : 13 * 16000])
    known = {"vad": {"segments": [{"track": 0, "start_s": 0.5, "end_s": 5.5}]}}
    for name, model in {"allosaurus": allosaurus, "ctc": ctc}.items():
        stage = Phonemes(PhonemesConfig(name, str(model)))
        stage.setup()
        (stretch,) = stage.annotate(sound, known)["stretches"]
        assert 4000 < stretch["starts_ms"][-1] < 5700  # twice or half of that at another rate


@pytest.mark.parametrize("name", [name for name in RECOGNISERS if name not in ("hama", "espeak")])
def test_a_folder_that_holds_no_such_model_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError) as told:
        recognisers.load(name, tmp_path, None, "cpu")
    assert str(tmp_path) in str(told.value)
    assert told.value.remedy


def test_weights_of_allosaurus_run_no_code(allosaurus: Path, tmp_path: Path) -> None:
    import pickle

    import torch

    shutil.copytree(allosaurus, tmp_path / "evil")
    torch.save({"x": subprocess.Popen}, tmp_path / "evil/model.pt")
    with pytest.raises(pickle.UnpicklingError):
        recognisers.load("allosaurus", tmp_path / "evil", None, "cpu")


def test_marks_of_hama_belong_to_the_phone_before_them() -> None:
    tokens = [
        Phone(symbol, at / 10, at / 10 + 0.1) for at, symbol in enumerate(["̪", "d", "̪", "oʊ", ",", "t", "ʰ", "ː"])
    ]
    assert [(p.symbol, round(p.start_s, 1), round(p.end_s, 1)) for p in joined(tokens)] == [
        ("d̪", 0.1, 0.3), ("oʊ", 0.3, 0.4), ("tʰː", 0.5, 0.8)
    ]  # fmt: skip


@given(st.text())
def test_any_output_of_espeak_is_phonemes_or_nothing(text: str) -> None:
    assert all(symbol and not set(symbol) & set(" _\n\tˈˌ") for symbol in parse(text))


def test_the_output_of_espeak_is_read_as_it_was_written() -> None:
    """Lines of espeak-ng 1.51: `espeak-ng -q -v en --ipa --sep=_`, and German with an English word."""
    assert parse("h_ə_l_ˈoʊ w_ˈɜː_l_d\n") == ["h", "ə", "l", "oʊ", "w", "ɜː", "l", "d"]
    assert parse(" d_eː_ɾ\n k_ə_m_p_j_ˈuː_t_ɜ (en)k_ˈuː_l(de)") == [
        "d", "eː", "ɾ", "k", "ə", "m", "p", "j", "uː", "t", "ɜ", "k", "uː", "l"
    ]  # fmt: skip


def test_a_missing_espeak_is_told(load: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpeechmillError, match="espeak-ng is not installed") as told:
        load("espeak", "en")
    assert "apt-get install espeak-ng" in told.value.remedy


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
@pytest.mark.recordings
def test_whisper_and_espeak_read_what_is_said(load: Callable, recordings: Path) -> None:
    heard = load("espeak", "en").phones(ArraySound.from_file(recordings / "leopard/test.wav").samples[0])
    assert "".join(phone.symbol for phone in heard).startswith("mɪstəkwɪltə")
    assert heard == load("espeak", "en").phones(ArraySound.from_file(recordings / "leopard/test.wav").samples[0])
    with pytest.raises(SpeechmillError, match="does not read"):
        load("espeak", "ja")
    with pytest.raises(SpeechmillError, match="voice 'qqq'"):
        load("espeak", "qqq")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
def test_text_cannot_give_espeak_phonemes_or_options(load: Callable) -> None:
    read = load("espeak", "en")._read
    assert parse(read("[[t'Est]]")) == parse(read("t'Est"))
    assert parse(read("--voices")) == parse(read("voices"))
    assert parse(read("\n  ")) == []


def test_recognisers_are_loaded_without_those_that_are_not_used() -> None:
    """Importing the stage imports none of the packages."""
    code = "import sys, pipelines.stages.phonemes; print({'hama', 'pocketsphinx', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
