// Types of kontract.js, written by hand. `kontract generate ts` writes those of your functions.

export interface Session {
  token: string;
  refreshToken?: string;
  /** Milliseconds since the epoch. */
  expiresAt?: number;
  owner?: string;
  user?: string;
}

export interface SessionStorage {
  load(): Session | null | Promise<Session | null>;
  save(session: Session | null): void | Promise<void>;
  exclusive?<T>(work: () => Promise<T>): Promise<T>;
}

export function memoryStorage(): SessionStorage;
export function browserStorage(name?: "localStorage" | "sessionStorage", key?: string): SessionStorage;

export interface Timing {
  dur?: number;
  desc?: string;
}

export function parseServerTiming(header: string): Record<string, Timing>;

/** The error of a call: the server's answer, or why there was no answer. */
export class KontractError extends Error {
  /** The server's code, for example "NOT_FOUND"; or "NETWORK", "TIMEOUT", "UNSUPPORTED", "RAYSTREAM", "UNSAFE_INTEGER". */
  readonly code: string;
  /** HTTP status, 0 if there was no answer. */
  readonly status: number;
  readonly requestId: string;
  readonly details: Record<string, unknown> | null;
  /** Seconds. */
  readonly retryAfter: number;
}

/** What a call cost. */
export interface CallInfo {
  readonly name: string;
  readonly args: readonly unknown[];
  readonly status: number;
  readonly requestId: string;
  /** The txid of its commit, null if it wrote nothing. */
  readonly txid: number | null;
  readonly attempts: number;
  readonly tries: number;
  readonly roundTrips: { coordinator: number; database: number };
  readonly timing: Record<string, Timing>;
  readonly milliseconds: number;
  readonly replayed: boolean;
  readonly sealed: boolean;
  readonly error: KontractError | null;
}

export interface Options {
  /** URL of the backend (default: the page's own origin). */
  url?: string | URL;
  /** A token from elsewhere. */
  token?: string;
  /** Sign up automatically, without an account. */
  anonymous?: boolean;
  storage?: SessionStorage;
  /** Calls go through raystream. */
  secure?: boolean;
  /** Raystream's public key, base64url. */
  serverKey?: string;
  onCall?(info: CallInfo): void;
  attempts?: number;
  /** Milliseconds for each attempt. */
  timeout?: number;
  /** Defaults for arguments that are undefined before a later one; `kontract generate ts` makes this. */
  defaults?: ReadonlyMap<string, readonly unknown[]>;
  /** Integers beyond 2^53 become BigInt, despite generated types; without this option they are an error. */
  bigint?: boolean;
  fetch?: typeof fetch;
  backoff?: { first: number; last: number };
}

export interface CallOptions {
  /** Your own, to repeat a call yourself; null for none. */
  idempotencyKey?: string | null;
  signal?: AbortSignal;
  timeout?: number;
  attempts?: number;
}

export interface Auth {
  session(): Promise<Session | null>;
  anonymous(): Promise<Session>;
  register(name: string, password: string): Promise<Session>;
  login(name: string, password: string): Promise<Session>;
  link(name: string, password: string): Promise<Session>;
  refresh(): Promise<Session | null>;
  logout(): Promise<void>;
  me(): Promise<Record<string, unknown>>;
  token(): Promise<string | null>;
}

/** A change of a row of one of the tables `Name`. */
export type Change<Rows, Name extends keyof Rows = keyof Rows> = {
  [Table in Name]: {
    table: Table;
    id: string;
    oldData?: Rows[Table];
    txid: number;
  } & ({ type: "insert" | "update"; data: Rows[Table] } | { type: "delete"; data: null });
}[Name];

/** Some changes are no longer available: read the tables again. */
export interface Reset {
  type: "reset";
  reason: string;
}

export interface StreamOptions<Event> {
  ids?: readonly string[];
  since?: string;
  onReady?(ready: { tables: string[]; denied: string[] }): void;
  onTransaction?(changes: Event[], transaction: { txid: number; position: string }): void;
  onEvent?(change: Event): void;
  onReset?(reason: string): void;
  onState?(state: StreamState, detail: { error: unknown; milliseconds: number }): void;
  transport?: "sse" | "websocket";
  signal?: AbortSignal;
  /** Milliseconds without a sign of life. */
  silence?: number;
}

export type StreamState = "connecting" | "open" | "waiting" | "closed";

export interface ChangeStream<Event> extends AsyncIterable<Event | Reset> {
  readonly state: StreamState;
  readonly position: string;
  readonly error: unknown;
  close(): void;
}

/** What every client has. `Rows`: the rows of each table, by name. */
export interface Client<Rows = Record<string, Record<string, unknown>>> {
  readonly url: string;
  readonly auth: Auth;
  /** A client is not a promise: call a function of this name with `call("then", [])`. */
  readonly then?: undefined;
  call<T = unknown>(name: string, args?: readonly unknown[], how?: CallOptions): Promise<T>;
  stream<Name extends keyof Rows & string>(
    tables: Name | readonly Name[],
    how?: StreamOptions<Change<Rows, Name>>,
  ): ChangeStream<Change<Rows, Name>>;
}

/** Returns a client: every other name is a function of the backend. */
export function connect(options?: Options): Client & Record<string, (...args: unknown[]) => Promise<unknown>>;
