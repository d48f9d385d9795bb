// daemon: asks the daemon. Every answer comes back as {status, body}; no answer at all is Gone.

const KEPT_AS = "admit-token";
const PATIENCE_MS = 10_000;

/** Nothing answered, or not in time. */
export class Gone extends Error {}

export const token = {
  get: () => sessionStorage.getItem(KEPT_AS),
  keep: (text) => sessionStorage.setItem(KEPT_AS, text),
  forget: () => sessionStorage.removeItem(KEPT_AS),
};

async function exchange(path, options) {
  let reply;
  try {
    reply = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", ...options });
  } catch (problem) {
    throw new Gone(problem.message);
  }
  try {
    const text = await reply.text();
    return { status: reply.status, body: text ? JSON.parse(text) : null };
  } catch (problem) {
    throw new Gone(problem.message); // cut off in the midst of it
  }
}

export const get = (path) => exchange(path, { signal: AbortSignal.timeout(PATIENCE_MS) });

const json = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

/** What admission would say, without asking for it. */
export const wouldAdmit = (service) =>
  exchange("/admit", { ...json({ service, dry_run: true }), signal: AbortSignal.timeout(PATIENCE_MS) });

// A browser has six connections for one place, and the events and the looks need theirs: loads, which take minutes, get
// three, and there is always one for an unload, which makes room.
const MOST_UNDER_WAY = { load: 3, unload: 4 };
const waiting = [];
let underWay = 0;

async function comeIn(verb, told) {
  if (underWay < MOST_UNDER_WAY[verb]) underWay += 1;
  else {
    told(true);
    await new Promise((goes) => waiting.push({ verb, goes }));
    told(false);
  }
}

function goOut() {
  underWay -= 1;
  const next = waiting.findIndex(({ verb }) => underWay < MOST_UNDER_WAY[verb]);
  if (next < 0) return;
  underWay += 1;
  waiting.splice(next, 1)[0].goes();
}

/** Load or unload, with the token; the answer comes when that has ended, which may take minutes. `told` hears whether it
 * waits until others have ended. */
export async function act(service, verb, body, told) {
  await comeIn(verb, told);
  try {
    const request = json(body);
    request.headers.Authorization = `Bearer ${token.get()}`;
    return await exchange(`/services/${encodeURIComponent(service)}/${verb}`, request);
  } finally {
    goOut();
  }
}
