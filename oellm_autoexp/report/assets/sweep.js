// What the sweep shows: the best points, a heat map and parallel coordinates over swept axes, differences of jobs.

const WHICH = [["low", "lowest"], ["high", "highest"], ["last", "last"]];

/** Choosers of a metric and of which of its values counts. */
function metricChoosers(state, draw) {
  const set = (key) => (value) => {
    state[key] = value;
    draw();
  };
  return [
    chooser("Metric", metricNames.map((name) => [name, name.replaceAll("_", " ")]), state.metric, set("metric")),
    chooser("Value", WHICH, state.which, set("which")),
  ];
}

function firstMetric() {
  return ["validation_loss", "loss"].find((name) => metricNames.includes(name)) ?? metricNames[0];
}

function bestPart() {
  if (!metricNames.length) return null;
  const state = { metric: firstMetric(), which: "low" };
  const list = make("div");
  const part = section("best", "Best points", make("div", { class: "controls" }, metricChoosers(state, () => draw())), list);
  function draw() {
    const down = state.which === "high";
    const found = shownJobs
      .map((job) => [summary(job, state.metric, state.which), job])
      .filter(([value]) => value !== null)
      .sort(([a], [b]) => (down ? b - a : a - b))
      .slice(0, 10);
    const at = { low: "lowAt", high: "highAt" }[state.which];
    list.replaceChildren(
      plainTable(
        ["", state.metric.replaceAll("_", " "), "Iteration", "Job", ...sweptAxes.map((one) => one.label)],
        found.map(([value, job], index) => [
          index + 1, value, at ? curvesOf[job].get(state.metric)[at] : data.jobs.iteration[job] ?? "", jobButton(job),
          ...sweptAxes.map((one) => shown(one.values[job])),
        ]),
        "Best points",
      ),
    );
  }
  return drawnFor(part, draw);
}

/** The values of an axis, in order. */
function axisValues(parameter) {
  const known = [...new Set(parameter.values.filter((value) => value !== null))];
  return known.sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))));
}

const MOST_CELLS = 60;

function heatPart() {
  if (sweptAxes.length < 2 || !metricNames.length) return null;
  const choices = sweptAxes.map((one, index) => [String(index), one.label]);
  const state = { metric: firstMetric(), which: "low", rows: "0", columns: "1" };
  const set = (key) => (value) => {
    state[key] = value;
    draw();
  };
  const map = make("div");
  const part = section(
    "heat", "Heat map",
    make(
      "div", { class: "controls" }, metricChoosers(state, () => draw()),
      chooser("Down", choices, state.rows, set("rows")), chooser("Across", choices, state.columns, set("columns")),
    ),
    map,
  );
  function draw() {
    const [down, across] = [sweptAxes[Number(state.rows)], sweptAxes[Number(state.columns)]];
    const [rows, columns] = [axisValues(down).slice(0, MOST_CELLS), axisValues(across).slice(0, MOST_CELLS)];
    const cells = new Map();
    for (const job of shownJobs) {
      const value = summary(job, state.metric, state.which);
      const key = JSON.stringify([down.values[job], across.values[job]]);
      if (value !== null) cells.set(key, [...(cells.get(key) ?? []), [value, job]]);
    }
    const better = state.which === "high" ? (a, b) => b[0] - a[0] : (a, b) => a[0] - b[0];
    const best = new Map([...cells].map(([key, found]) => [key, found.sort(better)]));
    const all = [...best.values()].map(([[value]]) => value);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const cell = (row, column) => {
      const found = best.get(JSON.stringify([row, column]));
      if (!found) return make("td", { class: "empty" }, "–");
      const [value, job] = found[0];
      const share = high > low ? (value - low) / (high - low) : 0.5;
      const its = make("td", { class: "heat", style: { background: heatColour(share), color: heatText(share) } });
      its.append(button(number(value), () => showJob(job), { title: `${data.jobs.name[job]}${found.length > 1 ? `, the best of ${found.length} jobs` : ""}` }));
      return its;
    };
    map.replaceChildren(
      make(
        "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Heat map" },
        make(
          "table", { class: "heatmap" }, make("caption", { class: "hidden" }, `${state.metric} by ${down.label} and ${across.label}`),
          make("thead", {}, make("tr", {}, make("th", { scope: "col" }, `${down.label} ↓ ${across.label} →`), columns.map((value) => make("th", { scope: "col" }, shown(value))))),
          make("tbody", {}, rows.map((row) => make("tr", {}, make("th", { scope: "row" }, shown(row)), columns.map((column) => cell(row, column))))),
        ),
      ),
      make("p", { class: "note" }, "Where several jobs have the same two values, the best of them is shown."),
    );
  }
  return drawnFor(part, draw);
}

/** Colours of the heat map: light to dark blue, in both themes, so that the text on each can be read. */
function heatColour(share) {
  return `hsl(${215 - 15 * share} 70% ${(88 - 58 * share).toFixed(0)}%)`;
}

function heatText(share) {
  return share > 0.45 ? "#ffffff" : "#10161d";
}

const MOST_LINES = 1000;

function parallelPart() {
  if (!sweptAxes.length || !metricNames.length) return null;
  const state = { metric: firstMetric(), which: "low" };
  const holder = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Parallel coordinates" });
  const note = make("p", { class: "note" });
  const part = section("parallel", "Parallel coordinates", make("div", { class: "controls" }, metricChoosers(state, () => draw())), holder, note);
  function draw() {
    const having = shownJobs.filter((job) => summary(job, state.metric, state.which) !== null);
    const jobs = having.slice(0, MOST_LINES);
    const metric = { label: `${state.metric.replaceAll("_", " ")} (${WHICH.find(([key]) => key === state.which)[1]})`, values: [] };
    for (const job of jobs) metric.values[job] = summary(job, state.metric, state.which);
    const axes = [...sweptAxes.slice(0, 10), metric].map((one) => parallelAxis(one, jobs));
    const [width, height, top, bottom] = [Math.max(120 * axes.length, holder.clientWidth || 600), 300, 34, 20];
    const x = (index) => 60 + (index * (width - 120)) / Math.max(1, axes.length - 1);
    const y = (share) => height - bottom - share * (height - top - bottom);
    const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${jobs.length} jobs as lines over their swept values and ${metric.label}` });
    const order = jobs.map((job) => [axes.at(-1).share(job), job]).sort((a, b) => b[0] - a[0]);
    for (const [share, job] of order) {
      const path = axes.map((axis, index) => `${x(index).toFixed(1)},${y(axis.share(job)).toFixed(1)}`).join(" ");
      const line = makeSvg("polyline", { points: path, fill: "none", stroke: scaleColour(share), "stroke-width": 1.5, "stroke-opacity": jobs.length > 100 ? 0.45 : 0.9 });
      line.append(makeSvg("title", {}, data.jobs.name[job]));
      line.addEventListener("click", () => showJob(job));
      svg.append(line);
    }
    axes.forEach((axis, index) => {
      const place = x(index);
      svg.append(makeSvg("line", { x1: place, x2: place, y1: y(0), y2: y(1), class: "axis" }));
      const side = index === 0 ? "start" : index === axes.length - 1 ? "end" : "middle";
      svg.append(makeSvg("text", { x: place + { start: -40, middle: 0, end: 56 }[side], y: 16, "text-anchor": side, class: "axis-name" }, axis.label));
      for (const [share, text] of axis.ticks) svg.append(makeSvg("text", { x: place + 5, y: y(share) + 4, class: "tick" }, text));
    });
    holder.replaceChildren(svg);
    note.textContent = `${having.length > jobs.length ? `Drawn are the first ${MOST_LINES} of ${plural(having.length, "job")}. ` : ""}Blue lines have a low ${state.metric.replaceAll("_", " ")}, yellow ones a high one. Select a line to see its job.`;
  }
  return drawnFor(part, draw);
}

/** An axis: where a job is on it (0 to 1), and what is written beside it. */
function parallelAxis(parameter, jobs) {
  const known = axisValues({ values: jobs.map((job) => parameter.values[job] ?? null) });
  const numeric = known.length > 0 && known.every((value) => typeof value === "number");
  const logarithmic = numeric && known[0] > 0 && known.at(-1) / known[0] >= 10;
  const place = (value) => (logarithmic ? Math.log(value) : value);
  const share = (value) => {
    if (value === null || value === undefined || known.length < 2) return value === null || value === undefined ? -0.04 : 0.5;
    return numeric ? (place(value) - place(known[0])) / (place(known.at(-1)) - place(known[0])) : known.indexOf(value) / (known.length - 1);
  };
  const few = known.length <= 8 ? known : [known[0], known[Math.floor(known.length / 2)], known.at(-1)];
  return { label: parameter.label, share: (job) => share(parameter.values[job]), ticks: few.map((value) => [share(value), shown(value)]) };
}

const SIDE_BY_SIDE = 8;

function differencePart() {
  if (!data.differences.length || jobCount < 2) return null;
  const list = make("div");
  const part = section("differences", "Differences between the jobs' configs", list);
  function draw() {
    const value = (one, job) => (one.of[job] < 0 ? "–" : one.values[one.of[job]]);
    const varied = data.differences.filter((one) => shownJobs.some((job) => one.of[job] !== one.of[shownJobs[0]]));
    if (!varied.length) {
      list.replaceChildren(make("p", { class: "note" }, "The jobs that are shown have the same config."));
    } else if (shownJobs.length <= SIDE_BY_SIDE) {
      const rows = varied.map((one) => [one.key, ...shownJobs.map((job) => value(one, job))]);
      const table = plainTable(["Key", ...shownJobs.map((job) => jobButton(job))], rows, "Differences");
      table.classList.add("side");
      list.replaceChildren(table);
    } else {
      list.replaceChildren(
        plainTable(["Key", "Values", "Jobs with each"], varied.map((one) => [one.key, ...valuesOf(one)]), "Differences"),
        make("p", { class: "note" }, `With a filter that leaves ${SIDE_BY_SIDE} jobs or fewer, they stand side by side.`),
      );
    }
  }
  return drawnFor(part, draw);
}

/** The number of a key's values among the jobs that are shown, and the most frequent ones with how many have them. */
function valuesOf(one) {
  const counts = new Map();
  for (const job of shownJobs) counts.set(one.of[job], (counts.get(one.of[job]) ?? 0) + 1);
  const most = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, 12);
  const text = most.map(([index, count]) => `${index < 0 ? "–" : one.values[index]} (${count})`).join(", ");
  return [counts.size, counts.size > most.length ? `${text}, …` : text];
}
