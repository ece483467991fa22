import { KontractError, errorOf, errorOfFetch } from "./errors.js";

const REFRESH_EARLY_MS = 60_000;

/** Stores a session as long as the page lives. */
export function memoryStorage() {
  let kept = null;
  return {
    load: () => kept,
    save: (session) => {
      kept = session;
    },
  };
}

/**
 * Stores a session in localStorage (shared by all tabs, kept when they close), or in sessionStorage (of one tab); in
 * memory if the browser allows neither. Scripts of the page's origin can read it: keep foreign scripts out with a
 * content security policy.
 */
export function browserStorage(name = "localStorage", key = "kontract.session") {
  let area;
  try {
    area = globalThis[name];
    area.getItem(key);
  } catch {
    return memoryStorage();
  }
  return {
    load: () => JSON.parse(area.getItem(key) ?? "null"),
    save: (session) => (session === null ? area.removeItem(key) : area.setItem(key, JSON.stringify(session))),
    // A refresh token can be used once: only one tab at a time refreshes, the others find the new one here.
    exclusive: (work) => (globalThis.navigator?.locks ? navigator.locks.request(key, work) : work()),
  };
}

/**
 * The identity of a client (`api.auth`): signing in, refreshing the token, signing out.
 *
 * `session` is `{token, refreshToken, expiresAt, owner, user}`, times in milliseconds since the epoch, or null.
 */
export class Auth {
  #url;
  #fetch;
  #storage;
  #anonymous;
  #fixed; // a token that was handed to the client; there is no way to another one
  #renewing = null;

  constructor({ url, fetch, storage, anonymous, token }) {
    this.#url = url;
    this.#fetch = fetch;
    this.#storage = storage;
    this.#anonymous = anonymous;
    this.#fixed = token;
  }

  /** Whether there can be another token after this one is rejected. */
  get renewable() {
    return !this.#fixed;
  }

  /** Returns a promise of the current session, or of null. */
  async session() {
    return this.#fixed ? { token: this.#fixed } : ((await this.#storage.load()) ?? null);
  }

  /** Creates a user without an account. */
  anonymous() {
    return this.#sign("anonymous");
  }

  /** Creates an account and its session. */
  register(name, password) {
    return this.#sign("register", { name, password });
  }

  /** Logs in to an account. */
  login(name, password) {
    return this.#sign("login", { name, password });
  }

  /** Gives the anonymous user of this session an account. It stays the same user and keeps its rows. */
  async link(name, password) {
    return this.#sign("link", { name, password }, await this.token());
  }

  /** Gets new tokens for this session. Calls do this automatically shortly before the old ones expire. */
  async refresh() {
    const session = await this.session();
    await this.renew(session?.token);
    return this.session();
  }

  /** Ends the session, here and on every node. */
  async logout() {
    const session = await this.session();
    if (!session) return;
    try {
      await this.#post("logout", undefined, session.token);
    } catch (error) {
      if (error.code !== "UNAUTHORIZED") throw error; // it had already ended
    }
    if (!this.#fixed) await this.#storage.save(null);
  }

  /** Returns who this session belongs to, as the server sees it. */
  async me() {
    return this.#request("GET", "me", undefined, await this.token());
  }

  /** Returns a valid token; null if there is none and anonymous sessions are not enabled. */
  async token() {
    const session = await this.session();
    const fresh = session && !(session.expiresAt - Date.now() < REFRESH_EARLY_MS);
    if (fresh || (session === null && !this.#anonymous)) return session?.token ?? null;
    await this.renew(session?.token);
    return (await this.session())?.token ?? null;
  }

  /**
   * Replaces `stale`, a token that was rejected or is about to expire; throws a KontractError if it cannot get another.
   * Concurrent calls wait for the same answer.
   */
  renew(stale) {
    this.#renewing ??= this.#renew(stale).finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  async #renew(stale) {
    const refused = new KontractError("UNAUTHORIZED", "the session has ended; sign in again", { status: 401 });
    if (this.#fixed) throw refused;
    const exclusive = this.#storage.exclusive ?? ((work) => work());
    await exclusive(async () => {
      const session = await this.#storage.load();
      if (session && session.token !== stale) return; // another tab was faster
      if (session?.refreshToken) {
        try {
          await this.#sign("refresh", { refresh_token: session.refreshToken });
          return;
        } catch (error) {
          if (error.code !== "UNAUTHORIZED") throw error;
        }
        await this.#storage.save(null);
      }
      if (!this.#anonymous) throw refused;
      await this.anonymous();
    });
  }

  async #sign(way, body, token = null) {
    const granted = await this.#post(way, body, token);
    const session = {
      token: granted.token,
      refreshToken: granted.refresh_token,
      expiresAt: Date.now() + granted.expires_in * 1000,
      owner: granted.owner,
      user: granted.user,
    };
    await this.#storage.save(session);
    return session;
  }

  #post(path, body, token = null) {
    return this.#request("POST", path, body, token);
  }

  async #request(method, path, body, token) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (token !== null) headers.Authorization = `Bearer ${token}`;
    let response, text;
    try {
      response = await this.#fetch(`${this.#url}/auth/${path}`, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        credentials: "omit",
        cache: "no-store",
        signal: AbortSignal.timeout(30_000),
      });
      text = await response.text();
    } catch (error) {
      throw errorOfFetch(error);
    }
    if (!response.ok) throw errorOf(response.status, (name) => response.headers.get(name), text);
    return text === "" ? null : JSON.parse(text);
  }
}
