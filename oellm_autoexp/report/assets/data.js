// The data of the report (see oellm_autoexp/report/document.py), and its curves, unpacked when they are asked for.

const data = JSON.parse(document.getElementById("data").textContent);
const jobCount = data.jobs.name.length;
const severalSessions = data.sessions.length > 1;
const everSubmitted = data.sessions.some((session) => session.submitted);

for (const parameter of data.parameters) {
  const values = new Set(parameter.values);
  parameter.varied = values.size > 1;
  parameter.lengthy = [...values].some((value) => typeof value === "string" && value.length > 24);
}
/** Swept keys which a picture can show: the axes of grids; where there are none, keys of short values. */
const sweptAxes = data.parameters.filter((one) => one.varied && one.axis && !one.lengthy);
if (!sweptAxes.length) sweptAxes.push(...data.parameters.filter((one) => one.varied && !one.lengthy));

/** What is no number, which the document has as a text. */
const noNumbers = { nan: NaN, inf: Infinity, "-inf": -Infinity };
const revived = (value) => noNumbers[value] ?? value;
for (const name of ["loss", "validation_loss", "grad_norm", "throughput", "seconds_per_iteration"]) {
  data.jobs[name] = data.jobs[name].map(revived);
}

/** Names of the metrics that can be shown; those that begin with @ are axes. */
const metricNames = data.metrics.filter((name) => !name.startsWith("@"));

/** By job: its entries in data.curves by the name of their metric. */
const curvesOf = Array.from({ length: jobCount }, () => new Map());
for (const [job, metric, first, count, offset, total, last, low, lowAt, high, highAt] of data.curves) {
  curvesOf[job].set(data.metrics[metric], { first, count, offset, total, last: revived(last), low, lowAt, high, highAt });
}

let unpacked = new Uint8Array(0);

/** Unpack the numbers of the curves. Rejects where the browser can't. */
async function unpack() {
  if (!data.packed) return;
  const text = atob(data.packed);
  data.packed = "";
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  unpacked = new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The 32-bit words whose bytes stand apart from `offset` on; the `drop` lowest bytes of each were left out. */
function words(offset, count, drop) {
  const found = new Uint32Array(count);
  for (let place = drop, at = offset; place < 4; place++, at += count) {
    const shift = 8 * place;
    for (let i = 0; i < count; i++) found[i] |= unpacked[at + i] << shift;
  }
  return found;
}

/** A curve's points: `xs` are its iterations (as numbers), `ys` its values; null where the job has none. */
function points(job, metric) {
  const curve = curvesOf[job].get(metric);
  if (!curve || !curve.count) return null;
  if (curve.points) return curve.points;
  const steps = words(curve.offset, curve.count, 0);
  const xs = new Float64Array(curve.count);
  let iteration = curve.first;
  for (let i = 0; i < curve.count; i++) xs[i] = iteration += steps[i];
  const ys = new Float32Array(words(curve.offset + 4 * curve.count, curve.count, data.exact ? 0 : 1).buffer);
  curve.points = { xs, ys };
  return curve.points;
}

/** Where iterations are on another axis: by straight lines between the points of `line`; they rise. */
function readOff(line, iterations) {
  const { xs, ys } = line;
  const found = new Float64Array(iterations.length);
  let at = 0;
  for (let i = 0; i < iterations.length; i++) {
    while (at < xs.length - 2 && xs[at + 1] < iterations[i]) at++;
    const run = xs.length > 1 ? xs[at + 1] - xs[at] : 0;
    found[i] = run ? ys[at] + ((iterations[i] - xs[at]) / run) * (ys[at + 1] - ys[at]) : ys[at];
  }
  return found;
}

/** A curve over `axis` (iteration, elapsed, time or tokens); null where the job has none. */
function curveOver(job, metric, axis) {
  const curve = points(job, metric);
  if (!curve || axis === "iteration") return curve;
  const name = axis === "tokens" ? "@tokens" : "@time";
  const line = points(job, name);
  if (!line) return null;
  const xs = readOff(line, curve.xs);
  if (axis === "time") {
    const began = curvesOf[job].get("@time").total;
    for (let i = 0; i < xs.length; i++) xs[i] += began;
  }
  return { xs, ys: curve.ys };
}

/** A summary of a metric of a job, for pictures: `last`, `low` or `high`; null where that is no number. */
function summary(job, metric, which) {
  const value = curvesOf[job].get(metric)?.[which];
  return Number.isFinite(value) ? value : null;
}

// ---- how values are written

/** A number of four digits, as people write it. */
function number(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    const [mantissa, exponent] = value.toExponential(3).split("e");
    return `${Number(mantissa)}e${Number(exponent)}`;
  }
  return Number(value.toPrecision(size >= 1000 ? 6 : 4)).toString();
}

/** Any value of the sweep. */
function shown(value) {
  return typeof value === "number" ? number(value) : value === null || value === undefined ? "–" : String(value);
}

/** A text that fits into a cell; the whole of it is its title. */
function brief(text) {
  return text.length > 48 ? `${text.slice(0, 45)}…` : text;
}

/** As `--cmd status` writes it: `0:07`, `1:02:03`. */
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.max(0, Math.floor(seconds));
  const hours = Math.floor(whole / 3600);
  const two = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor((whole % 3600) / 60);
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A moment (seconds since 1970) in the reader's own time zone. */
function moment(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const date = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function hours(value) {
  return value === null || value === undefined ? "" : value.toLocaleString("en-US", { maximumFractionDigits: value < 1 ? 4 : 1 });
}

function plural(count, noun) {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}
