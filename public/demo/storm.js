import { byId, explain } from "./dom.js";

const TRANSFERS = 50;
const ACCOUNTS = 4;
const ENOUGH = 50;
const NO_ANSWER = new Set(["NETWORK", "TIMEOUT", "UNAVAILABLE", "COMMIT_UNKNOWN"]); // nobody knows what became of it
const FIRST = ["alice", "bob", "carol", "dave"];

/** Runs 50 transfers at once between a few accounts, and says what became of them and of the total. */
export async function runStorm(accounts, call) {
  const button = byId("storm");
  const result = byId("storm-result");
  const progress = byId("storm-progress");
  if (button.ariaDisabled === "true") return; // a disabled button would lose the focus
  button.ariaDisabled = "true";
  result.dataset.held = "";
  result.textContent = "";
  try {
    const ids = await chosen(accounts);
    const opened = new Map(accounts.rows.all().map(({ id }) => [id, true]));
    const before = (await call("total")).result;
    progress.value = 0;
    progress.hidden = false;
    const started = performance.now();
    const outcomes = await Promise.all(
      Array.from({ length: TRANSFERS }, () => oneTransfer(accounts, ids).finally(() => (progress.value += 1))),
    );
    const seconds = (performance.now() - started) / 1000;
    const after = (await call("total")).result;
    const paidIn = accounts.rows.all().reduce((sum, { id, balance }) => (opened.has(id) ? sum : sum + balance), 0);
    result.dataset.held = after === before ? "yes" : "no";
    result.textContent = summary(outcomes, seconds, before, after, paidIn);
  } catch (error) {
    result.dataset.held = "no";
    result.textContent = explain(error);
  } finally {
    progress.hidden = true;
    button.ariaDisabled = null;
  }
}

/** The accounts with the most money; opens some if there is too little to move. */
async function chosen(accounts) {
  if (accounts.rows.all().filter(({ balance }) => balance >= ENOUGH).length < 2) {
    for (const id of FIRST) {
      await accounts.open(id, 100).catch((error) => {
        if (error.code !== "ALREADY_EXISTS") throw error;
      });
    }
  }
  const rich = accounts.rows.all().sort((one, other) => other.balance - one.balance);
  return rich.slice(0, ACCOUNTS).map(({ id }) => id);
}

async function oneTransfer(accounts, ids) {
  const from = Math.floor(Math.random() * ids.length);
  const to = (from + 1 + Math.floor(Math.random() * (ids.length - 1))) % ids.length;
  try {
    return await accounts.transfer(ids[from], ids[to], 1 + Math.floor(Math.random() * 5));
  } catch (error) {
    return { error };
  }
}

function summary(outcomes, seconds, before, after, paidIn) {
  const failed = outcomes.filter(({ error }) => error);
  const refused = failed.filter(({ error }) => error.code === "INVALID_REQUEST").length;
  const lost = failed.filter(({ error }) => NO_ANSWER.has(error.code)).length;
  const committed = outcomes.length - failed.length;
  const attempts = outcomes.reduce((sum, { info }) => sum + (info?.attempts ?? 0), 0);
  const number = (value) => value.toLocaleString("en");
  const time = `${seconds.toFixed(1)} s`;
  const parts = [`${committed} of ${outcomes.length} transfers committed in ${time}, in ${number(attempts)} attempts.`];
  if (refused > 0) parts.push(`${refused} refused for want of money, as they should be.`);
  if (lost > 0) parts.push(`${lost} got no answer: each of them was kept as a whole, or nothing of it.`);
  const others = failed.length - refused - lost;
  if (others > 0) parts.push(`${others} did not get through: nothing of them was kept.`);
  if (after === before) parts.push(`The total was ${number(before)} and is ${number(after)}: it held.`);
  else if (after - before === paidIn) parts.push(`The total held, except for ${number(paidIn)} paid in meanwhile.`);
  else
    parts.push(`The total was ${number(before)} and is ${number(after)}. Did another tab open an account meanwhile?`);
  return parts.join(" ");
}
