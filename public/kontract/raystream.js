// raystream: calls encrypted on top of TLS, from this client to the application and nobody between. Version 1, with the
// suite that WebCrypto can do: Noise_NK_25519_AESGCM_SHA256. The protocol's names are those of the Noise Protocol
// Framework, revision 34, sections 5.1 to 5.3.

import { KontractError } from "./errors.js";

const PROTOCOL = "Noise_NK_25519_AESGCM_SHA256";
const SUITE = 2;
const PROLOGUE = "kontract/raystream/v1";
const LABEL = "kontract/raystream/v1/";
const VERSION = 1;
const [HELLO, WELCOME, REQUEST, RESPONSE] = [1, 2, 3, 4];
const HEADER = 16;
const KEY = 32;
const TAG = 16;
const SALT = 32;
const [GRANTED, DENIED] = [1, 2];
const MAX_SEQUENCE = 2 ** 32 - 1;
const EXPIRES_EARLY_MS = 30_000;

// RFC 8410: the DER envelope of a raw X25519 private key.
const PKCS8 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20);

const utf8 = new TextEncoder();
const EMPTY = new Uint8Array();

/**
 * Makes the transport of a client: `send(request, token)` seals a call, opens its answer, and makes a new session where
 * there is none for this token or the old one is nearly over. `exchange(url, init, timeout, signal)` does the HTTP.
 */
export async function transport(url, publicKey, exchange) {
  if (!globalThis.crypto?.subtle) {
    throw new KontractError("UNSUPPORTED", "encrypted calls need a page that was served over TLS, or from localhost");
  }
  let pinned = publicKey === null ? null : fromBase64url(publicKey);
  let current = null; // {token, session: a promise}

  async function open(token, timeout, signal) {
    pinned ??= await announcedKey(url, exchange, timeout, signal);
    const handshake = await Handshake.start(pinned);
    const answer = await post("handshake", await handshake.hello(utf8.encode(token ?? "")), timeout, signal);
    if (answer.status === 401) throw refused(); // it cannot read what was sealed for the key that is trusted here
    return answer.status === 200 ? handshake.finish(answer.bytes) : answer;
  }

  function post(path, body, timeout, signal) {
    const headers = { "content-type": "application/octet-stream" };
    return exchange(`${url}/raystream/${path}`, { method: "POST", headers, body }, timeout, signal);
  }

  return async function send(request, token, signal) {
    for (let again = false; ; again = true) {
      if (current?.token !== token) current = null;
      const mine = (current ??= { token, session: open(token, request.timeout, signal) });
      const session = await mine.session.catch((error) => {
        if (current === mine) current = null;
        throw error;
      });
      if (!(session instanceof Session)) {
        if (current === mine) current = null;
        return plain(session); // what the token, or the handshake itself, met
      }
      if (session.nearlyOver) {
        if (current === mine) current = null;
        continue;
      }
      const { sequence, message } = await session.seal(request);
      const answer = await post("rpc", message, request.timeout, signal);
      if (answer.status === 200) return { ...plain(await session.open(sequence, answer.bytes)), sealed: true };
      // The server keeps no sessions: it refuses one that it cannot open any more, and has not run the call then.
      if (answer.status !== 401 || again) return plain(answer);
      if (current === mine) current = null;
    }
  };
}

function plain({ status, header, bytes }) {
  return { status, header, text: new TextDecoder().decode(bytes) };
}

/** Asks the server for its key. TLS vouches for the answer; whoever wants more pins the key. */
async function announcedKey(url, exchange, timeout, signal) {
  const answer = await exchange(`${url}/.well-known/kontract`, {}, timeout, signal);
  try {
    const { raystream } = JSON.parse(new TextDecoder().decode(answer.bytes));
    if (raystream.suites.includes(PROTOCOL)) return fromBase64url(raystream.public_keys[0]);
  } catch {
    // no JSON, or another one
  }
  throw new KontractError("UNSUPPORTED", "this server does not offer encrypted calls", { status: answer.status });
}

/** The client's side of a handshake: `hello(token)` goes out, `finish(message)` takes the answer. */
export class Handshake {
  #symmetric = new SymmetricState();
  #serverKey;
  #private;
  #public;

  /** `ephemeral`: `{private: CryptoKey, public: Uint8Array}`, used for this handshake alone; made if left out. */
  static async start(serverKey, ephemeral) {
    const handshake = new Handshake();
    handshake.#serverKey = serverKey;
    const own = ephemeral ?? (await newKeyPair());
    handshake.#private = own.private;
    handshake.#public = own.public;
    await handshake.#symmetric.mixHash(utf8.encode(PROLOGUE));
    await handshake.#symmetric.mixHash(serverKey);
    return handshake;
  }

  /** `-> e, es` with the token as payload, in its frame. */
  async hello(token) {
    await this.#symmetric.mixHash(this.#public);
    await this.#symmetric.mixKey(await diffieHellman(this.#private, this.#serverKey));
    const sealed = await this.#symmetric.encryptAndHash(token);
    const payload = joined(Uint8Array.of(SUITE), this.#public, sealed);
    return joined(frameHeader(HELLO, 0, payload.length), payload);
  }

  /** `<- e, ee`: a Session, or what the server answers to the token: `{status, header(name), bytes}`. */
  async finish(message) {
    const { payload } = parseFrame(message, WELCOME, 0);
    if (payload.length < KEY + TAG) throw refused();
    const [theirs, sealed] = [payload.subarray(0, KEY), payload.subarray(KEY)];
    await this.#symmetric.mixHash(theirs);
    await this.#symmetric.mixKey(await diffieHellman(this.#private, theirs));
    // The keys of the session are bound to all of the handshake up to here; the payload brings the ticket.
    const secret = await hmac(this.#symmetric.hash, joined(...(await this.#symmetric.split())));
    const reader = new Reader(await this.#symmetric.decryptAndHash(sealed));
    const kind = reader.number(1);
    if (kind === DENIED) return readReply(reader);
    if (kind !== GRANTED) throw refused();
    const lifetime = reader.number(4);
    return new Session(secret, reader.rest(), lifetime);
  }
}

/** Numbers and seals calls, opens the answers. `lifetime`: milliseconds for which the ticket is good. */
export class Session {
  #secret;
  #ticket;
  #last = 0;
  #clock;
  #began;

  constructor(secret, ticket, lifetime, clock = () => performance.now()) {
    if (ticket.length === 0) throw refused();
    this.#secret = secret;
    this.#ticket = ticket;
    this.lifetime = lifetime;
    this.#clock = clock;
    this.#began = clock();
  }

  get nearlyOver() {
    return this.#last === MAX_SEQUENCE || this.#elapsed > this.lifetime - Math.min(EXPIRES_EARLY_MS, this.lifetime / 2);
  }

  /** A name of the session, the same as in the server's log. */
  async id() {
    return hex(await expand(this.#secret, utf8.encode(`${LABEL}id`), 16));
  }

  /** Gives a call `{name, headers, body}` the next number: `{sequence, message}`. */
  async seal({ name, headers, body }) {
    const parts = [number(4, this.#elapsed), ...short(utf8.encode(name)), ...headerFields(headers)];
    const plaintext = joined(...parts, utf8.encode(body));
    // Counted before anything can fail or wait: no number is ever used for two texts.
    const sequence = (this.#last += 1);
    const header = frameHeader(REQUEST, sequence, plaintext.length + TAG);
    const key = await expand(this.#secret, joined(utf8.encode(`${LABEL}request`), number(4, sequence)));
    const sealed = await seal(key, 0, header, plaintext);
    return { sequence, message: joined(number(2, this.#ticket.length), this.#ticket, header, sealed) };
  }

  /** Opens the answer to call `sequence`: `{status, header(name), bytes}`. */
  async open(sequence, message) {
    const { header, payload } = parseFrame(message, RESPONSE, sequence);
    if (payload.length < SALT) throw refused();
    const [salt, sealed] = [payload.subarray(0, SALT), payload.subarray(SALT)];
    const key = await expand(this.#secret, joined(utf8.encode(`${LABEL}response`), number(4, sequence), salt));
    return readReply(new Reader(await unseal(key, 0, header, sealed)));
  }

  get #elapsed() {
    return Math.min(Math.floor(this.#clock() - this.#began), MAX_SEQUENCE);
  }
}

/** The chaining key, the transcript's hash, and a cipher with its counter (sections 5.1 and 5.2). */
class SymmetricState {
  hash = padded(utf8.encode(PROTOCOL));
  #chaining = this.hash;
  #key;
  #nonce = 0;

  async mixHash(data) {
    this.hash = new Uint8Array(await crypto.subtle.digest("SHA-256", joined(this.hash, data)));
  }

  async mixKey(material) {
    [this.#chaining, this.#key] = await this.#hkdf(material);
    this.#nonce = 0;
  }

  async encryptAndHash(plaintext) {
    const sealed = await seal(this.#key, this.#nonce++, this.hash, plaintext);
    await this.mixHash(sealed);
    return sealed;
  }

  async decryptAndHash(sealed) {
    const plaintext = await unseal(this.#key, this.#nonce++, this.hash, sealed);
    await this.mixHash(sealed);
    return plaintext;
  }

  split() {
    return this.#hkdf(EMPTY);
  }

  /** HKDF with two outputs (section 4.3): RFC 5869 with the chaining key as salt and without info. */
  async #hkdf(material) {
    const output = await expand(await hmac(this.#chaining, material), EMPTY, 2 * KEY);
    return [output.subarray(0, KEY), output.subarray(KEY)];
  }
}

// --- cryptography ----------------------------------------------------------------------------------------------------

async function newKeyPair() {
  try {
    const pair = await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"]);
    return { private: pair.privateKey, public: new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)) };
  } catch (cause) {
    throw new KontractError("UNSUPPORTED", "this browser cannot encrypt calls: it does not know X25519", { cause });
  }
}

/** Makes a key pair of known bytes: for test vectors. */
export async function keyPairOf(privateBytes, publicBytes) {
  const key = await crypto.subtle.importKey("pkcs8", joined(PKCS8, privateBytes), { name: "X25519" }, false, [
    "deriveBits",
  ]);
  return { private: key, public: publicBytes };
}

async function diffieHellman(privateKey, publicBytes) {
  try {
    const peer = await crypto.subtle.importKey("raw", publicBytes, { name: "X25519" }, false, []);
    return new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: peer }, privateKey, 256));
  } catch {
    throw refused(); // a point of small order
  }
}

async function hmac(keyBytes, data) {
  const key = await crypto.subtle.importKey("raw", keyBytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, data));
}

/** HKDF-Expand (RFC 5869, section 2.3). */
async function expand(key, info, length = KEY) {
  const blocks = [];
  for (let block = EMPTY, made = 0; made < length; made += block.length) {
    block = await hmac(key, joined(block, info, Uint8Array.of(blocks.length + 1)));
    blocks.push(block);
  }
  return joined(...blocks).subarray(0, length);
}

async function aes(operation, use, keyBytes, nonce, associated, data) {
  const key = await crypto.subtle.importKey("raw", keyBytes, "AES-GCM", false, [use]);
  const iv = joined(new Uint8Array(8), number(4, nonce)); // 32 zero bits and a big-endian counter (section 12.4)
  const how = { name: "AES-GCM", iv, additionalData: associated, tagLength: TAG * 8 };
  return new Uint8Array(await crypto.subtle[operation](how, key, data));
}

function seal(key, nonce, associated, plaintext) {
  return aes("encrypt", "encrypt", key, nonce, associated, plaintext);
}

async function unseal(key, nonce, associated, sealed) {
  try {
    return await aes("decrypt", "decrypt", key, nonce, associated, sealed);
  } catch {
    throw refused();
  }
}

/** One error for everything that was not made by who should have made it. There is no detail, on purpose. */
function refused() {
  return new KontractError("RAYSTREAM", "this is not the server that this client trusts: it does not hold the key");
}

// --- bytes -----------------------------------------------------------------------------------------------------------

function frameHeader(kind, sequence, length) {
  const header = new DataView(new ArrayBuffer(HEADER));
  header.setUint8(0, VERSION);
  header.setUint8(1, kind);
  header.setUint32(4, sequence);
  header.setUint32(8, length);
  return new Uint8Array(header.buffer);
}

/** Takes a frame apart. Everything in its header is known before it comes, so it is compared as a whole. */
function parseFrame(message, kind, sequence) {
  if (message.length < HEADER) throw refused();
  const header = message.subarray(0, HEADER);
  if (hex(header) !== hex(frameHeader(kind, sequence, message.length - HEADER))) throw refused();
  return { header, payload: message.subarray(HEADER) };
}

function headerFields(headers) {
  const fields = Object.entries(headers).filter(([name]) => name !== "content-type");
  return [
    Uint8Array.of(fields.length),
    ...fields.flatMap(([name, value]) => {
      const bytes = latin1(value);
      return [...short(utf8.encode(name.toLowerCase())), number(2, bytes.length), bytes];
    }),
  ];
}

function latin1(text) {
  return Uint8Array.from(text, (character) => {
    if (character.codePointAt(0) > 0xff) throw new TypeError("a header takes characters of ISO 8859-1 alone");
    return character.codePointAt(0);
  });
}

/** Text of at most 255 bytes, after its length. */
function short(bytes) {
  if (bytes.length > 255) throw new TypeError("a name is too long");
  return [Uint8Array.of(bytes.length), bytes];
}

function readReply(reader) {
  const status = reader.number(2);
  if (status < 100 || status > 599) throw refused();
  const headers = new Map();
  for (let left = reader.number(1); left > 0; left -= 1) {
    const name = String.fromCharCode(...reader.take(reader.number(1)));
    headers.set(name, String.fromCharCode(...reader.take(reader.number(2))));
  }
  return { status, header: (name) => headers.get(name) ?? null, bytes: reader.rest() };
}

class Reader {
  #bytes;
  #at = 0;

  constructor(bytes) {
    this.#bytes = bytes;
  }

  take(size) {
    if (this.#at + size > this.#bytes.length) throw refused();
    return this.#bytes.subarray(this.#at, (this.#at += size));
  }

  number(size) {
    return this.take(size).reduce((value, byte) => value * 256 + byte, 0);
  }

  rest() {
    return this.take(this.#bytes.length - this.#at);
  }
}

function number(size, value) {
  const bytes = new Uint8Array(size);
  for (let at = size - 1, left = value; at >= 0; at -= 1, left = Math.floor(left / 256)) bytes[at] = left % 256;
  return bytes;
}

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function padded(bytes) {
  return joined(bytes, new Uint8Array(KEY - bytes.length));
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function fromBase64url(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  if (bytes.length !== KEY) throw new TypeError("a raystream key has 32 bytes, in base64url");
  return bytes;
}
