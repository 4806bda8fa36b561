"""Sounds for tests and benchmarks: where recordings are, and arrays and files with the Sound interface of the
stages."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from pipelines.audio.decode import Decoder
from pipelines.audio.resample import resampled

RECORDINGS = Path(os.environ.get("SPEECHMILL_TEST_AUDIO", Path(__file__).resolve().parents[2] / "shared" / "audio"))
"""Folder of the real test recordings, which may be missing. Its index.tsv describes them."""
INDEX_COLUMNS = (
    "path", "seconds", "rate", "channels", "codec", "language", "n_speakers", "reference", "licence", "source", "split",
)  # fmt: skip


def packaged_conversation() -> Path:
    """Return the 30 s recording of two speakers inside the package pyannote.audio.

    It is found by path, because importing that package decodes it.
    """
    spec = importlib.util.find_spec("pyannote.audio")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "sample" / "sample.wav"


def have_recordings() -> bool:
    """Return whether the real test recordings are there."""
    return (RECORDINGS / "index.tsv").is_file()


def recordings_or_packaged() -> Path:
    """Return the folder of the test recordings or, if there are none, a folder made of the packaged conversation.

    Benchmarks use it, so that they run anywhere. Numbers from so little sound are no measurement, which is printed.
    """
    if have_recordings():
        return RECORDINGS
    message = f"no test recordings at {RECORDINGS}: using the 30 s of the packages; set SPEECHMILL_TEST_AUDIO"
    print(message, file=sys.stderr)
    return packaged_recordings()


@functools.cache
def packaged_recordings() -> Path:
    """Write a folder like that of the test recordings, made of the packaged conversation. It is removed at exit.

    It holds the two halves of the conversation with their references, the speech of each speaker alone, and pink noise.
    """
    folder = Path(tempfile.mkdtemp(prefix="speechmill-recordings-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sound, rate = soundfile.read(packaged_conversation(), dtype="int16")
    fields = (line.split() for line in packaged_conversation().with_suffix(".rttm").read_text().splitlines())
    turns = [
        (float(start), float(start) + float(length), speaker) for _, _, _, start, length, _, _, speaker, *_ in fields
    ]
    rows: list[dict[str, str]] = []

    def add(name: str, samples: np.ndarray, language: str, speakers: int, reference: str = "") -> None:
        soundfile.write(folder / f"{name}.flac", samples, rate)
        row = dict.fromkeys(INDEX_COLUMNS, "") | {"path": f"{name}.flac", "seconds": f"{len(samples) / rate:.2f}"}
        row |= {"rate": str(rate), "channels": "1", "codec": "flac", "language": language, "reference": reference}
        rows.append(row | {"n_speakers": str(speakers), "split": "packaged"})

    middle_s = len(sound) / rate / 2
    for name, begin_s in (("first-half", 0.0), ("second-half", middle_s)):
        end_s = begin_s + middle_s
        inside = [(max(a, begin_s), min(b, end_s), who) for a, b, who in turns if a < end_s and b > begin_s]
        lines = [
            f"SPEAKER {name} 1 {start - begin_s:.3f} {end - start:.3f} <NA> <NA> {who} <NA> <NA>\n"
            for start, end, who in inside
        ]
        (folder / f"{name}.rttm").write_text("".join(lines))
        samples = sound[round(begin_s * rate) : round(end_s * rate)]
        add(name, samples, "en", len({who for _, _, who in inside}), f"{name}.rttm")
    for speaker in sorted({who for _, _, who in turns}):
        own = [sound[round(start * rate) : round(end * rate)] for start, end, who in turns if who == speaker]
        add(speaker, np.concatenate(own), "en", 1)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(10 * rate))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
    add("noise", (noise / np.abs(noise).max() * 3000).astype(np.int16), "zxx", 0)
    lines = ["\t".join(INDEX_COLUMNS), *("\t".join(row[name] for name in INDEX_COLUMNS) for row in rows)]
    (folder / "index.tsv").write_text("\n".join(lines) + "\n")
    return folder


def telephone_conversation() -> tuple[np.ndarray, int]:
    """Return a long conversation, int16 (samples,), and its rate: a real call or, without it, the packaged one."""
    call = RECORDINGS / "lca_calls" / "lca_40_mix16k.flac"
    speech, rate = soundfile.read(call if call.is_file() else packaged_conversation(), dtype="int16")
    return speech, rate


class ArraySound:
    """An array, float32 (tracks, samples) at 16 kHz, with the interface of Sound."""

    sample_rate = 16000

    def __init__(self, samples: np.ndarray, recording_id: str = "test") -> None:
        self.samples = np.atleast_2d(samples).astype(np.float32)
        self.recording_id = recording_id
        self.tracks, self.num_samples = self.samples.shape

    @classmethod
    def from_file(cls, path: Path) -> ArraySound:
        """Read a file, with each of its channels as a track."""
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
    """Encode samples, (channels, n), to a file with FFmpeg, in the format that the suffix of `path` names.

    Args:
        path: The file to write.
        samples: The sound.
        sample_rate: Its rate, Hz.
        codec: FFmpeg's name of the codec.
        options: Options of the container.
        start_s: Timestamp at which the sound starts.
        streams: Number of audio streams, all with the same sound.
        video_s: Length of an additional video stream; 0 for none.
        left_out: Packets between each of these pairs of times, in seconds, are not written.
    """
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    with av.open(str(path), "w", options=options or {}) as container:
        if video_s:
            video = container.add_stream("mpeg2video", rate=25)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        sounds = [container.add_stream(codec, rate=sample_rate, layout=layout) for _ in range(streams)]
        if codec in ("wmav1", "wmav2"):  # they refuse FFmpeg's default bit rate
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
    """Return the phone error rate of a recogniser (hama) on `sound`, with its output for the reference as the truth.

    Both sounds are float32 (samples,).
    """
    import hama
    import soxr
    from torchaudio.functional import edit_distance

    recogniser = hama.ASRModel()
    expected, recognised = (
        recogniser.transcribe_waveform(soxr.resample(samples, own, 16000), 16000).phonemes
        for samples, own in ((reference, reference_rate), (sound, rate))
    )
    return float(edit_distance(expected, recognised)) / len(expected)
