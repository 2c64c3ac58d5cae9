"A real browser for tests: headless Chromium, driven over its DevTools protocol."
import base64, contextlib, itertools, json, shutil, subprocess, time
from pathlib import Path
import pytest

connect = pytest.importorskip("websockets.sync.client", reason="the browser is driven over a WebSocket").connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio", "--remote-debugging-port=0"]
MICROPHONE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
PATIENCE_S = 90 # for anything that a busy machine may take


class Page:
    "A page of a browser of its own"
    def __init__(self, folder, flags=(), width=800, dark=False):
        self.folder, self.n, self.requests, self.console, self.stack = folder, itertools.count(1), [], [], contextlib.ExitStack()
        self.process = subprocess.Popen([CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder}/profile", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port, path = self._until(lambda: (folder/"profile"/"DevToolsActivePort").read_text().split() if (folder/"profile"/"DevToolsActivePort").is_file() else [], lambda said: len(said) == 2)
            self.socket = self.stack.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=None, ping_interval=None))
            self.session = None
            target = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
            self.session = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
            for domain in "Page", "Runtime", "Network", "DOM": self(domain + ".enable")
            self("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)
            self.look(width, dark)
        except BaseException:
            self.close()
            raise

    def look(self, width, dark=False, height=1000):
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value="dark" if dark else "light")])

    def __call__(self, method, **params):
        "One call of the protocol"
        n = next(self.n)
        self.socket.send(json.dumps(dict(id=n, method=method, params=params) | ({"sessionId": self.session} if self.session else {})))
        while True:
            said = json.loads(self.socket.recv(timeout=PATIENCE_S))
            self._note(said)
            if said.get("id") == n:
                if "error" in said: raise RuntimeError(f"{method}: {said['error']['message']}")
                return said["result"]

    def _note(self, said):
        match said.get("method"):
            case "Network.requestWillBeSent": self.requests.append(said["params"]["request"]["url"])
            case "Target.attachedToTarget": # a worker: its requests count, too
                if said["params"]["targetInfo"]["type"] == "worker": self.socket.send(json.dumps(dict(id=next(self.n), method="Network.enable", params={}, sessionId=said["params"]["sessionId"])))
            case "Runtime.consoleAPICalled": self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in said["params"]["args"]))
            case "Runtime.exceptionThrown": self.console.append(said["params"]["exceptionDetails"].get("exception", {}).get("description", "exception"))

    def run(self, code):
        "The value of JavaScript in the page"
        r = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in r: raise RuntimeError(r["exceptionDetails"].get("exception", {}).get("description", r["exceptionDetails"]["text"]))
        return r["result"].get("value")

    def _until(self, what, ok=bool):
        end = time.monotonic() + PATIENCE_S
        while not ok(found := what()):
            assert time.monotonic() < end, f"nothing happened: {found!r}; {getattr(self, 'console', '')}"
            assert self.process.poll() is None, "the browser has ended"
            time.sleep(.05)
        return found
    def until(self, code): return self._until(lambda: self.run(code))

    def open(self, url, ready="document.readyState === 'complete'"):
        self("Page.navigate", url=url)
        return self.until(ready)

    def picture(self, path): Path(path).write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]))

    def close(self):
        with contextlib.suppress(Exception): self.stack.close()
        self.process.kill()
        self.process.wait()
