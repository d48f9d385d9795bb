// dialogs: what is asked of people before anything is done: whether they mean it, and the token.

import { byId, command, el, write } from "./dom.js";
import { token } from "./daemon.js";

const MAC = '"$HOME/Library/Application Support/admit/token"';
const LINUX = '"${XDG_STATE_HOME:-$HOME/.local/state}/admit/token"';

const PAUSE_MS = 400; // before a question that had to wait: the second click of a double one answers nothing unseen

let questions = Promise.resolve();
let waiting = 0;

/** Ask once every earlier question is answered: a yes is one to what is on the screen, and to nothing else. */
function inTurn(question) {
  const mustWait = waiting > 0;
  waiting += 1;
  const answer = questions
    .then(() => (mustWait ? new Promise((resolve) => setTimeout(resolve, PAUSE_MS)) : null))
    .then(question)
    .finally(() => {
      waiting -= 1;
    });
  questions = answer.catch(() => {});
  return answer;
}

/** Open `dialog`; true once its form is sent, false where it is left. Answers when it is closed. */
function asked(dialog, no, check = () => true) {
  return new Promise((resolve) => {
    let answer = false;
    const ends = new AbortController();
    const { signal } = ends;
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      answer = check();
      if (answer) dialog.close();
    }, { signal });
    no.addEventListener("click", () => dialog.close(), { signal });
    dialog.addEventListener("close", () => {
      ends.abort();
      resolve(answer);
    }, { signal });
    dialog.showModal();
  });
}

/** Whether they mean it. `text`: elements that say what will be done. `grave`: the safe answer has the focus. */
export function agree(title, text, yes, grave = false) {
  return inTurn(() => {
    write(byId("agree-title"), title);
    byId("agree-text").replaceChildren(...text);
    const button = byId("agree-yes");
    write(button, yes);
    button.className = grave ? "grave" : "main";
    const answer = asked(byId("agree"), byId("agree-no"));
    (grave ? byId("agree-no") : button).focus();
    return answer;
  });
}

/** Whether there is a token now; asks for it where there is none yet. `wrong`: why another one is wanted. */
export async function haveToken(wrong = "") {
  // Looked for again when it is its turn: an earlier question may have brought it.
  return token.get() !== null || inTurn(() => token.get() !== null || askToken(wrong));
}

async function askToken(wrong) {
  const place = /Mac/.test(navigator.userAgent) ? MAC : LINUX;
  byId("token-command").replaceChildren(command(`cat ${place}`));
  const input = byId("token");
  input.value = "";
  write(byId("token-wrong"), wrong);
  const isOne = () => {
    const good = /^[\x21-\x7e]+$/.test(input.value.trim());
    write(byId("token-wrong"), good ? "" : "A token is one word of plain letters, digits and signs.");
    return good;
  };
  const answer = asked(byId("ask-token"), byId("token-no"), isOne);
  input.focus();
  if (!(await answer)) return false;
  token.keep(input.value.trim());
  input.value = "";
  byId("forget").hidden = false;
  return true;
}

/** A list of who would go, in that order. */
export function listOf(victims, chargedMb) {
  return el("ol", { class: "victims" }, ...victims.map((name) => el("li", {}, el("strong", {}, name), ` ${chargedMb(name)}`)));
}
