"""Speed of the quality stage on one thread, in audio seconds per CPU second, by part; and the scores of recordings."""

import csv
import os
import platform
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
import onnxruntime
from sounds import ArraySound, recordings_or_packaged

from pipelines.stages.music import music_likelihood
from pipelines.stages.quality import Quality, QualityConfig, snr_db, spans
from pipelines.stages.vad import Vad, VadConfig


def main() -> None:
    folder = recordings_or_packaged()
    vad, quality = Vad(VadConfig()), Quality(QualityConfig())
    vad.setup()
    quality.setup()
    config = quality.config
    print(f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}")
    columns = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl", "dnsmos_p808", "dnsmos_windows", "snr_db", "music_likelihood")
    print("".join(f"{name.removeprefix('dnsmos_'):>17}" for name in columns), " recording")
    spent = {"snr": 0.0, "music": 0.0, "all": 0.0}
    seconds, windows = 0.0, 0
    with (folder / "index.tsv").open() as index:
        paths = [row["path"] for row in csv.DictReader(index, delimiter="\t") if row["seconds"] != "?"]
    for path in paths:
        sound = ArraySound.from_file(folder / path)
        if "stereo8k" not in path and sound.tracks > 1:  # only that recording has a speaker on each channel
            sound = ArraySound(sound.samples.mean(axis=0))
        heard = vad.annotate(sound, {})
        clock = [time.process_time()]
        for track in range(sound.tracks):
            snr_db(sound, track, spans(heard, track, sound.num_samples), config.guard_s)
        clock.append(time.process_time())
        music_likelihood(sound, config.music_threshold, config.max_music_blocks)
        clock.append(time.process_time())
        row = quality.annotate(sound, {"vad": heard})
        clock.append(time.process_time())
        for name, cpu_s in zip(spent, np.diff(clock), strict=True):
            spent[name] += cpu_s
        seconds += sound.num_samples / 16000
        windows += row["dnsmos_windows"]
        cells = [f"{'' if row[name] is None else round(row[name], 2):>17}" for name in columns]
        print("".join(cells), "", path)
    print(
        f"{seconds:.0f} s of sound, {windows} windows, the whole stage {seconds / spent['all']:.0f} audio s per CPU s"
    )
    print(f"snr {seconds / spent['snr']:.0f}, music {seconds / spent['music']:.0f} audio s per CPU s")
    print(f"DNSMOS {(spent['all'] - spent['snr'] - spent['music']) / windows:.2f} CPU s a window")


if __name__ == "__main__":
    main()
