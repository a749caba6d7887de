"""A headless Chromium driven over its own pipe: no driver, no package, no network."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
FLAGS += ["--remote-debugging-pipe"]
#: The browser reads commands from descriptor 3 and answers on 4.
PIPE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
    "os.execv(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    """The browser of ``FLAG_ST_CHROMIUM``, or the first on the path."""
    wanted = os.environ.get("FLAG_ST_CHROMIUM")
    return shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, NAMES)), None)


def _above_9(end: int) -> int:
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved


class Page:
    """One tab; ``requests`` and ``errors`` hold all that it asked for and complained of."""

    def __init__(self, binary: str, width: int = 1280, height: int = 800, **media: str):
        # Above 9, so that putting them where the browser looks cannot overwrite one of them.
        commands, self._out, self._in, answers = map(_above_9, (*os.pipe(), *os.pipe()))
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        launcher = [sys.executable, "-c", PIPE, str(commands), str(answers)]
        self._process = subprocess.Popen(
            [*launcher, binary, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._number, self._waiting = 0, b""
        self._session = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{domain}.enable")
        self.resize(width, height)
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self._send("Emulation.setEmulatedMedia", features=features)

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _send(self, method: str, **params):
        self._number += 1
        call = {"id": self._number, "method": method, "params": params}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._out, json.dumps(call).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == call["id"]:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _read(self) -> dict:
        while b"\0" not in self._waiting:
            block = os.read(self._in, 1 << 16)
            if not block:
                raise RuntimeError("the browser ended")
            self._waiting += block
        message, _, self._waiting = self._waiting.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        name, params = event.get("method"), event.get("params", {})
        if name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["exception"].get("description", "?"))
        elif name == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._send("Emulation.setDeviceMetricsOverride", **size, mobile=mobile)

    def open(self, path: str | Path) -> None:
        self._send("Page.navigate", url=Path(path).resolve().as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def run(self, script: str):
        """The value of a JavaScript expression."""
        call = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._send("Runtime.evaluate", **call)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.05)

    def key(self, key: str, code: str = "") -> None:
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if kind == "keyDown" and text else {}
            self._send("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, **extra)

    def mouse(self, kind: str, x: float, y: float, **more) -> None:
        """``kind``: mouseMoved, mousePressed, mouseReleased or mouseWheel."""
        self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path: str | Path) -> None:
        content = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(content["data"]))
