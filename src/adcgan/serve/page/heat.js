// Draws what the model saw and its anomaly map, all maps on one colour scale.

/** Decode a base64 PNG into pixels. */
export async function pixels(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** The anomaly value of the hottest colour: nine in ten maps reach no further. */
export function sharedTop(tops) {
  const sorted = [...tops].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(0.9 * sorted.length))];
}

/** A colour for each of 256 levels, by straight lines between the given ones. */
export function colours(stops) {
  const rgb = stops.map((stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (rgb.length - 1);
    const i = Math.min(Math.floor(place), rgb.length - 2);
    return rgb[i].map((value, c) => value + (place - i) * (rgb[i + 1][c] - value));
  });
}

/** Draw a picture as it is. */
export function drawPicture(canvas, picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Lay a map on a grey version of its picture; `gain` turns its own scale into the shared one. */
export function drawHeat(canvas, picture, map, gain, table, most) {
  const made = new ImageData(picture.width, picture.height);
  for (let i = 0; i < made.data.length; i += 4) {
    const level = Math.min(1, (map.data[i] / 255) * gain);
    const grey = (picture.data[i] + picture.data[i + 1] + picture.data[i + 2]) / 3;
    const colour = table[Math.round(255 * level)];
    for (let c = 0; c < 3; c += 1) made.data[i + c] = grey + most * level * (colour[c] - grey);
    made.data[i + 3] = 255;
  }
  drawPicture(canvas, made);
}

/** Draw a box around each region, `scale` screen pixels for each of the photograph's. */
export function drawRegions(context, regions, scale) {
  // Light on dark, to be seen on any photograph and any heatmap.
  for (const [colour, thickness] of [["#000000a0", 4], ["#ff6bff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness * devicePixelRatio;
    // Around the pixels, not over them, but at the border of the canvas.
    const out = 2 * devicePixelRatio;
    const { width: right, height: bottom } = context.canvas;
    for (const { left, top, width, height } of regions) {
      const [x, y] = [Math.max(out, scale * left - out), Math.max(out, scale * top - out)];
      const endX = Math.min(right - out, scale * (left + width) + out);
      const endY = Math.min(bottom - out, scale * (top + height) + out);
      context.strokeRect(x, y, endX - x, endY - y);
    }
  }
}

/** Draw the colours from cold to hot. */
export function drawScale(canvas, table) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    const colour = table[Math.round((255 * x) / (canvas.width - 1))];
    context.fillStyle = `rgb(${colour.map(Math.round).join(" ")})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
