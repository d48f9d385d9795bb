// stream: the daemon's events as they come. Read by fetch and not by EventSource, which would only hand over the kinds
// of events that this version knows by name.

/** One stream that is opened again whenever `open()` is called and none is there; each event is told once. */
export class Stream {
  constructor(path, onEvent) {
    this.path = path;
    this.onEvent = onEvent;
    this.last = null;
    this.reading = null;
  }

  open() {
    if (this.reading) return;
    const reading = new AbortController();
    this.reading = reading;
    this.read(reading.signal)
      .catch(() => {}) // that nothing answers is seen, and said, by whoever asks for the ledger
      .finally(() => {
        if (this.reading === reading) this.reading = null;
      });
  }

  close() {
    if (this.reading) this.reading.abort();
    this.reading = null;
  }

  async read(signal) {
    const headers = { Accept: "text/event-stream" };
    if (this.last !== null) headers["Last-Event-ID"] = String(this.last);
    const reply = await fetch(this.path, { headers, signal, cache: "no-store", credentials: "omit" });
    if (!reply.ok) return;
    const decoder = new TextDecoder();
    const reader = reply.body.getReader();
    let waiting = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      waiting += decoder.decode(value, { stream: true });
      const frames = waiting.split("\n\n");
      waiting = frames.pop();
      for (const frame of frames) this.take(frame);
    }
  }

  take(frame) {
    const data = frame
      .split("\n")
      .filter((line) => line.startsWith("data: "))
      .map((line) => line.slice(6))
      .join("\n");
    if (!data) return;
    const event = JSON.parse(data);
    if (event.id === this.last) return; // a lower one is of a journal that was removed and began anew
    this.last = event.id;
    this.onEvent(event);
  }
}
