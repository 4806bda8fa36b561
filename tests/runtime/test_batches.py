"""Batches of windows: halved where memory runs out, with the same results; devices; mixed precision within bounds."""

import functools
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sounds import ArraySound

from pipelines.stages import segmentation, speakers
from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.language import Language, LanguageConfig
from pipelines.stages.segmentation import load_segmentation
from runtime.batches import Batches, batch_calls, resolve_device, run_batched
from runtime.errors import OutOfMemoryError


def full(rows: int, holds: int) -> None:
    if rows > holds:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def stage() -> Diarize:
    made = Diarize(DiarizeConfig())
    made.setup()
    return made


@pytest.fixture(scope="module")
def sound(conversation: Path) -> ArraySound:
    return ArraySound.from_file(conversation)


def of_one_track(chunk: dict) -> dict:
    (track,) = chunk["tracks"]
    return track


@pytest.fixture(scope="module")
def heard(sound: ArraySound) -> dict:
    return of_one_track(stage().annotate_chunk(sound, {}, (0.0, 30.0)))


def holding(model: torch.nn.Module, rows: int) -> list[int]:
    """Let a real model run out of memory beyond `rows` windows in a call; returns the sizes it was called with."""
    forward, sizes = type(model).forward, []

    def limited(given):
        sizes.append(len(given))
        full(len(given), rows)
        return forward(model, given)

    model.forward = limited
    return sizes


def test_diarization_goes_on_with_half_the_batch_and_hears_the_same(
    sound: ArraySound, heard: dict, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, list[int]] = {}

    def small(model, name, most, *rest, **others):
        sizes[name] = holding(model, 3 if name == "diarize, segmentation" else 1)
        return batch_calls(model, name, most, *rest, **others)

    for module in (segmentation, speakers):
        monkeypatch.setattr(module, "batch_calls", small)
    with caplog.at_level(logging.WARNING):
        found = of_one_track(stage().annotate_chunk(sound, {}, (0.0, 30.0)))
    assert sizes["diarize, segmentation"] == [6, 3, 3]
    ended = sizes["diarize, embedding"].index(1)
    assert max(sizes["diarize, embedding"]) > 1
    assert set(sizes["diarize, embedding"][ended:]) == {1}  # it does not try what failed again
    assert caplog.messages[0] == "diarize, segmentation: out of memory with 6 windows in a call, continuing with 3"
    assert [turn[0] for turn in found["turns"]] == [turn[0] for turn in heard["turns"]]
    np.testing.assert_allclose([turn[1:] for turn in found["turns"]], [turn[1:] for turn in heard["turns"]], atol=0.034)
    for label, vector in heard["embeddings"].items():
        np.testing.assert_allclose(found["embeddings"][label], vector, atol=1e-5)


def test_one_window_that_does_not_fit_says_what_to_do() -> None:
    rows = [(np.zeros(1),)] * 6
    with pytest.raises(OutOfMemoryError, match="one window does not fit") as caught:
        Batches("language", 4, lambda rows: full(len(rows), 0))(rows)
    assert "smaller model" in caught.value.remedy
    with pytest.raises(RuntimeError, match="something else"):
        Batches("language", 4, lambda rows: (_ for _ in ()).throw(RuntimeError("something else")))(rows)


def test_float16_changes_who_speaks_in_few_frames(sound: ArraySound) -> None:
    windows = torch.from_numpy(np.stack([sound.samples[:, start : start + 160000] for start in (96000, 160000)]))
    found = {}
    for precision in ("float32", "float16"):
        model = load_segmentation()
        batch_calls(model, "segmentation", 2, precision)
        with torch.inference_mode():
            found[precision] = model(windows)
    assert found["float16"].dtype == torch.float32
    assert not torch.equal(found["float32"], found["float16"])
    # bfloat16, which is not offered, changes 17 to 42 %: the network's first layer hears the waveform itself.
    differ = found["float32"].argmax(dim=-1) != found["float16"].argmax(dim=-1)
    assert differ.float().mean() < 0.02


def test_windows_of_a_recording_in_one_call_of_the_language_model_tell_the_same(sound: ArraySound) -> None:
    windows = [sound.samples[0][start : start + 48000] for start in (192000, 300000, 400000)]
    language = Language(LanguageConfig(batch_size=4))
    language.setup()
    found = {4: language.probabilities(windows)}
    language.batches.most = 1
    found[1] = language.probabilities(windows)
    for one, other in zip(found[1], found[4], strict=True):
        assert max(one, key=one.get) == max(other, key=other.get)
        assert max(abs(one[code] - other[code]) for code in one) < 1e-3


def test_which_recordings_share_a_call_depends_on_them_and_not_on_time() -> None:
    calls: list[list[int]] = []

    def call(rows):
        calls.append([int(number) for (number,) in rows])
        return [number * 10 for (number,) in rows]

    batches = Batches("doubler", 4, call)

    def job(number: int, pause_s: float):
        found = []
        for _ in range(number):  # each makes another number of calls, the last ones alone
            time.sleep(pause_s)
            found += batches([(np.int64(number),)] * 2)
        return found

    for pauses in ((0.0, 0.02, 0.0), (0.02, 0.0, 0.01)):
        calls.clear()
        jobs = [functools.partial(job, number, pause) for number, pause in zip((1, 2, 3), pauses, strict=True)]
        assert run_batched(jobs) == [[10] * 2, [20] * 4, [30] * 6]
        assert calls == [[1, 1, 2, 2], [3, 3], [2, 2, 3, 3], [3, 3]]


def test_what_one_recording_breaks_is_told_to_it_alone() -> None:
    def call(rows):
        if any(number == 2 for (number,) in rows):
            raise FloatingPointError("a window of 2")
        return [number for (number,) in rows]

    batches = Batches("breaking", 8, call)

    def job(number: int):
        try:
            return batches([(np.int64(number),)])
        except FloatingPointError as error:
            return str(error)

    assert run_batched([functools.partial(job, number) for number in (1, 2, 3)]) == [[1], "a window of 2", [3]]
    with pytest.raises(FloatingPointError):  # and one that is not caught ends the others' waiting
        run_batched([functools.partial(batches, [(np.int64(number),)]) for number in (1, 2, 3)])


def test_recordings_diarized_at_once_share_calls_and_are_heard_as_alone(
    sound: ArraySound, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, list[int]] = {}

    def counted(model, name, most, *rest, **others):
        sizes[name] = holding(model, 10**6)
        return batch_calls(model, name, most, *rest, **others)

    for module in (segmentation, speakers):
        monkeypatch.setattr(module, "batch_calls", counted)
    made = stage()
    spans = ((0.0, 30.0), (2.0, 24.0), (5.0, 30.0))
    alone = [of_one_track(made.annotate_chunk(sound, {}, span)) for span in spans]
    calls = {name: len(found) for name, found in sizes.items()}
    jobs = [functools.partial(made.annotate_chunk, sound, {}, span) for span in spans]
    shared = [of_one_track(chunk) for chunk in run_batched(jobs)]
    assert sum(sizes["diarize, segmentation"][: calls["diarize, segmentation"]]) == sum(
        sizes["diarize, segmentation"][calls["diarize, segmentation"] :]
    )
    for name, found in sizes.items():
        assert len(found) - calls[name] < calls[name], name
    for one, other in zip(alone, shared, strict=True):
        assert [turn[0] for turn in one["turns"]] == [turn[0] for turn in other["turns"]]
        np.testing.assert_allclose(
            [turn[1:] for turn in other["turns"]], [turn[1:] for turn in one["turns"]], atol=0.034
        )
        for label, vector in one["embeddings"].items():
            np.testing.assert_allclose(other["embeddings"][label], vector, atol=1e-5)


def test_auto_is_what_this_machine_has_and_is_settled_in_the_configuration() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == device
    for config, kind in ((DiarizeConfig(device="auto"), Diarize), (LanguageConfig(device="auto"), Language)):
        assert config.device == device
        assert kind(config).resources.gpus == (device == "cuda")
    assert Diarize(DiarizeConfig(device="cuda")).resources.gpus == 1
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        resolve_device("tpu")
