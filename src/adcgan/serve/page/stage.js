// The large picture of the dialog: the photograph, its heatmap, and boxes around its regions.

import { drawRegions } from "./heat.js";

// From so many screen pixels for each of the photograph's on, those are to be seen as squares.
const SQUARES_FROM = 4;

let last = { item: null, photograph: null };

/** Decode the file that was sent; null where the browser cannot, or not as the service did. */
async function photographOf(item) {
  if (last.item === item) return last.photograph;
  (await last.photograph)?.close();
  const decoding = createImageBitmap(item.file).then(
    (found) => (found.width === item.row.width && found.height === item.row.height ? found : null),
    () => null,
  );
  last = { item, photograph: decoding };
  return decoding;
}

/** Where in a photograph, scaled to `width` and `height`, the map lies: left, top, width, height. */
export function placeOfMap(resize, width, height) {
  if (resize !== "crop" && resize !== "pad") return [0, 0, width, height];
  const side = resize === "crop" ? Math.min(width, height) : Math.max(width, height);
  return [(width - side) / 2, (height - side) / 2, side, side];
}

/** Draw an item at the size that it has on the screen: grey under its heatmap if that is on. */
export async function drawStage(canvas, item, view, heatmap, wanted) {
  const photograph = await photographOf(item);
  const seen = photograph ? null : await createImageBitmap(item.picture);
  if (!wanted()) return;
  const { width, height, regions } = item.row;
  canvas.style.setProperty("--aspect", width / height);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.height = Math.max(1, Math.round((canvas.width * height) / width));
  const context = canvas.getContext("2d");
  const scale = canvas.width / width;
  const place = placeOfMap(view.resize, canvas.width, canvas.height);
  context.imageSmoothingEnabled = scale < SQUARES_FROM;
  context.imageSmoothingQuality = "high";
  // What the model saw stands in, where it lies, for a photograph that cannot be shown.
  if (photograph) context.drawImage(photograph, 0, 0, canvas.width, canvas.height);
  else context.drawImage(seen, ...place);
  if (heatmap) {
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "grey";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
    context.imageSmoothingEnabled = true;
    context.drawImage(colouredMap(item, view), ...place);
  }
  drawRegions(context, regions ?? [], scale);
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
