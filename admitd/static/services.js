// services: a row for each service. Rows are changed in place, so that whoever is at one with the keyboard stays there.

import { byId, el, write } from "./dom.js";
import { COLOURS } from "./pool.js";
import { activity, count, duration, mb, NONE, number, probe, STATES } from "./words.js";

const COLUMNS = ["Service", "State", "Declared", "Measured", "Peak", "Priority", "Activity", "Probe", "Age", "Processes"];
const SPARED = ["Peak", "Activity", "Probe", "Age", "Processes"]; // on a phone, where there is nothing to say
const NUMBERS = new Set(["Declared", "Measured", "Peak", "Priority", "Age", "Processes"]);

class Row {
  constructor(name, index, acts) {
    this.name = name;
    this.acts = acts;
    this.cells = {};
    this.line = el("tr", { role: "row", "data-service": name });
    for (const column of COLUMNS) {
      const number = NUMBERS.has(column) ? "number" : null;
      const [tag, role] = column === "Service" ? ["th", "rowheader"] : ["td", "cell"];
      this.cells[column] = el(tag, { role, class: number, "data-label": column });
      this.line.append(this.cells[column]);
    }
    this.cells.Service.setAttribute("scope", "row");
    const swatch = el("span", { class: "swatch", "data-kind": "service", "data-colour": String(index % COLOURS) });
    this.opener = el("button", { type: "button", class: "name" }, name);
    this.opener.setAttribute("aria-expanded", "false");
    this.opener.addEventListener("click", () => this.toggle());
    this.cells.Service.append(swatch, this.opener);
    this.state = el("span", { class: "state" });
    this.cells.State.append(this.state);
    this.gauge = el("span", { class: "gauge", "aria-hidden": "true" }, el("span"), el("span"));
    this.figure = el("span");
    this.cells.Measured.append(this.figure, this.gauge);
    this.button = el("button", { type: "button" });
    this.button.addEventListener("click", () => this.act());
    this.line.append(el("td", { role: "cell", class: "act" }, this.button));
    this.more = el("dl");
    this.details = el("tr", { role: "row", class: "details", hidden: true });
    this.details.append(el("td", { role: "cell", colSpan: COLUMNS.length + 1 }, this.more));
  }

  toggle() {
    this.details.hidden = !this.details.hidden;
    this.opener.setAttribute("aria-expanded", String(!this.details.hidden));
  }

  act() {
    if (this.button.getAttribute("aria-disabled") === "true") return;
    if (this.service.state === "stopped") this.acts.load(this.service);
    else this.acts.unload(this.service);
  }

  show(service, doing, reachable) {
    this.service = service;
    const known = service.condition;
    const there = service.state !== "stopped" && service.state !== "reserved";
    this.state.dataset.state = service.state;
    write(this.state, service.matched_by === "mention" ? "only mentioned" : STATES[service.state] || service.state);
    write(this.cells.Declared, number(service.ram_budget_mb));
    write(this.figure, number(service.measured_mb));
    const most = Math.max((known && known.peak_mb) || 0, service.measured_mb || 0);
    write(this.cells.Peak, there && most ? number(most) : NONE);
    this.measure(service, there ? most : 0);
    this.cells.Measured.toggleAttribute("data-empty", service.measured_mb === null);
    write(this.cells.Priority, number(service.priority));
    write(this.cells.Activity, activity(service));
    const [word, said] = probe(service);
    this.cells.Probe.dataset.probe = word;
    write(this.cells.Probe, said);
    write(this.cells.Age, duration(service.age_s));
    write(this.cells.Processes, service.pids.length ? number(service.pids.length) : NONE);
    for (const column of SPARED) this.cells[column].toggleAttribute("data-empty", this.cells[column].textContent === NONE);
    this.showButton(service, doing, reachable);
    this.describe(service);
  }

  measure(service, most) {
    const [held, peak] = this.gauge.children;
    const share = (amount) => `${Math.min(100, ((amount || 0) / service.ram_budget_mb) * 100)}%`;
    this.gauge.hidden = !service.measured_mb;
    this.gauge.classList.toggle("over", (service.measured_mb || 0) > service.ram_budget_mb);
    this.cells.Peak.classList.toggle("over", most > service.ram_budget_mb);
    held.style.width = share(service.measured_mb);
    peak.style.left = share(most);
  }

  showButton(service, doing, reachable) {
    const down = service.state === "stopped";
    const coming = service.state === "reserved";
    let text = doing || (down ? "Load" : coming ? "Loading…" : "Unload");
    let off = Boolean(doing) || !reachable || coming;
    if (down && !service.loadable) [text, off] = ["No load_cmd", true];
    if (service.matched_by === "mention") off = true;
    write(this.button, text);
    const label = `${text} ${this.name}`;
    if (this.button.getAttribute("aria-label") !== label) this.button.setAttribute("aria-label", label);
    this.button.setAttribute("aria-disabled", String(off)); // and not `disabled`, which would throw the focus away
    this.button.classList.toggle("main", down && !off);
  }

  describe(service) {
    const known = service.condition;
    const marks = [service.pinned ? "pinned" : "", service.evictable ? "" : "never chosen as a victim"].filter(Boolean);
    const pids = service.pids.length ? `${count(service.pids.length, "process", "processes")}: ${service.pids.join(", ")}` : "";
    const mentions = service.mentioned_by.length ? `mentioned by ${service.mentioned_by.join(", ")}: charged, never signalled` : "";
    const lines = [
      ["Charged", mb(service.charged_mb)],
      ["Processes", [pids, mentions].filter(Boolean).join("; ") || "none"],
      ["Seen by", { process_pattern: "its process_pattern", loaded_check_cmd: "its loaded_check_cmd", mention: "a mention in an argument" }[service.matched_by] || "nothing"],
      ["Activity", known ? known.activity : "nobody watches it"],
      ["Never beside", service.exclusive_with.join(", ") || "nobody in particular"],
      ["Marks", marks.join(", ") || "none"],
    ];
    const key = JSON.stringify(lines);
    if (this.described === key) return;
    this.described = key;
    this.more.replaceChildren(...lines.map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, text))));
  }
}

/** The table. `acts.load` and `acts.unload` are called with the service whose button was pressed. */
export class Services {
  constructor(acts) {
    this.acts = acts;
    this.rows = new Map();
    this.body = byId("services").tBodies[0];
  }

  show(ledger, doing, reachable) {
    const names = ledger.services.map((service) => service.name);
    if (names.join("\n") !== [...this.rows.keys()].join("\n")) this.arrange(names);
    for (const service of ledger.services) this.rows.get(service.name).show(service, doing.get(service.name), reachable);
    byId("no-services").hidden = names.length > 0;
    byId("services").hidden = names.length === 0;
    write(byId("no-services"), names.length ? "" : `${ledger.config} declares no services.`);
  }

  arrange(names) {
    this.rows = new Map(names.map((name, index) => [name, new Row(name, index, this.acts)]));
    this.body.replaceChildren(...[...this.rows.values()].flatMap((row) => [row.line, row.details]));
  }
}
