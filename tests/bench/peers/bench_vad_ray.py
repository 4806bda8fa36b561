"""Speed of reading and voice activity detection on Ray with two cores: ours and NeMo Curator's, without the start-up.

`SPEECHMILL_CURATOR=/path/to/its/environment python tests/bench/peers/bench_vad_ray.py [FILES]`. The files have 300 s;
NeMo Curator gets a fifth of them. Ours also measures levels, loudness, channels and the hash of the samples, and writes
Parquet.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / "pipelines")]

from ray_clusters import alone
from small_runs import RECIPE, conversation

INSTALL = (
    "pip install nemo-curator==1.4.0 silero-vad soundfile pydub librosa scipy torch==2.11.0 torchaudio==2.11.0, "
    "in an environment of its own, and name that in SPEECHMILL_CURATOR"
)


def make(folder: Path, files: int, seconds: int) -> Path:
    """Write FLAC files of real speech to `folder`/in, with NeMo's manifest and our recipe beside them."""
    speech, rate = conversation()
    (folder / "in").mkdir(parents=True)
    lines = []
    for n in range(files):
        path = folder / f"in/{n:03d}.flac"
        soundfile.write(path, np.roll(np.tile(speech, max(1, seconds // 30)), n * rate), rate)
        lines.append(json.dumps({"audio_filepath": str(path), "duration": float(seconds)}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text(RECIPE.replace("batch_hours = 0.008", "batch_hours = 0.1"))
    return folder


def seconds_of(*words: str, **environment: str) -> float:
    begun = time.monotonic()
    done = alone(*words, timeout_s=3600, **environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return time.monotonic() - begun


def ours(folder: Path) -> float:
    given = [str(folder / "recipe.toml"), "--lake", str(folder / "lake"), "--quiet"]
    speechmill = [sys.executable, "-m", "pipelines.commands"]
    alone(*speechmill, "ingest", *given, "--in", str(folder / "in"))
    return seconds_of(*speechmill, "annotate", *given, "--engine", "ray", "--workers", "2")


def theirs(folder: Path, home: Path) -> float:
    # Its executor hangs on two CPUs unless Ray is configured with more.
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    words = [
        str(home / "bin/python"),
        str(HERE / "curator_vad.py"),
        str(folder / "manifest.jsonl"),
        str(folder / "out"),
    ]
    return seconds_of(*words, PATH=path, RAY_AUTH_MODE="disabled", PYTHONPATH="")


def main() -> None:
    home = Path(os.environ.get("SPEECHMILL_CURATOR", "nowhere"))
    if not (home / "bin/python").exists():
        print(f"skipped: NeMo Curator is not installed: {INSTALL}")
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    root = Path(tempfile.mkdtemp(prefix="peers"))
    try:
        peers: dict[str, tuple[Callable[[Path], float], int]] = {
            "NeMo Curator": (partial(theirs, home=home), count // 5),
            "speechmill": (ours, count),
        }
        rates = {}
        for name, (run, files) in peers.items():
            start_s = run(make(root / f"{name} short", 2, 30))
            wall_s = run(make(root / f"{name} long", files, 300))
            rates[name] = (files * 300 - 60) / (wall_s - start_s)
            print(
                f"{name:<14}{wall_s:>8.1f} s, of which start-up {start_s:.1f}: {rates[name]:.0f} s of sound a second; "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        print(f"speechmill over NeMo Curator: {rates['speechmill'] / rates['NeMo Curator']:.1f}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
