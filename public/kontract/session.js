import { KontractError, errorOf, errorOfFetch } from "./errors.js";

const REFRESH_EARLY_MS = 60_000;

/** Keeps a session as long as the page lives. */
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
 * Keeps a session in localStorage (shared by all tabs, kept when they close), or with "sessionStorage" there (of one
 * tab); in memory, if the browser lets nobody keep anything. Scripts of the page's origin can read it there: keep
 * foreign ones out with a content security policy.
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
    // A refresh token is good for one use: only one tab at a time gets a new one, the others find it here.
    exclusive: (work) => (globalThis.navigator?.locks ? navigator.locks.request(key, work) : work()),
  };
}

/**
 * Who this client is: signing in, keeping the token fresh, signing out. `api.auth` of a client.
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

  /** Whether there can be another token when this one is refused. */
  get renewable() {
    return !this.#fixed;
  }

  /** The session of now, a promise of one or of null. */
  async session() {
    return this.#fixed ? { token: this.#fixed } : ((await this.#storage.load()) ?? null);
  }

  /** A new user without an account. */
  anonymous() {
    return this.#sign("anonymous");
  }

  /** A new account, and the session of it. */
  register(name, password) {
    return this.#sign("register", { name, password });
  }

  /** The session of an account. */
  login(name, password) {
    return this.#sign("login", { name, password });
  }

  /** Gives the anonymous user of this session an account. It stays the same user and keeps its rows. */
  async link(name, password) {
    return this.#sign("link", { name, password }, await this.token());
  }

  /** New tokens for this session. Calls do this by themselves shortly before the old ones expire. */
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
      if (error.code !== "UNAUTHORIZED") throw error; // it was over already
    }
    if (!this.#fixed) await this.#storage.save(null);
  }

  /** Who the server takes this session for. */
  async me() {
    return this.#request("GET", "me", undefined, await this.token());
  }

  /** A token that is good for now; null when there is none and nobody asked for an anonymous one. */
  async token() {
    const session = await this.session();
    const fresh = session && !(session.expiresAt - Date.now() < REFRESH_EARLY_MS);
    if (fresh || (session === null && !this.#anonymous)) return session?.token ?? null;
    await this.renew(session?.token);
    return (await this.session())?.token ?? null;
  }

  /**
   * Replaces `stale`, a token that was refused or is about to expire; a KontractError when there is no way to another.
   * Whoever asks meanwhile waits for the same answer.
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
