// What goes on behind the page: what calls cost, and what the change stream says.

import { byId, make } from "./dom.js";

const CALLS = 10;
const COMMITS = 6;

/** The table of calls, newest first. */
export class Calls {
  #table = byId("calls");

  add(info) {
    const name = make("th", { scope: "row" }, make("code", { textContent: info.name }));
    if (info.sealed) name.append(" ", make("span", { className: "tag", textContent: "sealed" }));
    if (info.error) name.append(" ", make("span", { className: "tag bad", textContent: info.error.code }));
    const { coordinator, database } = info.roundTrips;
    this.#table.prepend(
      make(
        "tr",
        {},
        name,
        cell(info.txid === null ? "–" : `#${info.txid}`, info.txid === null ? "none" : ""),
        cell(info.attempts || "–"),
        cell(`${coordinator} + ${database}`, `${coordinator} to the coordinator, ${database} to the database`),
        cell(Math.round(info.milliseconds)),
      ),
    );
    while (this.#table.children.length > CALLS) this.#table.lastElementChild.remove();
  }
}

function cell(text, spoken = "") {
  const element = make("td", { textContent: String(text) });
  if (spoken) element.setAttribute("aria-label", spoken);
  return element;
}

/** The list of transactions that the stream has brought, newest first. */
export class Commits {
  #list = byId("commits");
  #mine = new Map(); // txid -> whether a call of this tab made it
  #labels = new Map(); // txid -> the element that says whose it was

  /** A call of this tab committed as `txid`. */
  own(txid) {
    this.#mine.set(txid, true);
    this.#labels.get(txid)?.replaceChildren("this tab");
    if (this.#mine.size > 1000) this.#mine.delete(this.#mine.keys().next().value);
  }

  /** Shows a transaction. `settled()`: a promise that all calls of this tab that are under way have ended. */
  add(changes, txid, settled) {
    byId("commits-empty").hidden = true;
    const whose = make("span", { className: "whose", textContent: this.#mine.has(txid) ? "this tab" : "" });
    this.#labels.set(txid, whose);
    settled().then(() => {
      if (whose.textContent === "") whose.textContent = "another tab";
    });
    const what = make("ul", {}, ...changes.map((change) => make("li", {}, ...told(change))));
    this.#list.prepend(make("li", {}, make("span", { className: "txid", textContent: `#${txid}` }), what, whose));
    while (this.#list.children.length > COMMITS) this.#list.lastElementChild.remove();
    if (this.#labels.size > 1000) this.#labels.delete(this.#labels.keys().next().value);
  }

  reset(reason) {
    const text = `The stream was restarted: ${reason}. The page has read everything again.`;
    this.#list.prepend(make("li", { className: "reset", textContent: text }));
  }
}

function told({ type, table, id, data, oldData }) {
  const code = make("code", { textContent: type });
  if (table === "accounts") {
    const before = oldData ? `${oldData.balance} → ` : "";
    return [code, ` ${id}: ${before}${data ? data.balance : "gone"}`];
  }
  const title = data?.title ?? oldData?.title ?? id;
  const done = type === "update" && oldData && data.done !== oldData.done;
  return [code, ` ${title}${done ? (data.done ? ": done" : ": not done") : ""}`];
}
