// acts: loading and unloading by a click: asked first, agreed to, done by the daemon through the same admission.

import * as answers from "./answers.js";
import { act, Gone, token, wouldAdmit } from "./daemon.js";
import { agree, haveToken, listOf } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { count, duration, mb } from "./words.js";

const paragraph = (text) => el("p", {}, text);

export class Acts {
  /** `changed` is called whenever something begins or ends; `ledger` gives the last one that was seen. */
  constructor(changed, ledger) {
    this.changed = changed;
    this.ledger = ledger;
    this.doing = new Map();
  }

  async load(service) {
    await this.during(service.name, "Asking…", async () => {
      const said = await this.fits(service.name);
      if (said === null) return;
      const text = [
        paragraph(`${mb(said.budget_mb)} are reserved for it, of ${mb(said.free_mb)} that are free. Then its load_cmd is run.`),
      ];
      if (await agree(`Load ${service.name}?`, text, "Load")) await this.start(service.name);
    });
  }

  async unload(service) {
    const name = service.name;
    const holds = service.measured_mb === null ? `It is charged ${mb(service.charged_mb)}` : `It holds ${mb(service.measured_mb)}`;
    const text = [paragraph(`${holds} in ${count(service.pids.length, "process", "processes")}. It is asked to end, and this page says when its memory is back.`)];
    if (service.condition && service.condition.busy) text.unshift(el("p", { class: "wrong" }, "It is working at this moment."));
    await this.during(name, "Asking…", async () => {
      if (await agree(`Unload ${name}?`, text, "Unload", true)) await this.stop(name, false);
    });
  }

  /** What the plan is for `name` to fit, agreed to, and done one by one; each step is asked for anew. */
  async makeRoom(name, agreed) {
    const charged = (each) => {
      const found = this.ledger().services.find((service) => service.name === each);
      const works = found && found.condition && found.condition.busy ? ", working at this moment" : "";
      return found ? mb(found.charged_mb) + works : "";
    };
    const text = [paragraph("These are unloaded, in this order:"), listOf(agreed, charged), paragraph(`Then ${name} is loaded. Before each step the plan is made anew; should it come to name anybody else, nothing more is done.`)];
    await this.during(name, "Asking…", async () => {
      if (!(await agree(`Make room for ${name}?`, text, "Unload and load", true))) return;
      for (let left = agreed.length; left > 0; left -= 1) {
        const { status, body } = await wouldAdmit(name);
        if (status !== 409) break;
        const next = body.victims && body.victims[0];
        if (!next || !body.victims.every((each) => agreed.includes(each))) return this.refused(body);
        if (!(await this.during(next, "Unloading…", () => this.stop(next, false)))) return;
      }
      await this.start(name);
    });
  }

  /** What admission would say: the body where it would admit, null where that was told. */
  async fits(name) {
    const { status, body } = await wouldAdmit(name);
    if (status === 409 && body.verdict === "refused") this.refused(body);
    else if (status !== 200) answers.failure(name, `${name} cannot be loaded`, body);
    else if (body.verdict === "already_loaded") answers.done(name, `${name} is loaded already`, "");
    else return body;
    return null;
  }

  refused(body) {
    answers.refusal(body, () => this.makeRoom(body.service, body.victims));
  }

  async start(name) {
    const said = await this.tell(name, "Loading…", "load");
    if (said === null) return;
    const { status, body } = said;
    if (status === 200) {
      const holds = body.measured_mb === null ? "" : ` It holds ${mb(body.measured_mb)}.`;
      answers.done(name, `${name} is loaded`, body.outcome === "loaded" ? `After ${duration(body.took_s)}.${holds}` : "It was already.");
    } else if (body.verdict === "refused") this.refused(body);
    else answers.failure(name, `${name} was not loaded`, body);
  }

  /** Whether it is gone. */
  async stop(name, kill) {
    const said = await this.tell(name, "Unloading…", "unload", { kill });
    if (said === null) return false;
    const { status, body } = said;
    if (status === 200) {
      const back = body.back_mb > 0 ? ` ${mb(body.back_mb)} more are available.` : "";
      answers.done(name, `${name} is unloaded`, `After ${duration(body.took_s)}.${back} ${body.note}`.trim());
      return true;
    }
    answers.failure(name, `${name} was not unloaded`, body, status === 504 && !kill ? [this.killing(name)] : []);
    return false;
  }

  killing(name) {
    const button = el("button", { type: "button", class: "grave" }, `End ${name} for certain…`);
    button.addEventListener("click", () =>
      this.during(name, "Asking…", async () => {
        const text = [paragraph("What is still there after its unload_timeout_s gets SIGKILL. It has no time to save anything.")];
        if (await agree(`End ${name} for certain?`, text, "Kill", true)) await this.stop(name, true);
      }),
    );
    return el("p", { class: "buttons" }, button);
  }

  /** The daemon's answer to an act; null where nothing came of it, which is told. */
  async tell(name, word, verb, body = {}) {
    let wrong = "";
    for (;;) {
      if (!(await haveToken(wrong))) return null;
      this.set(name, word);
      const said = await act(name, verb, body, (waits) => this.set(name, waits ? "Waits for others…" : word));
      if (said.status !== 401) return said;
      token.forget();
      byId("forget").hidden = true;
      wrong = "The daemon does not know this token.";
    }
  }

  /** What `work` came to. One thing at a time for each service; it may end in any way. */
  async during(name, word, work) {
    if (this.doing.has(name)) return undefined;
    this.set(name, word);
    try {
      return await work();
    } catch (problem) {
      const detail = problem instanceof Gone ? "The daemon was gone before it answered. What it had begun goes on by itself; the table shows it when the daemon is back." : String(problem);
      answers.failure(name, `No answer about ${name}`, { detail });
      return undefined;
    } finally {
      this.doing.delete(name);
      this.changed();
    }
  }

  set(name, word) {
    this.doing.set(name, word);
    this.changed();
  }
}
