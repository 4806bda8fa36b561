"""Language: share of real recordings in one language whose language comes out right, by language, and what it costs."""

import csv
import os
import platform
import sys
import time
from collections import defaultdict
from itertools import chain
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

from sounds import RECORDINGS, ArraySound

from pipelines.stages.language import Language, LanguageConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime.errors import SpeechmillError


def main() -> None:
    folder = RECORDINGS
    if not (folder / "index.tsv").is_file():
        print(f"language: no test recordings at {folder}: set SPEECHMILL_TEST_AUDIO")
        return
    vad, language = Vad(VadConfig()), Language(LanguageConfig())
    vad.setup()
    language.setup()
    files: dict[str, list[bool | None]] = defaultdict(list)  # None: no language found
    votes: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    unspoken: list[str | None] = []
    cpu_s = 0.0
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {language.config}")
    with (folder / "index.tsv").open(encoding="utf-8") as index:
        rows = list(csv.DictReader(index, delimiter="\t"))
    for row in rows:
        truth = row["language"]
        if len(truth) != 2 and truth != "zxx":
            continue  # unknown, or several languages
        try:
            sound = ArraySound.from_file(folder / row["path"])
        except SpeechmillError as error:
            print(f"  {row['path']}: not decoded: {error}")
            continue
        heard = vad.annotate(sound, {})
        begun = time.process_time()
        found = language.annotate(sound, {"vad": heard})
        cpu_s += time.process_time() - begun
        if truth == "zxx":
            unspoken.append(found["language"])
        else:
            files[truth].append(None if found["language"] is None else found["language"] == truth)
            votes[truth] += [(vote["language"] == truth, vote["speech_s"]) for vote in found["votes"]]
        if found["language"] != (None if truth == "zxx" else truth):
            print(
                f"  {row['path']}: {truth}, found {found['language']} (confidence "
                f"{found['language_confidence'] or 0:.2f}, speech {heard['speech_s']:.1f} s)"
            )
    # Recordings in which too little speech is found cast no vote: votes alone flatter, so read them beside the files.
    print("language   files right   without   votes right    seconds right")
    everything = [(code, files[code], votes[code]) for code in sorted(files)]
    everything.append(("all", [*chain(*files.values())], [*chain(*votes.values())]))
    for code, right, cast in everything:
        seconds, right_s = sum(s for _, s in cast), sum(s for ok, s in cast if ok)
        print(
            f"{code:<9}{right.count(True):>5} of {len(right):<5}{right.count(None):>6}"
            f"{sum(ok for ok, _ in cast):>9} of {len(cast):<5}"
            f"{right_s:>8.0f} of {seconds:.0f}"
        )
    print(f"no speech: {sum(code is None for code in unspoken)} of {len(unspoken)} without a language")
    windows = sum(len(cast) for cast in votes.values()) + sum(code is not None for code in unspoken)
    print(f"{cpu_s / windows:.2f} CPU s a window (those of recordings without speech counted as one each)")


if __name__ == "__main__":
    main()
