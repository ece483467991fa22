"""Finds mistakes in wrangler.toml that wrangler itself accepts: (what is wrong, what to do)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_OLDEST_DATE = "2026-09-08"
_FLAGS = ("python_workers", "nodejs_compat", "enable_request_signal")
_PATHS = (
    *("/call/*", "/rpc/*", "/auth/*", "/raystream/*", "/.well-known/*", "/stream", "/stream/*", "/health", "/ready"),
    "/openapi.json",
)
_SECRETS = ("KONTRACT_SECRET", "KONTRACT_SECRET_PREVIOUS", "DATABASE_URL")
_OBJECT = "KontractSessionDO"


def pitfalls(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Look at the parsed file."""
    date = str(settings.get("compatibility_date", ""))
    if date < _OLDEST_DATE:
        yield (
            f"compatibility_date is {date or 'missing'}",
            f"Set it to {_OLDEST_DATE} or later: it selects the Python version.",
        )
    missing = [flag for flag in _FLAGS if flag not in settings.get("compatibility_flags", [])]
    if missing:
        yield (
            f"compatibility_flags lack {', '.join(missing)}",
            "Add them: the Worker does not work correctly without them.",
        )
    if not settings.get("build", {}).get("command"):
        yield "there is no [build] command", 'Add command = "make --silent build": it compiles the route table.'
    classes = [name for step in settings.get("migrations", []) for name in step.get("new_sqlite_classes", [])]
    if _OBJECT not in classes:
        yield f"no migration has {_OBJECT} in new_sqlite_classes", "Add it there: the journal needs SQLite."
    if "assets" in settings:
        first = settings["assets"].get("run_worker_first", [])
        hidden = [] if first is True else [path for path in _PATHS if path not in (first or [])]
        if hidden:
            yield (
                f"run_worker_first lacks {', '.join(hidden)}",
                "Add them: otherwise a file of that name hides the Worker's path.",
            )
    for name, section in {"(top level)": settings, **settings.get("env", {})}.items():
        variables = section.get("vars", {})
        for secret in _SECRETS:
            if secret in variables:
                yield (
                    f"{secret} is in [vars] of {name}",
                    f"Remove it, make a new secret, and run: wrangler secret put {secret}",
                )
        if "KONTRACT_SHOW_ERRORS" in variables:
            yield (
                f"KONTRACT_SHOW_ERRORS is in [vars] of {name}",
                "Remove it: callers would see the text of exceptions. `make dev` sets it itself.",
            )
        if "*" in str(variables.get("KONTRACT_CORS_ORIGINS", "")):
            yield f"KONTRACT_CORS_ORIGINS of {name} has a *", "List each origin: the gateway does not start with a *."
