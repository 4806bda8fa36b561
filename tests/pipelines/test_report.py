"""The report in a real browser, of a lake made from real sound by the command line, with hostile names in it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import soundfile
from forked import speechmill

from manifests import schemas
from manifests.lake import Lake
from manifests.report.hub import hub_licence
from pipelines.commands.report import report_lake
from runtime.errors import SpeechmillError

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & 'quoted'.wav"
LONG = "a_rule_with_" + "x" * 52  # 64 letters, the most that a rule may have
SOURCE = "<b onmouseover=alert(3)>bold</b> | source"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> Path:
    """Four recordings: two kept, one without speech, one that is no sound."""
    folder = tmp_path_factory.mktemp("in")
    speech, rate = soundfile.read(conversation, dtype="int16")
    # A slash in the name would be a folder: the closing tag is spelt with the division slash.
    soundfile.write(folder / HOSTILE.replace("</", "<\u2215"), speech, rate, format="wav")
    soundfile.write(folder / "two channels.wav", np.stack([speech, np.roll(speech, 12 * rate)], 1), rate)
    soundfile.write(folder / "silence.wav", np.zeros(12 * rate, np.int16), rate)
    (folder / "broken.wav").write_bytes(b"RIFF</script>" + bytes(range(200)))
    lake = tmp_path_factory.mktemp("lakes") / "lake <1>"
    settings = [f"ingest.source={json.dumps(SOURCE)}", 'ingest.licence="CC BY 4.0"', "select.stride_s=4"]
    settings.append(f"select.recordings.{LONG}=peak_dbfs > -200")  # digital silence has no level
    settings.append("select.duplicate_share=1.0")  # the sound of one recording is also in the other
    done = speechmill("run", "demo", "--in", str(folder), "--lake", str(lake), *(f"--set={s}" for s in settings))
    assert done.returncode == 0, done.stderr
    return lake


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium to open the report with: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--mute-audio"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags, chromium_sandbox=False)
        yield opened
        opened.close()


OTHER = """
name = "other"
[annotate.vad]
[annotate.diarize]
[annotate.language]
[annotate.quality]
[select]
context_s = 2.0
continuation_s = 4.0
seed = 1
splits = { train = 0.5, valid = 0.5 }
[select.recordings]
speech = "speech_share >= 0.1"
[encode]
patch = 2
"""


@pytest.fixture(scope="module")
def twice(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same lake with a dataset of another recipe, made by two further commands."""
    copy = tmp_path_factory.mktemp("twice") / "lake"
    shutil.copytree(lake, copy)
    recipe = copy.with_name("other.toml")
    recipe.write_text(OTHER)
    for command in ("select", "encode"):
        done = speechmill(command, str(recipe), "--lake", str(copy))
        assert done.returncode == 0, done.stderr
    return copy


def report_of(lake: Path, dataset: str, path: Path) -> Path:
    done = speechmill("report", str(lake), "--dataset", dataset, "--no-audio", "-o", str(path))
    assert done.returncode == 0, done.stderr
    return path


class Page:
    """A report opened from disk without a network; whatever goes wrong in it is gathered in `problems`."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **settings: Any) -> None:
        self.problems: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **settings)
        self.close = context.close
        self.page = context.new_page()
        self.page.on("console", lambda message: self.problems.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._request)
        self.page.set_default_timeout(120_000)  # of a machine that is busy with other tests
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "blob:", "data:")):
            self.problems.append(f"request: {request.url}")

    def until(self, condition: str) -> None:
        """Wait for it to hold; the page's own policy forbids the evaluation that wait_for_function does."""
        for _ in range(300):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never came true: {condition}")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def hours(self, level: str) -> float:
        return float(self.text(f"#tally-{level}").removesuffix(" h"))


@pytest.fixture(scope="module")
def report(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    done = speechmill("report", str(lake), "-o", str(path), "--roundtrips", "0")
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    assert path.stat().st_size < 20e6
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Page:
    return Page(browser, report)


def test_every_chart_has_data_and_a_label(opened: Page) -> None:
    plots = opened.page.evaluate(
        """() => [...document.querySelectorAll(".plot")].map((plot) => ({ id: plot.id, label: plot.ariaLabel,
        drawn: plot.querySelectorAll("svg path, svg image").length,
        points: (plot.data ?? []).reduce((n, t) => n + (t.link?.value ?? t.z ?? t.y ?? []).length, 0) }))"""
    )
    named = {plot["id"]: plot for plot in plots}
    expected = {"tokens-patch", "tokens-prefix", "runs-rate", "failures", "picture"}
    assert expected | {"group-language", "group-speakers", "group-source", "group-licence"} <= named.keys()
    assert len([name for name in named if name.startswith("hist-")]) >= 20
    assert [plot for plot in plots if not (plot["label"] and plot["drawn"] and plot["points"])] == []
    assert opened.problems == []


def test_names_are_shown_as_text_wherever_they_occur(opened: Page) -> None:
    name = HOSTILE.replace("</", "<\u2215")
    opened.page.fill("#filter", "onerror")
    assert opened.text("#list b") == opened.text("#name") == name
    assert name in opened.text("#names")
    assert "<b onmouseover" in opened.text("#group-source")
    assert "first bytes b'RIFF</sc'" in opened.text("#runs")
    assert opened.page.locator("img[src=x], b[onmouseover]").count() == 0
    opened.page.fill("#filter", "")
    assert opened.problems == []


PLACE = (
    "const place = (element) => (({ x, y, right, bottom }) => [x, y, right, bottom])(element.getBoundingClientRect());"
)
BOXES = f"""() => {{ {PLACE} return [...document.querySelectorAll("#flow li")].map((box) => ({{
    name: box.querySelector("b").textContent, told: [...box.querySelectorAll("span")].map((span) => span.textContent),
    cut: box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1, place: place(box) }})) }}"""
RIBBONS = f"() => {{ {PLACE} return [...document.querySelectorAll('#flow path')].map(place) }}"


def apart(one: list[float], other: list[float]) -> bool:
    """Whether two places on the page (left, top, right, bottom) share no pixel."""
    return one[2] <= other[0] + 0.5 or other[2] <= one[0] + 0.5 or one[3] <= other[1] + 0.5 or other[3] <= one[1] + 0.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800, 400])
def test_the_funnel_shows_every_count_and_hour_and_nothing_lies_over_them(
    browser: Any, report: Path, lake: Path, width: int, scheme: str
) -> None:
    opened = Page(browser, report, width=width, color_scheme=scheme)
    boxes = opened.page.evaluate(BOXES)
    (funnel,) = [json.loads(path.read_text()) for path in lake.glob("selections/*/funnel.json")]
    told = {box["name"]: box["told"] for box in boxes}
    for name, what, verdict in [
        ("all recordings", "recordings", "in"), ("kept", "recordings", "kept"), ("rejected", "recordings", "rejected"),
        ("failed", "recordings", "failed"), ("windows kept", "windows", "kept"),
    ]:  # fmt: skip
        part = funnel[what][verdict]
        assert int(told[name][0].partition(" ")[0]) == part["count"] > 0
        assert told[name][1].startswith(f"{part['hours']:.3f}\xa0h" if part["hours"] else "0\xa0h")
    assert any("more" in name for name in told)  # the combination of reasons that holds the long one
    ribbons = opened.page.evaluate(RIBBONS)
    wide = width >= 800
    assert len(ribbons) == (len(boxes) - 1 if wide else 0)
    for number, box in enumerate(boxes):
        assert not box["cut"], box
        assert 0 <= box["place"][0] < box["place"][2] <= width
        assert [other for other in boxes[:number] if not apart(box["place"], other["place"])] == []
        assert [ribbon for ribbon in ribbons if not apart(box["place"], ribbon)] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.problems == []
    opened.close()


def test_provenance_names_the_commands_behind_each_dataset(browser: Any, twice: Path, tmp_path: Path) -> None:
    other = Page(browser, report_of(twice, "other", tmp_path / "other.html"))
    made = other.text("#provenance table:has(thead)")
    assert made.index("encoded") < made.index("kept 2 of 4 recordings") < made.index("measured 3 recordings")
    assert "added 4 recordings, 1 unreadable" in made
    commands = other.page.locator("#provenance table:has(thead) code").all_inner_texts()
    assert [command.split()[1:3] for command in commands] == [
        ["encode", str(twice.with_name("other.toml"))],
        ["select", str(twice.with_name("other.toml"))],
        ["run", "demo"],
    ]
    demo = Page(browser, report_of(twice, "demo", tmp_path / "demo.html"))
    (command,) = demo.page.locator("#provenance table:has(thead) code").all_inner_texts()
    assert command.split()[1:3] == ["run", "demo"]
    bars = "$('#runs-rate').data.map((trace) => [trace.y, trace.x.length]).flat()"
    labels, count = demo.page.evaluate(bars)
    assert len(set(labels)) == count == 3  # demo annotated and encoded, the other recipe encoded
    assert [label.partition("<br>")[0] for label in labels] == ["encode (other)", "annotate (demo)", "encode (demo)"]
    assert other.problems == demo.problems == []


def test_every_measure_is_explained_where_it_is_plotted_and_in_the_list(opened: Page) -> None:
    plotted = opened.page.evaluate(
        """() => [...document.querySelectorAll(".score")].map((card) => [card.querySelector("h3").textContent,
        card.querySelector("small").textContent, card.querySelector(".note").textContent])"""
    )
    listed = opened.page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("#measures tbody tr")].map((row) =>
        [row.cells[0].textContent, [row.cells[1].textContent, row.cells[2].textContent]]))"""
    )
    assert len(plotted) >= 20
    for title, unit, note in plotted:
        level, name = ("windows", title.removesuffix(" of windows")) if title.endswith(" of windows") else ("", title)
        schemata = [schemas.WINDOWS] if level else [*schemas.STAGES.values(), schemas.RECORDINGS]
        columns = [schema.field(name) for schema in schemata if name in schema.names]
        if columns:
            description = columns[0].metadata[b"description"].decode()
            told = [
                columns[0].metadata.get(b"unit", b"no unit").decode(),
                f"{description[0].upper()}{description[1:]}.",
            ]
        else:
            assert name == "coalesce(peak_dbfs, 0)"  # the one rule of the recipe that moves and computes
            told = ["dBFS", listed[title][1]]
            assert "peak_dbfs (dBFS): Level of the loudest sample" in listed[title][1]
        assert [unit, note[: len(told[1])]] == listed[title] == told, title
    assert "How the channels relate" in opened.text("figure:has(#group-channel_relation) .note")


def test_the_numbers_of_a_dataset_are_those_of_its_ledger(browser: Any, twice: Path, tmp_path: Path) -> None:
    opened = Page(browser, report_of(twice, "other", tmp_path / "other.html"))
    rows = duckdb.sql(
        "SELECT split, patch, sum(windows), sum(hours), sum(frames), sum(context_tokens + continuation_tokens) "
        f"FROM '{twice}/datasets/other/ledger.parquet' GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert {split for split, *_ in rows} == {"train", "valid"}
    chosen = [row for row in rows if row[1] == 2]
    windows, hours, frames, tokens = (sum(row[column] for row in chosen) for column in (2, 3, 4, 5))
    facts = dict(zip(*(opened.page.locator(f".facts {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert facts["windows in the dataset"].split("\n") == [f"{windows:,}", f"{hours:.3f} h, splits train and valid"]
    assert facts["frames in the dataset"].split("\n")[0] == f"{frames:,}"
    made, said = facts["tokens in the dataset"].split("\n")
    assert (made, said) == (f"{tokens:,}", "a token is 2 frames (patch 2), splits train and valid")
    assert "over the splits train and valid" in opened.text("#tokens .lead")
    assert "a token is 2 frames" in opened.text("#tokens .lead")
    table = opened.page.locator("#tokens tbody tr")
    for number, split in enumerate(("train", "valid")):
        own = [row for row in rows if row[0] == split]
        counts = [f"{own[0][2]:,}", f"{own[0][3]:.3f} h", f"{own[0][4]:,}", *(f"{row[5]:,}" for row in own)]
        cells = table.nth(number).locator("th, td").all_inner_texts()
        assert [cells[0], *cells[2:]] == [split, *counts]
        of_split = f"$('#tokens-prefix').data.filter((trace) => trace.name.split('.')[0] === '{split}')"
        assert sum(opened.page.evaluate(f"{of_split}.map((trace) => trace.y.at(-1))")) == own[0][4]
    assert opened.problems == []


def thumb(opened: Page, rule: str, level: str) -> tuple[Any, float, float]:
    """A threshold's line with the place of its thumb on the page."""
    line = opened.page.locator(f"input.line[data-rule='{rule}'][aria-label*='{level}']")
    line.scroll_into_view_if_needed()
    box = line.bounding_box()
    low, high = float(line.get_attribute("min")), float(line.get_attribute("max"))
    share = (float(line.input_value()) - low) / (high - low)
    return line, box["x"] + 9 + share * (box["width"] - 18), box["y"] + box["height"] / 2


def test_dragging_a_threshold_changes_the_hours_as_select_would(opened: Page, lake: Path) -> None:
    page = opened.page
    (funnel,) = [json.loads(path.read_text()) for path in lake.glob("selections/*/funnel.json")]
    before = opened.hours("recordings")
    assert before == pytest.approx(funnel["recordings"]["kept"]["hours"], abs=6e-4)
    assert opened.hours("windows") == pytest.approx(funnel["windows"]["kept"]["hours"], abs=6e-4)
    line, x, y = thumb(opened, "speech", "recordings")
    assert page.locator("#changed").is_hidden()
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=4)
    page.mouse.move(x + 2000, y, steps=4)
    page.mouse.up()
    opened.until("$('#tally-recordings').textContent === '0.000 h'")
    assert opened.hours("windows") == 0
    assert "speech = " in opened.text("#toml")
    page.locator("#reset").click()
    assert opened.hours("recordings") == before
    line.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert float(line.input_value()) > 0.2
    number = page.get_by_label("Threshold of speech as a number").first
    number.fill("0.81")
    opened.until("$('#toml').textContent.includes('>= 0.81')")
    query = (
        f"SELECT coalesce(sum(duration_s), 0) / 3600 FROM '{lake}/selections/*/verdicts-*.parquet' "
        f"JOIN '{lake}/annotations/vad-*/*.parquet' USING (recording_id) "
        "WHERE verdict = 'kept' AND speech_share >= 0.81"
    )
    ((hours,),) = duckdb.sql(query).fetchall()
    assert opened.hours("recordings") == pytest.approx(hours, abs=6e-4)
    page.locator("#reset").click()
    assert opened.problems == []


def test_a_score_without_a_rule_takes_one(opened: Page) -> None:
    card = opened.page.locator(".score", has=opened.page.locator("h3", has_text="dnsmos_ovrl"))
    card.get_by_role("combobox").select_option(">=")
    card.get_by_role("spinbutton").fill("5")
    opened.until("$('#tally-recordings').textContent === '0.000 h'")
    assert 'dnsmos_ovrl = "dnsmos_ovrl >= 5"' in opened.text("#toml")
    opened.page.locator("#reset").click()
    assert opened.page.locator("#changed").is_hidden()


def test_the_recordings_are_browsed_and_heard_from_the_keyboard(opened: Page) -> None:
    page = opened.page
    assert page.locator("#list li").count() == 4
    page.locator("#list").focus()
    page.keyboard.press("Home")
    seen = []
    for _ in range(4):
        seen.append(opened.text("#name"))
        assert opened.text("#list [aria-selected=true] b") == seen[-1]
        page.keyboard.press("ArrowDown")
    assert len(set(seen)) == 4
    page.keyboard.press("/")
    page.keyboard.type("two channels")
    page.keyboard.press("Enter")
    assert opened.text("#name") == "two channels.wav"
    assert "2 tracks" in opened.text("#sound")
    page.keyboard.press("p")
    opened.until("audio.currentTime > 0.2")
    state = page.evaluate("(({ readyState, duration, error }) => ({ readyState, duration, error }))(audio)")
    assert state["readyState"] >= 3
    assert state["error"] is None
    assert state["duration"] == pytest.approx(20, abs=0.1)
    page.keyboard.press("p")
    assert page.evaluate("audio.paused")
    at = page.evaluate("audio.currentTime")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("audio.currentTime") == pytest.approx(at + 2, abs=0.05)
    page.fill("#filter", "")
    page.select_option("#verdict", "failed")
    assert opened.text("#name") == "broken.wav"
    assert "remedy" in opened.text("#sound")
    page.select_option("#verdict", "")
    assert opened.problems == []


def test_colours_follow_the_system_and_the_button(browser: Any, report: Path) -> None:
    dark = Page(browser, report, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert dark.page.evaluate(ground) == "rgb(17, 21, 27)"
    dark.page.locator("#theme").click()
    assert dark.page.evaluate(ground) == "rgb(250, 249, 246)"
    dark.page.set_viewport_size({"width": 390, "height": 800})
    for _ in range(100):  # the charts take their new width a moment later; the page's policy lets it not poll itself
        if dark.page.evaluate("document.documentElement.scrollWidth") == 390:
            break
        dark.page.wait_for_timeout(200)
    assert dark.page.evaluate("document.documentElement.scrollWidth") == 390
    assert dark.problems == []


def test_a_lake_without_selection_or_sound_has_a_report(browser: Any, lake: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    for part in ("recordings", "annotations"):
        shutil.copytree(lake / part, bare / part)
    path = tmp_path / "bare.html"
    done = speechmill("report", str(bare), "--no-audio", "-o", str(path))
    assert done.returncode == 0, done.stderr
    page = Page(browser, path)
    assert page.page.locator("#funnel, #tokens").count() == 0
    assert page.hours("recordings") == pytest.approx(72 / 3600, abs=6e-4)
    assert page.page.locator("#audio").is_hidden()
    assert page.problems == []


def test_mistakes_are_told_with_a_remedy(lake: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"selection": None, "stages": {}, "output": None, "samples": 1, "no_audio": True}
    with pytest.raises(SpeechmillError, match="no recording in") as caught:
        report_lake(Lake.at(str(tmp_path)), None, **settings)
    assert "ingest" in caught.value.remedy
    with pytest.raises(SpeechmillError, match="no dataset 'other'") as caught:
        report_lake(Lake.at(str(lake)), "other", **settings)
    assert caught.value.remedy == "there is: demo"


def test_the_card_opens_on_the_hub_and_its_croissant_reads_every_window(lake: Path, tmp_path: Path) -> None:
    import datasets
    import mlcroissant
    from huggingface_hub import DatasetCard

    folder = lake / "datasets/demo"
    card = DatasetCard.load(folder / "README.md")
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["en"])
    assert card.data.size_categories == ["n<1K"]
    assert "&lt;b onmouseover=alert(3)>bold&lt;/b> &#124; source" in card.text
    for model in ("silero-vad", "pyannote-segmentation-3.0", "whisper-base", "dnsmos-p835"):
        assert model in card.text
    configs = {config["config_name"]: config["data_files"] for config in card.data.configs}
    assert [file["path"] for file in configs["2tracks"]] == ["train.2tracks/latents.*.tar"]
    assert [file["path"] for file in configs["default"]] == ["train/latents.*.tar"]
    described = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert described.metadata.issues.errors == set()
    assert "datePublished" in described.metadata.issues.report()  # left to whoever publishes it
    rows = list(described.records("window"))
    stored = datasets.load_dataset("parquet", data_files=str(folder / "windows/*.parquet").replace("[", "[[]"),
                                   cache_dir=str(tmp_path), split="train")  # fmt: skip
    assert len(rows) == stored.num_rows > 0
    assert rows[0]["window/window_id"].decode() in stored["window_id"]


def test_licences_are_named_as_the_hub_names_them() -> None:
    assert [hub_licence(name) for name in ("CC BY 4.0", "MIT", "ask me", None)] == [
        "cc-by-4.0",
        "mit",
        "other",
        "unknown",
    ]
