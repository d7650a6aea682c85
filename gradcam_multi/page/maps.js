"use strict";
// Maps as numbers, laid over pictures and coloured: what the report and the live page share.
// The arithmetic is that of gradcam_multi.geometry and gradcam_multi.cam.rescale.
const gradcamMaps = (() => {
  // Base64 to bytes.
  function bytes(text) {
    const binary = atob(text), out = new Uint8Array(binary.length);
    for (let i = 0; i < out.length; i++) out[i] = binary.charCodeAt(i);
    return out;
  }

  // Where the centres of an axis' pixels lie among the cells of a grid that covers low..high of
  // them: the cell before, the cell after, and the share of the latter; -1 outside.
  function axis(pixels, low, high, cells, raw) {
    const before = new Int32Array(pixels).fill(-1), after = new Int32Array(pixels);
    const share = new Float32Array(pixels);
    for (let i = 0; i < pixels; i++) {
      const centre = i + 0.5;
      if (centre < low || centre >= high) continue;
      const place = ((centre - low) * cells) / (high - low);
      if (raw) {
        before[i] = after[i] = Math.min(Math.floor(place), cells - 1);
      } else {
        const at = Math.min(Math.max(place - 0.5, 0), cells - 1);
        before[i] = Math.floor(at);
        after[i] = Math.min(before[i] + 1, cells - 1);
        share[i] = at - before[i];
      }
    }
    return { before, after, share };
  }

  // A map of grid (h, w) on a picture of size (H, W): NaN outside of the view, which is top, left,
  // bottom and right as shares of the picture. Linear between the cells' centres, or as cells.
  function onPicture(values, [h, w], [H, W], view, raw) {
    const rows = axis(H, view[0] * H, view[2] * H, h, raw);
    const columns = axis(W, view[1] * W, view[3] * W, w, raw);
    const out = new Float32Array(H * W).fill(NaN), line = new Float32Array(w);
    for (let y = 0; y < H; y++) {
      if (rows.before[y] < 0) continue;
      const a = rows.before[y] * w, b = rows.after[y] * w, part = rows.share[y];
      for (let c = 0; c < w; c++) line[c] = values[a + c] + part * (values[b + c] - values[a + c]);
      for (let x = 0; x < W; x++) {
        const c = columns.before[x];
        if (c >= 0) out[y * W + x] = line[c] + columns.share[x] * (line[columns.after[x]] - line[c]);
      }
    }
    return out;
  }

  // Min-max scaled to [0, 1] in place; zeros where all are alike.
  function rescale(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    const scale = high > low ? 1 / (high - low) : 0;
    for (let i = 0; i < values.length; i++) values[i] = (values[i] - low) * scale;
    return values;
  }

  // Colour a heatmap in [0, 1] by a table of 256 RGB entries; what is below the threshold, or NaN,
  // is left clear.
  function paint(canvas, heatmap, [H, W], table, threshold) {
    [canvas.width, canvas.height] = [W, H];
    const drawing = canvas.getContext("2d"), image = drawing.createImageData(W, H);
    const pixels = image.data;
    for (let i = 0; i < heatmap.length; i++) {
      const value = heatmap[i];
      if (!(value >= threshold)) continue;
      const entry = 3 * Math.floor(255 * Math.min(Math.max(value, 0), 1) + 0.5);
      pixels[4 * i] = table[entry];
      pixels[4 * i + 1] = table[entry + 1];
      pixels[4 * i + 2] = table[entry + 2];
      pixels[4 * i + 3] = 255;
    }
    drawing.putImageData(image, 0, 0);
  }

  // The colour bar: low evidence on the left, high on the right, what is below the threshold clear.
  function bar(canvas, table, threshold) {
    const ramp = Float32Array.from({ length: 256 }, (_, i) => i / 255);
    paint(canvas, ramp, [1, 256], table, threshold);
  }

  // An element with its properties and children; text stays text.
  function make(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made && !name.includes("-")) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  const percent = (share) => (share == null ? "" : `${(100 * share).toFixed(1)} %`);

  return { bytes, onPicture, rescale, paint, bar, make, percent };
})();
