// The table of jobs, and one job with all that is known of it.

const ROWS_AT_ONCE = 100;

function jobTable() {
  const head = make("tr");
  const body = make("tbody");
  const foot = make("div", { class: "foot" });
  const part = section(
    "jobs", "Jobs",
    make(
      "details", { class: "columns" }, make("summary", {}, "Columns"),
      make("div", { class: "checks" }, columns.filter((column) => column.used && column.key !== "name").map((column) =>
        checkbox(column.label, column.shown, (on) => {
          column.shown = on;
          draw();
        }),
      )),
    ),
    make(
      "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of jobs" },
      make("table", { id: "job-table" }, make("caption", { class: "hidden" }, "Jobs"), make("thead", {}, head), body),
    ),
    foot,
  );

  function header(column) {
    const chosen = sorting.column === column;
    const order = chosen ? (sorting.descending ? "descending" : "ascending") : "none";
    const sort = button(column.label, () => {
      sorting.descending = chosen && !sorting.descending;
      sorting.column = column;
      refresh();
      [...head.querySelectorAll("button")].find((other) => other.dataset.column === column.key)?.focus();
    }, { "data-column": column.key, title: column.long ?? column.label });
    sort.append(make("span", { "aria-hidden": "true", class: "arrow" }, chosen ? (sorting.descending ? " ▼" : " ▲") : ""));
    return make("th", { scope: "col", "aria-sort": order }, sort);
  }

  function cell(column, job) {
    if (column.key === "name") return make("th", { scope: "row" }, jobButton(job));
    if (column.key === "state") return make("td", {}, stateMark(data.jobs.state[job]));
    if (column.key === "iteration") return make("td", { class: "number" }, iterations(job));
    const value = column.of(job);
    const text = column.text ? column.text(value) : value === null || value === undefined ? "" : shown(value);
    if (column.key === "reason") return make("td", { class: "cut", title: text }, text);
    return make("td", { class: typeof value === "number" ? "number" : null, title: text.length > 48 ? text : null }, brief(text));
  }

  function draw() {
    const visible = columns.filter((column) => column.shown);
    head.replaceChildren(...visible.map(header));
    body.replaceChildren();
    const row = (job) => make("tr", { "data-job": job }, visible.map((column) => cell(column, job)));
    foot.replaceChildren(growing(body, shownJobs, ROWS_AT_ONCE, row));
    if (!shownJobs.length) foot.append("No job fits the filter.");
  }

  return drawnFor(part, draw);
}

function iterations(job) {
  const { iteration, total } = data.jobs;
  return iteration[job] === null ? "" : `${iteration[job].toLocaleString("en-US")}/${total[job]?.toLocaleString("en-US") ?? "?"}`;
}

/** Open the window that shows all of one job. */
function showJob(job) {
  const jobs = data.jobs;
  const dialog = document.getElementById("job");
  const facts = [
    ["State", stateMark(jobs.state[job])],
    ["Reason", reason(job)],
    ["Session", data.sessions[jobs.session[job]].id],
    ["Stage", jobs.stage[job]],
    ...data.parameters.filter((one) => one.values[job] !== null).map((one) => [one.key, shown(one.values[job])]),
    ["Attempt", jobs.attempt[job] || null],
    ["Exit code", jobs.exit_code[job] === null ? null : String(jobs.exit_code[job])],
    ["Scheduler's id", jobs.scheduler_id[job]],
    ["Failure", jobs.category[job] ? `${jobs.category[job]} (${jobs.fingerprint[job]})` : null],
    ["Nodes", jobs.nodes[job]],
    ["GPUs", jobs.gpus[job] || null],
    ["Iteration", iterations(job)],
    ["Newest checkpoint", jobs.saved_iteration[job] === null ? null : `iteration ${number(jobs.saved_iteration[job])}`],
    ["Submitted", moment(jobs.submitted_at[job])],
    ["Started", moment(jobs.started_at[job])],
    ["Ended", moment(jobs.ended_at[job])],
    ["GPU-hours", everSubmitted ? `${hours(jobs.gpu_hours[job])} used, ${hours(jobs.gpu_hours_planned[job]) || "no limit"} planned at most` : hours(jobs.gpu_hours_planned[job])],
    ["Log", jobs.log_path[job]],
    ["Output directory", jobs.output_dir[job]],
    ["Waits for", data.depends_on[job].length ? make("span", {}, data.depends_on[job].map((other) => [jobButton(other), " "])) : null],
  ].filter(([, value]) => value);
  const metrics = metricNames.filter((name) => curvesOf[job].has(name)).map((name) => {
    const curve = curvesOf[job].get(name);
    const at = (value, iteration) => (value === null ? "" : `${number(value)} (iteration ${number(iteration)})`);
    return [name, number(curve.last), at(curve.low, curve.lowAt), at(curve.high, curve.highAt), curve.total];
  });
  const happened = data.history.filter((entry) => entry[0] === job);
  dialog.replaceChildren(
    make("form", { method: "dialog" }, make("button", { class: "close", "aria-label": "Close" }, "×")),
    make("h2", { id: "job-title" }, jobs.name[job]),
    make("dl", {}, facts.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    ...(metrics.length ? [make("h3", {}, "Metrics"), plainTable(["Metric", "Last", "Lowest", "Highest", "Points"], metrics, "Metrics")] : []),
    ...(happened.length
      ? [make("h3", {}, "What happened"), plainTable(["Time", "Event", "Message"], happened.map(([, at, event, message]) => [moment(at), event, message]), "What happened")]
      : []),
  );
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}
