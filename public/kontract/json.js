import { KontractError } from "./errors.js";

// A JavaScript number holds every integer up to 2^53 and only some beyond: JSON.parse reads 9007199254740993 as ...992,
// and would write back another number. Here nothing is rounded: such an integer is a BigInt, or an error.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const LONG = /\d{16}/; // shorter integers are safe
const LAST_WRITTEN_OUT = 1e21; // from here on numbers are written with an exponent, which no integer of Python's has

const isUnsafe = (token) => /^-?\d{16,}$/.test(token) && !Number.isSafeInteger(Number(token));

/** Parses JSON. Integers that a number cannot hold become BigInt with `bigint`; otherwise a KontractError is thrown. */
export function decode(text, bigint = false) {
  if (!LONG.test(text)) return JSON.parse(text);
  const mark = newMark();
  let found = 0;
  const marked = text.replace(TOKEN, (token) => {
    if (!isUnsafe(token)) return token;
    if (!bigint) throw unsafe(token);
    found += 1;
    return `"${mark}${token}"`;
  });
  if (found === 0) return JSON.parse(text);
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value,
  );
}

/** Writes JSON, a BigInt as an integer. Throws a TypeError for a number beyond 2^53: it is already rounded. */
export function encode(value) {
  let mark = null;
  const text = JSON.stringify(value, (_, one) => {
    if (typeof one === "bigint") return `${(mark ??= newMark())}${one}`;
    if (Number.isInteger(one) && !Number.isSafeInteger(one) && Math.abs(one) < LAST_WRITTEN_OUT) {
      throw new TypeError(`${one} is beyond the integers that a number holds exactly: pass a BigInt`);
    }
    return one;
  });
  return mark === null ? text : text.replace(new RegExp(`"${mark}(-?\\d+)"`, "g"), "$1");
}

/** Prefix of the digits of a BigInt while it is a string: new each time, so that no text is mistaken for one. */
function newMark() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function unsafe(token) {
  const message =
    `the server sent the integer ${token}, which a JavaScript number cannot hold; ` +
    "connect with { bigint: true }, or let the function send a string";
  return new KontractError("UNSAFE_INTEGER", message);
}
