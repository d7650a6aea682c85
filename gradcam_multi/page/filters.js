"use strict";
// Which rows are shown, and in which order.
const gradcamFilters = (() => {
  const { page } = gradcamCards;
  const field = (name) => document.getElementById(name);
  const first = (row) => row.classes[row.first];

  // Each filter: whether a row passes, given what is chosen.
  const filters = {
    text: (row, wanted) => row.title.toLowerCase().includes(wanted.toLowerCase()),
    class: (row, wanted) => row.label === wanted || (first(row) || {}).name === wanted,
    answer: (row, wanted) =>
      (row.correct == null ? "unknown" : row.correct ? "right" : "wrong") === wanted,
    status: (row, wanted) =>
      wanted === "!error" ? row.error != null : (first(row) || {}).status === wanted,
    finding: (row, wanted) => row.findings.includes(wanted),
  };
  const sure = (row) => (first(row) && first(row).p != null ? first(row).p : -1);
  const orders = {
    high: (a, b) => sure(b) - sure(a),
    low: (a, b) => sure(a) - sure(b),
    name: (a, b) => a.title.localeCompare(b.title, undefined, { numeric: true }),
  };

  function chosenRows() {
    let rows = page.rows;
    for (const [name, passes] of Object.entries(filters)) {
      const wanted = field(name) ? field(name).value : "";
      if (wanted) rows = rows.filter((row) => passes(row, wanted));
    }
    const order = field("order") && orders[field("order").value];
    return order ? [...rows].sort((a, b) => order(a, b) || a.index - b.index) : rows;
  }

  // The classes there are to filter by: those of labels and of answers.
  function listClasses() {
    const select = field("class");
    if (!select) return;
    const names = new Set();
    for (const row of page.rows) {
      if (row.label != null) names.add(row.label);
      if (first(row)) names.add(first(row).name);
    }
    const sorted = [...names].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    select.append(...sorted.map((name) => gradcamMaps.make("option", { value: name }, name)));
  }

  return { chosenRows, listClasses, names: [...Object.keys(filters), "order"] };
})();
