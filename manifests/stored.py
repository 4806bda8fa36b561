"""The form in which a shard stores the features of a window: float16, or int8 with a scale and an offset per value.

The `<id>.npy` of an int8 window holds two arrays, one after the other: the features, and float32 (4, [tracks,] 1, dim)
with the scale, the offset, and the root mean square and the maximum of the error of each value. Readers that know
nothing of it load the first array. For them, the manifest in `<id>.json` gives scale and offset as text.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DTYPES = ("float16", "int8")
STEPS = 126
"""Steps from the offset to the furthest value. One of 127 is left, because the offset is rounded."""


class Stored(NamedTuple):
    """The features of a window as they are stored."""

    array: np.ndarray
    """float16 or int8, (frames, dim) for one track, else (tracks, frames, dim)."""
    int8: np.ndarray | None = None
    """For int8: scale, offset, and root mean square and maximum of the error, float32 (4, [tracks,] 1, dim)."""

    @classmethod
    def of(cls, features: np.ndarray, dtype: str) -> Stored:
        """Convert features, float (tracks, frames, dim), to `dtype`. Those of one track are stored without its axis.

        Raises:
            ValueError: A value is not finite, or too large for float16. The scales of int8 are float16, too.
        """
        whole = features[0] if len(features) == 1 else features
        with np.errstate(over="ignore"):
            halves = whole.astype(np.float16)
        if not np.isfinite(halves).all():
            raise ValueError(f"features that {dtype} cannot hold")
        return cls(halves) if dtype == "float16" else _quantised(whole.astype(np.float64))

    @classmethod
    def parse(cls, npy: bytes) -> Stored:
        """Read the bytes of an `<id>.npy`. Raises ValueError if they are none that `to_bytes` writes."""
        file = io.BytesIO(npy)
        try:
            array = np.load(file, allow_pickle=False)
            int8 = np.load(file, allow_pickle=False) if array.dtype == np.int8 else None
        except (EOFError, OSError) as error:
            raise ValueError(str(error)) from error
        wrong = array.dtype not in DTYPES or array.ndim not in (2, 3) or not np.isfinite(array).all()
        if int8 is not None:
            wrong |= int8.dtype != np.float32 or int8.shape != _shape(array) or not np.isfinite(int8).all()
        if wrong or file.read(1):
            raise ValueError(
                f"{array.dtype} {array.shape}, not finite float16, or int8 with its scales, of 2 or 3 axes"
            )
        return cls(array, int8)

    @classmethod
    def view(cls, npy: memoryview, header: Callable[[bytes], tuple[np.dtype, tuple[int, ...]]]) -> Stored:
        """Read the bytes of an `<id>.npy`, whose checksum is right, without copying them.

        Args:
            npy: The bytes.
            header: Parses the header of a .npy file; it may remember what it has parsed.
        """
        array, used = _array(npy, header)
        return cls(array, _array(npy[used:], header)[0] if array.dtype == np.int8 else None)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tracks, frames and values of a frame."""
        tracks, frames, dim = self.array.shape if self.array.ndim == 3 else (1, *self.array.shape)
        return tracks, frames, dim

    def to_bytes(self) -> bytes:
        file = io.BytesIO()
        np.save(file, self.array, allow_pickle=False)
        if self.int8 is not None:
            np.save(file, self.int8, allow_pickle=False)
        return file.getvalue()

    def values(self) -> np.ndarray:
        """Return the features: the array itself if it is float16, else float32 of its shape, without rounding."""
        if self.int8 is None:
            return self.array
        scale, offset = self.int8[:2]
        values: np.ndarray = self.array * scale + offset
        return values

    @property
    def text(self) -> str:
        """Scales, then offsets, as hexadecimal digits of little-endian float16; empty for float16 features."""
        return "" if self.int8 is None else self.int8[:2].astype("<f2").tobytes().hex()

    def squared_errors(self) -> list[int]:
        """Return the sum of the squared errors of each value, over frames and tracks, in units of 2^-48."""
        assert self.int8 is not None
        frames, dim = self.array.shape[-2:]
        squares = np.square(self.int8[2].astype(np.float64)).reshape(-1, dim) * (frames * 2.0**48)
        return [sum(int(square) for square in of_tracks) for of_tracks in np.rint(squares).T]

    def largest_errors(self) -> list[float]:
        """Return the largest error of each value over frames and tracks."""
        assert self.int8 is not None
        largest: list[float] = self.int8[3].reshape(-1, self.array.shape[-1]).max(axis=0).tolist()
        return largest

    def problem(self) -> str | None:
        """Return what is impossible about the scales, offsets and errors of int8; None if nothing is."""
        if self.int8 is None:
            return None
        scale, _, rms, largest = self.int8
        if not (scale > 0).all() or not np.array_equal(self.int8[:2].astype(np.float16), self.int8[:2]):
            return "a scale or an offset is none that is written"
        if not (rms <= largest * 1.001).all() or not (largest <= scale * 0.5001).all():
            return "an error is larger than half a step"
        return None


def _quantised(features: np.ndarray) -> Stored:
    """Quantise each value of the frames, float64 ([tracks,] frames, dim), in equal steps over its range in the window.

    Scales and offsets are float16, and an offset is a multiple of the last bit of its scale and at most 2^12 scales. So
    `array * scale + offset` needs no more than the 24 bits of a float32, and is a whole number of 2^-24, as statistics
    need. The error is at most half a step.
    """
    if not features.shape[-2]:
        return Stored(features.astype(np.int8), np.zeros(_shape(features), np.float32) + np.float32(2.0**-24))
    low, high = features.min(axis=-2, keepdims=True), features.max(axis=-2, keepdims=True)
    middle = (low + high) / 2
    wanted = np.maximum(np.maximum((high - low) / (2 * STEPS), np.abs(middle) / 2**12), 2.0**-24)
    scale = wanted.astype(np.float16)
    scale = np.where(scale < wanted, np.nextafter(scale, np.float16(np.inf)), scale)
    bit = np.spacing(scale).astype(np.float64)
    step = scale.astype(np.float64)
    offset = (np.rint(middle / bit) * bit).astype(np.float16).astype(np.float64)
    whole = np.rint((features - offset) / step)
    errors = np.abs(features - (whole * step + offset))
    rms = np.sqrt(np.square(errors).mean(axis=-2, keepdims=True))
    parameters = np.stack([step, offset, rms, errors.max(axis=-2, keepdims=True)]).astype(np.float32)
    return Stored(whole.astype(np.int8), parameters)


def _shape(array: np.ndarray) -> tuple[int, ...]:
    """Return the shape of the second array of an int8 window."""
    return (4, *array.shape[:-2], 1, array.shape[-1])


def _array(npy: memoryview, header: Callable[[bytes], tuple[np.dtype, tuple[int, ...]]]) -> tuple[np.ndarray, int]:
    """Return the first array of a .npy file, without copying it, and the size of both in bytes."""
    begin = 10 + int.from_bytes(npy[8:10], "little")
    dtype, shape = header(bytes(npy[:begin]))
    count = int(np.prod(shape))
    return np.frombuffer(npy, dtype, count, begin).reshape(shape), begin + count * dtype.itemsize
