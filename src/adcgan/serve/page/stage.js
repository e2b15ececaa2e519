// The large picture of the dialog: the photograph, its heatmap, and boxes around its regions.

import { drawRegions } from "./heat.js";

// Of the longer side: more than a screen shows, and quickly drawn.
const MOST_PIXELS = 1600;

let last = { item: null, photograph: null };

/** Decode the file that was sent; what the model saw stands in where the browser cannot. */
async function photographOf(item) {
  if (last.item === item) return last.photograph;
  last.photograph?.close?.();
  last = { item, photograph: null };
  const found = await createImageBitmap(item.file).catch(() => createImageBitmap(item.picture));
  if (last.item === item) last.photograph = found;
  return found;
}

/** Where in a photograph, scaled to `width` and `height`, the map lies: left, top, width, height. */
export function placeOfMap(resize, width, height) {
  if (resize !== "crop" && resize !== "pad") return [0, 0, width, height];
  const side = resize === "crop" ? Math.min(width, height) : Math.max(width, height);
  return [(width - side) / 2, (height - side) / 2, side, side];
}

/** Draw an item: grey under its heatmap if that is on, and its regions. */
export async function drawStage(canvas, item, view, heatmap, wanted) {
  const photograph = await photographOf(item);
  if (!wanted()) return;
  const longest = Math.max(photograph.width, photograph.height);
  // What the model saw may be small: as many screen pixels for each, so that it stays sharp.
  const scale = longest > MOST_PIXELS ? MOST_PIXELS / longest : Math.max(1, Math.floor(600 / longest));
  canvas.width = Math.round(photograph.width * scale);
  canvas.height = Math.round(photograph.height * scale);
  canvas.style.setProperty("--aspect", canvas.width / canvas.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(photograph, 0, 0, canvas.width, canvas.height);
  const place = placeOfMap(view.resize, canvas.width, canvas.height);
  if (heatmap) {
    toGrey(context);
    context.imageSmoothingEnabled = true;
    context.drawImage(colouredMap(item, view), ...place);
  }
  const [left, top, width, height] = place;
  const [x, y] = [width / item.map.width, height / item.map.height];
  drawRegions(
    canvas,
    (item.row.regions ?? []).map((region) => ({
      left: left + x * region.left,
      top: top + y * region.top,
      width: x * region.width,
      height: y * region.height,
    })),
  );
}

function toGrey(context) {
  const { width, height } = context.canvas;
  const made = context.getImageData(0, 0, width, height);
  for (let i = 0; i < made.data.length; i += 4) {
    const grey = (made.data[i] + made.data[i + 1] + made.data[i + 2]) / 3;
    made.data.fill(grey, i, i + 3);
  }
  context.putImageData(made, 0, 0);
}

/** Return a map's colours on the shared scale, the more opaque the higher the value. */
function colouredMap(item, view) {
  const { map } = item;
  const gain = item.row.heatmap_top / view.top;
  const made = new ImageData(map.width, map.height);
  for (let i = 0; i < made.data.length; i += 4) {
    const level = Math.min(1, (map.data[i] / 255) * gain);
    made.data.set(view.colours[Math.round(255 * level)], i);
    made.data[i + 3] = 255 * view.opacity * level;
  }
  const canvas = new OffscreenCanvas(map.width, map.height);
  canvas.getContext("2d").putImageData(made, 0, 0);
  return canvas;
}
