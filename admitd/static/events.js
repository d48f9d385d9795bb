// events: the newest things that were done and found, newest first.

import { byId, command, el, say } from "./dom.js";
import { Stream } from "./stream.js";
import { clock, SEVERITIES } from "./words.js";

const SHOWN = 50;

/** The list, fed by the daemon's stream, which `open` opens (again) and `close` closes. */
export class Events {
  /** `happened` is called for each event that comes after the page was opened. */
  constructor(happened) {
    this.happened = happened;
    this.list = byId("events");
    this.since = Date.now() / 1000;
    this.stream = new Stream(`/events?since=0&limit=${SHOWN}`, (event) => this.add(event));
  }

  open() {
    this.stream.open();
  }

  close() {
    this.stream.close();
  }

  add(event) {
    byId("no-events").hidden = true;
    this.list.prepend(line(event));
    while (this.list.children.length > SHOWN) this.list.lastElementChild.remove();
    if (event.at < this.since) return;
    this.happened();
    // What was there when the page was opened is not told aloud, nor what merely went as it should.
    if (event.severity !== "info") say(event.text, event.severity === "critical");
  }
}

function line(event) {
  const severity = SEVERITIES[event.severity] || "info";
  const when = el("time", { dateTime: new Date(event.at * 1000).toISOString() }, clock(event.at));
  const head = el("p", { class: "head" }, when, el("span", { class: "severity", "data-severity": severity }, severity));
  head.append(el("span", { class: "kind" }, event.kind.replaceAll("_", " ")));
  if (event.service) head.append(el("span", { class: "who" }, event.service));
  const made = el("li", { "data-kind": event.kind }, head, el("p", {}, event.text));
  if (event.next) made.append(el("p", {}, command(event.next)));
  return made;
}
