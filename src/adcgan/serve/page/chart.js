// Where a score falls among those of held-out normal images, as inline SVG.

const SVG = "http://www.w3.org/2000/svg";
const BINS = 30;

function make(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

/** Bins of the calibration scores, ascending. */
export function histogram(scores) {
  const low = scores[0];
  const span = Math.max(scores.at(-1) - low, Math.abs(low) * 1e-6, 1e-12);
  const counts = new Array(BINS).fill(0);
  for (const score of scores) counts[Math.min(BINS - 1, Math.floor((BINS * (score - low)) / span))] += 1;
  return { low, span, counts, most: Math.max(...counts) };
}

/** The axis for these scores: it reaches nine in ten, yet leaves the bars a quarter of its length. */
export function withAxis(shape, scores) {
  const { low, span } = shape;
  const sorted = [...scores].sort((a, b) => a - b);
  const high = sorted[Math.floor(0.9 * sorted.length)] ?? low;
  const from = Math.max(low - 0.5 * span, Math.min(low - 0.08 * span, sorted[0] ?? low));
  return { ...shape, from, to: Math.min(low + 4 * span, Math.max(low + 1.5 * span, high + 0.1 * span)) };
}

/** Place of a score between 0 and 1 along the axis; scores beyond it are drawn at its edge. */
function placed(shape, score) {
  return Math.min(1, Math.max(0, (score - shape.from) / (shape.to - shape.from)));
}

function bars(shape, parent, width, base, height) {
  const step = (shape.span / BINS / (shape.to - shape.from)) * width;
  const wide = Math.max(step - 0.5, 0.5);
  let d = "";
  shape.counts.forEach((count, i) => {
    const x = placed(shape, shape.low + (i * shape.span) / BINS) * width;
    const tall = (count / shape.most) * height;
    if (count > 0) d += `M${x.toFixed(1)} ${base}v${-tall.toFixed(1)}h${wide.toFixed(1)}V${base}z`;
  });
  make("path", { class: "bar", d }, parent);
}

/** The large picture: bars, threshold, and a tick for each image. */
export function chart(shape, threshold, items, short) {
  const [width, height, base] = [560, 170, 120];
  const anomalous = items.filter((item) => item.anomalous).length;
  const svg = make("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label":
      `Histogram of held-out normal scores from ${short(shape.low)} to ${short(shape.low + shape.span)}; ` +
      `threshold ${short(threshold)}; ${items.length} images of yours, ${anomalous} above it`,
  });
  bars(shape, svg, width, base, base - 18);
  make("line", { class: "axis", x1: 0, x2: width, y1: base, y2: base }, svg);
  // Many ticks of one colour are one path: thousands of images stay quick to draw.
  for (const kind of [false, true]) {
    const places = new Set(items.filter((i) => i.anomalous === kind).map((i) => (placed(shape, i.score) * width).toFixed(1)));
    const d = Array.from(places, (x) => `M${x} ${base + 3}v14`).join("");
    if (d) make("path", { class: kind ? "tick anomalous" : "tick", d, fill: "none" }, svg);
  }
  const x = placed(shape, threshold) * width;
  make("line", { class: "threshold", x1: x, x2: x, y1: 10, y2: base + 20 }, svg);
  const right = x > width - 110;
  label(svg, right ? x - 5 : x + 5, 16, `threshold ${short(threshold)}`, right ? "end" : "start");
  label(svg, placed(shape, shape.low) * width, base + 36, short(shape.low), "middle");
  label(svg, width, base + 36, `${short(shape.to)} and above`, "end");
  return svg;
}

function label(svg, x, y, text, anchor) {
  make("text", { x, y, "text-anchor": anchor }, svg).textContent = text;
}

/** The small picture: one score among the normal ones. */
export function strip(shape, threshold, item, short) {
  const [width, height] = [200, 34];
  const svg = make("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${item.anomalous ? "above" : "not above"} the threshold ${short(threshold)}`,
  });
  bars(shape, svg, width, height - 6, height - 10);
  make("line", { class: "axis", x1: 0, x2: width, y1: height - 6, y2: height - 6 }, svg);
  const t = placed(shape, threshold) * width;
  make("line", { class: "threshold", x1: t, x2: t, y1: 2, y2: height - 6 }, svg);
  const x = Math.min(width - 6, Math.max(5, placed(shape, item.score) * width));
  const beyond = item.score > shape.to;
  const d = beyond
    ? `M${x - 4} ${height - 17}l9 6l-9 6z`
    : `M${x} ${height - 18}l4.5 12h-9z`;
  make("path", { class: item.anomalous ? "marker anomalous" : "marker", d }, svg);
  return svg;
}
