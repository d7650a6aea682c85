"use strict";
// The page: a picture in, by file, drop, paste or camera; scores and the heatmap out.
(() => {
  const { make, bytes, onPicture, paint, bar, percent } = gradcamMaps;
  const config = JSON.parse(document.getElementById("config").textContent);
  const field = (name) => document.getElementById(name);
  const tables = Object.fromEntries(
    Object.entries(config.tables).map(([name, text]) => [name, bytes(text)]));
  const TOP = 5, LARGEST = 4096; // pixels along a side: larger pictures are made smaller first
  let model = null, shown = null, asked = -1, stream = null, busy = false, later = null;

  const say = (text) => { field("said").textContent = text; };
  const complain = (text) => { field("wrong").textContent = text; };
  const nameOf = (index) => (config.labels && config.labels[index]) || `class ${index}`;

  // Opaque pixels of a picture, transparency laid over white as gradcam_multi reads it.
  function pixelsOf(picture, width, height) {
    const canvas = make("canvas", { width, height });
    const drawing = canvas.getContext("2d", { willReadFrequently: true });
    drawing.fillStyle = "white";
    drawing.fillRect(0, 0, width, height);
    drawing.drawImage(picture, 0, 0, width, height);
    return { canvas, pixels: drawing.getImageData(0, 0, width, height) };
  }

  async function look(picture, width, height, name) {
    const { canvas, pixels } = pixelsOf(picture, width, height);
    const began = performance.now();
    const found = await model.explain(pixels, asked);
    shown = { ...found, canvas, name };
    draw();
    list();
    const p = found.probabilities[found.class];
    field("picture").setAttribute("aria-label", `${name}: evidence for ${nameOf(found.class)}, ${percent(p)}`);
    if (!stream) say(`${name}: ${nameOf(found.class)} ${percent(p)}, in ${Math.round(performance.now() - began)} ms`);
    field("save").disabled = false;
    document.dispatchEvent(new CustomEvent("gradcam:explained", { detail: found }));
  }

  function draw() {
    bar(field("bar"), tables[field("colormap").value], Number(field("threshold").value));
    document.documentElement.style.setProperty("--opacity", field("opacity").value);
    if (!shown) return;
    const { width, height } = shown.canvas, picture = field("picture");
    [picture.width, picture.height] = [width, height];
    picture.getContext("2d").drawImage(shown.canvas, 0, 0);
    const scale = Math.min(1, 1024 / Math.max(width, height)); // of the map: more is not seen
    const size = [Math.max(1, Math.round(height * scale)), Math.max(1, Math.round(width * scale))];
    const heatmap = onPicture(shown.heatmap, shown.size, size, shown.view, false);
    paint(field("map"), heatmap, size, tables[field("colormap").value], Number(field("threshold").value));
    field("drop").classList.remove("empty");
    field("drop").style.aspectRatio = `${width} / ${height}`;
    field("drop").style.maxWidth = `calc(75vh * ${(width / height).toFixed(4)})`;
  }

  // The highest classes and the one explained, each to be chosen; "top class" follows the picture.
  function list() {
    const order = shown.probabilities.map((p, index) => [p, index]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    const rows = order.slice(0, TOP).map(([, index]) => index);
    if (asked >= 0 && !rows.includes(asked)) rows.push(asked);
    const focused = document.activeElement && document.activeElement.dataset.index;
    const entry = (index, text, p) => {
      const input = make("input", { type: "radio", name: "class", checked: index === asked, disabled: !model.choosing });
      input.dataset.index = index;
      input.addEventListener("change", () => choose(index));
      const label = make("label", {}, input, make("span", { className: "name" }, text), make("span", {}, percent(p)));
      if (p != null) label.append(make("meter", { min: 0, max: 1, value: p, "aria-hidden": "true" }));
      return label;
    };
    field("classes").replaceChildren(make("legend", {}, "class explained"), entry(-1, "the top class", null),
      ...rows.map((index) => entry(index, nameOf(index), shown.probabilities[index])));
    if (focused !== undefined) {
      const again = field("classes").querySelector(`[data-index="${CSS.escape(focused)}"]`);
      if (again) again.focus();
    }
  }

  function choose(index) {
    asked = index;
    if (shown && !stream) explain(shown.canvas, shown.canvas.width, shown.canvas.height, shown.name);
  }

  // One picture at a time; of those that come meanwhile, the last.
  async function explain(picture, width, height, name) {
    if (busy) {
      later = [picture, width, height, name];
      return;
    }
    busy = true;
    if (!stream) say(`looking at ${name}`);
    complain("");
    try {
      await look(picture, width, height, name);
    } catch (error) {
      complain(error.message);
      say("");
    }
    busy = false;
    if (later) {
      const next = later;
      later = null;
      await explain(...next);
    }
  }

  async function open(file) {
    if (!model) return complain("the model is not ready yet");
    stop();
    let picture;
    try {
      picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
    } catch {
      return complain(`${file.name || "what was given"} is not a picture that this browser can read`);
    }
    const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
    await explain(picture, Math.max(1, Math.round(picture.width * scale)),
      Math.max(1, Math.round(picture.height * scale)), file.name || "picture");
  }

  function stop() {
    if (stream) for (const track of stream.getTracks()) track.stop();
    stream = null;
    field("camera").setAttribute("aria-pressed", "false");
    field("camera").textContent = "use the camera";
  }

  async function watch() {
    if (stream) return stop();
    complain("");
    if (!navigator.mediaDevices) return complain("a camera is given only to pages of https or of this machine");
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 640 } } });
    } catch (error) {
      const why = { NotFoundError: "there is none", NotAllowedError: "it was not allowed", NotReadableError: "another program uses it" };
      return complain(`no camera: ${why[error.name] || error.message}`);
    }
    field("camera").setAttribute("aria-pressed", "true");
    field("camera").textContent = "stop the camera";
    say("looking at the camera");
    const video = make("video", { muted: true, playsInline: true, srcObject: stream }), own = stream;
    await video.play();
    own.getTracks()[0].addEventListener("ended", stop);
    const step = async () => {
      if (stream !== own) return;
      await explain(video, video.videoWidth, video.videoHeight, "camera");
      requestAnimationFrame(step);
    };
    step();
  }

  function save() {
    const { width, height } = shown.canvas, canvas = make("canvas", { width, height });
    const drawing = canvas.getContext("2d");
    drawing.drawImage(shown.canvas, 0, 0);
    drawing.globalAlpha = Number(field("opacity").value);
    drawing.drawImage(field("map"), 0, 0, width, height);
    canvas.toBlob((blob) => {
      const address = URL.createObjectURL(blob);
      make("a", { href: address, download: `${shown.name.replace(/\.[^.]*$/, "")}-${nameOf(shown.class)}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    });
  }

  function chooseOther() {
    const text = field("other").value.trim();
    if (!text) return;
    const named = config.labels ? config.labels.findIndex((label) => label.toLowerCase() === text.toLowerCase()) : -1;
    const index = named >= 0 ? named : /^\d+$/.test(text) ? Number(text) : NaN;
    const count = shown ? shown.scores.length : Infinity;
    if (!(index < count)) return complain(`there is no class ${text}`);
    complain("");
    choose(index);
  }

  function listen() {
    for (const name of ["opacity", "threshold", "colormap"]) field(name).addEventListener("input", draw);
    field("file").addEventListener("change", ({ target }) => { if (target.files[0]) open(target.files[0]); target.value = ""; });
    field("camera").addEventListener("click", watch);
    field("save").addEventListener("click", save);
    field("other").addEventListener("change", chooseOther);
    field("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
    document.addEventListener("dragover", (event) => { event.preventDefault(); field("drop").classList.add("over"); });
    document.addEventListener("dragleave", () => field("drop").classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      field("drop").classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) open(file);
      else complain("what was dropped is not a file: save the picture first, then drop it");
    });
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (file) open(file);
    });
    field("notices").addEventListener("toggle", async () => {
      const text = field("notices").querySelector("pre");
      if (text.textContent) return;
      try {
        text.textContent = new TextDecoder().decode(await gradcamModel.file("runtime/NOTICES.txt"));
      } catch (error) {
        text.textContent = error.message;
      }
    });
  }

  async function start() {
    document.title = field("title").textContent = config.title;
    field("drop").classList.add("empty");
    field("colormap").append(...Object.keys(tables).map((name) => make("option", { selected: name === config.colormap }, name)));
    listen();
    draw();
    try {
      model = await gradcamModel.open(say);
    } catch (error) {
      say("");
      return complain(error.message);
    }
    const { about, threads } = model;
    const facts = { method: about.method, layer: about.layer, input: model.size.join(" x "), threads };
    field("facts").append(...Object.entries(facts).map(([what, value]) =>
      make("div", {}, make("dt", {}, what), make("dd", {}, String(value)))));
    if (config.labels && model.choosing) field("names").append(...config.labels.map((name) => make("option", { value: name })));
    for (const name of ["file", "camera", "other"]) field(name).disabled = name === "other" && !model.choosing;
    say("ready: drop a picture");
    document.dispatchEvent(new CustomEvent("gradcam:ready"));
  }

  start();
})();
