"""Every limit of the system, each with its unit and its reason."""

from __future__ import annotations

# --- what a caller may send ------------------------------------------------------------------------------------------

BODY_BYTES = 1024 * 1024
"""Bytes of a request body. A backend function takes arguments, not files; an isolate has 128 MB for all requests."""

BODIES_BYTES = 64 * 1024 * 1024
"""Bytes of all bodies that a server process receives at the same time; who sends slowly keeps its part for 30 s."""

BODIES_PER_ADDRESS_BYTES = 16 * 1024 * 1024
"""The same for one network address. Behind a proxy that is not named in KONTRACT_TRUSTED_PROXIES all share one."""

HEAD_BYTES = 64 * 1024
"""Bytes of a request's head at ``kontract serve``, and what is read ahead of its body. Proxies take 8 to 32 KiB."""

JSON_DEPTH = 32
"""Nesting of arrays and objects in arguments and rows. Deeper data is a mistake or an attack on recursive code."""

JSON_VALUES = 16_000
"""Values in one JSON text from outside, with those in arrays and objects. Each costs time and memory as long as it is
there: more could keep a process from answering others for over 50 ms (decision 0024)."""

JSON_UNUSUAL_NUMBERS = 1_000
"""Numbers in one JSON text from outside that take longer than others: with an exponent of three digits, and, where no
type is declared, with more digits than a float holds. Each takes up to 20 microseconds until it is stored."""

QUERY_FIELDS = 1_000
"""Parameters of a request's query, for the same reason."""

FUNCTION_NAME_LENGTH = 128
"""Characters of a function's name in a URL; longer ones are refused before any look-up."""

KEY_LENGTH = 255
"""Characters of an Idempotency-Key, at most."""

PUBLIC_KEY_LEAST = 32
"""Characters of an Idempotency-Key that comes without a token: 128 random bits in hexadecimal, so nobody guesses it."""

# --- what a function may answer --------------------------------------------------------------------------------------

HANDLER_HEADERS = 16
"""Headers that a function adds to its answer. There is no need for more than a few."""

HEADER_BYTES = 4_096
"""Bytes of a header's value in an answer, or inside raystream: a redirect's address is the longest."""

ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of a function's answer, encoded: all that a transaction may read, if it answers with it."""

ERROR_MESSAGE = 1_000
"""Characters of an error's sentence; the rest is cut off. Some repeat what a caller sent, and go into the log, too."""

# --- what a transaction may hold -------------------------------------------------------------------------------------

WRITE_SET_BYTES = 1_000_000
"""Bytes of all new row values of a transaction, encoded. It travels to the coordinator, its journal and PostgreSQL."""

NUMBER_DIGITS = 400
"""Digits of a number in JSON from outside, and of one that is stored, without its exponent: a few bytes like 1e999999
must not become a megabyte, and the time that an integer takes grows with the square of its digits. A float has at most
325 before or after the point, an integer of 256 bits 78."""

FILTER_VALUES = 100
"""Values in the filter of a query: PostgreSQL and the coordinator compare each with what the rows hold."""

READ_SET_ROWS = 16_000
"""Rows a transaction may read. Each id is sent to the coordinator and kept until validation."""

QUERY_ROWS = 1_000
"""Rows fetched by one SQL statement of a query; longer iterations fetch page after page."""

PAGE_BYTES = 2 * 1024 * 1024
"""Bytes of the rows that one SQL statement of a query returns, as PostgreSQL writes them; the next page has the others.
A row of WRITE_SET_BYTES fits, which PostgreSQL writes with spaces; one that does not, cannot be read."""

READ_BYTES = 8 * 1024 * 1024
"""Bytes of all rows that a transaction reads. They are there as text, as values and as an answer at the same time, and
an isolate has 128 MB for all requests. READ_SET_ROWS of a few hundred bytes each fit."""

READS_AT_ONCE = 4
"""Statements of one function that read at the same time, as under asyncio.gather. Each takes one of the few connections
of a process, and brings up to PAGE_BYTES; of ``exec``, which brings up to READ_BYTES, one runs at a time."""

SELECT_LENGTH = 10_000
"""Characters of an ``exec`` SELECT. It is written by people; values go into parameters."""

SELECT_TOKENS = 1_000
"""Its words and signs: the parser takes some 10 microseconds for each."""

SELECT_DEPTH = 40
"""Its nesting of brackets, operators and subqueries. Parser and writer recurse."""

SELECT_TABLES = 4
"""How often it may name its table: each time multiplies the work of a join."""

SELECT_BYTES = READ_BYTES
"""Bytes of the rows that one gives, and of what each of its string_agg, array_agg, jsonb_agg and jsonb_object_agg takes
in, with 32 for every value. PostgreSQL counts while it works and stops there."""

SELECT_VALUE_BYTES = 32 * 1024 * 1024
"""Bytes that one value in it may have, reckoned before it runs from how often it repeats parameters and fields: four
times what may be answered, because much is made smaller again."""

SELECT_PARAMS = 100
"""Its parameters."""

ROW_ID_BYTES = 512
"""Bytes of a row id. PostgreSQL's B-tree entries end at 2,704 bytes; ids are repeated in every index and event."""

# --- time, in milliseconds -------------------------------------------------------------------------------------------

TRANSACTION_MS = 10_000
"""All attempts of one call together. Callers wait for the answer; the lease below must outlast it."""

LEASE_MS = 30_000
"""How long a snapshot that was handed out is taken to be in use. Three times TRANSACTION_MS, for slow clocks."""

STATEMENT_MS = 5_000
"""statement_timeout of the apply statement and of the resolver: an apply is either quick or stuck on a lock."""

APPLY_DEADLINE_MS = 8_000
"""A prepared transaction older than this is in doubt whoever waits: STATEMENT_MS plus connection and network time."""

WAITERS_PATIENCE_MS = 250
"""How long somebody waits for an unfinished transaction before its fence is read."""

RESOLVE_RETRY_MS = 1_000
"""Pause before the fence is asked again after the database could not be reached."""

VISIBILITY_WAIT_MS = 2_000
"""How long a begin is held back until a transaction it asked for is visible; then it starts with what there is."""

RESERVATION_MS = 2_000
"""How long contested keys stay reserved for one caller once it is first in line."""

EPOCH_TRUST_MS = 60_000
"""How long a coordinator that was in charge hands out snapshots before it asks for the epoch again."""
# With a lease on top it is far below RETENTION_MS, so that nobody reads at a snapshot of which another coordinator has
# collected versions.

RETENTION_MS = 600_000
"""How long a dead version is kept at least, for slow readers and for history."""

FENCE_RETENTION_MS = 86_400_000
"""How long fences, and with them idempotency keys and their results, are kept: 24 hours."""

CLIENT_KEY_MS = 600_000
"""How long a client repeats a call by itself, under a key that it made for it: the clients give up within a minute.
Only in this time after it lost its journal must a coordinator have the fence of such a call asked for."""

COLLECT_ROWS = 1_000
"""Rows removed by one statement of the collection: a few milliseconds, far below STATEMENT_MS."""

COLLECT_STATEMENTS = 100
"""Such statements in a row. Then the collection rests for COLLECT_PAUSE_MS, so that it never keeps an object busy."""

COLLECT_PAUSE_MS = 10_000
"""Rest of the collection when there is more to remove, or after the database did not answer."""

BACKOFF_FIRST_MS = 5
"""First pause before a conflicting handler runs again; doubled each time, jittered over its full length."""

BACKOFF_LAST_MS = 320
"""The longest such pause: with 8 attempts all pauses together stay far below TRANSACTION_MS."""

POINTER_CACHE_MS = 10_000
"""How long a table's pointer and kind are trusted without asking; apply fails safely on an outdated one."""

# --- sessions --------------------------------------------------------------------------------------------------------

ACCESS_SECONDS = 3_600
"""How long an access token is valid. What was ended is refused at once all the same: the coordinator knows."""

REFRESH_SECONDS = 2_592_000
"""How long a refresh token is valid: 30 days without a visit end a session."""

REFRESH_GRACE_MS = 60_000
"""How long the refresh token before the newest is accepted from the same address: its answer may have been lost."""

TOKEN_BYTES = 4_096
"""Characters of a token; a longer one is refused unread. Servers and proxies take headers of 8 KiB."""

TOKEN_LEEWAY_SECONDS = 60
"""How far in the future a token may have been issued: clocks of two machines differ."""

TOKENS_REMEMBERED = 1_000
"""Verified tokens that an isolate remembers, and headers with one, so that a session's next request need not verify
again."""

SESSION_TRUST_MS = 5_000
"""How long a process believes that a session has not been ended, from its last question to the coordinator on. So long
may a session that another node has ended go on to run functions that touch no table: short enough for a logout, long
enough that a page which makes several calls asks once."""

SESSIONS_REMEMBERED = 10_000
"""Sessions of which a process remembers that; some 2 MB of the 128 that an isolate has."""

ENDED_SESSIONS = 10_000
"""Ended sessions that a coordinator without a journal reads back from the database, the longest lasting first: those of
an hour of a busy tenant."""

TIDY_MS = 3_600_000
"""How often a process removes sessions whose refresh tokens have expired, when somebody logs in or out at all."""

GROUPS = 32
"""Groups of one account; they travel in every token."""

NAME_LENGTH = 254
"""Characters of an account's name: an e-mail address fits."""

PASSWORD_LEAST = 10
"""Characters of the shortest password. NIST SP 800-63B asks for 8; online guessing is throttled as well."""

PASSWORD_BYTES = 1_024
"""Bytes of the longest password. scrypt takes any, but reads all of it."""

HASHES_WAITING = 4
"""Logins and sign-ups that may wait for each one whose password is being hashed, which takes a third of a second."""

HASH_LOST_MS = 15_000
"""After this a login that was not heard of was dropped by the platform: TRANSACTION_MS and a hash take less."""

LOGIN_WINDOW_SECONDS = 900
"""Window of the limits below, from the first attempt on."""

LOGINS_PER_PAIR = 10
"""Attempts to log in to one account from one address in a window."""

LOGINS_PER_ACCOUNT = 100
"""Attempts for one account from everywhere. Beyond it addresses that have logged in to it before go on, each within
LOGINS_PER_PAIR, and others have LOGINS_PER_ACCOUNT_FRESH."""

LOGINS_PER_ACCOUNT_FRESH = 100
"""First attempts of addresses that are new to an account, when the others are used up: strangers do not lock it for its
owner who is in a new place, unless they have so many networks themselves."""

KNOWN_PLACES = 8
"""Addresses from which an account was logged in to last, kept as keyed digests: home, work, telephone, and changes."""

LOGINS_PER_ADDRESS = 200
"""Attempts from one address for all accounts: a school or an office may share one."""

SIGN_UPS_PER_ADDRESS = 200
"""New anonymous sessions from one address in a window, and as many new accounts. Not counted in local development."""

LINKS_PER_SESSION = 10
"""Attempts to give one anonymous session an account in a window: names may be taken."""

# --- raystream --------------------------------------------------------------------------------------------------------

RAYSTREAM_HELLO_BYTES = 16 + 1 + 32 + TOKEN_BYTES + 16
"""Bytes of a handshake's first message: frame header, suite, ephemeral key, token, tag."""

RAYSTREAM_TICKET_BYTES = 8_192
"""Bytes of a ticket: it travels with each request. Some 250 are usual; the rest is for callers with many groups."""

RAYSTREAM_TICKET_MS = 3_600_000
"""How long a ticket is good at most: an hour. Whoever gets hold of a client's session keys has them no longer."""

RAYSTREAM_FRESH_MS = 30_000
"""How far a request's time may be from the server's: slow networks and clocks, against requests recorded and replayed
when they do something else than they did."""

RAYSTREAM_HEADERS = 32
"""Headers inside a sealed request or response: HANDLER_HEADERS and those of the gateway."""

RAYSTREAM_REQUEST_BYTES = BODY_BYTES + RAYSTREAM_TICKET_BYTES + 64 * 1024
"""Bytes of a sealed request: the body's limit holds for what is inside, so what is around it comes on top."""

# --- shared state ----------------------------------------------------------------------------------------------------

SHARED_KEY_BYTES = 512
"""Bytes of a key of ``ctx.shared``."""

SHARED_VALUE_BYTES = 65_536
"""Bytes of a value of ``ctx.shared``, as JSON: it is for counters, flags and small caches, not for documents."""

SHARED_KEYS = 100_000
"""Values one owner may have in ``ctx.shared``: some megabytes at their usual size."""

SHARED_COUNTERS = 100_000
"""Counters of throttles and rate limits of one owner, beside those values. A full room forgets the lowest of them."""

LOCAL_COUNTERS = 10_000
"""Such counters in the memory of one process, for as long as the shared ones do not answer."""

COUNT_MS = 2_000
"""How long a shared counter may take to answer. Then the process counts by itself: a limit must not hold up the calls
that it protects."""

COUNT_WARNING_MS = 60_000
"""How often a process says in its log that it counts by itself."""

SHARED_TTL_SECONDS = 31_536_000
"""The longest time to live: a year. Without one a value stays."""

SHARED_EXPIRY_MS = 60_000
"""How often values that have ended are removed, when there are requests at all. They are invisible before that."""

SHARED_INTEGER = 2**53
"""Bound of counters: integers stay exact in every language that reads them."""

# --- the coordinator -------------------------------------------------------------------------------------------------

PREPARED = 64
"""Prepared, unfinished transactions per owner. Beyond it prepare answers busy: more would only wait for each other."""

BUSY_RETRY_SECONDS = 1
"""``Retry-After`` when the coordinator stayed busy for a whole TRANSACTION_MS."""

TXID_BLOCK = 1_024
"""Txids reserved by one journal entry, so that a lost journal tail cannot lead to a txid given twice."""

ORDER_BLOCK = 64
"""Numbers of a table's rows reserved by one journal entry: few entries, and few numbers lost with each restart, because
a ``SERIAL`` column has 2,147,483,647 in all."""

WRITE_LOG_TRANSACTIONS = 10_000
"""Finished transactions kept for validation. An older snapshot is answered SNAPSHOT_TOO_OLD and retried."""

WRITE_LOG_BYTES = 16 * 1024 * 1024
"""Bytes of new values kept for predicate checks, of the 128 MB an isolate has."""

EVENT_LOG_TRANSACTIONS = 10_000
"""Transactions whose change events stay in the journal for streams that resume."""

EVENT_LOG_MS = 3_600_000
"""How long they stay: one hour."""

EVENT_PAGE_TRANSACTIONS = 100
"""Transactions sent at a time to a stream that catches up; the next ones go when it asks, so it sets the pace."""

EVENT_PAGE_BYTES = 262_144
"""Bytes of records after which such a page ends."""

STREAMS_PER_USER = 64
"""Open streams of one user: a browser has six connections to a host, and some people have many tabs."""

STREAMS_PER_ADDRESS = 1_000
"""Open streams from one network address in a process: a school or an office may share one. Behind a proxy that is not
named in KONTRACT_TRUSTED_PROXIES all callers do."""

STREAMS = 10_000
"""Open streams of one owner. Cloudflare lets a Durable Object hold 32,768 WebSockets."""

STREAM_BACKLOG_BYTES = 1024 * 1024
"""What may wait for a client that reads slowly. Then its stream is cut; it comes back and resumes at its own pace."""

STREAM_BUFFERED_BYTES = 256 * 1024
"""What workerd may hold of what it was given for one WebSocket, beside that, before the stream waits: enough for a
client that reads to have something to read until it is looked again."""

STREAM_USER_BACKLOG_BYTES = 4 * 1024 * 1024
"""What may wait for all streams of one user in a process. An isolate has 128 MB."""

STREAM_ADDRESS_BACKLOG_BYTES = 16 * 1024 * 1024
"""What may wait for all streams from one network address in a process: several users may share one."""

STREAM_SHARE_BYTES = 32 * 1024
"""Bytes that may wait for one stream however much waits for others: those of a client that reads are never cut."""

STREAM_HEARTBEAT_MS = 15_000
"""How often a stream is sent a comment: proxies cut silent connections, often after 30 or 60 seconds. In workerd it is
the second one that fails after a client has left."""

STREAM_TABLES = 32
"""Tables of one stream."""

STREAM_NAMES_BYTES = 1_200
"""Bytes of the names of one stream's tables: they stand in the attachment of its WebSocket, which takes 2 KiB."""

STREAM_CHANGES_AT_ONCE = 8
"""Changes of its tables that a WebSocket may make at once, as a page does that is being built."""

STREAM_CHANGE_MS = 1_000
"""Between two changes in the long run; what comes sooner is made together. A change costs as much as a call."""

STREAM_MESSAGE_BYTES = 4_096
"""Bytes of a message that a client sends over a stream's WebSocket: a choice of STREAM_TABLES tables has 3,000."""

STREAM_MESSAGE_MS = 10_000
"""How long such a message may take from its first byte to its last: it fits into three packets."""

STREAM_FRAMES_AT_ONCE = 100
"""Frames that a client may send over a WebSocket at once; then it waits. Each costs some 10 microseconds."""

STREAM_FRAMES_PER_SECOND = 20
"""Frames that a client may send in the long run. Clients of good will send a ping in 20 seconds."""

STREAM_TICKET_SECONDS = 60
"""How long a ticket for EventSource may be used. It travels in a URL, and those are written into logs."""

CONFLICTS_BEFORE_RESERVING = 1
"""Conflicts in a row after which the contested keys are reserved for the caller. With 3, a hundred concurrent transfers
between ten rows needed 3 to 6 attempts each and 12 s on a busy machine; with 1, two or three attempts and 4.5 s."""

RESERVED_KEYS = 64
"""Keys one caller can have reserved at a time."""

# --- attempts --------------------------------------------------------------------------------------------------------

MAX_ATTEMPTS = 8
"""Runs of a handler before a conflict is reported as 409, unless ``@backend(max_attempts=)`` says otherwise."""
