// The page as a whole.

/** Light or dark, as the system has it or as the reader has chosen. */
function themeButton() {
  const toggle = button("", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    name();
    refresh();
  }, { id: "theme" });
  const name = () => {
    toggle.textContent = isDark() ? "Light" : "Dark";
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    name();
    refresh();
  });
  name();
  return toggle;
}

function heading() {
  const live = data.sessions.some((session) => session.submitted && !session.finished);
  const kind = everSubmitted ? "" : "Plan: ";
  const facts = data.sessions.map((session) =>
    make(
      "p", { class: "facts" }, make("strong", {}, session.id), ` · ${plural(session.jobs, "job")}`,
      session.config_ref ? ` · ${session.config_ref}` : "", session.overrides.length ? ` · ${session.overrides.join(" ")}` : "",
      session.submitted ? "" : " · not submitted",
    ),
  );
  const made = `As of ${moment(data.made_at)}.${live ? " Some jobs have not ended: make the report again, or reload this page where a monitor keeps it fresh, for the newest state." : ""}`;
  document.getElementById("top").append(
    make("div", { class: "title" }, make("h1", {}, `${kind}${data.title || "report"}`), themeButton()),
    ...facts, make("p", { class: "note" }, made),
  );
}

function navigation(parts) {
  return make("nav", { "aria-label": "Parts of this page" }, parts.map((part) => make("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
}

async function begin() {
  let trouble = "";
  try {
    await unpack();
  } catch (error) {
    trouble = `The curves can't be shown: this browser can't unpack them (${error.message}). A newer one can.`;
    data.metrics.length = metricNames.length = 0;
  }
  heading();
  const parts = [stagesPart(), jobTable(), curvePart(), bestPart(), heatPart(), parallelPart(), timePart(), hoursPart(), differencePart(), eventsPart()].filter(Boolean);
  if (!everSubmitted) parts.splice(parts.findIndex((part) => part.id === "events"), 1);
  const main = document.getElementById("main");
  main.replaceChildren(...(trouble ? [make("p", { class: "trouble", role: "alert" }, trouble)] : []), filterBar(), navigation(parts), ...parts);
  refresh();
  document.documentElement.dataset.ready = "true";
}

begin();
