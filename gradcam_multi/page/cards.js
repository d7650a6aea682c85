"use strict";
// A picture with the map of one of its classes over it: what cards of the gallery and the dialog are
// made of. `look` is how maps are shown, one for the whole page.
const gradcamCards = (() => {
  const { bytes, onPicture, rescale, paint, make, percent } = gradcamMaps;
  const page = JSON.parse(document.getElementById("data").textContent);
  const tables = Object.fromEntries(
    Object.entries(page.tables).map(([name, text]) => [name, bytes(text)]));
  const look = { opacity: 0.5, threshold: 0, raw: false, colormap: page.colormap };
  const ALONE = 224; // the longer side of a map without a picture

  page.rows.forEach((row, index) => Object.assign(row, { index, first: row.shown }));

  const shownClass = (row) => row.classes[row.shown];

  function sizeOf(row, each) {
    if (row.drawn) return row.drawn;
    const [h, w] = each.grid, scale = ALONE / Math.max(h, w);
    return [Math.max(1, Math.round(h * scale)), Math.max(1, Math.round(w * scale))];
  }

  // The heatmap in [0, 1] of a row's class on its picture, NaN where the model did not look; null
  // where there is none.
  function heatmapOf(row, each = shownClass(row)) {
    if (!each || each.map === undefined || each.status !== "ok") return null;
    const size = sizeOf(row, each);
    return { size, values: rescale(onPicture(bytes(each.map), each.grid, size, row.view, look.raw)) };
  }

  function place([y, x]) {
    const third = (share, low, middle, high) => (share < 1 / 3 ? low : share < 2 / 3 ? middle : high);
    const down = third(y, "upper", "", "lower"), across = third(x, "left", "", "right");
    return down && across ? `in the ${down} ${across}` :
      down ? `in the ${down} middle` : across ? `at the ${across}` : "in the centre";
  }

  // What a card says, for eyes and for a screen reader.
  function sentence(row) {
    const each = shownClass(row), parts = [row.title];
    if (row.error) return `${row.title}: could not be read: ${row.error}`;
    if (each) parts.push(`${each.name} ${percent(each.p)}`.trim());
    if (row.label != null) parts.push(`label ${row.label}`);
    if (row.correct != null) parts.push(row.correct ? "right" : "wrong");
    if (each && each.peak) parts.push(`most evidence ${place(each.peak)}`);
    const why = trouble(row);
    if (why) parts.push(why);
    return parts.join(", ");
  }

  // Why there is no map to see, or nothing.
  function trouble(row) {
    const each = shownClass(row);
    if (row.error) return row.error;
    if (!each) return "no class";
    if (each.status !== "ok") return `${each.status}: ${page.notes[each.status] || ""}`;
    return each.map === undefined ? "no map of this class was kept" : "";
  }

  // A frame holds the picture and, over it, the map.
  function frame(row) {
    const made = make("span", { className: "frame" });
    if (row.picture) made.append(make("img", { alt: "" }));
    made.append(make("canvas", { "aria-hidden": "true" }));
    if (!row.picture) made.classList.add("alone");
    const [H, W] = row.drawn || (shownClass(row) && shownClass(row).grid) || [1, 1];
    made.style.aspectRatio = `${W} / ${H}`; // known before it is painted, so that nothing jumps
    return made;
  }

  function draw(made, row) {
    const image = made.querySelector("img"), canvas = made.querySelector("canvas");
    if (image && !image.src) image.src = row.picture;
    const heatmap = heatmapOf(row);
    if (heatmap) paint(canvas, heatmap.values, heatmap.size, tables[look.colormap], look.threshold);
    else [canvas.width, canvas.height] = [1, 1];
    canvas.dataset.key = key(row);
  }

  // What a painted canvas depends on.
  const key = (row) => `${row.index} ${row.shown} ${look.raw} ${look.colormap} ${look.threshold}`;

  return { page, look, tables, shownClass, heatmapOf, sentence, trouble, frame, draw, key };
})();
