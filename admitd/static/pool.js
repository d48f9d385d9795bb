// pool: the memory of the machine as one bar, and what its parts are.

import { byId, el, renew, write } from "./dom.js";
import { duration, mb } from "./words.js";

export const COLOURS = 8;

/** The parts of the bar, from left to right. */
export function parts(ledger) {
  const found = [
    { name: "reserved for the system", mb: ledger.ram_reserved_mb, kind: "kept" },
    { name: "safety", mb: ledger.ram_safety_mb, kind: "floor" },
  ];
  ledger.services.forEach((service, index) => {
    if (!service.charged_mb) return;
    const loaded = !["reserved", "stopped"].includes(service.state);
    const kind = loaded ? "service" : "promise";
    const why = loaded ? "" : service.state === "reserved" ? ", reserved" : ", pinned";
    found.push({ name: service.name + why, mb: service.charged_mb, kind, colour: index % COLOURS });
  });
  for (const extra of ledger.undeclared) found.push({ name: extra.label, mb: extra.charged_mb, kind: "stranger" });
  if (ledger.free_mb > 0) found.push({ name: "free", mb: ledger.free_mb, kind: "free" });
  return found.filter((part) => part.mb > 0);
}

export function show(ledger) {
  const over = -ledger.free_mb;
  write(byId("host"), ledger.host);
  write(byId("free"), over > 0 ? `Over-committed by ${mb(over)}` : `${mb(ledger.free_mb)} free`);
  byId("free").classList.toggle("over", over > 0);
  const told = `of a pool of ${mb(ledger.pool_mb)}; ${mb(ledger.charged_mb)} charged, ${mb(ledger.ram_physical_mb)} physical`;
  write(byId("of-pool"), told);
  const found = parts(ledger);
  renew(byId("bar"), [found, ledger.pool_mb], () => segments(found, ledger, over));
  const label = `${byId("free").textContent} ${told}: ${found.map((part) => `${part.name} ${mb(part.mb)}`).join(", ")}`;
  if (byId("bar").getAttribute("aria-label") !== label) byId("bar").setAttribute("aria-label", label);
  renew(byId("legend"), found, () => found.map(legendLine));
  showPromises(ledger);
  renew(byId("warnings"), ledger.warnings, () => ledger.warnings.map((text) => el("li", {}, text)));
}

function segments(found, ledger, over) {
  const end = ledger.ram_reserved_mb + ledger.ram_safety_mb + ledger.pool_mb;
  const whole = Math.max(1, end, found.reduce((sum, part) => sum + part.mb, 0));
  const made = found.map((part) => {
    const segment = el("span", { class: "part" }, el("span", { class: "label" }, part.name));
    dress(segment, part);
    segment.style.width = `${(part.mb / whole) * 100}%`;
    return segment;
  });
  if (over > 0) {
    const beyond = el("span", { class: "beyond" });
    beyond.style.left = `${(end / whole) * 100}%`;
    made.push(beyond);
  }
  return made;
}

function dress(element, part) {
  element.dataset.kind = part.kind;
  if (part.colour !== undefined) element.dataset.colour = part.colour;
}

function legendLine(part) {
  const swatch = el("span", { class: "swatch" });
  dress(swatch, part);
  return el("li", {}, swatch, el("span", {}, part.name), " ", el("span", { class: "figure" }, mb(part.mb)));
}

function showPromises(ledger) {
  const now = Date.now() / 1000;
  const held = ledger.reservations.map((each) => {
    const who = each.holder_pid ? `process ${each.holder_pid}` : "nobody named";
    return `Reserved: ${each.service}, ${mb(each.budget_mb)} for ${who}, ${duration(each.expires_at - now)} left`;
  });
  const waiting = ledger.waiting.map(
    (each, index) => `Waiting, place ${index + 1}: ${each.service} (priority ${each.priority})`,
  );
  const strangers = ledger.undeclared.map((each) => `${each.label}: ${mb(each.charged_mb)} charged; ${each.why}`);
  const lines = [...held, ...waiting, ...strangers];
  renew(byId("promises"), lines, () => lines.map((text) => el("li", {}, text)));
}
