"use strict";
// One picture, as large as the window lets it be, with all that is known of it.
const gradcamDialog = (() => {
  const { make, percent } = gradcamMaps;
  const { frame, draw, shownClass, trouble } = gradcamCards;
  const dialog = document.getElementById("dialog");
  let row = null, move = null, changed = null;

  function classes() {
    const list = make("fieldset", { className: "classes" }, make("legend", {}, "class explained"));
    row.classes.forEach((each, place) => {
      const input = make("input", { type: "radio", name: "shown", checked: place === row.shown });
      input.addEventListener("change", () => choose(place));
      list.append(make("label", { className: each.map === undefined ? "absent" : "" }, input,
        make("span", { className: "name" }, each.name),
        make("span", { className: "p" }, percent(each.p))));
    });
    return list;
  }

  function facts() {
    const each = shownClass(row), list = make("dl", { className: "facts" });
    const add = (what, value) => {
      if (value === "" || value == null) return;
      list.append(make("div", {}, make("dt", {}, what), make("dd", {}, String(value))));
    };
    add("label", row.label);
    add("answer", row.correct == null ? "" : row.correct ? "right" : "wrong");
    if (each) add("score", each.score);
    if (each && each.grid) add("map", `${each.grid[0]} x ${each.grid[1]} cells`);
    if (row.size) add("picture", `${row.size[1]} x ${row.size[0]}`);
    add("findings", row.findings.join(", "));
    add("note", trouble(row));
    return list;
  }

  function fill() {
    const large = frame(row);
    draw(large, row);
    const [H, W] = row.drawn || [1, 1];
    large.style.maxWidth = `calc(70vh * ${(W / H).toFixed(4)})`;
    const button = (text, label, act) => {
      const made = make("button", { type: "button", "aria-label": label }, text);
      made.addEventListener("click", act);
      return made;
    };
    dialog.replaceChildren(
      make("div", { className: "top" },
        make("h2", { id: "dialog-title" }, row.title),
        button("←", "previous picture", () => move(-1)),
        button("→", "next picture", () => move(1)),
        button("✕", "close", () => dialog.close())),
      make("div", { className: "large" }, large, make("div", {}, classes(), facts())));
  }

  function choose(place) {
    if (place >= row.classes.length) return;
    row.shown = place;
    refresh();
    changed(row);
    const chosen = dialog.querySelectorAll("input[type=radio]")[place];
    if (chosen) chosen.focus();
  }

  // Shows a row; `mover` goes to another one, `change` is told of another class.
  function show(shown, mover, change) {
    [row, move, changed] = [shown, mover, change];
    const within = dialog.contains(document.activeElement) &&
      document.activeElement.getAttribute("aria-label");
    fill();
    if (!dialog.open) dialog.showModal();
    const again = within && dialog.querySelector(`[aria-label="${CSS.escape(within)}"]`);
    if (again) again.focus();
  }

  function refresh() {
    if (dialog.open && row) fill();
  }

  return { show, refresh, choose, dialog, isOpen: () => dialog.open, shownRow: () => row };
})();
