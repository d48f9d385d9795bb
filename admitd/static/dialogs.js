// dialogs: what is asked of people before anything is done: whether they mean it, and the token.

import { byId, command, el, write } from "./dom.js";
import { token } from "./daemon.js";

const MAC = '"$HOME/Library/Application Support/admit/token"';
const LINUX = '"${XDG_STATE_HOME:-$HOME/.local/state}/admit/token"';

/** Open `dialog`; true once its form is sent, false where it is left. */
function asked(dialog, no, check = () => true) {
  const form = dialog.querySelector("form");
  return new Promise((resolve) => {
    const ends = new AbortController();
    const { signal } = ends;
    const end = (answer) => {
      ends.abort();
      dialog.close();
      resolve(answer);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (check()) end(true);
    }, { signal });
    no.addEventListener("click", () => end(false), { signal });
    dialog.addEventListener("close", () => end(false), { signal });
    dialog.showModal();
  });
}

/** Whether they mean it. `text`: elements that say what will be done. `grave`: the safe answer has the focus. */
export function agree(title, text, yes, grave = false) {
  write(byId("agree-title"), title);
  byId("agree-text").replaceChildren(...text);
  const button = byId("agree-yes");
  write(button, yes);
  button.className = grave ? "grave" : "main";
  const answer = asked(byId("agree"), byId("agree-no"));
  (grave ? byId("agree-no") : button).focus();
  return answer;
}

/** Whether there is a token now; asks for it where there is none yet. `wrong`: why another one is wanted. */
export async function haveToken(wrong = "") {
  if (token.get() && !wrong) return true;
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
