"""Time and peak memory of `speechmill manifest` on a synthetic lake of 10 million recordings and 50 million windows.

Each question is answered by a process of its own. For comparison, DuckDB alone answers the same SQL over the same
files, with recordings and stages joined by id. Then Lhotse's command line answers the same questions about a manifest.
"""

import argparse
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa

from manifests import schemas
from manifests.choice import choose
from manifests.commands.what_if import what_if
from manifests.lake import Lake
from manifests.select import AT_ONCE, select
from manifests.selection import Selection
from manifests.sums import Sums
from manifests.view_columns import parts_needed
from manifests.views import open_views

RULES = {"long": "duration_s >= 60", "speech": "speech_share >= 0.3", "clean": "dnsmos_ovrl >= 1.5"}
WINDOW_RULES = {"speech": "speech_share >= 0.25", "one": "num_speakers < 2"}

# One row per recording. Every value is derived from the hash h of its number, and rounded like a measurement.
FACTS = """
CREATE OR REPLACE TABLE facts AS
SELECT *, ['en', 'de', 'es', 'fr', 'pt', 'zh'][1 + least(5, (h // 7 % 10)::BIGINT)] AS lang,
  3 + (h // 11 % 9)::INT AS n,
  round(0.2 + (h // 13 % 750) / 1000.0, 3) AS share, round(1 + (h // 17 % 350) / 100.0, 2) AS mos,
  round(n * 40 + (h // 19 % 4000) / 100.0, 2) AS seconds, h // 23 % 200 = 0 AS broken,
  ['radio', 'phone', 'podcast', 'meeting', 'video'][1 + (h // 29 % 5)::BIGINT] AS src
FROM (SELECT i, hash(i) AS h, sha256(i::VARCHAR) AS sha, substr(sha, 1, 20) AS id FROM range({first}, {last}) AS t(i))
"""
SPAN = "{{'track': 0, 'start_s': {0}, 'end_s': {1}}}"
TURN = "{{'speaker': 'SPEAKER_0{2}', 'track': 0, 'start_s': {0}, 'end_s': {1}}}"
OK = (
    "id AS recording_id, CASE WHEN broken THEN 'failed' ELSE 'ok' END AS status, "
    "CASE WHEN broken THEN 'UnreadableAudioError' END AS error_type"
)
NULLED = "CASE WHEN NOT broken THEN {} END AS {}"


def _columns(**values: str) -> str:
    return ", ".join(NULLED.format(value, name) for name, value in values.items())


TABLES = {
    "recordings": "id AS recording_id, ['/data/' || src || '/' || i || '.opus'] AS uris, sha AS sha256, "
    "(seconds * 4000)::BIGINT AS size_bytes, 'ogg' AS container, 'opus' AS codec, 48000 AS sample_rate, "
    "1 AS channels, 'mono' AS channel_layout, seconds AS claimed_duration_s, src AS source, "
    "'CC BY 4.0' AS licence, 'ok' AS status",
    "signal": OK + ", " + _columns(
        sample_rate="48000", num_samples="(seconds * 48000)::BIGINT", duration_s="seconds", channels="1",
        pcm_sha256="sha256(sha)", decode_errors="0", loudness_lufs="round(-40 + h // 31 % 300 / 10.0, 1)",
        peak_dbfs="round(-20 + h // 37 % 200 / 10.0, 1)", rms_dbfs="round(-50 + h // 41 % 300 / 10.0, 1)",
        dc_offset="0.0", clipped_share="0.0", digital_silence_share="0.0",
        bandwidth_hz="4000.0 + 100 * (h // 43 % 160)", channel_relation="'mono'", live_channel="0", tracks="1"),
    "vad": OK + ", " + _columns(
        segments=f"[{SPAN.format('1.0', 'round(seconds * share / 2, 2)')}, "
        f"{SPAN.format('round(seconds / 2, 2)', 'round(seconds / 2 * (1 + share), 2)')}]",
        speech_s="round(seconds * share, 2)", speech_share="share", speech_per_track_s="[round(seconds * share, 2)]"),
    "diarize": OK + ", " + _columns(
        turns=f"[{TURN.format('1.0', 'round(seconds * share / 2, 2)', 0)}, "
        f"{TURN.format('round(seconds / 2, 2)', 'round(seconds / 2 * (1 + share), 2)', 1)}]",
        method="'pipeline'", num_speakers="2", overlap_s="0.0", overlap_share="0.0", turn_count="2",
        turns_per_min="round(120 / seconds, 3)", longest_monologue_s="round(seconds * share / 2, 2)"),
    "language": OK + ", " + _columns(
        language="lang", language_confidence="round(0.5 + h // 47 % 500 / 1000.0, 3)",
        language_shares="MAP {lang: 1.0}"),
    "quality": OK + ", " + _columns(
        dnsmos_sig="mos", dnsmos_bak="mos", dnsmos_ovrl="mos", dnsmos_p808="mos", dnsmos_windows="n",
        snr_db="round(h // 53 % 400 / 10.0, 1)", music_likelihood="round(h // 59 % 1000 / 1000.0, 3)"),
}  # fmt: skip
MARKS = {stage: f"{number:012x}" for number, stage in enumerate(schemas.STAGES) if stage in TABLES}


def write(lake: Lake, recordings: int, batch: int) -> None:
    """Write a lake in the schemas of a real one, some batches at a time, so that memory does not grow with its size."""
    connection = duckdb.connect()
    connection.execute("SET threads = 1; SET memory_limit = '2GB'")
    step = max(1, AT_ONCE // batch) * batch
    for first in range(0, recordings, step):
        connection.execute(FACTS.format(first=first, last=min(first + step, recordings)))
        for name, columns in TABLES.items():
            schema = schemas.STAGES.get(name, schemas.RECORDINGS)
            table = connection.sql(f"SELECT {columns} FROM facts").to_arrow_table()
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field.name, pa.nulls(len(table), field.type))
            table = table.select(schema.names).cast(schema)
            for begin in range(0, len(table), batch):
                number = f"batch-{(first + begin) // batch:06d}"
                key = lake.annotation_key(name, MARKS[name], number) if name in MARKS else lake.recordings_key(number)
                lake.write(key, table.slice(begin, batch))
    select(lake, Selection("bench", MARKS, context_s=10.0, continuation_s=30.0, recordings=RULES, windows=WINDOW_RULES))


GROUPED = (
    "SELECT language, source, count(*) AS count, sum(duration_s) / 3600 AS hours, avg(dnsmos_ovrl) AS mos "
    "FROM recordings GROUP BY ALL ORDER BY hours DESC"
)
QUESTIONS = {
    "head": ["head"],
    "show": ["show", "ID"],
    "funnel": ["funnel"],
    "stats": ["stats"],
    "stats of the windows": ["stats", "--view", "windows"],
    "stats --by language,source": ["stats", "--by", "language,source"],
    "stats --histogram dnsmos_ovrl": ["stats", "--histogram", "dnsmos_ovrl"],
    "query, grouped": ["query", GROUPED],
    "what-if, a window rule": ["what-if", "--window-rule", "speech: speech_share >= 0.4"],
    "what-if, a stricter rule": ["what-if", "--rule", "clean: dnsmos_ovrl >= 2.5"],
    "what-if, a rule dropped": ["what-if", "--drop", "clean"],
}


def ask_duckdb(name: str, root: str) -> None:
    """Answer a question with plain SQL over views that are joined by id, without our command line."""
    from manifests import views
    from manifests.commands import show, stats
    from manifests.commands.what_if import change

    views._stages_aligned = lambda connection, files, stages: False
    views._verdicts_aligned = lambda connection, files: False
    lake = Lake.at(root)
    choice = choose(lake)
    words = QUESTIONS[name]
    wanted = parts_needed(" ".join(words))
    if words[0] == "what-if":
        stored = Selection.stored(lake, "bench")
        rules = {"clean": "dnsmos_ovrl >= 2.5"} if "stricter" in name else {}
        window_rules = {"speech": "speech_share >= 0.4"} if "window" in name else {}
        what_if(lake, choice, stored, change(stored, rules, window_rules, ["clean"] if "dropped" in name else [], {}))
        return
    if words[0] == "show":
        show.find_recording(open_views(lake, choice, ()), first_id(lake))
        return
    connection = open_views(lake, choice, {"signal", "language"} | wanted)
    if words[0] == "head":
        connection.execute("SELECT recording_id, uris, duration_s, language FROM recordings LIMIT 10").fetchall()
    elif name == "stats":
        sums = Sums()
        sums.add_views(connection, choice.stages)
        stats.overview(lake, choice, sums)
    elif name == "stats of the windows":
        stats.summary(connection, "windows")
    elif "--by" in words:
        stats.grouped(connection, "recordings", ["language", "source"])
    elif "--histogram" in words:
        stats.histogram(connection, "recordings", "dnsmos_ovrl")
    elif words[0] == "query":
        connection.execute(words[1]).fetchall()


def first_id(lake: Lake) -> str:
    last = list(lake.batches())[-1]
    return str(lake.read(lake.recordings_key(last), ["recording_id"])["recording_id"][-1])


def timed(command: list[str], limit_s: float = math.inf) -> tuple[float, float, float]:
    """Run a process. Returns its wall seconds, CPU seconds (both infinite if it exceeds the limit) and peak MB."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        alarm = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), process.kill)
        alarm.start()
        _, status, usage = os.wait4(process.pid, 0)
        alarm.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode == -signal.SIGKILL:
            return math.inf, math.inf, usage.ru_maxrss / 1024
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{command}: {output.read().decode()[-2000:]}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


MILL = [sys.executable, "-c", "from pipelines.commands.cli import main; main()", "manifest"]


def compare_duckdb(root: str, repeats: int, limit_s: float) -> None:
    print(f"{'question':<32}{'wall s':>8}{'cpu s':>8}{'MB':>7}   {'DuckDB s':>9}{'cpu s':>8}{'MB':>7}{'ratio':>7}")
    lake = Lake.at(root)
    for name, (verb, *words) in QUESTIONS.items():
        words = [first_id(lake) if word == "ID" else word for word in words]
        ours = min(timed([*MILL, verb, root, *words]) for _ in range(repeats))
        if verb == "funnel":
            print(f"{name:<32}{ours[0]:>8.2f}{ours[1]:>8.2f}{ours[2]:>7.0f}   (a stored answer)", flush=True)
            continue
        alone = min(timed([sys.executable, __file__, "--ask", name, "--lake", root], limit_s) for _ in range(repeats))
        numbers = f"{name:<32}{ours[0]:>8.2f}{ours[1]:>8.2f}{ours[2]:>7.0f}   "
        if math.isinf(alone[0]):
            print(f"{numbers}{f'> {limit_s:g}':>9}{'':>8}{alone[2]:>7.0f}{f'< {ours[0] / limit_s:.2f}':>7}", flush=True)
        else:
            ratio = f"{ours[0] / alone[0]:>7.2f}"
            print(f"{numbers}{alone[0]:>9.2f}{alone[1]:>8.2f}{alone[2]:>7.0f}{ratio}", flush=True)


def compare_lhotse(folder: Path, recordings: int, repeats: int) -> None:
    """Compare the questions that Lhotse's command line can answer, on the same manifests."""
    root = str(folder / "small")
    write(Lake.at(root), recordings, 20_000)
    subprocess.run([*MILL, "convert", root, "--to", "lhotse", "--out", str(folder / "lhotse")], check=True)
    cuts, known = (str(folder / "lhotse" / f"{name}.jsonl.gz") for name in ("cuts", "recordings"))
    out = str(folder / "out.jsonl.gz")
    lhotse = str(Path(sys.executable).parent / "lhotse")
    long = "SELECT * FROM recordings WHERE duration_s > 300"
    pairs = {
        "describe the cuts": ([lhotse, "cut", "describe", cuts], ["stats", cuts], ["stats", root, "--view", "windows"]),
        "validate the cuts": ([lhotse, "validate", cuts], ["validate", cuts], ["validate", root]),
        "the first 10 cuts": ([lhotse, "subset", "--first", "10", cuts, out], ["head", cuts, "--view", "windows"],
                              ["head", root, "--view", "windows"]),
        "recordings over 300 s": ([lhotse, "filter", "duration>300", known, out],
                                  ["query", known, long, "--format", "parquet", "-o", f"{out}.parquet"],
                                  ["query", root, long.replace("recordings", "signal"), "--format", "parquet", "-o",
                                   f"{out}.parquet"]),
    }  # fmt: skip
    print(f"\n{recordings:,} recordings as Lhotse manifests, seconds (MB)")
    print(f"{'question':<26}{'lhotse':>16}{'speechmill':>16}{'times':>7}{'on the lake':>16}{'times':>7}")
    for name, (theirs, ours, lake) in pairs.items():
        one, two, three = (
            min(timed(command) for _ in range(repeats)) for command in (theirs, [*MILL, *ours], [*MILL, *lake])
        )
        shown = [f"{seconds:.2f} ({memory:,.0f})" for seconds, _, memory in (one, two, three)]
        print(f"{name:<26}{shown[0]:>16}{shown[1]:>16}{one[0] / two[0]:>7.1f}{shown[2]:>16}{one[0] / three[0]:>7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=20_000, help="recordings in a batch file")
    parser.add_argument("--repeats", type=int, default=2, help="repetitions, of which the fastest is printed")
    parser.add_argument("--limit", type=float, default=600, help="seconds to wait for DuckDB alone")
    parser.add_argument("--lhotse", type=int, default=20_000, help="recordings in the manifests for Lhotse; 0 for none")
    parser.add_argument("--lake", help="folder of a synthetic lake to use; it is written if missing, and kept")
    parser.add_argument("--ask", choices=QUESTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask_duckdb(options.ask, options.lake)
        return
    processor = platform.processor() or platform.machine()
    print(f"{processor} x {os.cpu_count()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}")
    folder = Path(tempfile.mkdtemp(prefix="speechmill-bench-"))
    try:
        root = options.lake or str(folder / "lake")
        if not (options.lake and os.path.exists(root)):
            needed = options.recordings * 400
            if shutil.disk_usage(folder).free < 2 * needed:
                sys.exit(f"{folder}: less than {2 * needed / 1e9:.0f} GB are free; set TMPDIR or --recordings")
            begun = time.perf_counter()
            write(Lake.at(root), options.recordings, options.batch)
            print(f"written in {time.perf_counter() - begun:.0f} s")
        connection = open_views(Lake.at(root), parts=())
        counts = [
            connection.execute(f"SELECT count(*) FROM {view}").fetchall()[0][0]
            for view in ("ingest", "window_verdicts")
        ]
        size = sum(path.stat().st_size for path in Path(root).rglob("*.parquet"))
        print(f"{counts[0]:,} recordings, {counts[1]:,} windows, {size / 1e9:.1f} GB of Parquet")
        compare_duckdb(root, options.repeats, options.limit)
        if options.lhotse:
            compare_lhotse(folder, options.lhotse, options.repeats)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
