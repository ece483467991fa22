-- What the servers beside `kontract serve` use: plain tables, as one would write them for these four calls.
CREATE TABLE tasks (
  id         TEXT COLLATE "C" PRIMARY KEY,
  title      TEXT    NOT NULL,
  done       BOOLEAN NOT NULL DEFAULT false,
  created_by TEXT    NOT NULL
);
CREATE TABLE accounts (
  id      TEXT COLLATE "C" PRIMARY KEY,
  balance BIGINT NOT NULL CHECK (balance >= 0)
);
