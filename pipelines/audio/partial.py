"""Decodes recordings that are not one whole file: excerpts or streams of a file, and channels in several files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from manifests.storage import StorageConfig
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.decode import Decoder
from pipelines.audio.files import DEFAULT
from pipelines.audio.hashing import check_sha256
from pipelines.audio.parts import Channels, Part, combined_sha256
from pipelines.audio.probe import check_channels, check_rates
from pipelines.audio.resample import rechunk
from runtime.errors import UnreadableAudioError


class RecordingDecoder(Protocol):
    """The interface of `Decoder`, for recordings of any kind."""

    path: str

    @property
    def sample_rate(self) -> int: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...
    def verify_sha256(self, sha256: str) -> None: ...
    def sha256(self) -> str: ...
    def facts(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


def open_decoder(
    path: str, block_samples: int = 1 << 18, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE
) -> RecordingDecoder:
    """Return the decoder of a recording by its name (see `parts`)."""
    if channels := Channels.parse(path):
        return MultiFileDecoder(path, channels, block_samples, config, decode)
    part = Part.parse(path)
    if part is None:
        return Decoder(path, block_samples, config, decode)
    decoder = Decoder(part.file, block_samples, config, decode, part.stream)
    decoder.path = path
    return decoder if part.end_s is None else ExcerptDecoder(decoder, part)


class ExcerptDecoder:
    """Decodes the samples [start, end) of a file. Both bounds are rounded to the nearest sample.

    It decodes from the beginning of the file, so the samples are the same as when the whole file is decoded.
    """

    def __init__(self, decoder: Decoder, part: Part) -> None:
        self._decoder, self._part, self.path = decoder, part, decoder.path

    @property
    def sample_rate(self) -> int:
        return self._decoder.sample_rate

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from rechunk(self._cut(), self._decoder.block_samples)

    def _cut(self) -> Iterator[np.ndarray]:
        passed = yielded = 0
        for block in self._decoder:
            start, end = (round(edge * self.sample_rate) for edge in (self._part.start_s, self._part.end_s or 0.0))
            cut = block[:, max(0, start - passed) : max(0, end - passed)]
            passed += block.shape[1]
            yielded += cut.shape[1]
            if cut.shape[1]:
                yield cut
            if passed >= end:
                break
        if not yielded:
            what = f"{self.path!r}: the file ends at {passed / self.sample_rate:.3f} s, before the excerpt begins"
            raise UnreadableAudioError(what, "correct the offset in the manifest, then ingest again")

    def facts(self) -> dict[str, Any]:
        """Return the facts of the file, up to the end of the excerpt."""
        return self._decoder.facts()

    def verify_sha256(self, sha256: str) -> None:
        self._decoder.verify_sha256(sha256)

    def sha256(self) -> str:
        return self._decoder.sha256()

    def close(self) -> None:
        self._decoder.close()


class MultiFileDecoder:
    """Decodes several files of the same rate into one recording with the channels of all files, in order.

    A shorter file is padded with silence, which counts as missing sound.
    """

    def __init__(
        self, path: str, channels: Channels, block_samples: int, config: StorageConfig, decode: DecodeConfig
    ) -> None:
        self.path, self._shorter_s = path, 0.0
        self._decoders: list[RecordingDecoder] = []
        try:
            for file in channels.files:
                self._decoders.append(open_decoder(file, block_samples, config, decode))
        except BaseException:
            self.close()
            raise

    @property
    def sample_rate(self) -> int:
        return self._decoders[0].sample_rate

    def __iter__(self) -> Iterator[np.ndarray]:
        sounds = [iter(decoder) for decoder in self._decoders]
        blocks = [next(sound) for sound in sounds]
        check_rates(self.path, [decoder.sample_rate for decoder in self._decoders])
        check_channels(self.path, sum(len(block) for block in blocks))
        lengths = np.zeros(len(blocks), np.int64)
        while longest := max(block.shape[1] for block in blocks):
            lengths += [block.shape[1] for block in blocks]
            yield np.concatenate([np.pad(block, ((0, 0), (0, longest - block.shape[1]))) for block in blocks])
            blocks = [next(sound, block[:, :0]) for sound, block in zip(sounds, blocks, strict=True)]
        self._shorter_s = int(lengths.max() - lengths.min()) / self.sample_rate

    def facts(self) -> dict[str, Any]:
        """Return sums of counts over all files, the first error and format change, and the longest missing time."""
        every = [decoder.facts() for decoder in self._decoders]
        facts = dict(every[0])
        channels = sum(one["channels"] for one in every)
        facts |= {"channels": channels, "channel_layout": f"{channels} channels"}
        for name in ("decode_errors", "format_changes"):
            facts[name] = sum(one[name] for one in every)
        for name in ("decode_error", "format_change"):
            facts[name] = next((one[name] for one in every if one[name]), None)
        facts["filled_s"] = max(one["filled_s"] for one in every)
        facts["breaks_off"] = any(one["breaks_off"] for one in every)
        facts["missing_s"] = max(self._shorter_s, *(one["missing_s"] for one in every))
        if self._shorter_s:
            facts["decode_errors"] += 1
            facts["decode_error"] = facts["decode_error"] or f"its files differ in length by {self._shorter_s:.3f} s"
        return facts

    def verify_sha256(self, sha256: str) -> None:
        """Raise ChangedAudioError unless the bytes of all files, in order, have this sha256 (hex digits)."""
        check_sha256(self.path, self.sha256(), sha256)

    def sha256(self) -> str:
        return combined_sha256([decoder.sha256() for decoder in self._decoders])

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.close()
