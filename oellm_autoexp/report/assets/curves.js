// Curves of a metric: axes and zoom are uPlot's, the lines are drawn here, as thousands of them may be wanted.

const MOST_CURVES = 1000;
const AXES = [
  ["iteration", "iteration"],
  ["elapsed", "time since its first point"],
  ["time", "date and time"],
  ["tokens", "tokens"],
];
const chart = { metric: "", axis: "iteration", by: "job", logX: false, logY: false, smoothing: 0, plot: null, lines: [], near: null };

/** A curve without its ups and downs: an exponential mean, as if nothing had come before the first point. */
function smoothed(ys, weight) {
  if (!weight) return ys;
  const found = new Float32Array(ys.length);
  let mean = 0;
  let whole = 0;
  for (let i = 0; i < ys.length; i++) {
    if (!Number.isFinite(ys[i])) {
      found[i] = ys[i];
      continue;
    }
    mean = weight * mean + (1 - weight) * ys[i];
    whole = weight * whole + (1 - weight);
    found[i] = mean / whole;
  }
  return found;
}

function colourKeys() {
  return [
    ["job", "job"], ["state", "state"],
    ...(severalSessions ? [["session", "session"]] : []),
    ...(new Set(data.jobs.stage).size > 1 ? [["stage", "stage"]] : []),
    ...data.parameters.map((one, index) => [`parameter ${index}`, one.label, one]).filter(([, , one]) => one.varied && !one.lengthy),
  ];
}

/** What distinguishes jobs: the value of each. */
function valuesBy(key) {
  if (key === "state") return data.jobs.state;
  if (key === "session") return data.jobs.session.map((session) => data.sessions[session].id);
  if (key === "stage") return data.jobs.stage;
  return data.parameters[Number(key.split(" ")[1])].values;
}

/** The colour of each job, and the legend. */
function jobColours(key, jobs) {
  if (key === "job") {
    const places = new Map(jobs.map((job, index) => [job, index]));
    const of = (job) => categoryColour(places.get(job) ?? 0);
    const few = jobs.length <= CATEGORIES ? jobs : [];
    return { of, legend: few.map((job) => [data.jobs.name[job], of(job)]), left: 0 };
  }
  const values = valuesBy(key);
  if (key === "state") {
    const known = [...new Set(jobs.map((job) => values[job]))];
    return { of: (job) => colour(`state-${values[job]}`), legend: known.map((state) => [state, colour(`state-${state}`)]), left: 0 };
  }
  const colours = colouring(jobs.map((job) => values[job]));
  return { ...colours, of: (job) => colours.of(values[job]) };
}

/** The lines to draw, of the first jobs that have one; how many jobs have one. */
function gatherLines(jobs) {
  const withCurve = jobs.filter((job) => curvesOf[job].has(chart.metric) && curvesOf[job].get(chart.metric).count);
  const lines = [];
  for (const job of withCurve) {
    if (lines.length === MOST_CURVES) break;
    const curve = curveOver(job, chart.metric, chart.axis);
    if (curve) lines.push({ job, xs: curve.xs, raw: curve.ys, ys: smoothed(curve.ys, chart.smoothing) });
  }
  return [lines, withCurve.length];
}

/** The least and greatest of finite numbers, those above 0 alone where the axis is logarithmic. */
function extent(lines, which, logarithmic) {
  let low = Infinity;
  let high = -Infinity;
  for (const line of lines) {
    const values = line[which];
    for (let i = 0; i < values.length; i++) {
      const value = values[i];
      if (!Number.isFinite(value) || (logarithmic && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return logarithmic ? [1, 10] : [0, 1];
  if (low === high) return logarithmic ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
  if (which === "xs") return [low, high];
  const room = (high - low) / 25;
  return logarithmic ? [low / 1.1, high * 1.1] : [low - room, high + room];
}

/** Where a logarithmic axis is labelled: at 1, 2 and 5 of each power of ten, and evenly where it spans less than one. */
function logarithmicTicks(plot, axis, low, high) {
  if (!(low > 0) || high / low < 8) {
    const rough = (high - low) / 6;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
    const found = [];
    for (let value = Math.ceil(low / step); value * step <= high; value++) found.push(value * step);
    return found;
  }
  const factors = high / low > 1e4 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of factors) if (factor * 10 ** power >= low && factor * 10 ** power <= high) found.push(factor * 10 ** power);
  }
  return found;
}

/** Labels of an axis of durations, with tenths of seconds where that is needed. */
function durationTicks(plot, splits) {
  const step = splits.length > 1 ? splits[1] - splits[0] : 1;
  return splits.map((value) => (value === null ? "" : step < 1 ? `${Number(value.toFixed(2))} s` : duration(value)));
}

/** From values to pixels of the canvas along one axis. */
function scaleOf(plot, key, from, length) {
  const { min, max, distr } = plot.scales[key];
  const place = distr === 3 ? Math.log10 : (value) => value;
  const [low, high] = [place(min), place(max)];
  return (value) => from + ((place(value) - low) / (high - low)) * length;
}

/** Draw a line; of points that share a column of pixels only the highest and the lowest, as more can't be seen. */
function trace(context, line, ys, toX, toY) {
  const { xs } = line;
  let pen = false;
  let column = NaN;
  let top = 0;
  let bottom = 0;
  const flush = () => {
    if (top !== bottom) {
      context.lineTo(column, top);
      context.lineTo(column, bottom);
    }
  };
  for (let i = 0; i < xs.length; i++) {
    const y = toY(ys[i]);
    const x = toX(xs[i]);
    if (!Number.isFinite(y) || !Number.isFinite(x)) {
      if (pen) flush();
      pen = false;
      column = NaN;
      continue;
    }
    if (!pen) {
      context.moveTo(x, y);
      pen = true;
    } else if (Math.abs(x - column) < 0.5) {
      if (y < top) top = y;
      if (y > bottom) bottom = y;
      continue;
    } else {
      flush();
      context.lineTo(x, y);
    }
    column = x;
    top = bottom = y;
  }
  if (pen) flush();
}

/** Marks where values begin to be no numbers: at the last one before. */
function markGaps(context, line, toX, toY, size) {
  for (let i = 1; i < line.xs.length; i++) {
    if (Number.isFinite(line.raw[i]) || !Number.isFinite(line.raw[i - 1])) continue;
    const x = toX(line.xs[i]);
    const y = toY(line.ys[i - 1]);
    if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
    context.moveTo(x - size, y - size);
    context.lineTo(x + size, y + size);
    context.moveTo(x - size, y + size);
    context.lineTo(x + size, y - size);
  }
}

function drawLines(plot) {
  const { ctx: context, bbox } = plot;
  const ratio = devicePixelRatio || 1;
  const toX = scaleOf(plot, "x", bbox.left, bbox.width);
  const toY = scaleOf(plot, "y", bbox.top + bbox.height, -bbox.height);
  context.save();
  context.beginPath();
  context.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  context.clip();
  context.lineJoin = "round";
  const few = chart.lines.length <= 20;
  const byColour = Map.groupBy ? Map.groupBy(chart.lines, (line) => line.colour) : grouped(chart.lines);
  for (const [its, lines] of byColour) {
    context.strokeStyle = its;
    if (chart.smoothing && few) {
      context.globalAlpha = 0.25;
      context.lineWidth = ratio;
      context.beginPath();
      for (const line of lines) trace(context, line, line.raw, toX, toY);
      context.stroke();
    }
    context.globalAlpha = few ? 1 : chart.lines.length > 200 ? 0.5 : 0.8;
    context.lineWidth = (few ? 1.75 : 1) * ratio;
    for (const line of lines) {
      context.beginPath();
      trace(context, line, line.ys, toX, toY);
      context.stroke();
      if (line.xs.length === 1) context.fillRect(toX(line.xs[0]) - 2 * ratio, toY(line.ys[0]) - 2 * ratio, 4 * ratio, 4 * ratio);
    }
    context.globalAlpha = 1;
    context.lineWidth = 2 * ratio;
    context.beginPath();
    for (const line of lines) if (line.gaps) markGaps(context, line, toX, toY, 5 * ratio);
    context.stroke();
  }
  if (chart.near) {
    context.strokeStyle = colour("text");
    context.lineWidth = 2.5 * ratio;
    context.beginPath();
    trace(context, chart.near, chart.near.ys, toX, toY);
    context.stroke();
  }
  context.restore();
}

function grouped(lines) {
  const found = new Map();
  for (const line of lines) found.set(line.colour, [...(found.get(line.colour) ?? []), line]);
  return found;
}

/** The place in rising numbers of the one that is nearest. */
function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

/** The line and the place in it that are nearest to the pointer; null where none is near. */
function underPointer(plot) {
  const { left, top } = plot.cursor;
  if (left < 0) return null;
  const x = plot.posToVal(left, "x");
  let found = null;
  let distance = 40;
  for (const line of chart.lines) {
    const index = nearest(line.xs, x);
    const away = Math.hypot(plot.valToPos(line.ys[index], "y") - top, 0.5 * (plot.valToPos(line.xs[index], "x") - left));
    if (away < distance) {
      distance = away;
      found = { line, index };
    }
  }
  return found;
}

/** Where a job's curve is in the chart, in pixels: for tests, and for whoever looks at the page with tools. */
function placeOf(name, x) {
  const line = chart.lines.find((one) => data.jobs.name[one.job] === name);
  return { x: chart.plot.valToPos(x, "x"), y: chart.plot.valToPos(line.ys[nearest(line.xs, x)], "y") };
}

function curvePart() {
  if (!metricNames.length) return null;
  chart.metric = metricNames.includes("loss") ? "loss" : metricNames[0];
  const varied = data.parameters.indexOf(sweptAxes[0]);
  chart.by = jobCount > CATEGORIES && varied >= 0 ? `parameter ${varied}` : "job";
  const holder = make("div", { class: "chart", id: "chart" });
  const note = make("p", { class: "note" });
  const readout = make("output", { class: "readout", id: "readout" });
  const colours = make("div");
  const set = (key) => (value) => {
    chart[key] = value;
    draw();
  };
  const known = AXES.filter(([axis]) => axis !== "tokens" || data.metrics.includes("@tokens"));
  const level = make("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: "0", oninput: () => set("smoothing")(Number(level.value)) });
  const part = section(
    "curves", "Curves",
    make(
      "div", { class: "controls" },
      chooser("Metric", metricNames.map((name) => [name, name.replaceAll("_", " ")]), chart.metric, set("metric")),
      chooser("Over", known, chart.axis, set("axis")),
      chooser("Colour by", colourKeys(), chart.by, set("by")),
      make("label", { class: "field" }, make("span", {}, "Smoothing"), level),
      checkbox("log y", false, set("logY")),
      checkbox("log x", false, set("logX")),
      make(
        "div", { class: "buttons", role: "group", "aria-label": "Zoom" },
        button("Zoom in", () => zoom(0.5), { id: "zoom-in" }),
        button("Zoom out", () => zoom(2), { id: "zoom-out" }),
        button("Reset zoom", () => reset(), { id: "zoom-reset" }),
      ),
    ),
    holder, readout, note, colours,
  );

  function zoom(factor) {
    for (const key of ["x", "y"]) {
      const { min, max, distr } = chart.plot.scales[key];
      const [there, back] = distr === 3 ? [Math.log10, (value) => 10 ** value] : [(value) => value, (value) => value];
      const middle = (there(min) + there(max)) / 2;
      const half = ((there(max) - there(min)) / 2) * factor;
      chart.plot.setScale(key, { min: back(middle - half), max: back(middle + half) });
    }
  }

  function reset() {
    chart.plot.setData(chart.plot.data);
  }

  function showValue(plot) {
    const found = underPointer(plot);
    const line = found?.line ?? null;
    if (line !== chart.near) {
      chart.near = line;
      plot.redraw(false);
    }
    if (!found) {
      readout.textContent = "Point at a curve to read it; drag to zoom, double-click to see all.";
      return;
    }
    const x = line.xs[found.index];
    const where = chart.axis === "time" ? moment(x) : chart.axis === "elapsed" ? duration(x) : number(x);
    const swept = sweptAxes.map((one) => `${one.label}=${shown(one.values[line.job])}`).slice(0, 6).join(", ");
    readout.textContent = `${data.jobs.name[line.job]}: ${number(line.ys[found.index])} at ${where}${swept ? ` (${swept})` : ""}`;
  }

  function draw() {
    const [lines, having] = gatherLines(shownJobs);
    const its = jobColours(chart.by, lines.map((line) => line.job));
    for (const line of lines) {
      line.colour = its.of(line.job);
      line.gaps = line.raw.some((value) => !Number.isFinite(value));
    }
    chart.lines = lines;
    chart.near = null;
    colours.replaceChildren(legend(its));
    note.textContent = noteOf(lines, having);
    const width = Math.max(260, holder.clientWidth);
    chart.plot?.destroy();
    chart.plot = new uPlot(plotOptions(width), [extent(lines, "xs", chart.logX), extent(lines, "ys", chart.logY)], holder);
    showValue(chart.plot);
  }

  function plotOptions(width) {
    const axis = { stroke: colour("text"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const values = (_, splits) => splits.map((value) => (value === null ? "" : number(value)));
    const along = chart.axis === "time" ? {} : { values: chart.axis === "elapsed" ? durationTicks : values };
    const logarithmic = { splits: logarithmicTicks, filter: (_, splits) => splits };
    const within = (_, min, max) => [min, max];
    return {
      width, height: width < 600 ? 280 : 420,
      legend: { show: false },
      scales: {
        x: { time: chart.axis === "time", distr: chart.logX ? 3 : 1, range: within },
        y: { distr: chart.logY ? 3 : 1, range: within },
      },
      axes: [{ ...axis, ...along, ...(chart.logX ? logarithmic : {}) }, { ...axis, size: 64, values, ...(chart.logY ? logarithmic : {}) }],
      series: [{}, { paths: () => null, points: { show: false } }],
      cursor: { points: { show: false }, drag: { x: true, y: true, uni: 30 } },
      hooks: { draw: [drawLines], setCursor: [showValue] },
    };
  }

  function noteOf(lines, having) {
    const notes = [];
    if (having > lines.length && lines.length === MOST_CURVES)
      notes.push(`Drawn are the first ${MOST_CURVES.toLocaleString("en-US")} of ${plural(having, "curve")}, in the order of the table: filter to see others.`);
    else if (!having) notes.push("No job that is shown has this metric.");
    else if (having > lines.length) notes.push(`Of ${plural(having - lines.length, "job")} it is not known where an iteration is on this axis.`);
    if (lines.some((line) => line.gaps)) notes.push("× marks where the value begins to be no number (NaN or infinity).");
    if (lines.some((line) => curvesOf[line.job].get(chart.metric).total > line.xs.length))
      notes.push(`Of longer curves about ${data.most_points} points are here: the lowest and the highest of each stretch.`);
    return notes.join(" ");
  }

  let width = 0;
  new ResizeObserver(() => {
    if (part.open && holder.clientWidth && Math.abs(holder.clientWidth - width) > 8) {
      width = holder.clientWidth;
      if (chart.plot) chart.plot.setSize({ width: Math.max(260, width), height: width < 600 ? 280 : 420 });
    }
  }).observe(holder);
  window.reportChart = {
    scale: (axis) => [chart.plot.scales[axis].min, chart.plot.scales[axis].max],
    place: (name, x) => placeOf(name, x),
  };
  return drawnFor(part, draw);
}
