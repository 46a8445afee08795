"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// One object at a time.
const parts = all("main[data-object]");
function pick(name) {
  parts.forEach(part => part.classList.toggle("active", part.dataset.object === name));
  all("[data-pick]").forEach(button => button.classList.toggle("active", button.dataset.pick === name));
}
all("[data-pick]").forEach(button => button.addEventListener("click", () => {
  pick(button.dataset.pick);
  const tabs = document.querySelector(".tabs");
  if (button.classList.contains("card") && tabs) tabs.scrollIntoView({ behavior: "smooth", block: "start" });
}));
if (parts.length) pick(parts[0].dataset.object);

// Maps: a slider through the periods, two layers, outlines that name their unit.
const looks = document.getElementById("looks");
const outlines = document.getElementById("outlines");
all("figure.map").forEach(figure => {
  const frame = figure.querySelector(".frame"), drawing = frame.querySelector("svg"), tip = figure.querySelector(".tip");
  const part = figure.closest("main"), slider = figure.querySelector("input[type=range]"), label = figure.querySelector(".period");
  const periods = JSON.parse(figure.dataset.periods);
  const estimates = JSON.parse(figure.dataset.estimates || "{}");
  let layer = "density", at = periods.length - 1;
  frame.insertBefore(looks.content.cloneNode(true), drawing);
  drawing.replaceChildren(outlines.cloneNode(true));
  drawing.firstChild.removeAttribute("id");
  const show = () => {
    all("img", frame).forEach(image => { image.hidden = image.dataset.layer !== layer || +image.dataset.i !== at; });
    all(".legend", figure).forEach(legend => { legend.hidden = legend.dataset.layer !== layer; });
    all(".switch button", figure).forEach(button => button.classList.toggle("on", button.dataset.layer === layer));
    frame.classList.toggle("errors", layer === "error");
    label.textContent = layer === "error" ? figure.dataset.estimated : periods[at];
  };
  if (slider) slider.addEventListener("input", () => { at = +slider.value; show(); });
  all(".switch button", figure).forEach(button => button.addEventListener("click", () => { layer = button.dataset.layer; show(); }));
  const rows = new Map(all("table.units tr[data-unit]", part).map(row => [row.dataset.unit, row]));
  all("path.leaf", drawing).forEach(path => {
    const enter = () => {
      const row = rows.get(path.dataset.unit), name = document.createElement("b");
      name.textContent = path.dataset.name;
      tip.replaceChildren(name);
      if (row) {
        const period = row.closest("table").dataset.period, { total, density, seen } = row.dataset;
        tip.append(`Map: ${total} in ${period}, ${density} per hectare, ${seen} observed`);
      }
      const known = estimates[path.dataset.unit];
      if (known) tip.append(document.createElement("br"), `Estimate of ${figure.dataset.estimated}: ${known.text}`);
    };
    if (path.dataset.unit in estimates) path.classList.add(estimates[path.dataset.unit].band);
    path.addEventListener("pointerenter", enter);
    path.addEventListener("pointerleave", () => { tip.replaceChildren(); });
    path.addEventListener("click", () => {
      enter();
      const row = rows.get(path.dataset.unit);
      all("tr.hit", part).forEach(other => other.classList.remove("hit"));
      if (row) { row.classList.add("hit"); row.scrollIntoView({ behavior: "smooth", block: "center" }); }
    });
  });
  all("tr[data-unit]", part).forEach(row => {
    const mark = on => all("path.leaf", drawing).filter(path => path.dataset.unit === row.dataset.unit).forEach(path => path.classList.toggle("hit", on));
    row.addEventListener("pointerenter", () => mark(true));
    row.addEventListener("pointerleave", () => mark(false));
  });
  show();
});

// Tables: sort by a column, find a unit. Missing values stay at the end.
all("table.sortable").forEach(table => {
  const heads = all("th", table), body = table.tBodies[0];
  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : head.dataset.sort === "number";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => head.dataset.sort === "number" ? parseFloat(row.cells[column].dataset.v) : row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        if (head.dataset.sort === "text") return (down ? -1 : 1) * x.localeCompare(y);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return down ? y - x : x - y;
      });
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } });
  });
});
all(".find").forEach(input => input.addEventListener("input", () => {
  const wanted = input.value.trim().toLowerCase();
  all("tbody tr", input.parentElement).forEach(row => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
}));
