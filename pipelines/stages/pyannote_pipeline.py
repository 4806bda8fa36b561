"""Diarization by a pipeline of pyannote.audio that the recipe names.

Imported by the diarize stage only: everything here needs the `diarize` extra.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from pyannote.audio import Pipeline

from pipelines.stages.diarizers import ChunkTurns, Read, Turn
from pipelines.stages.pretrained import load_pipeline
from runtime import models
from runtime.batches import batch_calls
from runtime.errors import RecipeError, SpeechmillError

SAMPLE_RATE = 16000


class Pyannote:
    """A pipeline of pyannote.audio by path or hub id."""

    def __init__(
        self, named: str, trust: bool, max_speakers: int | None, device: str, precision: str, batch_size: int,
        threads: int,
    ) -> None:  # fmt: skip
        # Where a speaker is silent, the pipeline takes the mean of no values, and relies on the NaN that this gives.
        for message in ("Mean of empty slice", "invalid value encountered in divide"):
            warnings.filterwarnings("ignore", message, RuntimeWarning)
        remedy = "name a folder that holds it, or a hub id whose terms you accepted, with the hub in reach"
        try:
            place = models.resolve(named)[0]
            pipeline: Any = Pipeline.from_pretrained(place) if trust else load_pipeline(place)
        except RecipeError:
            raise
        except (OSError, ValueError, SpeechmillError) as error:
            raise SpeechmillError(f"pipeline {named!r}: {error}", remedy) from error
        pipeline.segmentation_batch_size = pipeline.embedding_batch_size = batch_size
        self.pipeline, self.max_speakers = pipeline.to(torch.device(device)), max_speakers
        batch_calls(pipeline._segmentation.model, "diarize, segmentation", batch_size, precision, threads)
        batch_calls(pipeline._embedding.model_, "diarize, embedding", batch_size, threads=threads)

    def __call__(self, read: Read, num_samples: int, name: str) -> ChunkTurns:
        length_s = num_samples / SAMPLE_RATE
        file = {
            "waveform": torch.from_numpy(np.array(read(0, num_samples)))[None],
            "sample_rate": SAMPLE_RATE,
            "uri": name,
        }
        output: Any = self.pipeline(file, max_speakers=self.max_speakers)
        annotation = getattr(output, "speaker_diarization", output)
        vectors = getattr(output, "speaker_embeddings", None)
        turns: list[Turn] = [
            (str(speaker), max(0.0, span.start), min(length_s, span.end), None)
            for span, _, speaker in annotation.itertracks(yield_label=True)
            if min(length_s, span.end) > max(0.0, span.start)
        ]
        if vectors is None:
            return ChunkTurns(turns, None)
        by_label = {str(label): vector.tolist() for label, vector in zip(annotation.labels(), vectors, strict=True)}
        return ChunkTurns(turns, {label: by_label[label] for label in sorted({label for label, *_ in turns})})
