"""Encoders that are called with batches of equal pieces of sound: what is common to neural networks of any kind.

Windows are cut into pieces, pieces of one length fill batches, and the frames are put together again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from encoders.base import Encoder, WindowSound
from encoders.reach import Reach
from runtime.batches import Batches, Inputs


class _Piece(NamedTuple):
    sound: np.ndarray
    """float32 (samples,) of one track."""
    skip: int
    """Frames of look-back ahead of those that are kept."""
    into: np.ndarray
    """Where its frames go: a view (frames, dim) of the features of its window."""


class PieceEncoder(Encoder):
    """Base of encoders whose model takes a batch of equally long pieces, float32 (rows, samples).

    A piece is a whole window of one track with the sound that reaches it, unless the window is longer than
    `max_chunk_s`: it is then cut at whole frames, and each piece takes its look-back and look-ahead from the window.
    A piece begins no earlier and ends no later than the recording, so that at both ends of a recording frames are those
    of the model on the whole file. Zeros follow it only where the model must have more samples and, so that more
    pieces of a causal encoder share a batch, up to the length that the piece would have inside a recording: no frame
    that is kept sees them.

    Each call has the same number of rows, `batch`, which are zero where pieces are lacking, and rows of one length.
    The shape of the call that a piece is in therefore depends on that piece alone.
    """

    max_chunk_s: float
    """Longest stretch of a window in one piece, seconds."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self._batches: Batches | None = None

    def _set_grid(self, sample_rate: int, dim: int, reach: Reach, max_chunk_s: float) -> None:
        """Set what the contract asks for; look-back and look-ahead become whole frames."""
        hop = reach.hop
        self.sample_rate, self.hop_samples, self.dim, self.max_chunk_s = sample_rate, hop, dim, max_chunk_s
        self.look_back_samples, self.look_ahead_samples = -(-reach.back // hop) * hop, -(-reach.ahead // hop) * hop

    def setup(self) -> None:
        """Load the weights. Called once a process, before the first `encode`."""
        self._batches = Batches(self.name, self.batch, self._call, self._free, blank=_blank)

    @abstractmethod
    def _features(self, sounds: np.ndarray) -> np.ndarray:
        """Frames of each row, float32 (rows, frames, dim), of sounds float32 (rows, samples)."""

    def _free(self) -> None:
        """Give back the memory that a call which ran out of it has left in a cache; a CPU keeps none."""

    def _length(self, samples: int, frames: int) -> int:
        """Samples that a piece of `samples` must have for the model to give `frames` frames: zeros make up what is
        lacking, and what is too much is left out."""
        return max(samples, frames * self.hop_samples)

    def encode(self, windows: Sequence[WindowSound]) -> list[np.ndarray]:
        """As `Encoder.encode`; ValueError, too, where features are not finite numbers."""
        assert self._batches is not None, "setup() comes before encode()"
        found, by_length = [], defaultdict[int, list[_Piece]](list)
        for window in windows:
            self._checked(window)
            features = np.empty((len(window.sound), window.frames, self.dim), np.float32)
            found.append(features)
            for piece in self._pieces(window, features):
                by_length[len(piece.sound)].append(piece)
        for pieces in by_length.values():
            for piece, frames in zip(pieces, self._batches([(piece.sound,) for piece in pieces]), strict=True):
                needed = piece.skip + len(piece.into)
                if len(frames) < needed:
                    raise ValueError(
                        f"{self.name}: the model gave {len(frames)} frames of {len(piece.sound)} samples, where "
                        f"{needed} are needed"
                    )
                piece.into[:] = frames[piece.skip : needed]
        for number, features in enumerate(found):
            self._check_finite(features, number, len(found))
        return found

    def _encode_one(self, window: WindowSound) -> np.ndarray:
        return self.encode([window])[0]

    def _checked(self, window: WindowSound) -> WindowSound:
        super()._checked(window)
        if window.before % self.hop_samples:
            raise ValueError(
                f"{self.name}: {window.before} samples before a window are no whole frames of {self.hop_samples}"
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
            given = window.sound[:, begin:end]
            length = self._length(given.shape[1], skip + frames)
            if self.causal and self.batch > 1:
                length = max(length, self._length(0, back // hop + min(longest, window.frames)))
            padded = np.pad(given[:, :length], ((0, 0), (0, max(0, length - given.shape[1]))))
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
                f"{self.name}: {which}{bad.sum()} of {bad.size} frames hold NaN or infinity, the first at "
                f"{frame / self.frame_rate:.3f} s of track {track}; the sound holds such values, or they arise in the "
                f"model with precision {self.precision!r}"
            )


def _blank(row: Inputs) -> Inputs:
    return tuple(np.zeros_like(part) for part in row)
