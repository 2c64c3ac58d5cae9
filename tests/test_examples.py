"Each command of the page “Detection from the outside”, taken from there and run against a service of its own: what it prints is what the page shows."
import json, os, re, shlex, shutil, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
if not shutil.which("curl") or not shutil.which("bash"): pytest.skip("needs curl and bash", allow_module_level=True)

PAGE = Path(__file__).parents[1]/"nbs"/"serve"/"48_examples.ipynb"
CELLS = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
CHANGES = ("uptime_s", "version", "digest", "title", "streams") # with the clock, with each release, with Python, with the canary


@dataclass
class Block:
    section:str
    language:str
    text:str
    shown:str = "" # Below it
    @property
    def starts(self): return "wakekit serve" in self.text

def blocks():
    "What is between fences, with its section; plain and JSON blocks belong to the one above"
    found, section = [], ""
    for m in re.finditer(r"^##? ([^\n]+)$|^```(\w*)\n(.*?)^```$", "\n\n".join("".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown"), re.M | re.S):
        if m[1]: section = m[1]
        elif m[2] in ("", "json"): found[-1].shown = m[3]
        else: found.append(Block(section, m[2], m[3].strip()))
    return found

def block(language): return next(b for b in blocks() if b.language == language)

COMMANDS = [b for b in blocks() if b.language == "sh" and not b.starts and not b.text.startswith("api=")]


class Place:
    "A folder with what the page makes, and its services"
    def __init__(self, root):
        self.root, self.processes, self.addresses = root, [], {}
        (root/"bin").mkdir()
        self.script("python3", f"exec {shlex.quote(sys.executable)} \"$@\"")
        self.script("wakekit", f"exec {shlex.quote(sys.executable)} -c 'import sys; from wakekit.cli import main; sys.exit(main())' \"$@\"")
        self.script("arecord", "exec tail -c +45 evening.wav") # a microphone that hears the recording
        self.env = {**{k: v for k, v in os.environ.items() if not k.startswith("WAKE")}, "PATH": f"{root/'bin'}{os.pathsep}{os.environ['PATH']}", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
        (root/".env").touch()
        code = "\n".join(s for c in CELLS if c["cell_type"] == "code" and "#| hide" not in (s := "".join(c["source"])))
        subprocess.run([sys.executable, "-c", code], cwd=root, env=self.env, check=True, timeout=300)
    def script(self, name, text):
        (self.root/"bin"/name).write_text(f"#!/bin/sh\n{text}\n")
        (self.root/"bin"/name).chmod(0o755)
    def serve(self, b):
        "Start a service as the page does, but for its port"
        log = self.root/f"log{len(self.processes)}.txt"
        with open(log, "wb") as f: self.processes.append(p := subprocess.Popen(["bash", "-c", f"{b.text.replace('--host 0.0.0.0', '--host 127.0.0.1').replace('wakekit serve', 'exec wakekit serve')} --port 0"], cwd=self.root, env=self.env, stdout=f, stderr=f))
        until = time.monotonic() + 120
        while not (m := re.search(r"(http://\S+)/docs", log.read_text())):
            assert p.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(.05)
        self.addresses[b.section] = m[1]
    def address(self, section): return self.addresses.get(section, self.addresses["Start it"])
    def here(self, text, section):
        "A text of the page, for the service of its section"
        address = self.address(section)
        return text.replace("ws://127.0.0.1:8000", address.replace("http", "ws")).replace("http://127.0.0.1:8000", address)
    def run(self, b, *before):
        (self.root/"listen.py").write_text(self.here(block("python").text, b.section), encoding="utf-8")
        done = subprocess.run(["bash", "-uo", "pipefail", "-c", self.here("\n".join((f"api={self.address(b.section)}", *before, b.text)), b.section)], cwd=self.root, env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 or "grep" in b.text, f"{b.text}\n{done.stdout}\n{done.stderr}" # grep says 1 of what it does not find
        return done.stdout

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("hall"))
    try:
        for b in blocks():
            if b.starts: place.serve(b)
        yield place
    finally:
        for p in place.processes: p.terminate()
        ends = [p.wait(60) for p in place.processes]
    logs = "".join(p.read_text() for p in place.root.glob("log*.txt"))
    assert set(ends) <= {0, -15} and "Traceback" not in logs, logs


def agree(shown, got, key=""):
    "Is what the page shows still so? An answer may have more in it"
    if isinstance(shown, dict): return isinstance(got, dict) and all(k in got and agree(v, got[k], k) for k, v in shown.items())
    if isinstance(shown, list): return isinstance(got, list) and len(shown) == len(got) and all(map(agree, shown, got))
    if key in CHANGES: return type(shown) is type(got)
    return shown == got if not isinstance(shown, float) else isinstance(got, float) and abs(shown - got) <= .011

def objects(text): return [json.loads(m[0]) for l in text.splitlines() if (m := re.search(r"\{.*\}", l))]


def test_there_are_examples_of_everything():
    text = "".join(b.text for b in COMMANDS)
    assert len(COMMANDS) >= 14 and all(route in text for route in ("$api/detect", "$api/models", "$api/health", "$api/ready", "$api/metrics", "$api/ws/ticket", "/detect/stream", "listen.py"))
    assert sum(b.starts for b in blocks()) == 2 and {b.language for b in blocks()} == {"sh", "python", "js"}


@pytest.mark.parametrize("b", COMMANDS, ids=[f"{b.section}-{i}" for i, b in enumerate(COMMANDS)])
def test_a_command_does_what_the_page_shows(place, b):
    before = ["curl -sf -o /dev/null -F file=@evening.wav $api/detect"] if "/metrics" in b.text else [] # so that there is something to count
    got = place.run(b, *before)
    if "arecord" in b.text: assert [m["time_s"] for m in objects(got) if m["type"] == "event"] == [1.3, 3.8], got
    elif "/metrics" in b.text: assert re.sub(r"[\d.]+$", "", b.shown.strip()) == re.sub(r"[\d.]+$", "", got.strip()), got
    elif b.shown.startswith("{"):
        shown = [json.loads(b.shown)] if b.shown.count("\n{") == 0 else objects(b.shown)
        assert agree(shown, objects(got)), got
    else: assert got == b.shown != "", got


def test_the_lines_of_the_page_in_a_browser(place):
    "By node, whose socket is that of browsers"
    node = [shutil.which("node") or "node", "--experimental-websocket"]
    try: subprocess.run([*node, "-e", "WebSocket"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError): pytest.skip("needs node with WebSocket")
    b, ticket = block("js"), next(b for b in COMMANDS if "ticket=$(" in b.text)
    got = place.run(Block(ticket.section, "sh", ticket.text.splitlines()[0] + "\necho $ticket"))
    before = f"const [address, rate, ticket] = [{place.address(b.section).replace('http', 'ws')!r}, 16000, {got.strip()!r}]\n"
    after = """
const pcm = new Int16Array((await import("node:fs")).readFileSync("evening.wav").buffer.slice(44))
socket.onopen = () => {
  for (let i = 0; i < pcm.length; i += 128) send(Float32Array.from(pcm.subarray(i, i + 128), v => v/32768))
  socket.send('{"type": "end"}')
}
"""
    (place.root/"page.mjs").write_text(before + b.text + after, encoding="utf-8")
    done = subprocess.run([*node, "--no-warnings", "page.mjs"], cwd=place.root, capture_output=True, text=True, timeout=120)
    assert done.stdout == b.shown, done.stdout + done.stderr
