"""`PieceEncoder`, the base of encoders whose model is called with batches of equally long pieces of sound.

Windows are cut into pieces, pieces of the same length share batches, and their frames are joined again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from encoders.base import Encoder, WindowSound
from encoders.receptive_field import ReceptiveField
from runtime.batches import Batches, Inputs


class _Piece(NamedTuple):
    sound: np.ndarray
    """float32 (samples,) of one track."""
    skip: int
    """Frames of look-back at its beginning, which are discarded."""
    output: np.ndarray
    """Where its frames are written: a view (frames, dim) of the features of its window."""


class PieceEncoder(Encoder):
    """Base class of encoders whose model takes a batch of equally long pieces, float32 (rows, samples).

    A piece is a whole window of one track with its look-back and look-ahead. A window longer than `max_chunk_s` is cut
    at frame boundaries into several pieces, each with its own look-back and look-ahead.

    A piece never extends beyond the recording, so at both ends of a recording the frames are those of the model on the
    whole file. Zeros are appended in two cases only: where the model needs more samples, and where a piece of a causal
    encoder is shorter than the same piece would be in the middle of a recording, so that both can share a batch. No
    frame that is kept depends on these zeros.

    Every call has `batch` rows of the same length; missing rows are filled with zeros. The shape of the call that
    computes a piece therefore depends on that piece alone.
    """

    max_chunk_s: float
    """Longest part of a window in one piece, seconds."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self._batches: Batches | None = None

    def _set_grid(self, sample_rate: int, dim: int, field: ReceptiveField, max_chunk_s: float) -> None:
        """Set the attributes that `Encoder` declares. Look-back and look-ahead are rounded up to whole frames."""
        hop = field.hop
        self.sample_rate, self.hop_samples, self.dim, self.max_chunk_s = sample_rate, hop, dim, max_chunk_s
        self.look_back_samples, self.look_ahead_samples = -(-field.back // hop) * hop, -(-field.ahead // hop) * hop

    def setup(self) -> None:
        """Load the weights. Each process calls it once, before the first `encode`."""
        self._batches = Batches(self.name, self.batch, self._call, self._free, blank=_blank)

    @abstractmethod
    def _features(self, sounds: np.ndarray) -> np.ndarray:
        """Compute the frames of each row, float32 (rows, frames, dim), from sounds, float32 (rows, samples)."""

    def _free(self) -> None:
        """Release the cached memory of a call that ran out of memory. Nothing is cached on a CPU."""

    def _length(self, samples: int, frames: int) -> int:
        """Return the length to which a piece of `samples` is padded or cut so that the model gives `frames` frames."""
        return max(samples, frames * self.hop_samples)

    def encode(self, windows: Sequence[WindowSound]) -> list[np.ndarray]:
        """See `Encoder.encode`. Also raises ValueError if features are not finite."""
        assert self._batches is not None, "setup() comes before encode()"
        encoded, by_length = [], defaultdict[int, list[_Piece]](list)
        for window in windows:
            self._check_window(window)
            features = np.empty((len(window.sound), window.frames, self.dim), np.float32)
            encoded.append(features)
            for piece in self._pieces(window, features):
                by_length[len(piece.sound)].append(piece)
        for pieces in by_length.values():
            for piece, frames in zip(pieces, self._batches([(piece.sound,) for piece in pieces]), strict=True):
                needed = piece.skip + len(piece.output)
                if len(frames) < needed:
                    raise ValueError(
                        f"{self.name}: the model gave {len(frames)} frames for {len(piece.sound)} samples, but "
                        f"{needed} are needed"
                    )
                piece.output[:] = frames[piece.skip : needed]
        for number, features in enumerate(encoded):
            self._check_finite(features, number, len(encoded))
        return encoded

    def _encode_one(self, window: WindowSound) -> np.ndarray:
        return self.encode([window])[0]

    def _check_window(self, window: WindowSound) -> WindowSound:
        super()._check_window(window)
        if window.before % self.hop_samples:
            raise ValueError(
                f"{self.name}: the {window.before} samples before a window must be a multiple of the hop of "
                f"{self.hop_samples}"
            )
        return window

    def _pieces(self, window: WindowSound, features: np.ndarray) -> list[_Piece]:
        hop, back, pieces = self.hop_samples, self.look_back_samples, []
        longest = max(1, int(self.max_chunk_s * self.frame_rate))
        for first in range(0, window.frames, longest):
            frames = min(longest, window.frames - first)
            start = window.before + first * hop
            begin, end = max(0, start - back), start + frames * hop + self.look_ahead_samples
            skip = (start - begin) // hop
            unpadded = window.sound[:, begin:end]
            length = self._length(unpadded.shape[1], skip + frames)
            if self.causal and self.batch > 1:
                length = max(length, self._length(0, back // hop + min(longest, window.frames)))
            padded = np.pad(unpadded[:, :length], ((0, 0), (0, max(0, length - unpadded.shape[1]))))
            pieces += [
                _Piece(sound, skip, out[first : first + frames]) for sound, out in zip(padded, features, strict=True)
            ]
        return pieces

    def _call(self, rows: Sequence[Inputs]) -> Sequence[np.ndarray]:
        return list(self._features(np.stack([row[0] for row in rows])))

    def _check_finite(self, features: np.ndarray, number: int, windows: int) -> None:
        bad = ~np.isfinite(features).all(axis=2)
        if bad.any():
            track, frame = np.argwhere(bad)[0]
            which = f"window {number + 1} of {windows}: " if windows > 1 else ""
            raise ValueError(
                f"{self.name}: {which}{bad.sum()} of {bad.size} frames contain NaN or infinity, the first at "
                f"{frame / self.frame_rate:.3f} s of track {track}; either the sound contains such values, or the "
                f"model overflows with precision {self.precision!r}"
            )


def _blank(row: Inputs) -> Inputs:
    return tuple(np.zeros_like(part) for part in row)
