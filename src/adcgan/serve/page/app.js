// The page: what it knows, and what happens when something is added, moved or clicked.

import { chart, histogram, withAxis } from "./chart.js";
import { Client, ServiceError } from "./client.js";
import { save, toCsv } from "./csv.js";
import { budgets, isAnomalous, percent, short, thresholdFor } from "./decide.js";
import { chosen, dropped, requests } from "./files.js";
import { colours, drawScale, sharedTop } from "./heat.js";
import { makeRow, paintRow, paintStage, paintThumbs, showDetails } from "./rows.js";

const AT_A_TIME = 2;
const PAGE_OF_ROWS = 60;

const at = (id) => document.getElementById(id);
const client = new Client(askForKey);
let model;
let choices = [];
let budget = null;
let items = [];
let shown = PAGE_OF_ROWS;
let opened = null;
let stopping = new AbortController();
let waiting = [];
let running = 0;
let scheduled = false;
const view = { top: 1, anomalous: (row) => isAnomalous(row, budget, model.threshold) };

// -- start -----------------------------------------------------------------------------------

async function start() {
  try {
    model = await client.model();
  } catch (error) {
    at("model").textContent = "";
    return trouble(`${error.message}. Reload the page to try again.`);
  }
  const { calibration, limits } = model;
  at("model").textContent =
    `${model.detector}, ${sizeInWords(model)} in ` +
    `${model.channels === 1 ? "grey" : "colour"}, trained on ${model.n_train.toLocaleString()} normal ` +
    `images and calibrated on ${calibration.n.toLocaleString()} others.`;
  at("takes").textContent = `Up to ${limits.max_file_mb} MB and ${limits.max_megapixels} megapixels each. Any number: they are sent in turn.`;
  at("versions").textContent = Object.entries(model.versions).map(([name, v]) => `${name} ${v}`).join(" · ");
  view.shape = histogram(calibration.scores);
  view.calibrated = calibration.n;
  view.colours = colours(model.heatmap_colours);
  view.opacity = model.heatmap_opacity;
  view.resize = model.resize;
  drawScale(at("scale-bar"), view.colours);
  choices = budgets(calibration.n);
  at("budget").max = choices.length - 1;
  at("budget-support").textContent =
    `${calibration.n.toLocaleString()} held-out normal images support no budget below ` +
    `${percent(model.smallest_fpr)}` + (calibration.n < 99 ? "; 1% would take 99." : ".");
  decideBy(model.fpr);
  pump();
}

function sizeInWords({ resize, image_size: size }) {
  if (resize !== "keep") return `images of ${size}×${size} pixels`;
  return size === null ? "images at their own size" : `images of up to ${size} pixels a side`;
}

function trouble(message) {
  at("trouble").textContent = message;
  at("trouble").hidden = !message;
}

function askForKey(wrong) {
  at("key-wrong").hidden = !wrong;
  at("key-value").value = "";
  at("key").showModal();
  return new Promise((resolve) => {
    at("key-form").addEventListener("submit", () => resolve(at("key-value").value.trim()), { once: true });
  });
}

// -- the budget ------------------------------------------------------------------------------

function decideBy(wanted) {
  budget = wanted;
  const own = budget === model.fpr;
  view.threshold = own ? model.threshold : thresholdFor(model.calibration.scores, budget);
  const text = budget === null ? "the model’s own rule" : percent(budget);
  at("budget-value").textContent = text;
  at("budget").setAttribute("aria-valuetext", text);
  if (own) at("budget").value = choices.findLastIndex((choice) => choice <= (budget ?? 0));
  at("budget-reset").hidden = own;
  at("budget-meaning").textContent =
    `Scores above ${short(view.threshold)} are anomalous.` +
    (budget === null ? "" : ` At most ${percent(budget)} of new normal images are expected to be.`);
  refresh();
}

// -- files in, rows out ----------------------------------------------------------------------

function add(found) {
  if (found.length === 0) return trouble("There is no file in that.");
  trouble("");
  const fresh = found.map(({ file, name }) => ({ file, name, row: null, error: "", again: false }));
  for (const item of fresh) makeRow(item, open);
  items.push(...fresh);
  send(fresh);
}

function send(fresh) {
  const most = (model?.limits.max_file_mb ?? Infinity) * 1e6;
  for (const item of fresh) {
    const large = item.file.size > most;
    item.error = large ? `larger than ${model.limits.max_file_mb} MB` : "";
    item.again = false;
  }
  waiting.push(...fresh.filter((item) => !item.error));
  pump();
  refresh();
}

function pump() {
  if (!model) return;
  while (running < AT_A_TIME && waiting.length > 0) {
    const [group] = requests(waiting, model.limits);
    waiting.splice(0, group.length);
    running += 1;
    scoreGroup(group, stopping.signal).finally(() => {
      running -= 1;
      pump();
      refresh();
      if (running === 0) watch();
    });
  }
}

/** Say whether the images that the service has seen last are unlike those learned from. */
async function watch() {
  try {
    at("drift").textContent = await client.warning();
  } catch (error) {
    // The scores stand; what comes of the next images will be said with them.
    if (!(error instanceof ServiceError)) throw error;
  }
  at("drift").hidden = !at("drift").textContent;
}

async function scoreGroup(group, signal) {
  const names = group.map((item) => item.name);
  try {
    const answer = await client.score(group.map((item) => item.file), names, { heatmaps: model.heatmaps, signal });
    take(group, answer.images);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ServiceError)) throw error;
    if (error.images) {
      take(group, error.images);
    } else if (error.status === 413 && group.length > 1) {
      // Something in between takes less than the service does.
      for (const item of group) await scoreGroup([item], signal);
    } else {
      for (const item of group) Object.assign(item, { error: error.message, again: error.again });
    }
  }
  refresh();
}

function take(group, rows) {
  rows.forEach((row, i) => Object.assign(group[i], row.error ? { error: row.error } : { row }));
}

// -- what is seen ----------------------------------------------------------------------------

/** Bring the page up to date, once for everything that happens at a time. */
function refresh() {
  if (scheduled || !model) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    paint();
  });
}

function paint() {
  const scored = items.filter((item) => item.row);
  const marks = scored.map(({ row }) => ({ score: row.score, anomalous: view.anomalous(row) }));
  view.shape = withAxis(view.shape, marks.map((mark) => mark.score));
  at("chart").replaceChildren(chart(view.shape, view.threshold, marks, short));
  at("results").hidden = items.length === 0;
  summarise(scored, marks);
  if (items.length === 0) return;
  const tops = scored.map(({ row }) => row.heatmap_top).filter(Boolean);
  if (tops.length > 0) view.top = sharedTop(tops);
  at("scale").hidden = tops.length === 0;
  at("scale-top").textContent = short(view.top);
  const listed = ordered(items.filter(passes));
  const visible = listed.slice(0, shown);
  at("more").hidden = visible.length === listed.length;
  place(visible);
  for (const item of visible) {
    paintRow(item, view);
    paintThumbs(item, view);
  }
  if (opened) showDetails(opened, view, chartOf);
}

function summarise(scored, marks) {
  const anomalous = marks.filter((mark) => mark.anomalous).length;
  const errors = items.filter((item) => item.error).length;
  const left = items.length - scored.length - errors;
  const parts = [`${anomalous} anomalous`, `${scored.length - anomalous} normal`];
  if (errors > 0) parts.push(`${errors} with an error`);
  if (left > 0) parts.push(`${left} to go`);
  const counted = `${items.length} ${items.length === 1 ? "image" : "images"}: ${parts.join(", ")}.`;
  at("summary").textContent = items.length > 0 ? counted : "";
  at("progress").hidden = left === 0;
  at("progress").max = items.length;
  at("progress").value = items.length - left;
  at("download").disabled = scored.length + errors === 0;
  at("retry").hidden = !items.some((item) => item.again);
}

function passes(item) {
  const wanted = at("filter").value;
  if (wanted === "all") return true;
  if (wanted === "error") return Boolean(item.error);
  return Boolean(item.row) && view.anomalous(item.row) === (wanted === "anomalous");
}

function ordered(list) {
  if (at("order").value === "given") return list;
  return [...list].sort((a, b) => (b.row?.score ?? -Infinity) - (a.row?.score ?? -Infinity));
}

/** Put lines in place, moving only what is not: a line in use keeps its focus. */
function place(visible) {
  const list = at("rows");
  visible.forEach((item, i) => {
    if (list.children[i] !== item.node) list.insertBefore(item.node, list.children[i] ?? null);
  });
  while (list.children.length > visible.length) list.lastElementChild.remove();
}

const chartOf = (marks) => chart(view.shape, view.threshold, marks, short);

function open(item) {
  opened = item;
  // Opened first: the picture is drawn at the size that it has on the screen.
  at("details").showModal();
  showDetails(item, view, chartOf);
}

/** Go to the next or the last image in the dialog. */
function step(by) {
  if (by === 0) return;
  const seen = ordered(items.filter(passes)).filter((item) => item.row);
  const next = seen[seen.indexOf(opened) + by];
  if (next) {
    opened = next;
    showDetails(next, view, chartOf);
  }
}

// -- wiring ----------------------------------------------------------------------------------

const on = (id, event, action) => at(id).addEventListener(event, action);

for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
  on(button, "click", () => at(input).click());
  on(input, "change", () => {
    add(chosen(at(input).files));
    at(input).value = "";
  });
}
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
document.addEventListener("dragover", () => at("drop").classList.add("over"));
document.addEventListener("dragleave", (event) => event.relatedTarget ?? at("drop").classList.remove("over"));
document.addEventListener("drop", async (event) => {
  at("drop").classList.remove("over");
  try {
    add(await dropped(event.dataTransfer));
  } catch (error) {
    trouble(`The files cannot be read: ${error.message}`);
  }
});
on("budget", "input", () => decideBy(choices[at("budget").value]));
on("budget-reset", "click", () => {
  decideBy(model.fpr);
  at("budget").focus();
});
on("filter", "change", refresh);
on("order", "change", refresh);
on("more", "click", () => {
  shown += PAGE_OF_ROWS;
  refresh();
});
on("retry", "click", () => send(items.filter((item) => item.again)));
on("clear", "click", () => {
  stopping.abort();
  stopping = new AbortController();
  [items, waiting, shown] = [[], [], PAGE_OF_ROWS];
  at("rows").replaceChildren();
  refresh();
  at("choose-files").focus();
});
on("download", "click", () => {
  const done = items.filter((item) => item.row || item.error);
  save("scores.csv", toCsv(done, model.components, view.anomalous));
});
on("details-heat", "change", () => paintStage(view));
window.addEventListener("resize", () => opened && paintStage(view));
on("details-close", "click", () => at("details").close());
on("details", "close", () => (opened = null));
on("details", "keydown", (event) => step({ ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0));
on("key", "cancel", (event) => event.preventDefault());

start();
