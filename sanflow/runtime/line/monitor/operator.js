"use strict";
// Asks for the latest once a second. Whatever is not known now is not shown as if it were: without
// an answer the page says so, and keeps nothing green.
const PAUSE = 1000, PATIENCE = 3000;
const at = (id) => document.getElementById(id);
const number = (value, digits) => (value === null ? "–" : value.toFixed(digits));

function show(now) {
  const health = now.health, day = now.today;
  document.body.className = health.healthy ? "good" : "bad";
  at("state").textContent = health.healthy ? health.state.toUpperCase() : "NOT READY";
  at("problem").textContent = health.problem;
  const notes = [health.warning, ...health.drift.alarms.map((a) => `Drift since part ${a.part}: ${a.text}`)];
  for (const [name, output] of Object.entries(health.outputs)) {
    if (output.trouble) notes.push(`${name}: ${output.trouble}`);
  }
  at("notes").replaceChildren(...notes.filter(Boolean).map((text) => make("li", text)));
  at("date").textContent = day.date ? `${day.date} UTC` : "Today";
  at("parts").textContent = day.parts;
  at("ok").textContent = day.ok;
  at("ng").textContent = day.ng;
  at("share").textContent = day.parts ? `${((100 * day.ng) / day.parts).toFixed(1)} %` : "–";
  at("p50").textContent = `${number(day.p50_ms, 1)} ms`;
  at("p99").textContent = `${number(day.p99_ms, 1)} ms`;
  at("reasons").textContent = Object.entries(day.reasons).map(([name, n]) => `${n} ${name}`).join(", ");
  at("latest").replaceChildren(...now.latest.map(row));
  at("who").textContent = [now.station, now.engine, health.bundle.slice(0, 12)].filter(Boolean).join(" · ");
  document.title = `${health.healthy ? "" : "! "}${now.station}`;
  reject(now.reject);
}

function row(result) {
  const line = document.createElement("tr");
  const reason = result.uncertain ? `${result.reason} uncertain` : result.reason;
  const cells = [result.part, result.verdict, reason, number(result.score, 4), number(result.total_ms, 1)];
  line.append(...cells.map((text) => make("td", text)));
  line.children[1].className = result.verdict;
  line.title = `${result.created} ${result.detail}`;
  return line;
}

function reject(result) {
  const picture = at("picture");
  if (!result) return;
  const score = result.score === null ? "" : `, score ${number(result.score, 4)} above ${number(result.threshold, 4)}`;
  at("reject").textContent = `part ${result.part}: ${result.reason}${score} (${result.created})`;
  at("detail").textContent = result.detail;
  picture.hidden = !result.picture;
  const wanted = `reject.png?${encodeURIComponent(result.picture)}`;
  if (result.picture && picture.getAttribute("src") !== wanted) picture.src = wanted;
}

function make(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

async function look() {
  try {
    const answer = await fetch("now", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`${answer.status}`);
    show(await answer.json());
  } catch (error) {
    document.body.className = "bad";
    at("state").textContent = "NO CONTACT";
    at("problem").textContent = `what is shown below is old (${error.message})`;
  }
  setTimeout(look, PAUSE);
}

// An overwritten picture must not stand beside another part's verdict.
at("picture").addEventListener("error", (event) => { event.target.hidden = true; });
look();
