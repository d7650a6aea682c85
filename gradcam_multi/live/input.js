"use strict";
// From a picture to what the model takes: gradcam_multi.preprocess, with Pillow's own arithmetic.
const gradcamInput = (() => {
  const BITS = 22; // of the weights, as Pillow has them for 8-bit pictures
  const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
  const FILTERS = {
    bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
    bicubic: [2, (x) => {
      const a = -0.5;
      x = Math.abs(x);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    }],
    lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
  };

  // For each of `to` samples: the first of `from` that it reads, and its whole-number weights.
  function weights(from, to, [reach, filter]) {
    const scale = from / to, stretch = Math.max(scale, 1), support = reach * stretch;
    return Array.from({ length: to }, (_, i) => {
      const centre = (i + 0.5) * scale;
      const first = Math.max(0, Math.trunc(centre - support + 0.5));
      const count = Math.min(from, Math.trunc(centre + support + 0.5)) - first;
      const exact = Array.from({ length: count }, (_, k) => filter((k + first - centre + 0.5) / stretch));
      const total = exact.reduce((sum, w) => sum + w, 0) || 1;
      const whole = exact.map((w) => Math.trunc((w / total) * 2 ** BITS + Math.sign(w) * 0.5));
      return { first, whole: Int32Array.from(whole) };
    });
  }

  // Along one axis: `lines` lines with `step` between their samples and `stride` between lines.
  function along(source, target, table, lines, [from, fromLine], [to, toLine], channels) {
    for (let line = 0; line < lines; line++) {
      table.forEach(({ first, whole }, i) => {
        for (let c = 0; c < channels; c++) {
          let sum = 2 ** (BITS - 1);
          let at = line * fromLine + first * from + c;
          for (let k = 0; k < whole.length; k++, at += from) sum += source[at] * whole[k];
          target[line * toLine + i * to + c] = Math.min(Math.max(sum >> BITS, 0), 255);
        }
      });
    }
  }

  // Pillow's place of sample i by the nearest one: it adds up steps.
  function nearest(from, to) {
    const places = new Int32Array(to), step = from / to;
    for (let i = 0, at = step * 0.5; i < to; i++, at += step) places[i] = Math.floor(at);
    return places;
  }

  // Resize { data, size: [H, W], channels } of bytes, interleaved, across and then down. (Pillow 13
  // goes down first for some sizes, where it is faster: that moves some bytes by one.)
  function resized({ data, size: [h, w], channels }, [H, W], how) {
    if (how === "nearest") {
      const out = new Uint8ClampedArray(H * W * channels), rows = nearest(h, H), columns = nearest(w, W);
      for (let y = 0, at = 0; y < H; y++) {
        for (let x = 0; x < W; x++) {
          const start = (rows[y] * w + columns[x]) * channels;
          for (let c = 0; c < channels; c++) out[at++] = data[start + c];
        }
      }
      return { data: out, size: [H, W], channels };
    }
    let now = data;
    if (w !== W) {
      const wide = new Uint8ClampedArray(h * W * channels);
      along(now, wide, weights(w, W, FILTERS[how]), h, [channels, w * channels], [channels, W * channels], channels);
      now = wide;
    }
    if (h !== H) {
      const tall = new Uint8ClampedArray(H * W * channels), table = weights(h, H, FILTERS[how]);
      along(now, tall, table, W, [W * channels, channels], [W * channels, channels], channels);
      now = tall;
    }
    return { data: now, size: [H, W], channels };
  }

  function grey({ data, size }) {
    const out = new Uint8ClampedArray(data.length / 3);
    for (let i = 0; i < out.length; i++) { // ITU-R 601-2, in Pillow's fixed point
      out[i] = (data[3 * i] * 19595 + data[3 * i + 1] * 38470 + data[3 * i + 2] * 7471 + 32768) >> 16;
    }
    return { data: out, size, channels: 1 };
  }

  const halfToEven = (x) => {
    const low = Math.floor(x), rest = x - low;
    return rest === 0.5 ? low + (low & 1) : Math.round(x);
  };

  // The resized size, and the crop's upper left corner in it.
  function fitted(prepare, [h, w], [H, W]) {
    if (prepare.fit === "whole") return { size: [H, W], corner: [0, 0] };
    let tall = Math.floor(H / prepare.crop_ratio), wide = Math.floor(W / prepare.crop_ratio);
    if (tall * w >= wide * h) wide = Math.trunc((tall * w) / h);
    else tall = Math.trunc((wide * h) / w);
    return { size: [tall, wide], corner: [halfToEven((tall - H) / 2), halfToEven((wide - W) / 2)] };
  }

  // Of RGBA pixels { data, width, height }, opaque: the values of one input of size [H, W] in the
  // layout asked for, and the view: top, left, bottom, right of what the model sees, as shares.
  function prepared(prepare, pixels, [H, W], layout) {
    const cells = pixels.width * pixels.height, rgb = new Uint8ClampedArray(3 * cells);
    for (let i = 0; i < cells; i++) {
      for (let c = 0; c < 3; c++) rgb[3 * i + c] = pixels.data[4 * i + c];
    }
    let picture = { data: rgb, size: [pixels.height, pixels.width], channels: 3 };
    if (prepare.channels === "L") picture = grey(picture);
    const { size, corner: [top, left] } = fitted(prepare, picture.size, [H, W]);
    const whole = resized(picture, size, prepare.interpolation);
    const n = whole.channels, values = new Float32Array(n * H * W);
    const last = (prepare.layout || layout) === "channels_last";
    const of = (name, c) => (Array.isArray(prepare[name]) ? prepare[name][c % prepare[name].length] : prepare[name]);
    for (let c = 0; c < n; c++) {
      const from = prepare.channels === "BGR" ? n - 1 - c : c, table = new Float32Array(256);
      for (let v = 0; v < 256; v++) table[v] = (v * prepare.scale - of("mean", c)) / of("std", c);
      for (let y = 0; y < H; y++) {
        for (let x = 0; x < W; x++) {
          const value = table[whole.data[((top + y) * size[1] + left + x) * n + from]];
          values[last ? (y * W + x) * n + c : (c * H + y) * W + x] = value;
        }
      }
    }
    const view = [top / size[0], left / size[1], (top + H) / size[0], (left + W) / size[1]];
    return { values, view, shape: last ? [H, W, n] : [n, H, W] };
  }

  return { prepared, resized };
})();
