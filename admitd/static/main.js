// main: the page's heartbeat: looks at the ledger every two seconds while anybody looks at the page, and hands it on.

import { Acts } from "./acts.js";
import { Charts } from "./charts.js";
import { get, Gone, token } from "./daemon.js";
import { byId, command, el, say, write } from "./dom.js";
import { Events } from "./events.js";
import * as pool from "./pool.js";
import { Services } from "./services.js";
import { clock, number } from "./words.js";

const EVERY_MS = 2000;
const SOON_MS = 100;
const USUAL_PORT = "2189";

let ledger = null;
let version = null;
let timer = 0;
let beating = false;
let lostAt = null;
let trouble = "";

const acts = new Acts(render, () => ledger);
const services = new Services(acts);
const events = new Events(hurry);
const charts = new Charts();

function render() {
  if (ledger) services.show(ledger, acts.doing, lostAt === null && !trouble);
}

/** Something happened: whoever looks need not wait for the next look. */
function hurry() {
  clearTimeout(timer);
  timer = setTimeout(beat, SOON_MS);
}

async function beat() {
  if (beating || document.hidden) return;
  beating = true;
  clearTimeout(timer);
  try {
    const { status, body } = await get("/capacity");
    if (status === 200) await seen(body);
    else troubled("The daemon cannot say what is loaded.", body.detail);
  } catch (problem) {
    if (problem instanceof Gone) lost();
    else troubled("This page has a fault, and shows nothing new:", `${problem}. In a terminal, admit status shows the same.`);
  } finally {
    beating = false;
    timer = setTimeout(beat, EVERY_MS);
  }
}

async function seen(body) {
  const isBack = lostAt !== null || trouble !== "";
  if (charts.isBehind) {
    const { status, body: kept } = await get("/history");
    if (status === 200) charts.remember(kept.samples);
  }
  ledger = body;
  lostAt = null;
  trouble = "";
  byId("banner").replaceChildren();
  document.body.classList.remove("stale");
  if (isBack) say("The daemon answers again.");
  renewed(body.version);
  pool.show(body);
  showPressure(body.pressure, body.live_veto);
  charts.add(body);
  events.open();
  write(byId("link"), `live · ${clock(body.scanned_at)}`);
  document.title = body.free_mb < 0 ? `over-committed · ${body.host} · admit` : `${number(body.free_mb)} MB free · ${body.host} · admit`;
  write(byId("foot"), `admit ${body.version} · ${body.config} · ${number(body.processes)} processes seen in ${body.scan_ms.toFixed(1)} ms`);
  render();
}

function showPressure(pressure, liveVeto) {
  const level = pressure.level || "unknown";
  byId("pressure").dataset.level = level;
  write(byId("pressure"), `pressure ${level}${liveVeto ? "" : ", live veto off"}`);
  byId("pressure").title = pressure.why;
}

/** The daemon was upgraded under this page. */
function renewed(now) {
  if (version === null) version = now;
  if (now === version || byId("renewed").children.length) return;
  const button = el("button", { type: "button", class: "main" }, "Reload");
  button.addEventListener("click", () => location.reload());
  byId("renewed").replaceChildren(el("p", { class: "banner calm" }, `admit is ${now} now; this page is of ${version}. `, button));
}

/** Something answers, and there is nothing to show. */
function troubled(what, why) {
  lostAt = null;
  if (trouble === why) return;
  trouble = why;
  halt(el("p", { class: "banner" }, el("strong", {}, what), ` ${why}`));
}

/** Nothing answers. */
function lost() {
  if (lostAt !== null) return;
  lostAt = Date.now() / 1000;
  trouble = "";
  const port = location.port && location.port !== USUAL_PORT ? `ADMIT_PORT=${location.port} ` : "";
  const shown = ledger ? "What is shown is as it was then. " : "";
  halt(
    el("p", { class: "banner" },
      el("strong", {}, "The daemon is gone. "),
      `Nothing answers at ${location.host} since ${clock(lostAt)}. ${shown}This page goes on by itself once it is back.`,
      el("span", { class: "start" }, "Next: ", command(`${port}admit daemon status`)),
    ),
  );
}

function halt(banner) {
  byId("banner").replaceChildren(banner);
  document.body.classList.add("stale");
  document.title = "no daemon · admit";
  write(byId("link"), "not live");
  charts.interrupt();
  render();
}

document.addEventListener("visibilitychange", () => {
  // A page that nobody sees asks for nothing, and keeps no connection: a browser has six for one place.
  if (document.hidden) {
    clearTimeout(timer);
    events.close();
  } else beat();
});
byId("forget").hidden = token.get() === null;
byId("forget").addEventListener("click", () => {
  token.forget();
  byId("forget").hidden = true;
  say("The token is forgotten");
});
beat();
