// Elements are made by these functions alone: what a report shows is only ever set as text.

/** An element with attributes (`on…`: a listener; `class`, `title`, …) and children: elements, or texts. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A part of the page, which can be closed. */
function section(id, title, ...children) {
  const summary = make("summary", {}, make("h2", {}, title));
  const part = make("details", { id, class: "part", open: true }, summary, ...children);
  return part;
}

/** A drop-down list with a label. `choices`: [value, text]. */
function chooser(label, choices, chosen, onchange) {
  const select = make("select", { onchange: () => onchange(select.value) });
  for (const [value, text] of choices) select.append(make("option", { value, selected: value === chosen }, text));
  return make("label", { class: "field" }, make("span", {}, label), select);
}

function checkbox(label, checked, onchange) {
  const box = make("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return make("label", { class: "check" }, box, label);
}

function button(text, onclick, attributes = {}) {
  return make("button", { type: "button", onclick, ...attributes }, text);
}

/** A state in words, with its colour beside it. */
function stateMark(state) {
  return make("span", { class: "state" }, make("i", { class: `dot state-${state}`, "aria-hidden": "true" }), state);
}

function jobButton(job, text = data.jobs.name[job]) {
  return button(text, () => showJob(job), { class: "link", title: data.jobs.name[job] });
}

/** A table with a header; rows are arrays of cells (texts or elements); a number, or `{ right: text }`, stands on the right. */
function plainTable(headers, rows, caption) {
  const cell = (value) => {
    if (typeof value === "number") return make("td", { class: "number" }, number(value));
    if (value?.right !== undefined) return make("td", { class: "number" }, value.right);
    const text = typeof value === "string";
    return make("td", { class: text && value.length > 24 ? "long" : null }, value);
  };
  return make(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make(
      "table",
      {},
      make("caption", { class: "hidden" }, caption),
      make("thead", {}, make("tr", {}, headers.map((header) => make("th", { scope: "col" }, header)))),
      make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell)))),
    ),
  );
}

/** A list of which the first `step` items are shown, with a button for more. `draw` makes the element of an item. */
function growing(container, items, step, draw) {
  let count = 0;
  const more = button("", () => extend(step), { class: "more" });
  function extend(by) {
    const end = Math.min(items.length, count + by);
    const fresh = document.createDocumentFragment();
    for (; count < end; count++) fresh.append(draw(items[count]));
    container.append(fresh);
    const rest = items.length - count;
    more.textContent = `Show ${Math.min(rest, step).toLocaleString("en-US")} more of ${rest.toLocaleString("en-US")}`;
    more.hidden = rest === 0;
  }
  extend(step);
  return more;
}

/** A colour of the page, by the name of its variable. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const CATEGORIES = 10;

/** The colour of a category, one of ten that people with any kind of sight can distinguish as well as possible. */
function categoryColour(index) {
  return colour(`category-${index % CATEGORIES}`);
}

/** The colour of a share from 0 to 1: from dark blue over green to yellow, a little lighter on a dark page. */
function scaleColour(share) {
  const at = Math.min(1, Math.max(0, share));
  const hue = 265 - 205 * at;
  return `hsl(${hue.toFixed(0)} 75% ${(isDark() ? 62 + 4 * at : 42 - 6 * at).toFixed(0)}%)`;
}

/** For values of jobs, what colour each has, and what a legend says of it. */
function colouring(values) {
  const known = [...new Set(values.filter((value) => value !== null && value !== undefined))];
  const numeric = known.length > 2 && known.every((value) => typeof value === "number");
  if (numeric) {
    known.sort((a, b) => a - b);
    const logarithmic = known[0] > 0 && known[known.length - 1] / known[0] >= 10;
    const place = (value) => (logarithmic ? Math.log(value) : value);
    const [low, high] = [place(known[0]), place(known[known.length - 1])];
    const of = (value) => (typeof value === "number" ? scaleColour((place(value) - low) / (high - low)) : colour("muted"));
    const picked = known.length <= 12 ? known : [0, 0.25, 0.5, 0.75, 1].map((s) => known[Math.round(s * (known.length - 1))]);
    return { of, legend: picked.map((value) => [shown(value), of(value)]), left: 0 };
  }
  known.sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))));
  const places = new Map(known.map((value, index) => [value, index]));
  const of = (value) => (places.has(value) ? categoryColour(places.get(value)) : colour("muted"));
  return { of, legend: known.slice(0, 20).map((value) => [shown(value), of(value)]), left: Math.max(0, known.length - 20) };
}

function legend(colours) {
  const items = colours.legend.map(([text, its]) =>
    make("li", {}, make("i", { class: "swatch", "aria-hidden": "true", style: { background: its } }), text),
  );
  if (colours.left) items.push(make("li", {}, `and ${colours.left} more`));
  return make("ul", { class: "legend" }, items);
}
