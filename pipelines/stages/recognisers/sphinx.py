"""pocketsphinx: a hidden Markov model of the phones of US English, very cheap; its weights ship in its package (BSD).

Phones are searched with a phone language model ("allphone"). Labels are noisy, their distribution is usable.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.stages.recognisers import Phone
from runtime.errors import SpeechmillError

FRAMES_PER_S = 100
SHORTEST_S = 0.05
"""Sound with fewer frames than a phone has states is not searched."""


class Sphinx:
    """ARPAbet phones in frames of 10 ms. Silence, noise and other fillers are no phones."""

    sample_rate = 16000

    def __init__(self, path: Path, language: str | None, device: str) -> None:
        """`path` is a folder with an acoustic model of Sphinx and its phone language model, *phone.lm.bin.

        Raises SpeechmillError where there is none.
        """
        from pocketsphinx import Decoder

        language_models = sorted(path.glob("*phone.lm.bin"))
        if not (path / "mdef").is_file() or not language_models:
            raise SpeechmillError(
                f"{path} holds no acoustic model of Sphinx (mdef) with a phone language model (*phone.lm.bin)",
                "name such a folder as annotate.phonemes.model, or leave it out for the US English model",
            )
        # With cmn = "batch" the mean is taken over the sound at hand; "live" would depend on earlier sounds.
        self._decoder = Decoder(
            hmm=str(path), allphone=str(language_models[0]), lm=None, dict=None, lw=2.0, beam=1e-20, pbeam=1e-20,
            cmn="batch", samprate=float(self.sample_rate), frate=FRAMES_PER_S, loglevel="FATAL",
        )  # fmt: skip

    def phones(self, samples: np.ndarray) -> list[Phone]:
        if len(samples) < SHORTEST_S * self.sample_rate:
            return []
        pcm = (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        return [
            Phone(segment.word, segment.start_frame / FRAMES_PER_S, (segment.end_frame + 1) / FRAMES_PER_S)
            for segment in self._decoder.seg() or ()
            if segment.word.isalpha() and segment.word != "SIL"
        ]
