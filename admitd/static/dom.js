// dom: makes elements. Everything that comes from the daemon is put in as text, so a name that looks like HTML is a name.

/** An element. `props` that the element has are set, others become attributes; children are elements or text. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Set the text of an element, only where it is another: a screen reader is not told of what did not change. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace the children of `list` where what they are made of has changed. */
export function renew(list, seen, make) {
  const key = JSON.stringify(seen);
  if (list.dataset.seen === key) return;
  list.dataset.seen = key;
  list.replaceChildren(...make());
}

/** Tell screen readers; `urgent` interrupts. */
export function say(text, urgent = false) {
  byId(urgent ? "urgent" : "polite").textContent = text;
}

/** A command line, with a button that copies it. */
export function command(line) {
  const code = el("code", {}, line);
  const button = el("button", { type: "button", class: "quiet copy" }, "Copy");
  button.setAttribute("aria-label", `Copy: ${line}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(line);
      write(button, "Copied");
      say("Copied");
    } catch {
      getSelection().selectAllChildren(code);
      write(button, "Selected");
    }
    setTimeout(() => write(button, "Copy"), 2000);
  });
  return el("span", { class: "command" }, code, button);
}
