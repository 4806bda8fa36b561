"""Sound of simulated conversations: every utterance is where the truth says, through rooms, calls and codecs."""

import dataclasses
import itertools
from collections.abc import Iterator

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import correlate, welch

from pipelines.simulate.bank import Bank, Noise, Voice, sound_path
from pipelines.simulate.beds import BLOCK, pink
from pipelines.simulate.channels import CODECS, band_passed, check_codecs, coded
from pipelines.simulate.mix import bed_of, gain, mixed, overlap_added, speech_of
from pipelines.simulate.rooms import Room
from pipelines.simulate.scene import Scene, conversation
from pipelines.simulate.settings import Settings, settings_of
from pipelines.simulate.turns import Schedule
from pipelines.simulate.utterances import utterances
from runtime.errors import OverrideError, SpeechmillError

RATE = 16000
BUILT_IN = {"pcm_mulaw", "pcm_alaw", "g722"}
"""Encoders of FFmpeg's own."""
DRY = Settings(rooms=("dry",), beds=("none",), minutes=(0.5, 0.5), level_spread_db=0)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Ten voices of 30 s, whose speech is noise that no two share, and a file of noise."""
    folder = tmp_path_factory.mktemp("bank")
    rng = np.random.default_rng(0)
    voices, rms = [], {}
    for number in range(10):
        name = f"voice{number}"
        sound = np.zeros(30 * RATE, np.float32)
        edges = np.sort(rng.choice(np.arange(1000, len(sound), 4000), 24, replace=False)).tolist()
        stretches = list(zip(edges[::2], edges[1::2], strict=True))
        for start, stop in stretches:
            sound[start:stop] = 0.1 * rng.normal(size=stop - start)
        soundfile.write(sound_path(folder, name, RATE), sound, RATE, "FLOAT", format="W64")
        rms[name] = 0.1
        voices.append(Voice(name, tuple(utterances(name, stretches, len(sound), RATE))))
    noise = rng.uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)
    soundfile.write(sound_path(folder, "noise", RATE), noise, RATE, "FLOAT", format="W64")
    rms["noise"] = float(np.sqrt(np.mean(noise**2)))
    return Bank(folder, RATE, tuple(voices), (Noise("noise", len(noise)),), rms)


def together(blocks: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(blocks), axis=-1)


def with_settings(bank: Bank, number: int = 0, **changed: object) -> tuple[Scene, Schedule]:
    return conversation(dataclasses.replace(DRY, **changed), bank, number)


@pytest.mark.parametrize("speakers", [1, 2, 8])
def test_without_room_and_codec_the_placed_utterances_are_all_there_is_but_the_bed(bank: Bank, speakers: int) -> None:
    scene, said = with_settings(bank, speakers=(speakers, speakers), beds=("pink",))
    assert len({one.speaker for one in said.placed}) == speakers
    left = together(mixed(scene, said.placed, bank))[0].astype(np.float64)
    for one in said.placed:
        start, stop = one.sound
        dry = bank.read(one.utterance.recording_id, start, stop) * np.float32(gain(-26.0))
        if one.broken_off:
            fade = min(len(dry), 320)
            dry[len(dry) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        left[one.sound_start : one.sound_start + len(dry)] -= dry[: max(0, scene.num_samples - one.sound_start)]
    under = bed_of(scene, 0, bank)
    assert under is not None
    bed = together(itertools.islice(under, 1 + scene.num_samples // BLOCK))[: scene.num_samples]
    assert np.abs(left - bed).max() < 1e-6
    assert np.sqrt(np.mean(bed**2)) == pytest.approx(gain(-26.0 - scene.bed.snr_db), rel=0.1)


def test_speech_is_heard_just_where_the_truth_says(bank: Bank) -> None:
    """The voices are digital silence between their stretches of speech."""
    scene, said = with_settings(bank, speakers=(3, 3))
    mix = together(mixed(scene, said.placed, bank))[0]
    spoken = np.zeros(scene.num_samples, bool)
    for one in said.placed:
        for start, stop in one.speech():
            spoken[start:stop] = True
            assert np.any(mix[start : start + 3])
    assert not np.any(mix[~spoken])
    assert np.mean(mix[spoken] != 0) > 0.999
    assert 0.3 < spoken.mean() < 0.99


def test_level_is_that_of_each_speaker(bank: Bank) -> None:
    scene, said = with_settings(bank, speakers=(2, 2), level_spread_db=6.0)
    assert scene.speakers[0].level_db != scene.speakers[1].level_db
    for number, speaker in enumerate(scene.speakers):
        whole = [one for one in said.placed if one.speaker == number and not one.broken_off]
        sound = together(speech_of(scene, whole, bank, 0))
        heard = np.concatenate([sound[start:stop] for one in whole for start, stop in one.speech()])
        assert 20 * np.log10(np.sqrt(np.mean(heard**2))) == pytest.approx(-26 + speaker.level_db, abs=0.3)


def test_each_side_of_a_call_is_heard_on_the_other_one_quieter_and_later(bank: Bank) -> None:
    scene, said = with_settings(bank, channels=2, leak_db=(30.0, 30.0), leak_ms=(20.0, 20.0), rooms=("dry", "small"))
    mix = together(mixed(scene, said.placed, bank))
    own = np.stack([together(speech_of(scene, said.placed, bank, channel)) for channel in (0, 1)])
    assert all(np.any(side) for side in own)
    late = round(0.02 * RATE)
    for channel in (0, 1):
        leaked = mix[channel] - own[channel]
        assert not np.any(leaked[:late])
        np.testing.assert_allclose(leaked[late:], own[1 - channel][:-late] * 10**-1.5, atol=1e-6)
    assert {scene.speakers[one.speaker].channel for one in said.placed} == {0, 1}


@pytest.mark.parametrize("name", ["mulaw", "alaw", "gsm", "amr", "opus", "g722"])
def test_codecs_keep_time_and_length_and_cut_the_band(name: str) -> None:
    if CODECS[name].encoder not in av.codecs_available | BUILT_IN:
        with pytest.raises(SpeechmillError, match=CODECS[name].encoder):
            check_codecs([name])
        return
    check_codecs([name])
    rate = 24000
    rng = np.random.default_rng(1)
    sound = 0.1 * rng.normal(size=(1, 3 * rate + 17)).astype(np.float32)
    sound *= np.repeat(rng.uniform(0, 1, 101), sound.shape[1] // 100 + 1)[: sound.shape[1]].astype(np.float32)
    out = together(coded(iter([sound[:, :30_000], sound[:, 30_000:]]), rate, name))
    assert out.shape == sound.shape
    band = together(band_passed(iter([sound]), rate, CODECS[name].band_hz))
    lag = int(np.argmax(correlate(out[0], band[0]))) - (sound.shape[1] - 1)
    assert abs(lag) <= 2  # a sample of the codec is up to three of the sound
    frequencies, power = welch(out[0], rate, nperseg=1024)
    low, high = CODECS[name].band_hz
    inside = power[(frequencies > 1.5 * low) & (frequencies < 0.8 * high)].mean()
    assert power[(frequencies > high + 700)].mean() < 0.01 * inside


def test_a_band_pass_takes_its_delay_back_however_blocks_are_cut() -> None:
    rng = np.random.default_rng(2)
    sound = rng.normal(size=(2, 20_000)).astype(np.float32)
    whole = together(band_passed(iter([sound]), RATE, (300.0, 3400.0)))
    parts = together(band_passed(iter(np.split(sound, [100, 101, 9000], axis=1)), RATE, (300.0, 3400.0)))
    assert whole.shape == sound.shape
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    impulse = np.zeros((1, 4000), np.float32)
    impulse[0, 2000] = 1
    assert np.argmax(np.abs(together(band_passed(iter([impulse]), RATE, (300.0, 3400.0))))) == 2000


@pytest.mark.parametrize(("volume_m3", "rt60_s", "distance_m"), [(50, 0.3, 0.5), (1000, 1.2, 3.0)])
def test_rooms_have_their_reverberation_time_and_direct_to_reverberant_ratio(
    volume_m3: float, rt60_s: float, distance_m: float
) -> None:
    room = Room("any", volume_m3, rt60_s)
    response = room.response(distance_m, RATE, np.random.default_rng(0)).astype(np.float64)
    ratio_db = 10 * np.log10(response[0] ** 2 / np.sum(response[1:] ** 2))
    assert ratio_db == pytest.approx(20 * np.log10(0.057 * np.sqrt(volume_m3 / rt60_s) / distance_m), abs=0.01)
    assert np.sum(response**2) == pytest.approx(1, abs=1e-4)
    # Schroeder's backward integration: the decay from -5 to -35 dB, doubled, is the reverberation time.
    tail = response[1:]
    decay_db = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2))
    assert 2 * (np.argmax(decay_db < -35) - np.argmax(decay_db < -5)) / RATE == pytest.approx(rt60_s, rel=0.1)


def test_reverberation_follows_speech_and_moves_no_onset(bank: Bank) -> None:
    scene, said = with_settings(bank, rooms=("medium",))
    wet = together(speech_of(scene, said.placed, bank, 0))
    first = said.placed[0]
    assert not np.any(np.abs(wet[: first.sound_start]) > 1e-7)
    assert np.abs(wet[first.start : first.start + 3]).max() > 1e-4


def test_pink_noise_falls_by_three_decibels_an_octave() -> None:
    noise = together(itertools.islice(pink(np.random.default_rng(0)), 8))
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, rel=0.1)
    frequencies, power = welch(noise, RATE, nperseg=4096)
    inside = (frequencies > 50) & (frequencies < 5000)
    slope = np.polyfit(np.log2(frequencies[inside]), 10 * np.log10(power[inside]), 1)[0]
    assert slope == pytest.approx(-3, abs=0.3)


@pytest.mark.parametrize("bed", ["babble", "files"])
def test_beds_lie_under_the_speech_at_their_level(bank: Bank, bed: str) -> None:
    scene, said = with_settings(bank, beds=(bed,), snr_db=(20.0, 20.0))
    mix = together(mixed(scene, said.placed, bank))[0]
    under = mix - together(speech_of(scene, said.placed, bank, 0))
    level_db = 20 * np.log10(np.sqrt(np.mean(under**2)))
    assert -50 < level_db < -45.5  # -46 dB, or less where the voices of babble pause
    speaking = {speaker.voice for speaker in scene.speakers}
    assert not speaking & {voice.name for voice in scene.bed.voices}


def test_sounds_are_added_across_blocks() -> None:
    rng = np.random.default_rng(3)
    starts = sorted(rng.integers(0, 3 * BLOCK, 40).tolist())
    sounds = [rng.normal(size=int(rng.integers(1, 2 * BLOCK))).astype(np.float32) for _ in starts]
    count = 3 * BLOCK + 1234
    plain = np.zeros(6 * BLOCK)
    for start, sound in zip(starts, sounds, strict=True):
        plain[start : start + len(sound)] += sound
    blocks = list(overlap_added(zip(starts, sounds, strict=True), count))
    assert [len(block) for block in blocks] == [BLOCK] * 3 + [1234]
    np.testing.assert_allclose(np.concatenate(blocks), plain[:count], atol=1e-4)


def test_a_conversation_depends_on_its_seed_side_and_number_alone(bank: Bank) -> None:
    scene, said = with_settings(bank, 3, rooms=("small",))
    again, said_again = with_settings(bank, 3, rooms=("small",))
    assert (scene, said) == (again, said_again)
    np.testing.assert_array_equal(together(mixed(scene, said.placed, bank)), together(mixed(again, said.placed, bank)))
    for other in (with_settings(bank, 4), with_settings(bank, 3, seed=1), with_settings(bank, 3, side="test")):
        assert other[1] != said


@pytest.mark.parametrize(
    ("settings", "override", "named"),
    [
        ({"speakers": (1, 9)}, (), "speakers"),
        ({"minutes": (2.0, 1.0)}, (), "minutes"),
        ({}, ("turns.hold=2",), "hold"),
        ({}, ("turns.offset_sd_s=-1",), "offset_sd_s"),
        ({}, ("turns.nonsense=1",), "nonsense"),
        ({}, ("snr_db=3",), "snr_db"),
        ({}, ("leak_db=[1.0]",), "leak_db"),
        ({}, ("rate=nan",), "rate"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(
    settings: dict[str, object], override: tuple[str, ...], named: str
) -> None:
    with pytest.raises(OverrideError, match=named):
        settings_of(settings, override)
