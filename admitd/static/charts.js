// charts: memory and pressure over the last hour: what the daemon kept of it, and what this page has seen since.

import { byId, el, renew, write } from "./dom.js";
import { clock, duration, mb, NONE } from "./words.js";

const KEPT_S = 3600;
const BEHIND_S = 15;
const MEMORY_HEIGHT = 200;
const PRESSURE_HEIGHT = 104;
const LEVELS = ["unknown", "normal", "warn", "critical"];
const CURVES = [
  { key: "charged_mb", name: "charged", colour: "--curve-charged", width: 2 },
  { key: "measured_mb", name: "measured", colour: "--curve-measured", width: 2, fill: true },
  { key: "available_mb", name: "available to the system", colour: "--curve-available", width: 1.5, dash: [2, 3] },
  { key: "pool_mb", name: "pool", colour: "--curve-pool", width: 1, dash: [6, 4] },
];

/** What is kept of one look at the ledger. */
export function sampleOf(ledger) {
  return {
    at: ledger.scanned_at,
    charged_mb: ledger.charged_mb,
    measured_mb: ledger.services.reduce((sum, service) => sum + (service.measured_mb || 0), 0),
    available_mb: ledger.pressure.available_mb,
    level: ledger.pressure.level,
    pool_mb: ledger.pool_mb,
  };
}

export class Charts {
  constructor() {
    this.samples = [];
    this.made = [];
    this.colours = matchMedia("(prefers-color-scheme: dark)");
    this.colours.addEventListener("change", () => this.draw(true));
    new ResizeObserver(() => this.resize()).observe(byId("memory-chart"));
  }

  /** Whether the page has not looked for a while, so that the daemon knows more. */
  get isBehind() {
    const last = this.samples.at(-1);
    return !last || Date.now() / 1000 - last.at > BEHIND_S;
  }

  /** Take in what the daemon remembers from before this page looked, and from while nobody looked at it. */
  remember(history) {
    const known = history.map((each) => ({ ...each, pool_mb: each.free_mb + each.charged_mb }));
    const first = this.samples.length ? this.samples[0].at : Infinity;
    const last = this.samples.length ? this.samples.at(-1).at : Infinity;
    this.samples = [...known.filter((each) => each.at < first), ...this.samples, ...known.filter((each) => each.at > last)];
  }

  add(ledger) {
    this.samples.push(sampleOf(ledger));
    this.why = ledger.pressure.why;
    const from = ledger.scanned_at - KEPT_S;
    this.samples = this.samples.filter((each) => each.at >= from);
    this.draw(false);
  }

  /** The curves are interrupted: nobody was looking. */
  interrupt() {
    const last = this.samples.at(-1);
    if (last && last.charged_mb !== null) this.samples.push({ at: last.at + 0.001, charged_mb: null, measured_mb: null, available_mb: null, level: null, pool_mb: null });
  }

  draw(anew) {
    const data = [this.samples.map((each) => each.at), ...CURVES.map(({ key }) => this.samples.map((each) => each[key]))];
    const levels = [data[0], this.samples.map((each) => (each.level ? LEVELS.indexOf(each.level) : null))];
    if (anew || !this.made.length) this.make(data, levels);
    else [data, levels].forEach((each, index) => this.made[index].setData(each));
    this.legend(this.samples.at(-1));
    this.tell();
  }

  make(data, levels) {
    for (const chart of this.made) chart.destroy();
    this.made = [];
    if (typeof uPlot === "undefined") return;
    const memory = new uPlot(memoryOptions((at) => this.legend(at)), data, byId("memory-chart"));
    const pressure = new uPlot(pressureOptions(), levels, byId("pressure-chart"));
    this.made = [memory, pressure];
    this.resize();
  }

  resize() {
    const width = byId("memory-chart").clientWidth;
    this.made.forEach((chart, index) => width && chart.setSize({ width, height: index ? PRESSURE_HEIGHT : MEMORY_HEIGHT }));
  }

  /** The curves' figures at `sample`; the last one's where the pointer is nowhere. */
  legend(sample) {
    const at = typeof sample === "number" ? this.samples[sample] : sample || this.samples.at(-1);
    if (!at) return;
    renew(byId("curves"), at, () => CURVES.map(({ key, name }) => el("li", {}, el("span", { class: "swatch curve", "data-curve": key }), el("span", {}, name), " ", el("span", { class: "figure" }, mb(at[key])))));
  }

  /** The curves in a sentence, for those who don't see them. */
  tell() {
    const seen = this.samples.filter((each) => each.charged_mb !== null);
    if (!seen.length) return;
    const range = (key) => {
      const found = seen.map((each) => each[key]).filter((each) => each !== null);
      return found.length ? `${mb(Math.min(...found))} to ${mb(Math.max(...found))}` : NONE;
    };
    const worst = LEVELS[Math.max(...seen.map((each) => Math.max(0, LEVELS.indexOf(each.level))))];
    const now = this.why ? ` Now: ${this.why}.` : "";
    const span = duration(Math.floor((seen.at(-1).at - seen[0].at) / 60) * 60);
    const text = span === "0 s" ? `Watching since a moment ago.${now}` : `In the last ${span}: charged ${range("charged_mb")}, measured ${range("measured_mb")}, available ${range("available_mb")}; pressure at worst ${worst}.${now}`;
    write(byId("course"), text);
  }
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function axis(more) {
  const ink = colour("--muted");
  const grid = { stroke: colour("--line"), width: 1 };
  return { stroke: ink, grid, ticks: { show: false }, font: "12px system-ui, sans-serif", ...more };
}

/** Hours and minutes; seconds too, where a few minutes are all there is. */
function times() {
  const values = (_, at) => at.map((each) => clock(each).slice(-8, at.at(-1) - at[0] < 240 ? undefined : -3));
  return axis({ values, space: 80, size: 26 });
}

const cursor = () => ({ sync: { key: "admit" }, drag: { x: false, y: false }, points: { show: false }, y: false });

function memoryOptions(legend) {
  return {
    width: 400,
    height: MEMORY_HEIGHT,
    legend: { show: false },
    cursor: cursor(),
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(1, high) * 1.05] } },
    axes: [{ ...times(), values: (_, at) => at.map(() => ""), size: 4 }, axis({ size: 64, values: (_, each) => each.map((amount) => amount.toLocaleString("en-US")) })],
    series: [{}, ...CURVES.map(curve)],
    hooks: { setCursor: [(chart) => legend(chart.cursor.idx ?? undefined)] },
  };
}

function curve({ name, colour: of, width, dash, fill }) {
  const stroke = colour(of);
  const paths = name === "charged" || name === "pool" ? uPlot.paths.stepped({ align: 1 }) : undefined;
  return { label: name, stroke, width, dash, paths, fill: fill ? `${stroke}22` : undefined, points: { show: false } };
}

function pressureOptions() {
  return {
    width: 400,
    height: PRESSURE_HEIGHT,
    legend: { show: false },
    cursor: cursor(),
    scales: { x: { time: true }, y: { range: [0.5, 3.5] } },
    axes: [times(), axis({ size: 64, splits: () => [1, 2, 3], values: (_, each) => each.map((level) => LEVELS[level] || "") })],
    series: [{}, { label: "pressure", stroke: colour("--curve-pressure"), width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }],
  };
}
