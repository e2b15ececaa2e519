// One line of the results for each file. Names are text, never markup.

import { strip } from "./chart.js";
import { short } from "./decide.js";
import { drawHeat, drawPicture, pixels } from "./heat.js";
import { drawStage } from "./stage.js";

function element(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

function figure(title) {
  const node = element("span", "figure");
  const value = document.createElement("span");
  node.append(element("small", "", title), value);
  return { node, value };
}

/** Make the line of an item; `paintRow` fills it. */
export function makeRow(item, open) {
  const row = element("button", "row");
  row.type = "button";
  row.disabled = true;
  row.addEventListener("click", () => open(item));
  const thumbs = element("span", "thumbs");
  const name = element("span", "name", item.name);
  const badge = element("span", "badge waiting", "waiting");
  const verdict = element("span", "verdict");
  verdict.append(badge);
  const [score, p] = [figure("score"), figure("p-value")];
  const place = element("span", "place");
  row.append(thumbs, name, verdict, score.node, p.node, place);
  const node = document.createElement("li");
  node.append(row);
  Object.assign(item, { node, parts: { row, thumbs, name, badge, score, p, place } });
}

/** Bring a line up to date with its item, the threshold and the verdict. */
export function paintRow(item, view) {
  const { row, name, badge, score, p, place } = item.parts;
  if (item.error) {
    badge.className = "badge error";
    badge.textContent = "error";
    name.replaceChildren(item.name, element("small", "error", item.error));
    return;
  }
  if (!item.row) {
    badge.className = "badge waiting";
    badge.textContent = "waiting";
    name.replaceChildren(item.name);
    return;
  }
  row.disabled = false;
  const anomalous = view.anomalous(item.row);
  badge.className = anomalous ? "badge anomalous" : "badge normal";
  badge.textContent = anomalous ? "anomalous" : "normal";
  score.value.textContent = short(item.row.score);
  p.value.textContent = short(item.row.p_value);
  const shown = { score: item.row.score, anomalous };
  place.replaceChildren(strip(view.shape, view.threshold, shown, short));
}

/** Decode an item's pictures once; false where it has none. */
async function decoded(item) {
  if (!item.row?.picture) return false;
  item.pictures ??= Promise.all([pixels(item.row.picture), pixels(item.row.map)]);
  [item.picture, item.map] = await item.pictures;
  return true;
}

/** Draw an item's pictures on two canvases. */
async function drawPictures(item, [plain, hot], view) {
  if (!(await decoded(item))) return;
  drawPicture(plain, item.picture);
  const gain = item.row.heatmap_top / view.top;
  drawHeat(hot, item.picture, item.map, gain, view.colours, view.opacity);
}

/** Draw an item's thumbnails, anew where the shared scale has changed. */
export async function paintThumbs(item, view) {
  if (!item.row?.picture || item.drawnFor === view.top) return;
  item.drawnFor = view.top;
  if (item.parts.thumbs.childElementCount === 0) {
    const [plain, hot] = [document.createElement("canvas"), document.createElement("canvas")];
    plain.setAttribute("aria-hidden", "true");
    hot.setAttribute("role", "img");
    hot.setAttribute("aria-label", "heatmap");
    item.parts.thumbs.append(plain, hot);
  }
  await drawPictures(item, item.parts.thumbs.children, view);
}

let detailed = null;

/** Fill the dialog with an item. */
export async function showDetails(item, view, chartOf) {
  detailed = item;
  const at = (id) => document.getElementById(id);
  const anomalous = view.anomalous(item.row);
  at("details-name").textContent = item.name;
  const held = view.calibrated;
  const higher = Math.round(item.row.p_value * (held + 1)) - 1;
  at("details-verdict").textContent =
    `${anomalous ? "Anomalous" : "Normal"}: score ${short(item.row.score)}, threshold ` +
    `${short(view.threshold)}. ${higher || "None"} of the ${held} held-out normal images score as high.`;
  at("details-chart").replaceChildren(chartOf([{ score: item.row.score, anomalous }]));
  const figures = [["score", item.row.score], ["p-value", item.row.p_value], ...Object.entries(item.row.components)];
  at("details-figures").replaceChildren(
    ...figures.map(([key, value]) => {
      const line = document.createElement("tr");
      const head = element("th", "", key);
      head.scope = "row";
      line.append(head, element("td", "", value === null ? "not finite" : String(value)));
      return line;
    }),
  );
  at("details-stage").hidden = !item.row.picture;
  const { regions } = item.row;
  const many = regions?.length === 1 ? "1 region" : `${regions?.length || "No"} regions`;
  at("details-regions").textContent = regions ? `${many} above the threshold for pixels` : "";
  await paintStage(view);
}

/** Draw the large picture of the item in the dialog. */
export async function paintStage(view) {
  const item = detailed;
  if (!item || !(await decoded(item))) return;
  const wanted = () => detailed === item;
  const canvas = document.querySelector("#details-stage canvas");
  await drawStage(canvas, item, view, document.getElementById("details-heat").checked, wanted);
}
