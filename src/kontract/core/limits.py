"""Every limit of the system, each with its unit and its reason."""

from __future__ import annotations

# --- what a caller may send ------------------------------------------------------------------------------------------

BODY_BYTES = 1024 * 1024
"""Bytes of a request body. A backend function takes arguments, not files; an isolate has 128 MB for all requests."""

BODIES_BYTES = 64 * 1024 * 1024
"""Bytes of all bodies that a server process receives at the same time; a slow sender holds its part for up to 30 s."""

BODIES_PER_ADDRESS_BYTES = 16 * 1024 * 1024
"""The same for one network address. Behind a proxy missing from KONTRACT_TRUSTED_PROXIES all callers share one."""

HEAD_BYTES = 64 * 1024
"""Bytes of a request's head at ``kontract serve``, and what is read ahead of its body. Proxies take 8 to 32 KiB."""

JSON_DEPTH = 32
"""Nesting of arrays and objects in arguments and rows. Deeper data is a mistake or an attack on recursive code."""

JSON_VALUES = 16_000
"""Values in one JSON text from outside, including those in arrays and objects. Each costs time and memory while it
exists: more could block a process for over 50 ms (decision 0024)."""

JSON_UNUSUAL_NUMBERS = 1_000
"""Numbers in one JSON text from outside that take longer than others: those with an exponent of three digits, and,
where no type is declared, those with more digits than a float holds. Each takes up to 20 microseconds until it is
stored."""

QUERY_FIELDS = 1_000
"""Parameters in the query of a request. Each costs time, like the values above."""

FUNCTION_NAME_LENGTH = 128
"""Characters of a function's name in a URL; longer names are rejected before any look-up."""

KEY_LENGTH = 255
"""Most characters of an Idempotency-Key."""

PUBLIC_KEY_LEAST = 32
"""Fewest characters of an Idempotency-Key without a token: 128 random bits in hexadecimal, which nobody can guess."""

# --- what a function may answer --------------------------------------------------------------------------------------

HANDLER_HEADERS = 16
"""Headers that a function adds to its answer. No function needs more than a few."""

HEADER_BYTES = 4_096
"""Bytes of a header's value in an answer, or inside raystream. The longest are the addresses of redirects."""

ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of a function's encoded answer: enough to return everything that a transaction may read."""

ERROR_MESSAGE = 1_000
"""Characters of an error message; the rest is cut off. Some messages repeat what a caller sent, and they are logged."""

# --- what a transaction may hold -------------------------------------------------------------------------------------

WRITE_SET_BYTES = 1_000_000
"""Bytes of all new row values of a transaction, encoded. It travels to the coordinator, its journal and PostgreSQL."""

NUMBER_DIGITS = 400
"""Digits of a number in JSON from outside and of a stored number, without the exponent: a few bytes like 1e999999 must
not become a megabyte, and the time for an integer grows with the square of its digits. A float has at most 325 digits
before or after the point, an integer of 256 bits has 78."""

FILTER_VALUES = 100
"""Values in the filter of a query: PostgreSQL and the coordinator compare each of them with the rows."""

READ_SET_ROWS = 16_000
"""Rows a transaction may read. Each id is sent to the coordinator and kept until validation."""

QUERY_ROWS = 1_000
"""Rows fetched by one SQL statement of a query; longer iterations fetch page after page."""

PAGE_BYTES = 2 * 1024 * 1024
"""Bytes of the rows that one SQL statement of a query returns, in PostgreSQL's text form; the next page has the rest. A
row of WRITE_SET_BYTES fits even with the spaces that PostgreSQL adds; a row that does not fit cannot be read."""

READ_BYTES = 8 * 1024 * 1024
"""Bytes of all rows that a transaction reads. They exist as text, as values and as an answer at the same time, and an
isolate has 128 MB for all requests. READ_SET_ROWS rows of a few hundred bytes fit."""

READS_AT_ONCE = 4
"""Statements of one function that read at the same time, as under asyncio.gather. Each takes one of the few connections
of a process, and brings up to PAGE_BYTES; of ``exec``, which brings up to READ_BYTES, one runs at a time."""

SELECT_LENGTH = 10_000
"""Characters of an ``exec`` SELECT. People write it; values go into parameters."""

SELECT_TOKENS = 1_000
"""Tokens of an ``exec`` SELECT: the parser takes about 10 microseconds for each."""

SELECT_DEPTH = 40
"""Nesting of brackets, operators and subqueries in an ``exec`` SELECT. Parser and writer recurse."""

SELECT_TABLES = 4
"""How often an ``exec`` SELECT may name its table: each time multiplies the work of a join."""

SELECT_BYTES = READ_BYTES
"""Bytes of the rows that an ``exec`` SELECT returns, and of the input of each of its string_agg, array_agg, jsonb_agg
and jsonb_object_agg, plus 32 for every value. PostgreSQL counts while it works and stops at the limit."""

SELECT_VALUE_BYTES = 32 * 1024 * 1024
"""Bytes that one value in an ``exec`` SELECT may have, estimated before it runs from how often it repeats parameters
and fields: four times the limit of answers, because intermediate values are often larger than results."""

SELECT_PARAMS = 100
"""Parameters of an ``exec`` SELECT."""

ROW_ID_BYTES = 512
"""Bytes of a row id. PostgreSQL's B-tree entries have at most 2,704 bytes, and every index and event repeats the id."""

# --- time, in milliseconds -------------------------------------------------------------------------------------------

TRANSACTION_MS = 10_000
"""All attempts of one call together. Callers wait for the answer; the lease below must outlast it."""

LEASE_MS = 30_000
"""How long a snapshot counts as in use after a begin. Three times TRANSACTION_MS, for slow clocks."""

STATEMENT_MS = 5_000
"""statement_timeout of the apply statement and of the resolver: an apply is either quick or stuck on a lock."""

APPLY_DEADLINE_MS = 8_000
"""When a prepared transaction is in doubt even if nobody waits for it: STATEMENT_MS plus connection and network
time."""

WAITERS_PATIENCE_MS = 250
"""How long a call waits for an unfinished transaction before the coordinator reads its fence."""

RESOLVE_RETRY_MS = 1_000
"""Pause before the fence is read again after the database could not be reached."""

VISIBILITY_WAIT_MS = 2_000
"""How long a begin waits until a transaction that it asked for is visible; then it starts without it."""

RESERVATION_MS = 2_000
"""How long contested keys stay reserved for one caller once it is first in line."""

EPOCH_TRUST_MS = 60_000
"""How long a coordinator in charge gives snapshots before it checks the epoch again."""
# Together with a lease it is far below RETENTION_MS, so that no snapshot in use needs versions that another coordinator
# has collected.

RETENTION_MS = 600_000
"""The least time that a dead version is kept, for slow readers and for history."""

FENCE_RETENTION_MS = 86_400_000
"""How long fences, and with them idempotency keys and their results, are kept: 24 hours."""

CLIENT_KEY_MS = 600_000
"""How long a client may retry a call on its own, under a key that it made: the clients give up within a minute. Only
for this time after losing its journal must a coordinator have the fence of such a call read."""

COLLECT_ROWS = 1_000
"""Rows that one statement of the collection removes: it takes a few milliseconds, far below STATEMENT_MS."""

COLLECT_STATEMENTS = 100
"""Such statements in a row. Then the collection pauses for COLLECT_PAUSE_MS, so that it never keeps a coordinator
busy."""

COLLECT_PAUSE_MS = 10_000
"""Pause of the collection when there is more to remove, or after the database did not answer."""

BACKOFF_FIRST_MS = 5
"""First pause before a function runs again; doubled with each attempt, jittered over its full length. After its first
conflict a call does not pause: it waits in line."""

BACKOFF_LAST_MS = 320
"""The longest such pause: with 8 attempts all pauses together stay far below TRANSACTION_MS."""

POINTER_CACHE_MS = 10_000
"""How long a table's pointer and kind are cached; with an outdated entry the apply statement fails safely."""

# --- sessions --------------------------------------------------------------------------------------------------------

ACCESS_SECONDS = 3_600
"""How long an access token is valid. An ended session is rejected at once all the same: the coordinator knows."""

REFRESH_SECONDS = 2_592_000
"""How long a refresh token is valid: a session ends after 30 days without a visit."""

REFRESH_GRACE_MS = 60_000
"""How long the previous refresh token is accepted from the same address: its answer may have been lost."""

TOKEN_BYTES = 4_096
"""Characters of a token; a longer one is rejected unread. Servers and proxies accept headers of 8 KiB."""

TOKEN_LEEWAY_SECONDS = 60
"""How far in the future a token's issue time may be: the clocks of two machines differ."""

TOKENS_REMEMBERED = 1_000
"""Verified tokens that an isolate caches, and headers with one, so that the next request of a session need not verify
again."""

SESSION_TRUST_MS = 5_000
"""How long a process trusts that a session is live, counted from its last question to the coordinator. For as long, a
session that another node has ended may still run functions that touch no table: short enough for a logout, long enough
that a page which makes several calls asks once."""

SESSIONS_REMEMBERED = 10_000
"""Sessions that a process remembers as live; about 2 of the 128 MB of an isolate."""

ENDED_SESSIONS = 10_000
"""Ended sessions that a coordinator without a journal reads back from the database, those with the longest validity
first: an hour of a busy tenant."""

TIDY_MS = 3_600_000
"""How often a process removes sessions whose refresh tokens have expired, if anybody logs in or out at all."""

GROUPS = 32
"""Groups of one account; they travel in every token."""

NAME_LENGTH = 254
"""Characters of an account's name: an e-mail address fits."""

PASSWORD_LEAST = 10
"""Characters of the shortest password. NIST SP 800-63B asks for 8; online guessing is throttled as well."""

PASSWORD_BYTES = 1_024
"""Bytes of the longest password. scrypt accepts any length, but reads all of it."""

HASHES_WAITING = 4
"""Logins and sign-ups that may wait for each running hash of a password, which takes a third of a second."""

HASH_LOST_MS = 15_000
"""When a login without a sign of life counts as dropped by the platform: TRANSACTION_MS and a hash take less."""

LOGIN_WINDOW_SECONDS = 900
"""Window of the limits below, from the first attempt on."""

LOGINS_PER_PAIR = 10
"""Attempts to log in to one account from one address in a window."""

LOGINS_PER_ACCOUNT = 100
"""Attempts for one account from all addresses. Above it, addresses that have logged in to it before may still try, each
within LOGINS_PER_PAIR, and other addresses share LOGINS_PER_ACCOUNT_FRESH."""

LOGINS_PER_ACCOUNT_FRESH = 100
"""First attempts of addresses that are new to an account, once LOGINS_PER_ACCOUNT is used up: strangers cannot lock out
an owner in a new place unless they control that many networks."""

KNOWN_PLACES = 8
"""Addresses of the last logins to an account, stored as keyed digests: home, work, phone, and changes of them."""

LOGINS_PER_ADDRESS = 200
"""Attempts from one address for all accounts: a school or an office may share one."""

SIGN_UPS_PER_ADDRESS = 200
"""New anonymous sessions from one address in a window, and as many new accounts. Not counted in local development."""

LINKS_PER_SESSION = 10
"""Attempts to turn one anonymous session into an account in a window: names may be taken."""

# --- raystream --------------------------------------------------------------------------------------------------------

RAYSTREAM_HELLO_BYTES = 16 + 1 + 32 + TOKEN_BYTES + 16
"""Bytes of a handshake's first message: frame header, suite, ephemeral key, token, tag."""

RAYSTREAM_TICKET_BYTES = 8_192
"""Bytes of a ticket, which travels with each request. About 250 are usual; the rest is for callers with many groups."""

RAYSTREAM_TICKET_MS = 3_600_000
"""How long a ticket is valid at most: one hour. Stolen session keys of a client are useless after it."""

RAYSTREAM_FRESH_MS = 30_000
"""How far a request's time may differ from the server's. It allows for slow networks and clocks, and stops requests
from being recorded and replayed later."""

RAYSTREAM_HEADERS = 32
"""Headers inside a sealed request or response: HANDLER_HEADERS and those of the gateway."""

RAYSTREAM_REQUEST_BYTES = BODY_BYTES + RAYSTREAM_TICKET_BYTES + 64 * 1024
"""Bytes of a sealed request: the body's limit applies to the inner request, and the envelope comes on top."""

# --- shared state ----------------------------------------------------------------------------------------------------

SHARED_KEY_BYTES = 512
"""Bytes of a key of ``ctx.shared``."""

SHARED_VALUE_BYTES = 65_536
"""Bytes of a value of ``ctx.shared``, as JSON: it is for counters, flags and small caches, not for documents."""

SHARED_KEYS = 100_000
"""Values that one owner may have in ``ctx.shared``: a few megabytes at their usual size."""

SHARED_COUNTERS = 100_000
"""Counters of throttles and rate limits of one owner, in addition to those values. When they are full, the lowest is
dropped."""

LOCAL_COUNTERS = 10_000
"""Such counters in the memory of one process, while the shared ones do not answer."""

COUNT_MS = 2_000
"""How long a shared counter may take to answer. Then the process counts on its own: a limit must not delay the calls
that it protects."""

COUNT_WARNING_MS = 60_000
"""How often a process logs that it counts on its own."""

SHARED_TTL_SECONDS = 31_536_000
"""The longest time to live of a value: one year. Without a time to live a value stays."""

SHARED_EXPIRY_MS = 60_000
"""How often expired values are removed, if there are requests at all. They are invisible before that."""

SHARED_INTEGER = 2**53
"""Bound of counters: up to it integers are exact in every language."""

# --- the coordinator -------------------------------------------------------------------------------------------------

PREPARED = 64
"""Prepared, unfinished transactions per owner. Above it a prepare returns busy: more would only wait for each other."""

BUSY_RETRY_SECONDS = 1
"""``Retry-After`` when the coordinator stayed busy for a whole TRANSACTION_MS."""

TXID_BLOCK = 1_024
"""Txids reserved by one journal entry, so that a lost journal tail cannot lead to a duplicate txid."""

ORDER_BLOCK = 64
"""Row numbers of a table reserved by one journal entry: few entries, and few numbers lost with each restart, because a
``SERIAL`` column has only 2,147,483,647."""

ORDER_RESERVE = 1_048_576
"""Numbers of a table's rows before the last one. From here on, ``pop`` and ``shift`` depend on the whole table, because
rows beyond the last number share it."""

PAGE_ROWS = 50
"""Rows of a ``page`` that says no size; at most QUERY_ROWS."""

CURSOR_BYTES = 4_096
"""Characters of a cursor from a caller. A cursor has the last value of the page, and the row's id."""

WRITE_LOG_TRANSACTIONS = 10_000
"""Finished transactions kept for validation. An attempt with an older snapshot gets SNAPSHOT_TOO_OLD and is retried."""

WRITE_LOG_BYTES = 16 * 1024 * 1024
"""Bytes of new values kept for predicate checks, of the 128 MB an isolate has."""

EVENT_LOG_TRANSACTIONS = 10_000
"""Transactions whose change events stay in the journal, for streams that resume."""

EVENT_LOG_MS = 3_600_000
"""How long such events stay: one hour."""

EVENT_PAGE_TRANSACTIONS = 100
"""Transactions per page for a stream that catches up; it asks for the next page, so it sets the pace."""

EVENT_PAGE_BYTES = 262_144
"""Bytes of records after which such a page ends."""

STREAMS_PER_USER = 64
"""Open streams of one user: a browser has six connections to a host, and some people have many tabs."""

STREAMS_PER_ADDRESS = 1_000
"""Open streams from one network address in a process: a school or an office may share one. Behind a proxy missing from
KONTRACT_TRUSTED_PROXIES all callers share one."""

STREAMS = 10_000
"""Open streams of one owner. Cloudflare lets a Durable Object hold 32,768 WebSockets."""

STREAM_BACKLOG_BYTES = 1024 * 1024
"""Bytes that may wait for a client that reads slowly. Above it the stream is cut; the client reconnects and resumes at
its own pace."""

STREAM_BUFFERED_BYTES = 256 * 1024
"""Bytes that workerd may additionally buffer for one WebSocket before the stream waits: enough for a client that reads
to stay busy until the next check."""

STREAM_USER_BACKLOG_BYTES = 4 * 1024 * 1024
"""Bytes that may wait for all streams of one user in a process. An isolate has 128 MB."""

STREAM_ADDRESS_BACKLOG_BYTES = 16 * 1024 * 1024
"""Bytes that may wait for all streams from one network address in a process: several users may share one."""

STREAM_SHARE_BYTES = 32 * 1024
"""Bytes that may always wait for one stream, however much waits for others: a client that reads is never cut."""

STREAM_HEARTBEAT_MS = 15_000
"""How often a stream sends a comment: proxies cut silent connections, often after 30 or 60 seconds. In workerd the
second one after a client has left fails."""

STREAM_TABLES = 32
"""Tables of one stream."""

STREAM_NAMES_BYTES = 1_200
"""Bytes of the names of one stream's tables: they are stored in the attachment of its WebSocket, which holds 2 KiB."""

STREAM_CHANGES_AT_ONCE = 8
"""Changes of its tables that a WebSocket may make at once, as a page does while it loads."""

STREAM_CHANGE_MS = 1_000
"""Time between two such changes in the long run; faster ones are combined. A change costs as much as a call."""

STREAM_MESSAGE_BYTES = 4_096
"""Bytes of a message from a client over a stream's WebSocket: a choice of STREAM_TABLES tables has 3,000."""

STREAM_MESSAGE_MS = 10_000
"""How long such a message may take from its first to its last byte: it fits into three packets."""

STREAM_FRAMES_AT_ONCE = 100
"""Frames that a client may send over a WebSocket at once; then it has to wait. Each costs about 10 microseconds."""

STREAM_FRAMES_PER_SECOND = 20
"""Frames that a client may send in the long run. Well-behaved clients send one ping every 20 seconds."""

STREAM_TICKET_SECONDS = 60
"""How long a ticket for EventSource is valid. It travels in a URL, and URLs are written to logs."""

CONFLICTS_BEFORE_RESERVING = 1
"""Conflicts in a row after which the contested keys are reserved for the caller. With 3, a hundred concurrent transfers
between ten rows needed 3 to 6 attempts each and 12 s on a busy machine; with 1, two or three attempts and 4.5 s."""

RESERVED_KEYS = 64
"""Keys that one caller can reserve at a time."""

# --- attempts --------------------------------------------------------------------------------------------------------

MAX_ATTEMPTS = 8
"""Attempts before a conflict is reported as 409, unless ``@backend(max_attempts=)`` sets another number."""
