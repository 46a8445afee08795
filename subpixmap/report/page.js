"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const plain = text => text.replace(/[\s\u202f]/g, "").replace("−", "-").replace(/^[<>]/, "");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// One object at a time; its map and table come alive when it is first picked.
const parts = all("section.object");
const started = new Set();
function pick(name) {
  parts.forEach(part => part.classList.toggle("active", part.dataset.object === name));
  all("[data-pick]").forEach(button => button.setAttribute("aria-pressed", button.dataset.pick === name));
  const part = parts.find(one => one.dataset.object === name);
  if (part && !started.has(part)) { started.add(part); all("figure.map", part).forEach(figure => start(figure, part)); }
}
all("[data-pick]").forEach(button => button.addEventListener("click", () => {
  pick(button.dataset.pick);
  const tabs = document.querySelector(".tabs");
  if (button.classList.contains("card") && tabs) tabs.scrollIntoView({ block: "start" });
}));
function follow() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const part = target && target.closest("section.object");
  if (part) { pick(part.dataset.object); target.scrollIntoView(); }
}
addEventListener("hashchange", follow);

// A table of the units that follows the period: cells come written, only the first column stays.
function setCell(cell, text) {
  if (cell.classList.contains("flags")) {
    cell.replaceChildren(...text.split(";").filter(Boolean).map(name => Object.assign(document.createElement("span"), { className: "flag", textContent: name.replaceAll("_", " ") })));
    return;
  }
  const [own, small] = text.split("\u001f");
  cell.replaceChildren(own, ...(small ? [Object.assign(document.createElement("small"), { textContent: ` ${small}` })] : []));
}

// Maps: two panes that show the same place; a slider through the periods, layers, zoom, outlines that name their unit.
function start(figure, part) {
  const frames = all(".frame", figure), periods = JSON.parse(figure.dataset.periods), slider = figure.querySelector("input[type=range]");
  const tip = figure.querySelector(".tip"), choose = figure.querySelector(".choose"), table = part.querySelector("table.units");
  const rows = table ? [...table.tBodies[0].rows] : [], rowOf = new Map(rows.map(row => [row.dataset.unit, row]));
  const data = part.querySelector("script.cells"), cells = data ? JSON.parse(data.textContent) : {};
  const heads = table ? all("thead th", table).map(head => head.textContent) : [];
  const view = { z: 1, x: 0, y: 0 };
  let at = slider ? +slider.value : periods.length - 1, told = "";

  frames.forEach(frame => {
    const drawing = frame.querySelector("svg"), sheet = frame.querySelector(".sheet");
    if (frame.closest(".pane").querySelector("[data-layer=looks]")) sheet.insertBefore(document.getElementById("looks").content.cloneNode(true), drawing);
    drawing.replaceChildren(...all("use", drawing).map(use => {
      const copy = document.querySelector(use.getAttribute("href")).cloneNode(true);
      copy.removeAttribute("id");
      return copy;
    }));
  });
  const leaves = all("path.leaf", frames[0]), leafOf = new Map(leaves.map(path => [path.dataset.unit, path]));
  choose.append(...leaves.map(path => new Option(path.dataset.name, path.dataset.unit)).sort((a, b) => a.text.localeCompare(b.text)));

  function tell(unit) {
    told = unit;
    all("path.leaf", figure).forEach(path => path.classList.toggle("hit", path.dataset.unit === unit));
    rows.forEach(row => row.classList.toggle("hit", row.dataset.unit === unit));
    const row = rowOf.get(unit), path = leafOf.get(unit), value = label => row.cells[heads.indexOf(label)];
    if (!path) { tip.replaceChildren(); return; }
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: path.dataset.name }));
    if (!row) return;
    tip.append(`Map: ${value("Total").textContent} in ${periods[at]}, ${value("Per hectare").textContent} per hectare, ${value("Observed").textContent} observed`);
    const estimate = value("Estimate");
    if (estimate && plain(estimate.firstChild.textContent) !== "–") tip.append(document.createElement("br"), `Estimate of ${periods[at]}: ${estimate.textContent}`);
    const trend = all("table tr[data-unit]", part).find(one => one.dataset.unit === unit && one.closest("section").id.endsWith("-trends"));
    if (trend) tip.append(document.createElement("br"), `Since ${periods[0]}: ${trend.cells[6].textContent}`);
  }
  function show() {
    all(".pane", figure).forEach(pane => {
      const layer = pane.dataset.layer;
      all("img", pane).forEach(image => { image.hidden = image.dataset.layer !== layer || (image.dataset.i !== "" && +image.dataset.i !== at); });
      all(".legend", pane).forEach(legend => { legend.hidden = legend.dataset.layer !== layer; });
      all(".switch button", pane).forEach(button => button.setAttribute("aria-pressed", button.dataset.layer === layer));
    });
    figure.querySelector(".period").textContent = periods[at];
    if (cells[periods[at]]) {
      rows.forEach((row, i) => cells[periods[at]][i].forEach((text, j) => setCell(row.cells[j + 2], text)));
      all(".at", table.closest("section")).forEach(label => { label.textContent = periods[at]; });
    }
    if (told) tell(told);
  }
  function look(z, x, y) {
    Object.assign(view, { z: clamp(z, 1, 32) });
    Object.assign(view, { x: clamp(x, 0, view.z - 1), y: clamp(y, 0, view.z - 1) });
    frames.forEach(frame => {
      Object.assign(frame.querySelector(".sheet").style, { width: `${100 * view.z}%`, height: `${100 * view.z}%`, left: `${-100 * view.x}%`, top: `${-100 * view.y}%` });
      frame.classList.toggle("near", view.z > 1);
      const svg = frame.querySelector("svg"), metres = figure.dataset.metres / view.z;
      svg.style.setProperty("--letter", `${11 * svg.viewBox.baseVal.width / (frame.clientWidth || 500) / view.z}px`);
      const scale = view.z * Math.max(1, frame.clientWidth / figure.dataset.frame);
      all("text", svg).forEach(text => text.setAttribute("display", text.dataset.zoom <= scale && scale < (text.dataset.until || 99) ? "inline" : "none"));
      frame.querySelector(".scale").textContent = metres >= 1000 ? `${+(metres / 1000).toPrecision(2)} km` : `${+metres.toPrecision(2)} m`;
    });
  }
  const zoomAt = (factor, px = 0.5, py = 0.5) => {
    const z = clamp(view.z * factor, 1, 32), f = z / view.z;
    look(z, (view.x + px) * f - px, (view.y + py) * f - py);
  };
  function choosing(unit) {
    const path = leafOf.get(unit);
    choose.value = unit;
    tell(unit);
    if (!path) { look(1, 0, 0); return; }
    const box = path.getBBox(), sheet = path.ownerSVGElement.viewBox.baseVal;
    const z = clamp(0.7 / Math.max(box.width / sheet.width, box.height / sheet.height), 1, 32);
    look(z, (box.x + box.width / 2) / sheet.width * z - 0.5, (box.y + box.height / 2) / sheet.height * z - 0.5);
  }

  frames.forEach(frame => {
    const pointers = new Map();
    let moved = 0;
    const inFrame = event => { const box = frame.getBoundingClientRect(); return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]; };
    frame.addEventListener("pointerdown", event => { pointers.set(event.pointerId, inFrame(event)); moved = 0; });
    frame.addEventListener("pointermove", event => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = inFrame(event), other = [...pointers].find(([id]) => id !== event.pointerId);
      moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      pointers.set(event.pointerId, now);
      if (moved > 0.01) frame.setPointerCapture(event.pointerId);
      if (other) {
        const apart = place => Math.hypot(place[0] - other[1][0], place[1] - other[1][1]);
        zoomAt(apart(now) / (apart(before) || 1), (now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2);
      } else if (view.z > 1) look(view.z, view.x - now[0] + before[0], view.y - now[1] + before[1]);
    });
    ["pointerup", "pointercancel"].forEach(name => frame.addEventListener(name, event => pointers.delete(event.pointerId)));
    frame.addEventListener("wheel", event => {
      if (!event.ctrlKey && document.activeElement !== frame) return; // the page scrolls until the map is clicked
      event.preventDefault();
      zoomAt(event.deltaY < 0 ? 1.25 : 0.8, ...inFrame(event));
    }, { passive: false });
    frame.addEventListener("keydown", event => {
      const step = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] }[event.key];
      if (step) look(view.z, view.x + step[0], view.y + step[1]);
      else if (event.key === "+" || event.key === "=") zoomAt(2);
      else if (event.key === "-") zoomAt(0.5);
      else if (event.key === "0") look(1, 0, 0);
      else return;
      event.preventDefault();
    });
    frame.addEventListener("dblclick", event => zoomAt(2, ...inFrame(event)));
    all("path.leaf", frame).forEach(path => {
      path.addEventListener("pointerenter", () => tell(path.dataset.unit));
      path.addEventListener("click", () => { if (moved < 0.01) { choose.value = path.dataset.unit; tell(path.dataset.unit); } });
    });
  });
  all(".switch button", figure).forEach(button => button.addEventListener("click", () => { button.closest(".pane").dataset.layer = button.dataset.layer; show(); }));
  all("[data-zoom]", figure.querySelector(".zoom")).forEach(button => button.addEventListener("click", () => { if (+button.dataset.zoom) zoomAt(+button.dataset.zoom); else choosing(""); }));
  choose.addEventListener("change", () => choosing(choose.value));
  if (slider) slider.addEventListener("input", () => { at = +slider.value; show(); });
  rows.forEach(row => { row.addEventListener("pointerenter", () => tell(row.dataset.unit)); row.addEventListener("click", () => choosing(row.dataset.unit)); });
  look(1, 0, 0);
  show();
}

// Tables: sort by a column, find a row, download. Missing values stay at the end.
all("main table:not(.months)").forEach(table => {
  const section = table.closest("section"), heads = all("thead th", table), body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("n"), down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => { const first = row.cells[column].firstChild; return first ? first.textContent : ""; };
      body.append(...[...body.rows].sort((a, b) => {
        if (!numeric) return (down ? -1 : 1) * value(a).localeCompare(value(b));
        const x = parseFloat(plain(value(a))), y = parseFloat(plain(value(b)));
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return down ? y - x : x - y;
      }));
    });
  });
  const find = section.querySelector(".find");
  if (find) find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    [...body.rows].forEach(row => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
  });
  const button = section.querySelector(".csv");
  if (button) button.addEventListener("click", () => {
    const word = cell => {
      const text = cell.textContent.trim().replace(/\s+/g, " ");
      const value = text === "–" ? "" : /^[<>]?[−+\d][\d\s\u202f.,]*%?$/.test(text) ? plain(text) : text.replace(/^[=+@\t-]/, "'$&"); // a spreadsheet must not take a name for a formula
      return `"${value.replaceAll('"', '""')}"`;
    };
    const lines = all("tr", table).filter(row => !row.hidden).map(row => [...row.cells].map(word).join(","));
    const period = section.querySelector(".at"), link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`\ufeff${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    link.download = `${section.id}${period ? `-${period.textContent}` : ""}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
});
if (parts.length) pick(parts[0].dataset.object);
follow();
