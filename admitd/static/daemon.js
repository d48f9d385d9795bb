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

/** Load or unload, with the token; the answer comes when that has ended, which may take minutes. */
export function act(service, verb, body = {}) {
  const request = json(body);
  request.headers.Authorization = `Bearer ${token.get()}`;
  return exchange(`/services/${encodeURIComponent(service)}/${verb}`, request);
}
