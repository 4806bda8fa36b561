"""A run on S3 while the server is unreachable for a minute: how it waits, and whether its output has equal bytes.

The server is real. A proxy between it and the run refuses connections for that time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "pipelines")]

import soundfile
import sounds
import test_s3_run as runs
from faulty_proxy import Proxy
from servers import EVERYTHING, plain_environment, s3_server
from test_cli import digests

from manifests.storage import open_storage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--down-s", type=float, default=65.0, help="length of the outage")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as server, Proxy(server.endpoint_url) as proxy:
        folder = Path(name)
        os.environ.update(plain_environment(server, server.add_user("outage", EVERYTHING)))
        server.client().create_bucket(Bucket="outage")
        speech, rate = soundfile.read(sounds.packaged_conversation(), dtype="int16")
        (folder / "in").mkdir()
        for number in range(6):
            soundfile.write(folder / f"in/{number}.flac", speech[number * rate :], rate)
        (folder / "recipe.toml").write_text(runs.RECIPE)
        words = ("run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake")
        runs.finish(runs.start(*words, str(folder / "lake")))
        proxy.down_at, proxy.down_s = 100, asked.down_s
        started = time.monotonic()
        output = runs.finish(runs.start(*words, "s3://outage/lake", AWS_ENDPOINT_URL=proxy.url))
        print("\n".join(line for line in output.splitlines() if "next try" in line or "tried again" in line))
        equal = runs.of_storage(open_storage("s3://outage/lake")) == digests(folder / "lake")
        print(f"down for {asked.down_s:g} s, whole run {time.monotonic() - started:.0f} s, equal bytes: {equal}")


if __name__ == "__main__":
    main()
