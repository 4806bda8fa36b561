// Draws the figures, moves the thresholds and browses the recordings. All texts are set as text and never as HTML, because
// file names can contain anything. Texts that Plotly renders as markup were escaped when the figures were made.
"use strict";
const $ = (selector, root = document) => root.querySelector(selector);
const data = JSON.parse($("#data").textContent);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const CONFIG = { displayModeBar: false, responsive: true };

// Numbers are little-endian base64, so that thresholds are compared with the same doubles as in DuckDB.
function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}

/* ---- colours ---- */
const THEMES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function themed(layout) {
  const axes = {};
  for (const key of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    axes[key] = { ...layout[key], gridcolor: color("grid"), zerolinecolor: color("line"), linecolor: color("line") };
  }
  const hoverlabel = { bgcolor: color("card"), bordercolor: color("line"), font: { color: color("ink") }, align: "left" };
  const font = { family: "system-ui, sans-serif", size: 12, color: color("soft") };
  return { ...layout, ...axes, font, hoverlabel, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
}

function applyTheme() {
  const dark = theme === "dark" || (theme === "auto" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("#theme").textContent = `Colours: ${theme}`;
  $("#theme").setAttribute("aria-label", `Colours: ${theme}; press to change`);
  for (const [id, figure] of Object.entries(data.figures)) {
    Plotly.react(id, figure.data, themed(figure.layout), CONFIG);
  }
  if (shown) drawPicture();
}

/* ---- the funnel ---- */
const FLOW = { least: 620, height: 230, gap: 10, ribbon: 1.5, widths: [0.9, 0.9, 1.1, 1.1] };

// Each depth has a column of boxes, which are as high as their text and their hours need. Ribbons are drawn only between
// columns, so none crosses a text. The boxes are a tree and stand in the order of their parents, so no ribbons cross.
function drawFlow() {
  const flow = $("#flow"), svg = $("svg", flow), width = flow.clientWidth;
  const wide = width >= FLOW.least;
  flow.classList.toggle("wide", wide);
  flow.style.height = "";
  const items = [...flow.querySelectorAll("li")];
  if (!wide) return items.forEach((item) => Object.assign(item.style, { left: "", top: "", width: "", height: "" }));
  const boxes = items.map((item) => ({ item, depth: Number(item.dataset.depth), hours: Number(item.dataset.hours), children: [] }));
  const columns = FLOW.widths.slice(0, 1 + Math.max(...boxes.map((box) => box.depth)));
  const between = Math.max(36, 0.06 * width), unit = (width - between * (columns.length - 1)) / columns.reduce((a, b) => a + b, 0);
  const left = columns.map((_, depth) => columns.slice(0, depth).reduce((at, column) => at + column * unit + between, 0));
  const open = [];
  for (const box of boxes) {
    open[box.depth] = box;
    if (box.depth) open[box.depth - 1].children.push(box);
    box.width = columns[box.depth] * unit;
    Object.assign(box.item.style, { left: `${left[box.depth]}px`, width: `${box.width}px`, height: "" });
  }
  const scale = FLOW.height / (boxes[0].hours || 1);
  for (const box of boxes) box.height = Math.max(box.item.offsetHeight, scale * box.hours);
  const stack = (children) => children.reduce((sum, child) => sum + child.extent + FLOW.gap, -FLOW.gap);
  for (const box of [...boxes].reverse()) box.extent = Math.max(box.height, box.children.length ? stack(box.children) : 0);
  const ribbons = [];
  const place = (box, top) => {
    box.top = top + (box.extent - box.height) / 2;
    Object.assign(box.item.style, { top: `${box.top}px`, height: `${box.height}px` });
    let at = top + (box.extent - (box.children.length ? stack(box.children) : 0)) / 2, from = box.top + (box.height - scale * box.hours) / 2;
    for (const child of box.children) {
      place(child, at);
      const thick = Math.max(FLOW.ribbon, scale * child.hours), to = child.top + (child.height - thick) / 2;
      const x1 = left[box.depth] + box.width, x2 = left[child.depth], middle = (x1 + x2) / 2;
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${x1} ${from}C${middle} ${from} ${middle} ${to} ${x2} ${to}V${to + thick}C${middle} ${to + thick} ${middle} ${from + thick} ${x1} ${from + thick}Z`);
      path.setAttribute("fill", child.item.style.getPropertyValue("--tone"));
      ribbons.push(path);
      at += child.extent + FLOW.gap;
      from += scale * child.hours;
    }
  };
  place(boxes[0], 0);
  flow.style.height = `${boxes[0].extent}px`;
  svg.replaceChildren(...ribbons);
}

/* ---- what other thresholds would keep ---- */
const HOLDS = { ">=": (v, t) => v >= t, ">": (v, t) => v > t, "<=": (v, t) => v <= t, "<": (v, t) => v < t };
const levels = {};
for (const [name, level] of Object.entries(data.whatif.levels)) {
  levels[name] = { ...level, duration: unpack(level.duration, Float64Array), fixed: unpack(level.fixed, Uint8Array) };
  levels[name].columns = Object.fromEntries(Object.entries(level.columns).map(([k, v]) => [k, unpack(v, Float64Array)]));
  if (level.parent) levels[name].parent = unpack(level.parent, Uint32Array);
}
const rules = data.whatif.rules.map((rule) => ({ ...rule, was: { op: rule.op, value: rule.value } }));

function judge(level, which, parents) {
  const active = rules.filter((rule) => rule.level === which && rule.op);
  const columns = active.map((rule) => level.columns[rule.column]);
  const kept = new Uint8Array(level.duration.length);
  for (let i = 0; i < kept.length; i++) {
    let holds = level.fixed[i] === 1 && (!parents || parents[level.parent[i]] === 1);
    for (let r = 0; holds && r < active.length; r++) holds = HOLDS[active[r].op](columns[r][i], active[r].value);
    kept[i] = holds;
  }
  return kept;
}

function sums(level, kept) {
  let seconds = 0, count = 0, all = 0;
  for (let i = 0; i < kept.length; i++) {
    all += level.duration[i];
    if (kept[i]) { seconds += level.duration[i]; count++; }
  }
  if (level.exact) return { hours: seconds / 3600, count };
  // The share of hours that the sample keeps estimates that of the whole. It is a ratio of sums over the drawn recordings,
  // and its standard error follows from them.
  const share = all ? seconds / all : 0, residuals = new Map();
  for (let i = 0; i < kept.length; i++) {
    const drawn = level.parent ? level.parent[i] : i;
    residuals.set(drawn, (residuals.get(drawn) ?? 0) + level.duration[i] * (kept[i] - share));
  }
  let spread = 0;
  for (const residual of residuals.values()) spread += residual ** 2;
  return { hours: share * level.hours, error: all ? Math.sqrt(spread) / all * level.hours : 0 };
}

function number(value) {
  const digits = value < 100 ? 3 : value < 1000 ? 1 : 0;
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}
let first = null;

function tally() {
  const { recordings, windows } = levels;
  const keptRecordings = judge(recordings, "recordings");
  first ??= { kept: keptRecordings };
  const now = { recordings: sums(recordings, keptRecordings) };
  if (windows) now.windows = sums(windows, judge(windows, "windows", keptRecordings));
  first.sums ??= now;
  for (const [name, found] of Object.entries(now)) {
    const plus = found.hours - first.sums[name].hours;
    const count = found.count === undefined ? `± ${number(found.error)} h` : `${found.count.toLocaleString("en")} of ${levels[name].duration.length.toLocaleString("en")}`;
    $(`#tally-${name}`).textContent = `${number(found.hours)} h`;
    $(`#tally-${name}-was`).textContent = `${count}${Math.abs(plus) < 1e-9 ? "" : ` · ${plus > 0 ? "+" : "−"}${number(Math.abs(plus))} h`}`;
  }
  $("#tally-windows-box").hidden = !windows;
  if (windows) {
    const fresh = sums(recordings, keptRecordings.map((kept, i) => kept && !first.kept[i] ? 1 : 0));
    if (fresh.hours > 0) $("#tally-windows-was").textContent += ` · the windows of ${number(fresh.hours)} h more are not cut yet`;
  }
  const changed = rules.filter((rule) => rule.op !== rule.was.op || rule.value !== rule.was.value);
  $("#changed").hidden = !changed.length;
  $("#toml").textContent = ["recordings", "windows"].flatMap((level) => {
    const lines = changed.filter((rule) => rule.level === level).map((rule) =>
      rule.op ? `${key(rule.name)} = ${JSON.stringify(`${rule.expression} ${rule.op} ${rule.value}`)}` : `# ${rule.name}: no rule`);
    return lines.length ? [`[select.${level}]`, ...lines] : [];
  }).join("\n");
}

const key = (name) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));

let waiting = false;
function soon() {
  if (!waiting) requestAnimationFrame(() => { waiting = false; tally(); });
  waiting = true;
}

function addRule(card, score, rule) {
  const { low, high, step } = score;
  const what = `${rule.level}: ${rule.expression}`;
  const line = make("input", { type: "range", className: "line", min: low, max: high, step });
  const typed = make("input", { type: "number", step: "any" });
  const op = make("select", {}, ...[["", "no rule"], [">=", "≥"], [">", ">"], ["<=", "≤"], ["<", "<"]].map(([value, text]) => make("option", { value, textContent: text })));
  line.setAttribute("aria-label", `Threshold of ${rule.name}, ${what}`);
  typed.setAttribute("aria-label", `Threshold of ${rule.name} as a number`);
  op.setAttribute("aria-label", `Comparison of ${rule.name}`);
  line.dataset.rule = rule.name;
  const show = () => {
    line.value = rule.value;
    typed.value = rule.value;
    op.value = rule.op;
    line.hidden = !rule.op;
    typed.hidden = !rule.op;
    line.setAttribute("aria-valuetext", `${rule.op || "no rule"} ${rule.value} ${score.unit}`);
  };
  line.addEventListener("input", () => { rule.value = Number(line.value); show(); soon(); });
  typed.addEventListener("input", () => { if (typed.value !== "") { rule.value = Number(typed.value); line.value = rule.value; soon(); } });
  op.addEventListener("change", () => { rule.op = op.value; show(); soon(); });
  rule.show = show;
  $(".stage", card).append(line);
  const label = make("label", {}, make("b", { textContent: rule.was.op ? rule.name : "" }));
  $(".rules", card).append(make("div", { className: "rule" }, label, op, typed));
  show();
}

// The slider covers the plot area of Plotly and half the width of its thumb beyond it on either side.
function placeLines(card) {
  const size = $(".plot", card)._fullLayout?._size;
  if (!size) return;
  for (const line of card.querySelectorAll(".line")) Object.assign(line.style, { left: `${size.l - 9}px`, width: `${size.w + 18}px` });
}

for (const card of document.querySelectorAll(".score")) {
  const score = data.whatif.scores[card.dataset.score];
  for (const rule of rules.filter((rule) => rule.level === score.level && rule.column === score.column)) addRule(card, score, rule);
  new ResizeObserver(() => requestAnimationFrame(() => placeLines(card))).observe(card);
}
$("#reset").addEventListener("click", () => {
  for (const rule of rules) { Object.assign(rule, rule.was); rule.show(); }
  tally();
});

/* ---- recordings ---- */
const samples = data.samples;
let visible = [];
let shown = null;
let wide = false;

function listed() {
  const words = $("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = $("#verdict").value;
  visible = samples.filter((s) => (!verdict || s.verdict === verdict) && words.every((word) => s.search.includes(word)));
  $("#count").textContent = `${visible.length} of ${samples.length} sampled recordings`;
  $("#list").replaceChildren(...visible.map((s) => {
    const item = make("li", { id: `r-${s.id}`, role: "option", title: s.names[0] }, make("b", { textContent: s.name }),
      make("small", {}, make("span", { className: s.verdict, textContent: s.verdict }), ` · ${s.length}${s.language ? ` · ${s.language}` : ""}${s.reasons.length ? ` · ${s.reasons.join(", ")}` : ""}`));
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    item.addEventListener("click", () => show(s));
    return item;
  }));
  if (visible.length) show(visible.includes(shown) ? shown : visible[0]);
}

function load(audio, packed) {
  const before = audio.src;
  audio.pause();
  audio.removeAttribute("src");
  if (packed) audio.src = URL.createObjectURL(new Blob([unpack(packed, Uint8Array)], { type: "audio/webm" }));
  audio.load();
  if (before) URL.revokeObjectURL(before);
  audio.hidden = !packed;
}

function show(sample) {
  if (sample !== shown) {
    load($("#audio"), sample.audio);
    load($("#decoded"), sample.decoded);
    $("#recorded").hidden = !sample.audio || !sample.decoded;
    $("#trip").hidden = !sample.decoded_label;
    $("#decoded-label").textContent = sample.decoded_label ?? "";
    wide = !sample.excerpt;
  }
  shown = sample;
  for (const item of $("#list").children) item.setAttribute("aria-selected", item.id === `r-${sample.id}`);
  $("#list").setAttribute("aria-activedescendant", `r-${sample.id}`);
  const list = $("#list"), item = $(`#r-${CSS.escape(sample.id)}`); // scrollIntoView would move the page as well
  list.scrollTop = Math.min(item.offsetTop, Math.max(list.scrollTop, item.offsetTop + item.offsetHeight - list.clientHeight));
  $("#name").textContent = sample.name;
  $("#names").textContent = [sample.id, ...sample.names].join(" · ");
  const tag = (text, kind) => make("span", { className: `tag ${kind}`, textContent: text });
  $("#tags").replaceChildren(tag(sample.verdict, sample.verdict), ...sample.reasons.map((reason) => tag(reason, sample.verdict)));
  $("#sound").textContent = sample.sound;
  $("#values").replaceChildren(...sample.values.map(([name, value, broken]) =>
    make("div", {}, make("dt", { textContent: name, title: data.measures[name] ?? "" }), make("dd", { className: broken ? "broken" : "", textContent: broken ? `${value} ✗` : value, title: broken ? "breaks a rule" : "" }))));
  drawPicture();
}

function drawPicture() {
  const s = shown, excerpt = s.excerpt, traces = [], layout = { margin: { l: 88, r: 8, t: 6, b: 36 }, showlegend: false, barmode: "overlay", bargap: 0.25 };
  const range = wide || !excerpt ? [0, s.duration_s] : [excerpt.start_s, excerpt.start_s + excerpt.duration_s];
  const lanes = s.lanes.length ? Math.min(0.5, 0.07 * s.lanes.length + 0.04) : 0;
  layout.xaxis = { range, title: { text: "seconds" }, anchor: "free", position: 0 };
  if (excerpt) {
    traces.push({ type: "heatmap", z: { dtype: "u1", bdata: excerpt.mel, shape: excerpt.shape.join() }, x0: excerpt.start_s + excerpt.dx_s / 2, dx: excerpt.dx_s,
      colorscale: data.melscale, showscale: false, zsmooth: false, yaxis: "y", hovertemplate: "%{x:.2f} s, band %{y}<extra></extra>" });
    layout.yaxis = { domain: [lanes + 0.2, 1], tickvals: data.mel.vals, ticktext: data.mel.texts, title: { text: "frequency, Hz" } };
    const t = Array.from(excerpt.wave[0].low, (_, i) => excerpt.start_s + (i + 0.5) * excerpt.wave_dx_s);
    excerpt.wave.forEach((track, i) => {
      const up = (v) => v / 127 - 2.1 * i;
      const line = { width: 0.8, color: color("accent"), shape: "hvh" };
      traces.push({ x: t, y: Array.from(track.low, up), yaxis: "y2", line, mode: "lines", hoverinfo: "skip" });
      traces.push({ x: t, y: Array.from(track.high, up), yaxis: "y2", line, mode: "lines", hoverinfo: "skip", fill: "tonexty", fillcolor: color("accent") });
    });
    const low = 1.05 - 2.1 * excerpt.wave.length;
    layout.yaxis2 = { domain: [lanes + 0.01, lanes + 0.18], range: [low, 1.05], fixedrange: true, tickvals: excerpt.wave.map((_, i) => -2.1 * i),
      ticktext: excerpt.wave.map((_, i) => (excerpt.wave.length > 1 ? `track ${i}` : "wave")), zeroline: false, showgrid: false };
  }
  s.lanes.forEach((lane) => traces.push({ type: "bar", orientation: "h", yaxis: "y3", y: lane.spans.map(() => escaped(lane.name)), base: lane.spans.map((span) => span[0]),
    x: lane.spans.map((span) => span[1] - span[0]), text: lane.texts?.map(escaped), textposition: "inside", insidetextanchor: "middle", textangle: 0, marker: { color: lane.colors ?? lane.color },
    hovertemplate: lane.hover ? lane.hover.map((text) => `${escaped(text)}<extra></extra>`) : `${escaped(lane.name)}<br>%{base:.2f} s, %{x:.2f} s long<extra></extra>` }));
  layout.yaxis3 = { domain: [0, excerpt ? lanes : 1], autorange: "reversed", fixedrange: true, type: "category", categoryarray: s.lanes.map((lane) => escaped(lane.name)), automargin: true };
  layout.shapes = [playhead(excerpt ? excerpt.start_s + $("#audio").currentTime : 0)];
  const picture = $("#picture");
  layout.height = (excerpt ? 270 : 60) + 26 * s.lanes.length;
  picture.setAttribute("aria-label", s.label);
  Plotly.react(picture, traces, themed(layout), CONFIG);
  picture.removeAllListeners?.("plotly_click");
  picture.on("plotly_click", (event) => seek(event.points[0].x ?? 0, event));
  $("#whole").textContent = wide ? "Excerpt" : "Whole recording";
  $("#whole").hidden = !excerpt || excerpt.duration_s >= s.duration_s - 0.05;
}

const playhead = (at) => ({ type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper", line: { color: color("mark"), width: 2 } });

function seek(at) {
  if (shown.audio) $("#audio").currentTime = Math.max(0, Math.min(shown.excerpt.duration_s, at - shown.excerpt.start_s));
}

function step(by) {
  const next = visible[visible.indexOf(shown) + by];
  if (next) show(next);
}

const toggle = () => { if (shown?.audio) $("#audio").paused ? $("#audio").play() : $("#audio").pause(); };
function compare() { // continues with the other player at the same place
  if (!shown?.decoded) return;
  const [from, to] = $("#decoded").paused ? [$("#audio"), $("#decoded")] : [$("#decoded"), $("#audio")];
  to.currentTime = Math.min(from.currentTime, to.duration || 0);
  to.play();
}
const widen = () => { wide = !wide; drawPicture(); };

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA|AUDIO)$/.test(event.target.tagName)) return;
  const inList = event.target.id === "list";
  const actions = { j: () => step(1), k: () => step(-1), p: toggle, d: compare, w: () => $("#whole").hidden || widen(), "/": () => $("#filter").focus(),
    ...(inList && { ArrowDown: () => step(1), ArrowUp: () => step(-1), Home: () => visible.length && show(visible[0]), End: () => visible.length && show(visible.at(-1)), " ": toggle, Enter: toggle }),
    ...(event.target.tagName !== "BUTTON" && { ArrowLeft: () => { $("#audio").currentTime -= 2; }, ArrowRight: () => { $("#audio").currentTime += 2; } }) };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
}

/* ---- start ---- */
try { theme = localStorage.getItem("speechmill-theme") ?? "auto"; } catch { /* a page from disk may have no storage */ }
$("#theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("speechmill-theme", theme); } catch { /* then the choice lasts until the page is closed */ }
  applyTheme();
});
system.addEventListener("change", applyTheme);
applyTheme();
if ($("#flow")) {
  drawFlow();
  new ResizeObserver(() => requestAnimationFrame(drawFlow)).observe($("#flow"));
}
document.querySelectorAll(".score").forEach(placeLines);
tally();
document.querySelectorAll(".passage").forEach((audio, number) => load(audio, data.passages[number]));
if (samples.length) {
  $("#filter").addEventListener("input", listed);
  $("#filter").addEventListener("keydown", (event) => { if (event.key === "Escape" || event.key === "Enter") $("#list").focus(); });
  $("#verdict").addEventListener("change", listed);
  $("#whole").addEventListener("click", widen);
  for (const [audio, other] of [[$("#audio"), $("#decoded")], [$("#decoded"), $("#audio")]]) {
    audio.addEventListener("play", () => other.pause());
    audio.addEventListener("timeupdate", () => {
      if (!shown.excerpt) return; // a late event of the previous recording
      const at = shown.excerpt.start_s + audio.currentTime;
      Plotly.relayout("picture", { "shapes[0].x0": at, "shapes[0].x1": at });
    });
  }
  document.addEventListener("keydown", keys);
  listed();
}
document.documentElement.dataset.ready = "yes";
