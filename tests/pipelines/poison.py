"""Recordings that kill the process of whoever is at them, for tests of engines; importable by their workers."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

from manifests.lake import Lake
from pipelines import annotate as module
from pipelines.annotate import Annotator
from pipelines.audio.sound import decode_sound
from pipelines.progress.watch import UnitResult
from pipelines.stages.vad import Vad, VadConfig
from pipelines.units import shares
from pipelines.units.attempts import Attempts, CrashGuard
from pipelines.units.engines import Engine, Group
from pipelines.units.pending import pending_batches, stage_fingerprints

CRASHES_S, EATS_S = 7.0, 5.0
"""Lengths of the recording that crashes a stage, and of the one at whose decoding memory runs out."""


class PoisonVad(Vad):
    """The real stage, with a recording that it cannot survive."""

    def annotate(self, sound, known):
        if sound.num_samples == CRASHES_S * 16000:
            ctypes.string_at(0)  # a segmentation fault
        return super().annotate(sound, known)


def _decode(*given, **named):
    if 44 + 2 * EATS_S * 16000 in (*given, *named.values()):  # its size in bytes
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return decode_sound(*given, **named)


def annotator(lake: Lake, run: str) -> Callable[[str], UnitResult]:
    module.decode_sound = _decode
    shares.SAVE_EVERY_S = 0.0
    return Annotator(lake, [PoisonVad(VadConfig())], Attempts(lake.storage, run)).annotate


def main() -> None:
    """LAKE ENGINE WORKERS: annotate what is pending."""
    lake, engine = Lake.at(sys.argv[1]), Engine(sys.argv[2], (int(sys.argv[3]),) * 2)
    marks = stage_fingerprints([Vad(VadConfig())])
    run = f"runs/{os.getpid()}"
    make = partial(CrashGuard, partial(annotator, lake, run), Attempts(lake.storage, run), str)
    for done in list(engine.run(list(pending_batches(lake, marks)), [Group("annotate", make)])):
        print(done.recordings, *sorted(failure.reason for failure in done.failures))
