// words: amounts, times and states as people read them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

export const NONE = "–";
export const STATES = {
  stopped: "stopped",
  reserved: "reserved",
  loaded: "loaded",
  half_loaded: "half loaded",
  suspended: "suspended",
};
export const SEVERITIES = { info: "info", warning: "warning", critical: "critical" };

export const number = (amount) => (amount === null || amount === undefined ? NONE : whole.format(amount));
export const mb = (amount) => (amount === null || amount === undefined ? NONE : `${whole.format(amount)} MB`);

/** Seconds, in at most two units. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** A moment, in seconds since 1970; with its day where that is another. */
export function clock(at) {
  const then = new Date(at * 1000);
  const time = clockFormat.format(then);
  return then.toDateString() === new Date().toDateString() ? time : `${dayFormat.format(then)}, ${time}`;
}

export const count = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;

/** What a service does, and how sure that is. */
export function activity(service) {
  const known = service.condition;
  if (!known || service.state === "stopped" || service.state === "reserved") return NONE;
  if (known.busy === true) return "working";
  if (known.busy === null) return "unknown";
  return known.active_s_ago === null ? "idle" : `idle ${duration(known.active_s_ago)}`;
}

/** What its probe came to, as a word and as words. */
export function probe(service) {
  const known = service.condition;
  const word = known && known.probe;
  const there = service.state !== "stopped" && service.state !== "reserved";
  // The sentinel's last round may be older than this look: of what has gone, only what is being done about it counts.
  if (!word || !(there || word === "recovering" || word === "left_alone")) return ["none", NONE];
  const silent = `silent, ${known.probe_failures} in a row`;
  const said = {
    unasked: "not asked yet",
    answers: "answers",
    busy: "busy, not down",
    silent,
    recovering: "being recovered",
    left_alone: "hung, left alone",
  };
  return [word, said[word] || word];
}
