"use strict";
// The gallery: cards that are painted when they come into view, moved over by keyboard.
(() => {
  const { make, percent, bar } = gradcamMaps;
  const { page, look, tables, shownClass, sentence, trouble, frame, draw, key } = gradcamCards;
  const { chosenRows, listClasses, names } = gradcamFilters;
  const { dialog, ...detail } = gradcamDialog;
  const gallery = document.getElementById("gallery"), form = document.getElementById("controls");
  const field = (name) => document.getElementById(name);
  const cards = new Map(); // a row's index to its card, made once
  let rows = [], current = 0;

  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.visible = isIntersecting;
      if (isIntersecting) paintCard(target);
      else { // a thousand painted canvases would fill the memory
        const canvas = target.querySelector("canvas");
        [canvas.width, canvas.height, canvas.dataset.key] = [1, 1, ""];
      }
    }
  }, { rootMargin: "300px" });

  function paintCard(card) {
    const made = card.querySelector(".frame");
    if (made.querySelector("canvas").dataset.key !== key(card.row)) draw(made, card.row);
  }

  function cardOf(row) {
    if (cards.has(row.index)) return cards.get(row.index);
    const open = make("button", { type: "button", className: "open", tabIndex: -1 }, frame(row));
    const card = make("li", { className: "card" }, open);
    card.row = row;
    const name = row.title.split(/[\\/]/).pop() || row.title;
    card.append(make("span", { className: "title", title: row.title }, name));
    if (row.classes.length > 1) {
      const select = make("select", { tabIndex: -1, "aria-label": `class of ${row.title}` });
      row.classes.forEach((each, place) => select.append(
        make("option", { value: place }, `${each.name} ${percent(each.p)}`)));
      select.addEventListener("change", () => showClass(row, Number(select.value)));
      card.append(select);
    } else {
      const each = shownClass(row);
      card.append(make("span", { className: "answer" }, each ? `${each.name} ${percent(each.p)}` : ""));
    }
    const marks = make("span", { className: "marks" });
    if (row.correct != null) {
      const said = row.correct ? "right" : `wrong: ${row.label}`;
      marks.append(make("span", { className: row.correct ? "right" : "wrong" }, said));
    } else if (row.label != null) marks.append(make("span", {}, row.label));
    marks.append(...row.findings.map((name) => make("span", { className: "found" }, name)));
    card.append(marks, make("span", { className: "trouble" }));
    open.addEventListener("click", () => { current = rows.indexOf(row); enlarge(); });
    open.addEventListener("focus", () => select(rows.indexOf(row)));
    cards.set(row.index, card);
    label(card);
    return card;
  }

  function label(card) {
    card.querySelector(".open").setAttribute("aria-label", sentence(card.row));
    card.querySelector(".trouble").textContent = trouble(card.row);
    const choice = card.querySelector("select");
    if (choice) choice.value = String(card.row.shown);
  }

  function showClass(row, place) {
    if (place >= row.classes.length) return;
    row.shown = place;
    const card = cardOf(row);
    label(card);
    if (card.visible) paintCard(card);
  }

  // One card is in the tab order; the arrow keys choose which.
  function select(place) {
    for (const [index, to] of [[current, -1], [place, 0]]) {
      const card = rows[index] && cardOf(rows[index]);
      if (card) for (const each of card.querySelectorAll("button, select")) each.tabIndex = to;
    }
    current = place;
  }

  function fill() {
    for (const card of cards.values()) for (const each of card.querySelectorAll("button, select")) each.tabIndex = -1;
    seen.disconnect();
    rows = chosenRows();
    gallery.replaceChildren(...rows.map(cardOf));
    for (const row of rows) seen.observe(cardOf(row));
    select(0);
    const all = page.rows.length;
    if (field("counted")) field("counted").textContent = rows.length === all ?
      `${all} picture${all === 1 ? "" : "s"}` : `${rows.length} of ${all} pictures`;
  }

  function restyle() {
    look.opacity = Number(field("opacity").value);
    look.threshold = Number(field("threshold").value);
    look.colormap = field("colormap").value;
    look.raw = field("raw").value === "raw";
    document.documentElement.style.setProperty("--opacity", look.opacity);
    bar(field("bar"), tables[look.colormap], look.threshold);
    for (const card of gallery.children) if (card.visible) paintCard(card);
    detail.refresh();
  }

  function enlarge() {
    detail.show(rows[current], (step) => {
      const next = current + step;
      if (!rows[next]) return;
      select(next);
      enlarge();
    }, (row) => showClass(row, row.shown));
  }

  function nudge(name, step) {
    const range = field(name);
    range.value = Number(range.value) + step;
    restyle();
  }

  function cycle(name) {
    const choice = field(name);
    choice.selectedIndex = (choice.selectedIndex + 1) % choice.options.length;
    restyle();
  }

  // Keys that hold wherever the gallery or a large picture has the focus.
  const keys = {
    "+": () => nudge("opacity", 0.05), "=": () => nudge("opacity", 0.05),
    "-": () => nudge("opacity", -0.05), "]": () => nudge("threshold", 0.05),
    "[": () => nudge("threshold", -0.05), r: () => cycle("raw"), c: () => cycle("colormap"),
  };
  for (let place = 0; place < 9; place++) {
    keys[place + 1] = () => (detail.isOpen() ? detail.choose(place) : showClass(rows[current], place));
  }

  function columns() {
    const tops = [...gallery.children].map((card) => card.offsetTop);
    return Math.max(1, tops.filter((top) => top === tops[0]).length);
  }

  function go(place) {
    if (!rows.length) return;
    select(Math.min(Math.max(place, 0), rows.length - 1));
    cardOf(rows[current]).querySelector(".open").focus();
  }

  const moves = {
    ArrowRight: () => current + 1, ArrowLeft: () => current - 1,
    ArrowDown: () => current + columns(), ArrowUp: () => current - columns(),
    Home: () => 0, End: () => rows.length - 1,
  };

  function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const own = event.target.matches("select, input");
    const within = detail.isOpen();
    if (keys[event.key] && !(own && event.target.matches("select")) && rows.length) {
      keys[event.key]();
    } else if (within && !own && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      dialog.querySelector(`[aria-label="${event.key === "ArrowRight" ? "next" : "previous"} picture"]`).click();
    } else if (!within && !own && moves[event.key]) go(moves[event.key]());
    else return;
    event.preventDefault();
  }

  gallery.addEventListener("keydown", pressed);
  dialog.addEventListener("keydown", pressed);
  // A browser gives the focus back to the card that it was on, which may be another one by now.
  dialog.addEventListener("close", () => go(rows.indexOf(detail.shownRow())));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { fill(); restyle(); }));
  for (const name of names) if (field(name)) field(name).addEventListener("input", fill);
  for (const name of ["opacity", "threshold", "colormap", "raw"]) field(name).addEventListener("input", restyle);
  for (const button of document.querySelectorAll("[data-finding]")) {
    button.addEventListener("click", () => {
      form.reset();
      setTimeout(() => {
        if (field("finding")) field("finding").value = button.dataset.finding;
        fill();
        go(0);
      });
    });
  }
  if (field("theme")) field("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" :
      matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  listClasses();
  fill();
  restyle();
})();
