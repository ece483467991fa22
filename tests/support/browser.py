"""A headless Chromium, driven over the DevTools protocol through a pipe: real keys, real clicks, a real network stack.

No driver program and no package: the browser reads commands from file descriptor 3 and writes to 4, each a JSON text
that ends with NUL (``--remote-debugging-pipe``).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kontract.cli.toolchain.processes import stop_group
from kontract.cli.toolchain.reaper import Reaper

SECONDS = 120.0  # for anything that happens by itself: a busy machine gets its time

# Whatever the browser wants of the world besides the tests' own servers, it does not find.
ALONE = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server")
QUIET = (
    *("--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--disable-default-apps", "--disable-extensions", "--disable-breakpad"),
    *("--disable-search-engine-choice-screen", "--disable-features=Translate,OptimizationHints,MediaRouter"),
)
# Tabs in the background work like the one in front: a test looks at both.
AWAKE = (
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
    "--disable-backgrounding-occluded-windows",
)

# Gives the browser its descriptors, wherever this process has the ends of the pipes.
_DESCRIPTORS = """\
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Space": (32, " "),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
}

# Looks where an element is, and lets the next click through if it arrives there. Pages move while one aims: what would
# hit something else is swallowed, so that it can be tried again without having done anything.
_AIM = """(() => {
    const element = document.querySelector(%s);
    element?.scrollIntoView({ block: "center", behavior: "instant" });
    const { x, y, width, height } = element?.getBoundingClientRect() ?? {};
    const [left, top] = [x + width / 2, y + height / 2];
    if (!element?.contains(document.elementFromPoint(left, top))) return null;
    const events = ["pointerdown", "mousedown", "pointerup", "mouseup", "click"];
    const aim = { hit: false, off: () => events.forEach((type) => removeEventListener(type, see, true)) };
    const see = (event) => {
        if (!element.contains(event.target)) {
            event.preventDefault();
            event.stopImmediatePropagation();
        } else if (event.type === "click") {
            aim.hit = true;
            aim.off();
        }
    };
    for (const type of events) addEventListener(type, see, true);
    window.aim = aim;
    return [left, top];
})()"""

# Whether it arrived. Where nothing is known of it the click has led to another page.
_HIT = "(() => { const { aim } = window; aim?.off(); delete window.aim; return aim?.hit ?? true; })()"


class PageError(AssertionError):
    """What a page threw."""


class Browser:
    """One running browser. Tabs of one `context` share what is stored; those of another have nothing in common."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self._writing = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="chromium", daemon=True)
        self._reader.start()

    @classmethod
    @contextmanager
    def started(cls, program: str, folder: Path, reaper: Reaper) -> Iterator[Browser]:
        """Start `program` with a profile in `folder`; stopped at the end."""
        to_browser, commands = os.pipe()
        answers, from_browser = os.pipe()
        unsafe = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox needs another user than root
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _DESCRIPTORS, str(to_browser), str(from_browser), program),
                *("--headless", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--disable-dev-shm-usage"),
                *("--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en"),
                *(*ALONE, *QUIET, *AWAKE, *unsafe),
            ],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        reaper.watch_group(process.pid)
        os.close(to_browser)
        os.close(from_browser)
        browser = cls(commands, answers)
        try:
            yield browser
        finally:
            os.close(commands)  # without anybody to command it, it ends by itself
            stop_group(process.pid, grace=5)
            process.wait()
            browser._reader.join(5)
            os.close(answers)

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Give a command and return its result."""
        number = next(self._numbers)
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._waiting[number] = answer
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        with self._writing:
            while data:
                data = data[os.write(self._commands, data) :]
        try:
            got = answer.get(timeout=SECONDS)
        except queue.Empty:
            raise AssertionError(f"the browser did not answer {method} within {SECONDS} s") from None
        if "error" in got:
            raise AssertionError(f"{method}: {got['error']}")
        result: dict[str, Any] = got["result"]
        return result

    def new_context(self) -> str:
        """A place for tabs that share cookies and storage with each other alone."""
        return str(self.send("Target.createBrowserContext")["browserContextId"])

    @contextmanager
    def tab(self, context: str, url: str = "about:blank", *, width: int = 1280, height: int = 900) -> Iterator[Tab]:
        """A tab that shows `url`."""
        target = str(self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"])
        session = str(self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        tab = Tab(self, session)
        self._listeners[session] = tab.take
        try:
            tab.prepare(width, height)
            if url != "about:blank":
                tab.go(url)
            yield tab
        finally:
            self._listeners.pop(session)
            self.send("Target.closeTarget", targetId=target)

    def _read(self) -> None:
        rest = b""
        while chunk := os.read(self._answers, 1 << 16):
            *messages, rest = (rest + chunk).split(b"\0")
            for text in messages:
                message = json.loads(text)
                waiting = self._waiting.pop(message.get("id", 0), None)
                listener = self._listeners.get(message.get("sessionId", ""))
                if waiting is not None:
                    waiting.put(message)
                elif listener is not None and "method" in message:
                    listener(message["method"], message["params"])


class Tab:
    """One tab. `console`: what was reported as warning or error; `requests`: every URL that was asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.console: list[str] = []
        self.requests: list[str] = []
        self.responses: dict[str, dict[str, Any]] = {}
        self.bytes = 0
        self._held: queue.SimpleQueue[str] = queue.SimpleQueue()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **params)

    def prepare(self, width: int, height: int) -> None:
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)  # each tab believes to be the one in front
        self.size(width, height)

    def take(self, method: str, params: dict[str, Any]) -> None:
        """Note an event of the browser; called in its reader's thread."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Network.responseReceived":
            self.responses[params["response"]["url"]] = params["response"]
        elif method == "Fetch.requestPaused":
            self._held.put(params["requestId"])
        elif method == "Network.loadingFinished":
            self.bytes += int(params["encodedDataLength"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("warning", "error", "assert"):
            self.console.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(_thrown(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
            self.console.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    # --- looking -----------------------------------------------------------------------------------------------------

    def go(self, url: str) -> None:
        """Load a page and wait until its load event."""
        answer = self.send("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, or what its promise resolves to; PageError if it throws."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise PageError(f"{script}: {_thrown(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = SECONDS) -> None:
        """Wait until an expression is truthy."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except PageError:
                pass  # between two pages
            if time.monotonic() > end:
                text = self.run("document.body?.innerText ?? ''")
                raise AssertionError(f"not within {seconds} s: {condition}\n{self.console}\n{text[:3000]}")
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def texts(self, selector: str) -> list[str]:
        return list(self.run(f"Array.from(document.querySelectorAll({json.dumps(selector)}), (one) => one.innerText)"))

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """For a person to look at; kept nowhere else."""
        self.send("Page.bringToFront")  # another tab is not drawn
        got = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(got["data"]))

    def accessible(self) -> list[dict[str, Any]]:
        """What the browser tells a screen reader: every node that is not ignored, with role, name and properties."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": node["role"]["value"],
                "name": node.get("name", {}).get("value", ""),
                **{one["name"]: one["value"].get("value") for one in node.get("properties", [])},
            }
            for node in nodes
            if not node["ignored"]
        ]

    # --- doing -------------------------------------------------------------------------------------------------------

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse, where a person would have to see it."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = self.run(_AIM % json.dumps(selector))
            if found is not None:
                where = {"x": found[0], "y": found[1], "button": "left", "clickCount": 1}
                for kind in ("mousePressed", "mouseReleased"):
                    self.send("Input.dispatchMouseEvent", type=kind, **where)
                if self.run(_HIT):
                    return
            time.sleep(0.02)
        raise AssertionError(f"within {SECONDS} s nobody could click {selector}")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key of KEYS."""
        code, text = KEYS[key]
        common = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        common |= {"modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    # --- being elsewhere ---------------------------------------------------------------------------------------------

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefer(self, **features: str) -> None:
        """What the user has chosen, for example ``prefers_color_scheme="dark"``."""
        chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", features=chosen)

    def block(self, *patterns: str) -> None:
        """Let no new request to these URLs through; without any, all of them."""
        self.send("Network.setBlockedURLs", urls=list(patterns))

    @contextmanager
    def holding(self, pattern: str) -> Iterator[Callable[[], None]]:
        """Keep answers from these URLs back until the end, as a slow network does.

        What it gives waits for the next of them: the server has answered then, and the page does not know.
        """
        held: list[str] = []

        def one_is_held() -> None:
            held.append(self._held.get(timeout=SECONDS))

        self.send("Fetch.enable", patterns=[{"urlPattern": pattern, "requestStage": "Response"}])
        try:
            yield one_is_held
        finally:
            self.send("Fetch.disable")  # lets all of them go on


def _thrown(details: dict[str, Any]) -> str:
    exception = details.get("exception", {})
    return str(exception.get("description") or exception.get("value") or details["text"])
