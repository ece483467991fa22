// A parser of server-sent events, as in the HTML standard (section 9.2.6, "Interpreting an event stream").
//
// A browser's own EventSource cannot send a token in a header and hides which event carried an id; so this parser takes
// the bytes of a fetch, in chunks of any size.

/**
 * Parses one event stream. A new connection needs a new parser, which continues with the last id of the previous one.
 *
 * - `onEvent({type, data, lastEventId})`: an event, `type` is "message" for unnamed ones.
 * - `onId(id)`: a block of the stream that had an id is complete (after its event, if it was one).
 * - `onRetry(milliseconds)`: the server says how long to wait before connecting again.
 */
export class EventStreamParser {
  #handlers;
  // UTF-8; it keeps half a character for the next chunk. The byte order mark is dropped here: streaming decoders do
  // not agree on how many of them to drop.
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #started = false;
  #rest = ""; // of a line whose end has not come yet
  #ignoreLineFeed = false; // the last chunk ended with CR: if LF comes next, it belongs to it
  #data = "";
  #type = "";
  #id; // of this block; undefined when it has none
  #lastEventId;

  constructor(handlers, lastEventId = "") {
    this.#handlers = handlers;
    this.#lastEventId = lastEventId;
  }

  /** The id to resume after: that of the last complete block with an id. */
  get lastEventId() {
    return this.#lastEventId;
  }

  /** Takes the next bytes (Uint8Array). An event without its empty line at the end is dropped by design. */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return;
    if (!this.#started && text.startsWith("\uFEFF")) text = text.slice(1);
    this.#started = true;
    if (this.#ignoreLineFeed && text.startsWith("\n")) text = text.slice(1);
    this.#ignoreLineFeed = false;
    const ends = /[\r\n]/g;
    let start = 0;
    for (let end = ends.exec(text); end !== null; end = ends.exec(text)) {
      this.#line(this.#rest + text.slice(start, end.index));
      this.#rest = "";
      start = ends.lastIndex;
      // A line ends with CR, LF or CR LF. After a CR it does not wait for a LF: the event is complete now.
      if (end[0] === "\r") {
        if (start === text.length) this.#ignoreLineFeed = true;
        else if (text[start] === "\n") ends.lastIndex = start += 1;
      }
    }
    this.#rest += text.slice(start);
  }

  #line(line) {
    if (line === "") {
      this.#dispatch();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    switch (name) {
      case "data":
        this.#data += `${value}\n`;
        break;
      case "event":
        this.#type = value;
        break;
      case "id":
        if (!value.includes("\0")) this.#id = value;
        break;
      case "retry":
        if (/^[0-9]+$/.test(value)) this.#handlers.onRetry?.(Number(value));
        break;
      default: // fields that nobody knows are ignored
    }
  }

  #dispatch() {
    const [data, type, id] = [this.#data, this.#type, this.#id];
    this.#data = this.#type = "";
    this.#id = undefined;
    if (id !== undefined) this.#lastEventId = id;
    if (data !== "") {
      this.#handlers.onEvent?.({ type: type || "message", data: data.slice(0, -1), lastEventId: this.#lastEventId });
    }
    if (id !== undefined) this.#handlers.onId?.(id);
  }
}
