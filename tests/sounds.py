"""Sounds for tests: arrays and whole files at 16 kHz, behind the Sound contract of the stages."""

from __future__ import annotations

import importlib.util
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipelines.audio.decode import Decoder
from pipelines.audio.resample import resampled

RECORDINGS = Path(os.environ.get("SPEECHMILL_TEST_AUDIO", Path(__file__).resolve().parents[2] / "shared" / "audio"))
"""Folder of the real test recordings; it may be missing."""


def packaged_conversation() -> Path:
    """30 s of two speakers that ship inside pyannote.audio; found by path, since importing it decodes it."""
    spec = importlib.util.find_spec("pyannote.audio")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "sample" / "sample.wav"


class ArraySound:
    """An array, float32 (tracks, samples) at 16 kHz, as a Sound."""

    sample_rate = 16000

    def __init__(self, samples: np.ndarray, recording_id: str = "test") -> None:
        self.samples = np.atleast_2d(samples).astype(np.float32)
        self.recording_id = recording_id
        self.tracks, self.num_samples = self.samples.shape

    @classmethod
    def from_file(cls, path: Path) -> ArraySound:
        """All channels of a file as tracks."""
        decoder = Decoder(str(path))
        return cls(np.concatenate(list(resampled(decoder, decoder.sample_rate, 16000)), axis=1), path.stem)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.samples[:, start:stop]


def write_coded(
    path: Path,
    samples: np.ndarray,
    sample_rate: int,
    codec: str,
    options: dict[str, str] | None = None,
    start_s: float = 0.0,
    streams: int = 1,
    video_s: int = 0,
    left_out: tuple[tuple[float, float], ...] = (),
) -> None:
    """Samples (channels, n) as a file that FFmpeg writes, in the format that its suffix names.

    The sound starts at `start_s`, `streams` times over, beside `video_s` seconds of a picture if any; packets between
    the times in `left_out` are not written.
    """
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    with av.open(str(path), "w", options=options or {}) as container:
        if video_s:
            video = container.add_stream("mpeg2video", rate=25)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        sounds = [container.add_stream(codec, rate=sample_rate, layout=layout) for _ in range(streams)]
        if codec in ("wmav1", "wmav2"):  # it refuses the bit rate that FFmpeg would take
            for stream in sounds:
                stream.bit_rate = 48_000
        packets = []
        for number in range(25 * video_s):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts = number
            packets += video.encode(frame)
        packets += video.encode(None) if video_s else []
        for stream in sounds:
            fifo = av.AudioFifo()
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.astype(np.float32)), "fltp", layout)
            frame.sample_rate, position = sample_rate, round(start_s * sample_rate)
            for part in av.AudioResampler(stream.format.name, layout, sample_rate).resample(frame):
                part.pts = None
                fifo.write(part)
            while part := fifo.read(stream.codec_context.frame_size or 4096, partial=True):
                part.pts, part.time_base = position, Fraction(1, sample_rate)
                position += part.samples
                packets += stream.encode(part)
            packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            time_s = float(packet.dts * packet.time_base)
            if not any(first <= time_s < last for first, last in left_out):
                container.mux(packet)


def phone_error(reference: np.ndarray, reference_rate: int, sound: np.ndarray, rate: int) -> float:
    """Share of the phones of a reference that a recogniser (hama) hears otherwise, or not, or beside them in `sound`.

    Both are float32 (samples,); what is heard in the reference counts as said.
    """
    import hama
    import soxr
    from torchaudio.functional import edit_distance

    recogniser = hama.ASRModel()
    said, heard = (
        recogniser.transcribe_waveform(soxr.resample(samples, own, 16000), 16000).phonemes
        for samples, own in ((reference, reference_rate), (sound, rate))
    )
    return float(edit_distance(said, heard)) / len(said)
