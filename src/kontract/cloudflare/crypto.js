// Native cryptography for kontract/cloudflare/crypto.py: node:crypto, as workerd implements it.
//
// Functions take and return Uint8Arrays. (A Buffer cannot cross to Python: Pyodide knows no such array.) What belongs
// together arrives in one array: each that crosses takes longer than encrypting a short message does. Sizes are checked
// on the Python side. What fails here throws; the caller learns nothing but that.

import { createCipheriv, createDecipheriv, createPrivateKey, createPublicKey } from "node:crypto";
import { diffieHellman, scrypt as derive } from "node:crypto";

const TAG = 16;
const KEY = 32;
const NONCE = 12;

// X25519 keys are 32 bytes; node:crypto takes them in the DER envelopes of RFC 8410: these bytes, then the key.
const PKCS8 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20);
const SPKI = Uint8Array.of(0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 3, 0x21, 0);

function joined(first, second) {
  const whole = new Uint8Array(first.length + second.length);
  whole.set(first);
  whole.set(second, first.length);
  return whole;
}

function privateKey(raw) {
  return createPrivateKey({ key: Buffer.from(joined(PKCS8, raw)), format: "der", type: "pkcs8" });
}

export function x25519Public(raw) {
  const spki = createPublicKey(privateKey(raw)).export({ format: "der", type: "spki" });
  return new Uint8Array(spki.subarray(spki.length - KEY));
}

// private key (32) || public key (32)
export function x25519(both) {
  const spki = Buffer.from(joined(SPKI, both.subarray(KEY)));
  const publicKey = createPublicKey({ key: spki, format: "der", type: "spki" });
  return new Uint8Array(diffieHellman({ privateKey: privateKey(both.subarray(0, KEY)), publicKey }));
}

// key (32) || nonce (12) || associated data || text
function parts(all, associatedLength) {
  const start = KEY + NONCE;
  const end = start + associatedLength;
  return [all.subarray(0, KEY), all.subarray(KEY, start), all.subarray(start, end), all.subarray(end)];
}

export function seal(cipher, all, associatedLength) {
  const [key, nonce, associated, plaintext] = parts(all, associatedLength);
  const sealing = createCipheriv(cipher, key, nonce, { authTagLength: TAG });
  sealing.setAAD(associated, { plaintextLength: plaintext.length });
  const body = sealing.update(plaintext);
  sealing.final();
  return joined(body, sealing.getAuthTag());
}

export function open(cipher, all, associatedLength) {
  const [key, nonce, associated, sealed] = parts(all, associatedLength);
  const end = sealed.length - TAG;
  const opening = createDecipheriv(cipher, key, nonce, { authTagLength: TAG });
  opening.setAAD(associated, { plaintextLength: end });
  opening.setAuthTag(sealed.subarray(end));
  const body = opening.update(sealed.subarray(0, end));
  opening.final();
  return new Uint8Array(body);
}

export function scrypt(password, salt, n, r, p, length) {
  // BoringSSL counts its working memory against maxmem, and the default stops below what n = 2^15, r = 8 need.
  const maxmem = 2 * 128 * n * r + 128 * r * p;
  return new Promise((resolve, reject) => {
    const options = { N: n, r, p, maxmem };
    derive(password, salt, length, options, (error, key) => (error ? reject(error) : resolve(new Uint8Array(key))));
  });
}
