// The demo: one client, one stream, two tables. What the parts of the page show comes from calls and from the stream.

import { browserStorage, connect } from "../kontract.js";
import { Accounts } from "./accounts.js";
import { announce, byId, explain, showError } from "./dom.js";
import { Calls, Commits } from "./panels.js";
import { Tasks } from "./tasks.js";

const calls = new Calls();
const commits = new Commits();
const infos = new WeakMap(); // arguments -> what the call with them cost
const underWay = new Set();

const options = {
  anonymous: true,
  storage: browserStorage(),
  onCall(info) {
    infos.set(info.args, info);
    if (info.txid !== null) commits.own(info.txid);
    calls.add(info);
  },
};
const plain = connect(options);
let api = plain;

/** Calls a backend function: its result, the number of its commit, and what it cost. */
async function call(name, ...args) {
  const running = api.call(name, args);
  underWay.add(running);
  try {
    const result = await running;
    const info = infos.get(args);
    return { result, txid: info.txid ?? 0, info };
  } finally {
    underWay.delete(running);
  }
}

const tables = { tasks: new Tasks(call), accounts: new Accounts(call) };

// --- the stream ------------------------------------------------------------------------------------------------------

let current = false; // what is shown is what was read, and all that came after

const STATES = {
  connecting: () => "Connecting …",
  open: () => "Live",
  waiting: ({ milliseconds }) => `Connection lost. Next try in ${Math.max(1, Math.round(milliseconds / 1000))} s`,
  closed: ({ error }) => (error ? explain(error) : "Closed"),
};

plain.stream(Object.keys(tables), {
  transport: "websocket", // so that there may be as many tabs as one likes
  onState(state, detail) {
    const shown = byId("state");
    if (state === "connecting" && shown.dataset.state === "waiting") return; // it still says why
    shown.dataset.state = state;
    shown.textContent = STATES[state](detail);
  },
  async onReady() {
    if (current) return; // it goes on where it stopped
    await load();
    const session = await plain.auth.session();
    if (session) byId("who").textContent = `You are the anonymous user ${session.user} of ${session.owner}.`;
  },
  onTransaction(changes, { txid }) {
    commits.add(changes, txid, () => Promise.allSettled([...underWay]));
    let news = "";
    for (const { table, id, data } of changes) {
      if (tables[table].rows.put(id, data, txid)) news = spoken(table, id, data);
    }
    if (news && underWay.size === 0 && changes.length === 1) announce(news);
  },
  onReset(reason) {
    current = false; // a `ready` follows
    commits.reset(reason);
  },
});

async function load() {
  current = true;
  try {
    await Promise.all([tables.tasks.load(), tables.accounts.load()]);
  } catch (error) {
    current = false;
    showError(byId("task-error"), explain(error));
    setTimeout(() => current || load(), 5_000);
    return;
  }
  showError(byId("task-error"), "");
}

function spoken(table, id, data) {
  if (table !== "tasks") return "";
  if (data === null) return "Another tab deleted a task";
  return `From another tab: ${data.title}, ${data.done ? "done" : "not done"}`;
}

// --- raystream -------------------------------------------------------------------------------------------------------

byId("seal").addEventListener("change", async ({ target }) => {
  showError(byId("seal-error"), "");
  api = target.checked ? connect({ ...options, secure: true }) : plain;
  if (!target.checked) return;
  try {
    await call("total"); // says at once whether this browser and this server can
  } catch (error) {
    target.checked = false;
    api = plain;
    showError(byId("seal-error"), explain(error));
  }
});
