// Which jobs are shown, everywhere on the page: words, comparisons, states.

const ofEach = [
  { key: "name", label: "Job", of: (job) => data.jobs.name[job] },
  severalSessions && { key: "session", label: "Session", of: (job) => data.sessions[data.jobs.session[job]].id },
  { key: "stage", label: "Stage", of: (job) => data.jobs.stage[job] },
  { key: "state", label: "State", of: (job) => data.jobs.state[job] },
  { key: "category", label: "Failure", of: (job) => data.jobs.category[job] || null },
  { key: "attempt", label: "Attempt", of: (job) => data.jobs.attempt[job] || null },
].filter(Boolean);
const ofRuns = [
  { key: "iteration", label: "Iteration", of: (job) => data.jobs.iteration[job] },
  { key: "loss", label: "Loss", of: (job) => data.jobs.loss[job] },
  { key: "lowest_loss", label: "Lowest loss", of: (job) => summary(job, "loss", "low") },
  { key: "validation_loss", label: "Validation loss", of: (job) => data.jobs.validation_loss[job] },
  { key: "grad_norm", label: "Gradient norm", of: (job) => data.jobs.grad_norm[job] },
  { key: "throughput", label: "TFLOP/s/GPU", of: (job) => data.jobs.throughput[job] },
  { key: "seconds", label: "s/iteration", of: (job) => data.jobs.seconds_per_iteration[job] },
  ...metricNames
    .filter((name) => !["loss", "validation_loss", "grad_norm", "throughput", "seconds", "samples", "tokens"].includes(name))
    .map((name) => ({ key: name, label: name.replaceAll("_", " "), of: (job) => curvesOf[job].get(name)?.last, extra: true })),
  { key: "runtime", label: "Time", of: runtime, text: duration },
  { key: "gpu_hours", label: "GPU-hours used", of: (job) => data.jobs.gpu_hours[job], text: hours, usual: 0 },
  { key: "planned", label: "planned", of: (job) => data.jobs.gpu_hours_planned[job], text: hours, usual: 0 },
  { key: "exit", label: "Exit code", of: (job) => data.jobs.exit_code[job] },
  { key: "id", label: "Scheduler's id", of: (job) => data.jobs.scheduler_id[job] || null, extra: true },
  { key: "nodes", label: "Nodes", of: (job) => data.jobs.nodes[job] || null, extra: true },
  { key: "fingerprint", label: "Fingerprint", of: (job) => data.jobs.fingerprint[job] || null, extra: true },
  { key: "reason", label: "Reason", of: reason },
];
const taken = new Set([...ofEach, ...ofRuns].flatMap((column) => [column.key, column.label.toLowerCase()]));

/** A swept value's column: by its short name, or by its whole key where another column has that name. */
function sweptColumn(parameter) {
  const name = taken.has(parameter.label.toLowerCase()) ? parameter.key : parameter.label;
  return { key: name, long: parameter.key, label: name, of: (job) => parameter.values[job], extra: !parameter.axis && parameter.lengthy };
}

/** The columns of the table, and what a filter may name: key, label, the value of a job. */
const columns = [...ofEach, ...data.parameters.map(sweptColumn), ...ofRuns];

/** Seconds that the newest attempt has run. */
function runtime(job) {
  const { started_at: started, ended_at: ended } = data.jobs;
  return started[job] === null ? null : (ended[job] ?? data.made_at) - started[job];
}

function reason(job) {
  return [data.jobs.cause[job] || data.jobs.reason[job], data.jobs.problem[job]].filter(Boolean).join("; ") || null;
}

/** Whether a column tells something of some job; others are not shown. */
for (const column of columns) {
  column.used = false;
  for (let job = 0; job < jobCount && !column.used; job++) {
    column.used = ![null, undefined, "", column.usual].includes(column.of(job));
  }
  column.shown = column.used && !column.extra;
}

const filter = { text: "", states: new Set(), listeners: [] };

/** What a word of the filter asks of a job. */
function condition(word) {
  const negated = word.length > 1 && word.startsWith("-");
  const body = negated ? word.slice(1) : word;
  const parts = comparisonParts(body);
  const test = (parts && comparison(parts[1], parts[2], parts[3])) || containing(body.toLowerCase());
  return negated ? (job) => !test(job) : test;
}

/** `loss<2.5` in its parts: all of it, the name, the sign, the value; null for another word. */
function comparisonParts(word) {
  return /^-?([^<>=:!]+)(<=|>=|!=|<|>|=|:)(.+)$/.exec(word);
}

function columnOf(name) {
  const key = name.toLowerCase();
  return (
    columns.find((one) => [one.key, one.label, one.long].some((known) => known && known.toLowerCase() === key)) ??
    columns.find((one) => one.long?.toLowerCase().endsWith(`.${key}`))
  );
}

function comparison(name, sign, wanted) {
  const column = columnOf(name);
  if (!column) return null;
  const text = wanted.toLowerCase();
  const limit = noNumbers[text] ?? Number(wanted);
  const equal = (value) =>
    typeof value === "number" && !Number.isNaN(limit) ? value === limit : String(value ?? "").toLowerCase() === text;
  if (sign === ":") return (job) => String(column.of(job) ?? "").toLowerCase().includes(text);
  if (sign === "=") return (job) => equal(column.of(job));
  if (sign === "!=") return (job) => !equal(column.of(job));
  if (Number.isNaN(limit)) return null;
  return (job) => {
    const value = column.of(job);
    if (typeof value !== "number") return false;
    return sign === "<" ? value < limit : sign === ">" ? value > limit : sign === "<=" ? value <= limit : value >= limit;
  };
}

/** Names before a sign of comparison that no column has: words with them are looked for as they are. */
function unknownColumns() {
  const names = filter.text.split(/\s+/).map((word) => comparisonParts(word)?.[1]).filter((name) => name && !columnOf(name));
  return names.length ? `; there is no column ${names.join(", ")}` : "";
}

const texts = [];

/** All that can be searched of a job, in lower case. */
function textOf(job) {
  texts[job] ??= [
    data.jobs.name[job], data.jobs.stage[job], data.jobs.state[job], data.sessions[data.jobs.session[job]].id,
    data.jobs.scheduler_id[job], data.jobs.nodes[job], data.jobs.category[job],
    data.jobs.fingerprint[job], reason(job),
    ...data.parameters.map((parameter) => `${parameter.label}=${shown(parameter.values[job])}`),
  ].join("\n").toLowerCase();
  return texts[job];
}

function containing(text) {
  return (job) => textOf(job).includes(text);
}

const sorting = { column: null, descending: false };

/** The jobs that fit the filter, in the order of the table. */
function filteredJobs() {
  const tests = filter.text.split(/\s+/).filter(Boolean).map(condition);
  const found = [];
  for (let job = 0; job < jobCount; job++) {
    if (filter.states.size && !filter.states.has(data.jobs.state[job])) continue;
    if (tests.every((test) => test(job))) found.push(job);
  }
  return sorted(found);
}

function sorted(jobs) {
  const { column, descending } = sorting;
  if (!column) return jobs;
  const sign = descending ? -1 : 1;
  const keyed = jobs.map((job) => [column.of(job), job]);
  keyed.sort(([a, jobA], [b, jobB]) => {
    const place = (value) => (value === null || value === undefined || value === "" ? 2 : Number.isNaN(value) ? 1 : 0);
    if (place(a) || place(b)) return place(a) - place(b) || jobA - jobB; // jobs without a value come last
    const order = a === b ? 0 : typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return sign * order || jobA - jobB;
  });
  return keyed.map(([, job]) => job);
}

let shownJobs = [];

/** Find the jobs anew and draw what shows them; what is not open is drawn when it is opened. */
function refresh() {
  shownJobs = filteredJobs();
  for (const listener of filter.listeners) listener();
}

/** Call `draw` whenever other jobs are shown, while the part is open, and when it is opened. */
function drawnFor(part, draw) {
  let stale = true;
  const now = () => {
    if (!part.open) {
      stale = true;
      return;
    }
    stale = false;
    draw();
  };
  filter.listeners.push(now);
  part.addEventListener("toggle", () => part.open && stale && now());
  return part;
}

/** The field and the buttons that filter. */
function filterBar() {
  const count = make("output", { id: "shown", "aria-live": "polite" });
  let waiting = 0;
  const field = make("input", {
    type: "search", id: "filter", placeholder: "words, lr=1e-4, loss<2.5, -word", autocomplete: "off", spellcheck: "false",
    oninput: () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        filter.text = field.value;
        refresh();
      }, 120);
    },
  });
  const states = new Map();
  for (const state of data.jobs.state) states.set(state, (states.get(state) ?? 0) + 1);
  const chips = [...states].map(([state, number]) => {
    const chip = button("", () => toggle(), { class: "chip", "aria-pressed": "false", "data-state": state });
    chip.append(stateMark(state), ` ${number.toLocaleString("en-US")}`);
    const toggle = () => {
      const on = !filter.states.has(state);
      if (on) filter.states.add(state);
      else filter.states.delete(state);
      chip.setAttribute("aria-pressed", String(on));
      refresh();
    };
    return chip;
  });
  filter.listeners.push(() => {
    const some = shownJobs.length === jobCount ? "" : `${shownJobs.length.toLocaleString("en-US")} of `;
    count.textContent = `${some}${plural(jobCount, "job")}${shownJobs.length ? "" : unknownColumns()}`;
  });
  filter.set = (text) => {
    field.value = filter.text = text;
    refresh();
  };
  return make(
    "div", { class: "filters", role: "search", "aria-label": "Filter of jobs" },
    make("label", { class: "field wide" }, make("span", {}, "Filter"), field),
    make("div", { class: "chips", role: "group", "aria-label": "States" }, chips),
    count,
  );
}
