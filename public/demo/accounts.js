import { Invalid, amount, announce, byId, flash, make, onSubmit, restoring } from "./dom.js";
import { Rows } from "./rows.js";
import { runStorm } from "./storm.js";

const SHOWN = 12;

/** The accounts, their total, and the forms that change them. `call(name, ...args)` answers `{result, txid}`. */
export class Accounts {
  rows = new Rows();
  #call;
  #table = byId("accounts");
  #lines = new Map(); // id -> {element, value, bar}
  #drawing = false;
  #changed = new Set();

  constructor(call) {
    this.#call = call;
    this.rows.onChange = (ids) => this.#draw(ids);
    this.#openForm();
    this.#transferForm();
    byId("storm").addEventListener("click", () => runStorm(this, call));
  }

  load() {
    return this.rows.load(async (after, limit) => (await this.#call("list_accounts", limit, after)).result);
  }

  /** Opens an account; the error of one that exists is the caller's business. */
  async open(id, balance) {
    const { result, txid } = await this.#call("open_account", id, balance);
    this.rows.put(id, result, txid);
  }

  async transfer(src, dst, money) {
    const answer = await this.#call("transfer", src, dst, money);
    for (const [id, balance] of Object.entries(answer.result)) this.rows.put(id, { id, balance }, answer.txid);
    return answer;
  }

  #openForm() {
    const form = byId("open-form");
    const known = { ALREADY_EXISTS: "An account with that name already exists." };
    const open = async (values) => {
      await restoring(form, values, async () => {
        const id = values.id.trim();
        if (id === "") throw new Invalid("id", "An account needs a name.");
        const balance = amount(values, "balance");
        await this.open(id, balance);
        announce(`Opened ${id} with ${balance}`);
      });
    };
    onSubmit(form, byId("open-error"), open, { known, queue: true });
  }

  #transferForm() {
    onSubmit(byId("transfer-form"), byId("transfer-error"), async (values) => {
      const { src, dst } = values;
      if (src === dst) throw new Invalid("dst", "Choose two different accounts.");
      const money = amount(values, "amount", 1);
      const { result } = await this.transfer(src, dst, money);
      announce(`Transferred ${money}: ${src} has ${result[src]}, ${dst} has ${result[dst]}`);
    });
  }

  #draw(ids) {
    for (const id of ids) this.#changed.add(id);
    if (this.#drawing) return;
    this.#drawing = true;
    queueMicrotask(() => this.#redraw());
  }

  #redraw() {
    this.#drawing = false;
    const accounts = this.rows.all().sort((one, other) => (one.id < other.id ? -1 : 1));
    const visible = accounts.slice(0, SHOWN);
    const wanted = new Set(visible.map(({ id }) => id));
    for (const [id, line] of this.#lines) {
      if (wanted.has(id)) continue;
      line.element.remove();
      this.#lines.delete(id);
    }
    const most = Math.max(1, ...visible.map(({ balance }) => balance));
    let place = this.#table.firstElementChild;
    for (const { id, balance } of visible) {
      const line = this.#lines.get(id) ?? newLine(id);
      this.#lines.set(id, line);
      line.value.textContent = balance.toLocaleString("en");
      line.bar.style.setProperty("--share", String(balance / most));
      if (line.element === place) place = place.nextElementSibling;
      else this.#table.insertBefore(line.element, place);
      if (this.#changed.has(id) && this.#table.dataset.read) flash(line.element);
    }
    this.#changed.clear();
    if (this.rows.read) this.#table.dataset.read = "yes"; // from now on a change is news
    this.#summary(accounts);
    for (const [which, select] of [byId("transfer-src"), byId("transfer-dst")].entries())
      offer(select, accounts, which);
    byId("transfer-form").hidden = accounts.length < 2;
  }

  #summary(accounts) {
    const total = accounts.reduce((sum, { balance }) => sum + balance, 0);
    byId("accounts-foot").hidden = accounts.length === 0;
    byId("accounts-foot").querySelector("th").textContent =
      accounts.length > SHOWN ? `Total of ${accounts.length} accounts, ${SHOWN} of them shown` : "Total";
    byId("accounts-total").textContent = total.toLocaleString("en");
    byId("accounts-empty").hidden = accounts.length > 0;
    if (this.rows.read)
      byId("accounts-empty").textContent = "There are no accounts. Open two, or let the 50 transfers do it.";
  }
}

function newLine(id) {
  const value = make("span");
  const bar = make("span", { className: "bar", "aria-hidden": "true" });
  return {
    element: make("tr", {}, make("th", { scope: "row", textContent: id }), make("td", {}, value, bar)),
    value,
    bar,
  };
}

/** Brings the options of a select up to date without touching what is chosen. */
function offer(select, accounts, preferred) {
  const there = new Set(Array.from(select.options, ({ value }) => value));
  const wanted = accounts.map(({ id }) => id);
  if (wanted.length === there.size && wanted.every((id) => there.has(id))) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map((id) => make("option", { value: id, textContent: id })));
  select.value = wanted.includes(chosen) ? chosen : (wanted[preferred] ?? wanted[0] ?? "");
}
