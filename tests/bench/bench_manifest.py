"""`speechmill manifest` on a synthetic lake of 10 million recordings and 50 million windows: time and peak memory.

Each question is asked in a process of its own. Beside it DuckDB alone answers the same SQL over the same files, with
recordings and stages joined by id as one would write it. Then lhotse's command line is asked the same of a manifest.
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
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.look.what_if import what_if
from manifests.select import Selection
from manifests.views import choose, open_views

MARKS = {stage: f"{number:012x}" for number, stage in enumerate(schemas.STAGES)}
RULES = {"long": "duration_s >= 60", "speech": "speech_share >= 0.3", "clean": "dnsmos_ovrl >= 1.5"}
WINDOW_RULES = {"speech": "speech_share >= 0.25", "together": "num_speakers >= 2"}

# One row a recording, every value drawn from the hash h of its number; numbers are rounded as measures are.
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

JUDGED = """
CREATE OR REPLACE TABLE judged AS SELECT *, CASE WHEN broken THEN 'failed' WHEN len(reasons) > 0 THEN 'rejected'
  ELSE 'kept' END AS verdict, CASE WHEN verdict = 'kept' THEN n ELSE 0 END AS windows
FROM (SELECT *, CASE WHEN broken THEN [{failures}] ELSE list_filter([
  CASE WHEN seconds < 60 THEN 'long' END, CASE WHEN share < 0.3 THEN 'speech' END, CASE WHEN mos < 1.5 THEN 'clean' END
], lambda x: x IS NOT NULL) END AS reasons FROM facts)
"""
VERDICTS = (
    "id AS recording_id, verdict, reasons, CASE WHEN broken THEN 0 ELSE seconds END AS duration_s, windows, "
    "windows * 40.0 AS windowed_s, CASE WHEN verdict = 'kept' THEN seconds - n * 40.0 ELSE 0 END AS remainder_s, "
    "CASE WHEN verdict = 'kept' THEN 'train' END AS split"
)
WINDOWS = """
SELECT id || '-' || lpad((k * 40000)::VARCHAR, 9, '0') AS window_id, id AS recording_id, 'train' AS split,
  k * 40.0 AS start_s, 40.0 AS duration_s, 10.0 AS context_s, 1 AS tracks, 40.0 * s AS speech_s, s AS speech_share,
  spoken AS num_speakers, 0.0 AS overlap_share, 1 AS turn_count, lang AS language, src AS source,
  'CC BY 4.0' AS licence, [] AS turns, len(reasons) = 0 AS kept, reasons
FROM (SELECT *, list_filter([CASE WHEN s < 0.25 THEN 'speech' END, CASE WHEN spoken < 2 THEN 'together' END],
  lambda x: x IS NOT NULL) AS reasons
  FROM (SELECT * EXCLUDE (reasons), round((share + (h // (61 + k) % 100) / 100.0) / 2, 3) AS s,
    1 + (h // (67 + k) % 4 > 0)::INT AS spoken
    FROM (SELECT *, unnest(range(windows)) AS k FROM judged)))
"""


def write(lake: Lake, recordings: int, batch: int) -> None:
    """The lake, batch by batch, in the schemas of a real one; memory does not grow with its size."""
    connection = duckdb.connect()
    connection.execute("SET threads = 1; SET memory_limit = '2GB'")
    failures = ", ".join(f"'{stage}: UnreadableAudioError'" for stage in MARKS)
    for number, first in enumerate(range(0, recordings, batch)):
        connection.execute(FACTS.format(first=first, last=min(first + batch, recordings)))
        connection.execute(JUDGED.format(failures=failures))
        name = f"batch-{number:06d}"
        for table, columns in TABLES.items():
            schema = schemas.STAGES.get(table, schemas.RECORDINGS)
            key = lake.annotation_key(table, MARKS[table], name) if table in MARKS else lake.recordings_key(name)
            put(lake, key, connection, f"SELECT {columns} FROM facts", schema)
        put(lake, lake.verdicts_key("bench", name), connection, f"SELECT {VERDICTS} FROM judged", schemas.VERDICTS)
        put(lake, lake.windows_key("bench", name), connection, WINDOWS, schemas.WINDOWS)
    selection = {
        "name": "bench", "stages": MARKS, "context_s": 10.0, "continuation_s": 30.0, "recordings": RULES,
        "windows": WINDOW_RULES,
    }  # fmt: skip
    lake.storage.put("selections/bench/selection.json", pretty(selection).encode())
    stored = Selection.stored(lake, "bench")
    funnel = what_if(lake, choose(lake), stored, stored).funnel
    lake.storage.put("selections/bench/funnel.json", pretty(funnel.as_dict()).encode())


def put(lake: Lake, key: str, connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> None:
    table = connection.sql(query).to_arrow_table()
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field.name, pa.nulls(len(table), field.type))
    lake.write(key, table.select(schema.names).cast(schema))


GROUPED = (
    "SELECT language, source, count(*) AS count, sum(duration_s) / 3600 AS hours, avg(dnsmos_ovrl) AS mos "
    "FROM annotations GROUP BY ALL ORDER BY hours DESC"
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
    """The SQL of a question over views that are joined by id, without the command line."""
    from manifests import views
    from manifests.look import show, stats
    from manifests.look.what_if import change

    views._aligned = lambda connection, made, stages: False
    views._follow = lambda connection, made: False
    lake = Lake.at(root)
    choice = choose(lake)
    words = QUESTIONS[name]
    wanted = views.stages_of(" ".join(words))
    if words[0] == "what-if":
        stored = Selection.stored(lake, "bench")
        rules = {"clean": "dnsmos_ovrl >= 2.5"} if "stricter" in name else {}
        window_rules = {"speech": "speech_share >= 0.4"} if "window" in name else {}
        what_if(lake, choice, stored, change(stored, rules, window_rules, ["clean"] if "dropped" in name else [], {}))
        return
    if words[0] == "show":
        show.find(open_views(lake, choice, ()), first_id(lake))
        return
    connection = open_views(lake, choice, {"signal", "language"} | wanted)
    if words[0] == "head":
        connection.execute("SELECT recording_id, uris, duration_s, language FROM annotations LIMIT 10").fetchall()
    elif name == "stats":
        stats.overview(connection, lake, choice)
    elif name == "stats of the windows":
        stats.summary(connection, "windows")
    elif "--by" in words:
        stats.grouped(connection, "annotations", ["language", "source"])
    elif "--histogram" in words:
        stats.histogram(connection, "annotations", "dnsmos_ovrl")
    elif words[0] == "query":
        connection.execute(words[1]).fetchall()


def first_id(lake: Lake) -> str:
    last = list(lake.batches())[-1]
    return str(lake.read(lake.recordings_key(last), ["recording_id"])["recording_id"][-1])


def timed(command: list[str], limit_s: float = math.inf) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak MB of a process, infinite where it takes longer than the limit."""
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


MILL = [sys.executable, "-c", "from pipelines.cli import main; main()", "manifest"]


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
    """The questions that lhotse's command line answers, of the same manifests."""
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
    parser.add_argument("--repeats", type=int, default=2, help="the fastest is told")
    parser.add_argument("--limit", type=float, default=600, help="seconds to wait for DuckDB alone")
    parser.add_argument("--lhotse", type=int, default=20_000, help="recordings in the manifests for lhotse; 0: none")
    parser.add_argument("--lake", help="use this synthetic lake, written if it is not there, and keep it")
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
        connection = open_views(Lake.at(root), stages=())
        counts = [
            connection.execute(f"SELECT count(*) FROM {view}").fetchall()[0][0] for view in ("recordings", "windows")
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
