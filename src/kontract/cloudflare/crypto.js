// Native cryptography for kontract/cloudflare/crypto.py: node:crypto, as workerd implements it.
//
// Every function takes Uint8Arrays and returns one. (A Buffer cannot cross to Python: Pyodide knows no such array.)
// Sizes are checked on the Python side. What fails here throws; the caller learns nothing but that.

import { createCipheriv, createDecipheriv, createPrivateKey, createPublicKey, diffieHellman, scrypt as derive } from "node:crypto";

const TAG = 16;
const KEY = 32;

// X25519 keys are 32 bytes; node:crypto takes them in the DER envelopes of RFC 8410, which are these bytes before the key.
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

export function x25519(raw, peer) {
  const publicKey = createPublicKey({ key: Buffer.from(joined(SPKI, peer)), format: "der", type: "spki" });
  return new Uint8Array(diffieHellman({ privateKey: privateKey(raw), publicKey }));
}

export function seal(cipher, key, nonce, plaintext, associated) {
  const sealing = createCipheriv(cipher, key, nonce, { authTagLength: TAG });
  sealing.setAAD(associated, { plaintextLength: plaintext.length });
  const body = sealing.update(plaintext);
  sealing.final();
  return joined(body, sealing.getAuthTag());
}

export function open(cipher, key, nonce, sealed, associated) {
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
    derive(password, salt, length, { N: n, r, p, maxmem }, (error, key) => (error ? reject(error) : resolve(new Uint8Array(key))));
  });
}
