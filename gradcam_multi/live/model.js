"use strict";
// The model: its file, what the file says of itself, and running it in ONNX Runtime Web.
const gradcamModel = (() => {
  const PREFIX = "gradcam_multi.", CLASS_INPUT = "class_index", WANTED = ["scores", "class", "heatmap"];
  const USUAL = 224; // where neither the file nor its preprocessing says

  // A file of the page: from within it, compressed, or from beside it. `progress` is told how many
  // bytes of how many have come.
  async function file(name, progress = () => {}) {
    const within = document.getElementById(`file:${name}`);
    if (within) {
      const bytes = gradcamMaps.bytes(within.textContent.trim());
      const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return new Uint8Array(await new Response(plain).arrayBuffer());
    }
    if (location.protocol === "file:") {
      throw new Error("a browser reads no files beside a page that is opened from the disk: " +
        "serve the folder (gradcam live --serve), or write one file (--single-file)");
    }
    let answer;
    try {
      answer = await fetch(name);
    } catch (error) {
      throw new Error(`${name} cannot be read: ${error.message}`);
    }
    if (!answer.ok) throw new Error(`${name} is not beside this page (${answer.status})`);
    const total = Number(answer.headers.get("Content-Length")) || 0, parts = [];
    let count = 0;
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      count += value.length;
      progress(count, total);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  // The entries of an ONNX file's metadata (field 14 of ModelProto), without reading the rest.
  function metadata(bytes) {
    const text = new TextDecoder();
    function* fields(at, end) {
      const number = () => {
        let value = 0, factor = 1, byte;
        do {
          byte = bytes[at++];
          value += (byte & 127) * factor;
          factor *= 128;
        } while (byte >= 128 && at < end);
        return value;
      };
      while (at < end) {
        const key = number(), kind = key % 8;
        const length = kind === 2 ? number() : kind === 1 ? 8 : kind === 5 ? 4 : 0;
        if (kind === 0) number();
        else if (![1, 2, 5].includes(kind)) return; // no ONNX file
        yield { field: Math.floor(key / 8), start: at, end: at + length };
        at += length;
      }
    }
    const found = {};
    for (const each of fields(0, bytes.length)) {
      if (each.field !== 14) continue;
      const entry = {};
      for (const part of fields(each.start, each.end)) {
        entry[part.field] = text.decode(bytes.subarray(part.start, part.end));
      }
      if ((entry[1] || "").startsWith(PREFIX)) found[entry[1].slice(PREFIX.length)] = entry[2];
    }
    return found;
  }

  function plainly(message, size) {
    if (/bad_alloc|out of memory|allocation failed|Array buffer|memory access/i.test(message)) {
      return `the model (${(size / 1e6).toFixed(0)} MB) needs more memory than the browser gives a ` +
        "page: take a smaller or a half-precision one";
    }
    return message.replace(/\s+/g, " ");
  }

  // Half-precision bits of float32 values, rounded to nearest, ties to even.
  function halves(values) {
    const floats = new Float32Array(1), bits = new Uint32Array(floats.buffer);
    return Uint16Array.from(values, (value) => {
      floats[0] = value;
      const sign = (bits[0] >>> 16) & 0x8000, size = Math.abs(value);
      if (!(size < 65520)) return sign | (Number.isNaN(value) ? 0x7e00 : 0x7c00);
      if (size < 2 ** -14) {
        const steps = size * 2 ** 24, low = Math.floor(steps), rest = steps - low;
        return sign | (low + (rest > 0.5 || (rest === 0.5 && low & 1) ? 1 : 0));
      }
      const kept = (bits[0] & 0x7fffffff) - (112 << 23);
      return sign | ((kept + 0xfff + ((kept >>> 13) & 1)) >>> 13);
    });
  }

  const AS = {
    float32: (values) => values,
    float64: (values) => Float64Array.from(values),
    float16: halves,
    uint8: (values) => Uint8Array.from(values, Math.round),
    int32: (values) => Int32Array.from(values, Math.round),
  };

  async function open(said) {
    const bytes = await file("model.onnx", (count, total) => said(
      `reading the model: ${(count / 1e6).toFixed(1)}${total ? ` of ${(total / 1e6).toFixed(1)}` : ""} MB`));
    const about = metadata(bytes), size = bytes.length;
    if (about.kind !== "heatmap") {
      throw new Error("model.onnx is no heatmap file: write it with gradcam live, or gradcam export");
    }
    if (!about.preprocessing) {
      throw new Error("model.onnx does not say how pictures are prepared for it: export it with --preprocess");
    }
    said("starting ONNX Runtime");
    const code = new Blob([await file("worker.js")], { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(code));
    const waiting = new Map();
    let next = 0;
    const settle = (id, act) => { const entry = waiting.get(id); waiting.delete(id); if (entry) act(entry); };
    worker.onmessage = ({ data: { id, found, error } }) => settle(id, ([resolve, reject]) =>
      (error === undefined ? resolve(found) : reject(new Error(plainly(error, size)))));
    worker.onerror = (event) => {
      const error = new Error(plainly(event.message || "the worker could not be started", size));
      for (const id of [...waiting.keys()]) settle(id, ([, reject]) => reject(error));
    };
    const ask = (job, given, moved = []) => new Promise((resolve, reject) => {
      waiting.set(++next, [resolve, reject]);
      worker.postMessage({ id: next, job, ...given }, moved);
    });
    const script = await file("runtime/ort.wasm.bundle.min.mjs");
    const wasm = (await file("runtime/ort-wasm-simd-threaded.wasm")).buffer;
    // More threads need shared memory, which only an isolated page is given.
    const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    const moved = { wasm, model: bytes.buffer };
    const loaded = await ask("load", { script, threads, ...moved }, Object.values(moved));
    const pictures = loaded.inputs.filter((input) => input.name !== CLASS_INPUT);
    if (pictures.length !== 1 || pictures[0].shape.length !== 4) {
      throw new Error(`model.onnx takes ${pictures.map((input) => input.name).join(", ") || "nothing"}: ` +
        "this page can give it one picture");
    }
    if (!AS[pictures[0].type]) throw new Error(`the input is ${pictures[0].type}, which this page cannot make`);
    return new Opened(about, pictures[0], loaded.inputs.length > 1, threads, ask);
  }

  class Opened {
    constructor(about, input, choosing, threads, ask) {
      Object.assign(this, { about, input, choosing, threads, ask });
      this.prepare = JSON.parse(about.preprocessing);
      this.last = (this.prepare.layout || about.layout) === "channels_last";
      const own = this.last ? input.shape.slice(1, 3) : input.shape.slice(2, 4);
      this.size = [0, 1].map((axis) => (this.prepare.size || [])[axis] ||
        (typeof own[axis] === "number" && own[axis] > 0 ? own[axis] : USUAL));
    }

    // Explain opaque RGBA pixels for a class, -1 for the top one: scores, class and heatmap.
    async explain(pixels, index) {
      const layout = this.last ? "channels_last" : "channels_first";
      const made = gradcamInput.prepared(this.prepare, pixels, this.size, layout);
      const batch = typeof this.input.shape[0] === "number" && this.input.shape[0] > 0 ? this.input.shape[0] : 1;
      const values = new Float32Array(batch * made.values.length);
      for (let item = 0; item < batch; item++) values.set(made.values, item * made.values.length);
      const feeds = [{
        name: this.input.name, type: this.input.type, data: AS[this.input.type](values), shape: [batch, ...made.shape],
      }];
      if (this.choosing) feeds.push({ name: CLASS_INPUT, type: "int64", data: BigInt64Array.of(BigInt(index)), shape: [1] });
      const found = await this.ask("run", { feeds, wanted: WANTED });
      const cells = this.size[0] * this.size[1];
      const scores = found.scores.data.slice(0, found.scores.dims[1]);
      return {
        class: Number(found.class.data[0]), scores, probabilities: this.probabilities(scores),
        heatmap: found.heatmap.data.slice(0, cells), size: this.size, view: made.view,
      };
    }

    // As gradcam_multi.targets.probability; scores that are probabilities already stay.
    probabilities(scores) {
      const { activation } = this.about, total = scores.reduce((sum, z) => sum + z, 0);
      if (!activation && scores.length > 1 && scores.every((z) => z >= 0) && Math.abs(total - 1) < 1e-3) {
        return Array.from(scores);
      }
      if (activation !== "softmax" && (activation || scores.length === 1)) {
        return Array.from(scores, (z) => 1 / (1 + Math.exp(-z)));
      }
      const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      const powers = Array.from(scores, (z) => Math.exp(z - top)), sum = powers.reduce((a, b) => a + b, 0);
      return powers.map((power) => power / sum);
    }
  }

  return { open, file, metadata, halves };
})();
