// What runs did: stages and what they wait for, a time line, GPU-hours, events.

function jobsOfSession(session) {
  const found = [];
  for (let job = 0; job < jobCount; job++) if (data.jobs.session[job] === session) found.push(job);
  return found;
}

/** A bar of the states of jobs. */
function stateBar(jobs) {
  const counts = new Map();
  for (const job of jobs) counts.set(data.jobs.state[job], (counts.get(data.jobs.state[job]) ?? 0) + 1);
  const text = [...counts].map(([state, count]) => `${count} ${state}`).join(", ");
  return [
    make("div", { class: "bar", role: "img", "aria-label": text }, [...counts].map(([state, count]) =>
      make("i", { class: `state-${state}`, style: { flexGrow: String(count) } }))),
    make("div", { class: "counts" }, text),
  ];
}

/** Stages as boxes, level by level, with arrows to those that wait for them. */
function stagesPart() {
  if (data.sessions.every((session) => session.stages.length < 2)) return null;
  const parts = data.sessions.map((session, number) => stageGraph(session, jobsOfSession(number)));
  return section("stages", "Stages", parts.map(({ element }) => element));
}

function stageGraph(session, jobs) {
  const levels = new Map();
  const level = (stage, seen = []) => {
    if (levels.has(stage.name)) return levels.get(stage.name);
    const before = session.stages.filter((other) => stage.after.includes(other.name) && !seen.includes(other.name) && other !== stage);
    const its = 1 + Math.max(-1, ...before.map((other) => level(other, [...seen, stage.name])));
    levels.set(stage.name, its);
    return its;
  };
  session.stages.forEach((stage) => level(stage));
  const boxes = new Map();
  const columns = [];
  for (const stage of session.stages) {
    const own = jobs.filter((job) => (data.jobs.stage[job] ?? "jobs") === stage.name);
    const conditions = [["starts when", stage.start], ["is cancelled when", stage.cancel], ["is done when", stage.done]]
      .filter(([, texts]) => texts.length)
      .map(([what, texts]) => make("li", {}, texts.length < 3 ? `${what} ${texts.join("; ")}` : folded(`${what} … (${texts.length} conditions)`, texts)));
    const box = make(
      "div", { class: "stage" },
      make("strong", {}, button(stage.name, () => filter.set(`stage=${stage.name}`), { class: "link", title: "Show only these jobs" })),
      ` ${plural(stage.count, "job")}`, stateBar(own), make("ul", {}, conditions),
    );
    boxes.set(stage.name, box);
    (columns[levels.get(stage.name)] ??= make("div", { class: "level" })).append(box);
  }
  const arrows = makeSvg("svg", { class: "arrows", "aria-hidden": "true" });
  const graph = make("div", { class: "graph" }, arrows, columns);
  const draw = () => {
    const frame = graph.getBoundingClientRect();
    arrows.replaceChildren();
    for (const stage of session.stages) {
      for (const before of stage.after) {
        if (!boxes.has(before) || before === stage.name) continue;
        arrows.append(arrow(boxes.get(before).getBoundingClientRect(), boxes.get(stage.name).getBoundingClientRect(), frame));
      }
    }
  };
  new ResizeObserver(draw).observe(graph);
  return { element: make("div", {}, severalSessions ? make("h3", {}, session.id) : null, graph) };
}

/** Texts that are shown when they are asked for. */
function folded(title, texts) {
  return make("details", {}, make("summary", {}, title), make("ul", {}, texts.map((text) => make("li", {}, text))));
}

function arrow(from, to, frame) {
  const beside = to.left >= from.right - 1;
  const [x1, y1] = beside ? [from.right, from.top + from.height / 2] : [from.left + 24, from.bottom];
  const [x2, y2] = beside ? [to.left, to.top + to.height / 2] : [to.left + 24, to.top];
  const [a, b, c, d] = [x1 - frame.left, y1 - frame.top, x2 - frame.left, y2 - frame.top];
  const bend = beside ? `C ${(a + c) / 2} ${b}, ${(a + c) / 2} ${d},` : `C ${a} ${(b + d) / 2}, ${c} ${(b + d) / 2},`;
  const head = beside ? `M ${c - 7} ${d - 4} L ${c} ${d} L ${c - 7} ${d + 4}` : `M ${c - 4} ${d - 7} L ${c} ${d} L ${c + 4} ${d - 7}`;
  return makeSvg("path", { d: `M ${a} ${b} ${bend} ${c} ${d} ${head}` });
}

const BARS_AT_ONCE = 60;
const UNENDED = new Set(["waiting", "blocked", "submitting", "pending", "running"]);

function timePart() {
  if (!data.spans.some((spans) => spans.length)) return null;
  const body = make("div", { class: "times" });
  const scale = make("div", { class: "scale" });
  const foot = make("div", { class: "foot" });
  const part = section(
    "times", "Time line",
    make("p", { class: "note" }, "When each job waited, was in the queue and ran; how its attempts ended, and why a new one was begun."),
    scale, body, foot,
  );
  function draw() {
    const jobs = shownJobs.filter((job) => data.spans[job].length);
    let [low, high] = [Infinity, -Infinity];
    for (const job of jobs) {
      for (const [start, end] of data.spans[job]) {
        low = Math.min(low, start);
        high = Math.max(high, end);
      }
    }
    const whole = Math.max(1, high - low);
    const share = (at) => `${(((at - low) / whole) * 100).toFixed(3)}%`;
    scale.replaceChildren(...(jobs.length ? [make("span", {}, moment(data.began + low)), make("span", {}, duration(whole)), make("span", {}, moment(data.began + high))] : []));
    const bar = (job) => {
      const spans = data.spans[job];
      const texts = [];
      const pieces = spans.map(([start, end, number, attempt, cause]) => {
        const state = data.states[number];
        const ends = !UNENDED.has(state);
        const text = `${ends ? "ended as " : ""}${state}${attempt ? `, attempt ${attempt}` : ""}: ${moment(data.began + start)}${ends ? "" : `, for ${duration(end - start)}`}${cause ? ` (${cause})` : ""}`;
        texts.push(text);
        return make("i", { class: `${ends ? "end " : ""}state-${state}`, title: text, style: ends ? { left: share(start) } : { left: share(start), width: `${(((end - start) / whole) * 100).toFixed(3)}%` } });
      });
      const attempts = data.jobs.attempt[job] > 1 ? ` (${data.jobs.attempt[job]} attempts)` : "";
      return make("div", { class: "time" }, make("div", { class: "whose" }, jobButton(job), attempts), make("div", { class: "line", role: "img", "aria-label": texts.join("; ") }, pieces));
    };
    body.replaceChildren();
    foot.replaceChildren(growing(body, jobs, BARS_AT_ONCE, bar), legend({ legend: data.states.map((state) => [state, colour(`state-${state}`)]), left: 0 }));
  }
  return drawnFor(part, draw);
}

function hoursPart() {
  const rows = [];
  for (const session of data.sessions) {
    const named = severalSessions ? [session.id] : [];
    const total = { jobs: 0, planned: 0, used: 0, unsettled: 0, unlimited: 0 };
    for (const each of session.hours) {
      for (const key of Object.keys(total)) total[key] += each[key];
      rows.push([...named, stateMark(each.state), each.jobs, ...cells(each)]);
    }
    rows.push([...named, make("strong", {}, "all"), total.jobs, ...cells(total)]);
  }
  const whose = severalSessions ? ["Session"] : [];
  const limits = data.sessions.filter((session) => session.allowed_gpu_hours !== null).map((session) => `${severalSessions ? `${session.id}: ` : ""}${hours(session.allowed_gpu_hours)}`);
  return section(
    "hours", "GPU-hours",
    plainTable([...whose, "State", "Jobs", "Planned at most", "Used by attempts that ended", "Not settled yet"], rows, "GPU-hours"),
    make("p", { class: "note" }, `Planned: GPUs × time limit, of one attempt of each job. Not settled yet: by the watch's own clock, of what runs or has just ended.${limits.length ? ` scheduler.max_gpu_hours is ${limits.join(", ")}.` : ""}`),
  );
}

function cells(each) {
  return [planned(each), hours(each.used), each.unsettled ? hours(each.unsettled) : ""].map((text) => ({ right: text }));
}

function planned(each) {
  const known = hours(each.planned);
  return each.unlimited ? `${known} + ${plural(each.unlimited, "job")} without a time limit` : known;
}

const EVENTS_AT_ONCE = 50;

function eventsPart() {
  const state = { kind: "all" };
  const list = make("tbody");
  const foot = make("div", { class: "foot" });
  const kinds = [["all", "all that happened"], ["rules", "what the rules saw and did"], ["jobs", "states and attempts of jobs"]];
  const part = section(
    "events", "Events",
    make("div", { class: "controls" }, chooser("Show", kinds, state.kind, (kind) => {
      state.kind = kind;
      draw();
    })),
    make(
      "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Events" },
      make("table", {}, make("caption", { class: "hidden" }, "Events, the newest first"), make("thead", {}, make("tr", {}, ["Time", "Job", "Event", "What"].map((text) => make("th", { scope: "col" }, text)))), list),
    ),
    foot,
  );
  function entries() {
    const wanted = new Set(shownJobs);
    const found = [];
    const complete = state.kind === "all" && data.sessions.every((session) => session.events_total === session.events.length);
    if (state.kind !== "rules") {
      for (const [job, at, event, message] of data.history) {
        if (wanted.has(job) && !(complete && event.endsWith("Action"))) found.push([at, job, event, message]); // its event shows it
      }
    }
    if (state.kind !== "jobs") {
      for (const session of data.sessions) {
        for (const [at, job, attempt, name, text, actions] of session.events) {
          if (job === null ? shownJobs.length === jobCount : wanted.has(job)) found.push([at, job, `${name}${attempt > 1 ? ` (attempt ${attempt})` : ""}`, [text, ...actions].filter(Boolean).join(" → ")]);
        }
      }
    }
    return found.sort((a, b) => b[0] - a[0]);
  }
  function draw() {
    list.replaceChildren();
    const row = ([at, job, event, what]) => make("tr", {}, make("td", { class: "nowrap" }, moment(at)), make("td", {}, job === null ? "" : jobButton(job)), make("td", {}, event), make("td", { class: "long" }, what));
    const found = entries();
    foot.replaceChildren(growing(list, found, EVENTS_AT_ONCE, row));
    if (!found.length) foot.append("No events.");
    const left = data.history_left_out + data.sessions.reduce((sum, session) => sum + session.events_total - session.events.length, 0);
    if (left) foot.append(` ${plural(left, "older entry").replace("entrys", "entries")} not in this file: monitor --cmd events shows all.`);
  }
  return drawnFor(part, draw);
}
