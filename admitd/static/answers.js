// answers: what came of what was asked for here: refusals with their remedy, failures, and what went well.

import { byId, command, el, say } from "./dom.js";
import { clock, mb, STATES } from "./words.js";

const SHOWN = 6;
const FULL = new Set(["no-headroom", "exclusive", "too-large", "no-available-memory"]);

/** Show a card about `service`, in place of an older one. `parts`: its elements. `urgent`: told aloud at once. */
function card(service, kind, title, parts, said, urgent) {
  const list = byId("answers");
  let hadFocus = false;
  for (const old of [...list.children].filter((each) => each.dataset.service === service)) {
    hadFocus ||= old.contains(document.activeElement);
    old.remove();
  }
  const close = el("button", { type: "button", class: "quiet close", "aria-label": `Dismiss: ${title}` }, "Dismiss");
  const time = el("time", {}, clock(Date.now() / 1000));
  const made = el("article", { class: "card", "data-kind": kind, "data-service": service }, el("h3", { tabIndex: -1 }, title), time, close, ...parts);
  close.addEventListener("click", () => {
    made.remove();
    byId("answers-part").hidden = !list.children.length;
    byId("services-title").focus();
  });
  list.prepend(made);
  while (list.children.length > SHOWN) list.lastElementChild.remove();
  byId("answers-part").hidden = false;
  say(said, urgent);
  made.scrollIntoView({ block: "nearest" });
  if (hadFocus) made.querySelector("h3").focus();
}

const paragraph = (...children) => el("p", {}, ...children);

/** Not this one, not now. `makeRoom` is called when its button is pressed; null where nobody would go for it. */
export function refusal(body, makeRoom) {
  const parts = [paragraph(body.detail)];
  const figures = `Budget ${mb(body.budget_mb)}, free ${mb(body.free_mb)}` + (body.shortfall_mb ? `, short by ${mb(body.shortfall_mb)}.` : ".");
  parts.push(el("p", { class: "note" }, figures));
  if (body.blockers.length) parts.push(blockers(body.blockers));
  if (body.remedy) {
    parts.push(paragraph(el("span", { class: "term" }, body.victims.length ? "Make room: " : "Try: "), command(body.remedy)));
  } else if (FULL.has(body.reason)) {
    parts.push(paragraph("No unloading that is allowed would make it fit."));
  }
  if (body.victims.length) {
    const button = el("button", { type: "button", class: "main" }, `Make room and load ${body.service}…`);
    button.addEventListener("click", makeRoom);
    parts.push(el("p", { class: "buttons" }, button));
  }
  const title = `${body.service} is refused: ${body.title}`;
  card(body.service, "refused", title, parts, `${title}. ${body.detail} ${body.remedy ? `Remedy: ${body.remedy}` : ""}`, true);
}

function blockers(found) {
  const lines = found.map((each) => {
    const who = el("li", {}, el("strong", {}, each.service), ` ${STATES[each.state] || each.state}, ${mb(each.charged_mb)}: ${each.why}`);
    if (each.remedy) who.append(" ", command(each.remedy));
    return who;
  });
  return el("div", {}, el("p", { class: "term" }, "In the way:"), el("ul", { class: "blockers" }, ...lines));
}

/** It was tried and did not go well. `more`: further elements, a button that goes further, say. */
export function failure(service, title, body, more = []) {
  const parts = [paragraph(body.detail)];
  if (body.log && body.log.length) parts.push(el("pre", { tabIndex: 0, "aria-label": "The last lines of its log" }, body.log.join("\n")));
  card(service, "failed", title, [...parts, ...more], `${title}. ${body.detail}`, true);
}

/** It went well. */
export function done(service, title, text) {
  card(service, "done", title, text ? [paragraph(text)] : [], `${title}. ${text}`, false);
}
