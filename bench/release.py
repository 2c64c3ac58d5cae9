"""Build a release, and try each way to install it where nothing else is installed.

    python bench/release.py                          everything, from the commit that is checked out; 26 minutes on two busy cores
    python bench/release.py --only runtime sdist     the wheel alone and the sdist, without any extra
    python bench/release.py --only --working-tree    only build and check the files, with changes that are not committed

The wheel and the sdist are built from `git archive HEAD` with the tools of release.txt, so that a file that nobody added to git is missed here and not by users.
Then each extra alone goes into a virtual environment outside of the repository, and does there what it is for. Beside the files: SHA256SUMS, and what was
installed, as CycloneDX: sbom-runtime.cdx.json and sbom-all.cdx.json. Standard library only; pip needs its usual index. Exit code 1 when anything failed.
"""
import argparse, contextlib, email, hashlib, json, os, random, re, shutil, signal, socket, subprocess, sys, tarfile, tempfile, threading, time, urllib.error, urllib.request, wave, zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME_MB = 120       # Mark for `pip install wakekit` on a device
OWN_MB = 36            # Of it what wakekit and all but numpy and onnxruntime may take; it was 32 when this was written
BIN, EXE = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
LICENCES = ("LICENSE", "wakekit/data/VOICES_LICENSES.md", "wakekit/ship/web/LICENSES.txt") # The chain that has to travel with the wheel
TINY = [f"--set={k}" for k in ("epochs=1", "steps_per_epoch=2", "warmup_steps=1", "batch.batch_size=32", "verifier.steps=2", "verifier.batch_size=8",
    "data.synthetic=40", "data.near_misses=10", "data.filler=24", "data.synthetic_rooms=2", "data.valid_voices=0.3", "data.test_voices=0.3")]


class Failed(Exception): "A step that did not do what it should; its message is for the table"


def run(*command, rc=0, timeout=900, **how):
    "A command; `Failed` with the end of what it said when it ends otherwise than with `rc`"
    try: p = subprocess.run([str(c) for c in command], capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=timeout, **{"stdin": subprocess.DEVNULL, **how} if "input" not in how else how)
    except subprocess.TimeoutExpired: raise Failed(f"{command[0]}: no end after {timeout} s") from None
    if p.returncode not in (rc if isinstance(rc, tuple) else (rc,)): raise Failed(f"{' '.join(map(str, command))}: exit code {p.returncode}\n{(p.stdout + p.stderr).strip()[-3000:]}")
    return p


def want(true, what):
    if not true: raise Failed(what)


# --- what it is called

def versions(root):
    "Where a version is written → that version"
    find = lambda name, pattern: (m := re.search(pattern, (root/name).read_text(encoding="utf-8"), re.M)) and m[1]
    return {"settings.ini": find("settings.ini", r"^version *= *(\S+)"), "wakekit/__init__.py": find("wakekit/__init__.py", r'^__version__ = "(.*)"'), "CHANGELOG.md": find("CHANGELOG.md", r"^## (\d[^,\s]*)")}


def changes(root):
    "(what follows the version in the newest heading of CHANGELOG.md, what is below it)"
    heading, text = re.split(r"^## ", (root/"CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)[1].split("\n", 1)
    return heading.partition(", ")[2], text.strip()


def check_tag(root, tag):
    "A tag is the version with a v in front, wherever that is written, and its changes have a date"
    for where, version in versions(root).items(): want(tag == f"v{version}", f"the tag is {tag}, and {where} says {version}")
    want(re.fullmatch(r"\d{4}-\d\d-\d\d", when := changes(root)[0]), f"CHANGELOG.md says {when!r} after the version: a release has a date there, such as 2026-12-24")


# --- what is built

def copy_source(to, working_tree=False):
    "The files of HEAD, or those of the working tree that git would take, into a folder"
    git = lambda *a: run("git", "-C", ROOT, *a).stdout
    if not working_tree:
        run("git", "-C", ROOT, "archive", "--format=tar", "-o", to.with_suffix(".tar"), "HEAD")
        with tarfile.open(to.with_suffix(".tar")) as t: t.extractall(to, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        return
    for name in filter(None, git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")):
        if not (ROOT/name).is_file(): continue # deleted, not committed
        (to/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/name, to/name)


def build(tools, source, out):
    "Wheel and sdist; the wheel is built from the sdist, as users of the sdist do"
    when = run("git", "-C", ROOT, "log", "-1", "--format=%ct").stdout.strip()
    p = run(tools/"python", "-m", "build", "--no-isolation", "--outdir", out, source, env={**os.environ, "SOURCE_DATE_EPOCH": when})
    want("SetuptoolsDeprecationWarning" not in p.stderr, f"setuptools warns: {p.stderr[-2000:]}")
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def check_files(tools, source, wheel, sdist):
    "Nothing missing, nothing too much, metadata that an index takes; what was checked"
    package = {p.relative_to(source).as_posix() for p in (source/"wakekit").rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"}
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
        texts = {n: z.read(n) for n in names if ".dist-info/" in n}
    inside = {n for n in names if ".dist-info/" not in n}
    want(inside == package, f"the wheel lacks {sorted(package - inside)[:5]} and has {sorted(inside - package)[:5]} too many")
    with tarfile.open(sdist) as t: packed = {m.name.partition("/")[2] for m in t.getmembers() if m.isfile()}
    needed = package | {"setup.py", "settings.ini", "README.md", "CHANGELOG.md", "constraints.txt", ".env.example", *LICENCES}
    want(needed <= packed, f"the sdist lacks {sorted(needed - packed)[:5]}")
    spare = {n.split("/")[0] for n in packed} - {"wakekit", "wakekit.egg-info", "PKG-INFO", "setup.cfg", "MANIFEST.in", *(n for n in needed if "/" not in n)}
    want(not spare, f"the sdist also holds {sorted(spare)}")
    for name in LICENCES: want(any(n.endswith(f".dist-info/licenses/{name}") for n in names), f"{name} is not among the licences of the wheel")
    entries = next(c for n, c in texts.items() if n.endswith("/entry_points.txt")).decode()
    want("wakekit = wakekit.cli:main" in entries and "wakekit-test = wakekit.testing:main" in entries, f"console scripts are missing: {entries}")
    run(tools/"twine", "check", "--strict", wheel, sdist)
    run(tools/"check-wheel-contents", "--ignore", "W002", wheel) # duplicates: licences that the package reads are among the licences, too
    return f"{len(package)} files of the package, {len(LICENCES)} licences; twine and check-wheel-contents have no complaint"


def metadata(wheel):
    "What the wheel says of itself, as a project.toml would"
    with zipfile.ZipFile(wheel) as z: m = email.message_from_bytes(z.read(next(n for n in z.namelist() if n.endswith(".dist-info/METADATA"))))
    return dict(name=m["Name"], version=m["Version"], description=m["Summary"], dependencies=[r for r in m.get_all("Requires-Dist") if "extra ==" not in r])


def checksums(out):
    files = sorted(p for p in out.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    (out/"SHA256SUMS").write_text("".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files), encoding="utf-8", newline="\n")


# --- where it is tried

class Place:
    "A virtual environment with a folder to work in, both outside of the repository, without pip: nothing is there but what was installed"
    def __init__(self, folder, tools, constraints):
        self.folder, self.tools, self.constraints, self.work = folder, tools, constraints, folder/"work"
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.python, self.bin = folder/BIN/f"python{EXE}", folder/BIN
        self.work.mkdir()
        (self.work/".env").touch() # the search for settings ends here
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WAKE", "PYTHON", "MLFLOW", "VIRTUAL_ENV"))}
        self.env = {**kept, "PATH": f"{self.bin}{os.pathsep}{kept.get('PATH', '')}", "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1", "WAKEKIT_DEVICE": "cpu", "MPLBACKEND": "agg"}
    def pip(self, *words): return run(self.tools/"python", "-m", "pip", "--python", self.python, *words, cwd=self.work)
    def install(self, file, extra):
        "The file itself by its path, so that no index can give another one of the same name"
        self.pip("install", "--quiet", *(["-c", self.constraints] if self.constraints else []), f"{file}[{extra}]" if extra else file)
        self.pip("check")
    def wakekit(self, *words, **how): return run(self.bin/f"wakekit{EXE}", *words, cwd=self.work, env=self.env, **how)
    def code(self, text, *words, **how): return run(self.python, "-c", text, *words, cwd=self.work, env=self.env, **how).stdout.strip()
    def packages(self):
        "Name → bytes in site-packages, byte code included; by what each distribution says it installed"
        return json.loads(self.code("import importlib.metadata as m, json\nprint(json.dumps({d.name: sum(f.locate().stat().st_size for f in d.files or () if f.locate().is_file()) for d in m.distributions()}))"))
    @contextlib.contextmanager
    def serving(self, *words, says=""):
        "A service, from the line with its address, which begins with `says`, until it is told to end; gives the address"
        said, ready, found = [], threading.Event(), []
        p = subprocess.Popen([self.bin/f"wakekit{EXE}", *words], cwd=self.work, env={**self.env, "PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace")
        def listen():
            for line in p.stdout:
                said.append(line)
                if not found and line.startswith(says) and (m := re.search(r"(?:http|tcp)://([\w.]+):(\d+)", line)): found.append((m[1], int(m[2]))), ready.set()
            ready.set()
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            want(ready.wait(120) and found, f"wakekit {' '.join(words)} names no address: {''.join(said)[-2000:]}")
            yield found[0]
        finally:
            p.terminate() if os.name == "nt" else p.send_signal(signal.SIGINT)
            try: p.wait(60)
            except subprocess.TimeoutExpired: p.kill()
            thread.join(60)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(address, path, body=None, headers={}):
    "Body of an answer of a service; it has to be a good one"
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", body, headers), timeout=120) as r: return r.read().decode(errors="replace")
    except urllib.error.HTTPError as e: raise Failed(f"{path}: {e.code} {e.read().decode(errors='replace')[:500]}") from None


def evening():
    "Three seconds as PCM, with a noise in the second one, for which the toy bundle wakes"
    rng, loud = random.Random(0), range(16_000, 20_000)
    return b"".join((rng.randint(-9000, 9000) if n in loud else rng.randint(-3, 3)).to_bytes(2, "little", signed=True) for n in range(48_000))


def recording(place):
    path = place.work/"evening.wav"
    with wave.open(str(path), "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(16_000)
        w.writeframes(evening())
    return path


def one_event(events):
    want(len(events) == 1 and 1 <= events[0]["time_s"] < 1.3, f"the toy bundle heard {events}")
    return f"woke at {events[0]['time_s']:.2f} s"


def doctor(place, *extras):
    "The doctor finds nothing wrong, and each of these extras whole"
    found = {c["name"]: c for c in json.loads(place.wakekit("doctor", "--json").stdout)["checks"]}
    for e in extras: want(found[f"packages [{e}]"]["status"] == "ok", f"doctor says of [{e}]: {found[f'packages [{e}]']}")
    return f"doctor: {sum(c['status'] == 'ok' for c in found.values())} ok"


# --- what is tried there: each says in a few words what it did

def try_runtime(place, bundle):
    "On a device: detecting, without torch; what needs more says which extra brings it"
    where = Path(place.code("import sys, importlib.util as u, wakekit; from wakekit import Detector; assert u.find_spec('torch') is None; print(wakekit.__file__)"))
    want(place.folder.resolve() in where.resolve().parents, f"wakekit is imported from {where}")
    version = place.wakekit("--version").stdout.split()[-1]
    want(version == place.code("import importlib.metadata as m; print(m.version('wakekit'))"), f"wakekit --version says {version}")
    heard = one_event(json.loads(place.wakekit("detect", bundle, recording(place), "--json").stdout)["files"][0]["events"])
    for words, extra in ((("quickstart",), "train"), (("serve", "detect"), "serve"), (("serve", "wyoming"), "wyoming")):
        want(f"wakekit[{extra}]" in (p := place.wakekit(*words, rc=1)).stderr and "Traceback" not in p.stderr, f"wakekit {' '.join(words)} does not name [{extra}]: {p.stderr[-500:]}")
    said = run(place.bin/f"wakekit-test{EXE}", rc=1, cwd=place.work, env=place.env).stderr
    want("clone of wakekit" in said and "Traceback" not in said, f"wakekit-test outside of a clone says {said[-500:]}")
    return f"{heard}; {doctor(place)}"


def try_train(place, bundle):
    "From a phrase to a bundle, too small to be of use, that detects without complaint"
    place.wakekit("quickstart", "--phrase", "hey jarvis", "--preset", "tiny", *TINY, "--out", "q", rc=(0, 1)) # 1: a gate failed, as it should after two steps
    found = [p.parent for p in (place.work/"q").rglob("manifest.json")]
    want(len(found) == 1, f"quickstart wrote {len(found)} bundles")
    want((found[0]/"LICENSES.md").is_file(), "the bundle has no licences")
    n = len(json.loads(place.wakekit("detect", found[0], recording(place), "--json").stdout)["files"])
    return f"quickstart, detect on {n} file with what came out; {doctor(place, 'train')}"


def try_data(place, bundle):
    "A phrase is spoken into a dataset, without torch"
    place.wakekit("data", "create", "kitchen", "hey jarvis")
    place.wakekit("synth", "hey jarvis", "--dataset", "kitchen", "--count", "6")
    n = len([p for p in (place.work/"data"/"datasets"/"kitchen"/"clips").rglob("*.wav")])
    want(n >= 6, f"synth --count 6 left {n} clips")
    place.code("import importlib.util as u; assert u.find_spec('torch') is None")
    return f"{n} clips spoken; {doctor(place, 'data')}"


def try_serve(place, bundle):
    "The detection service hears a recording"
    with place.serving("serve", "detect", "--models", str(bundle), "--port", "0") as at:
        ask(at, "/ready"), ask(at, "/docs")
        answer = json.loads(ask(at, "/detect", recording(place).read_bytes(), {"Content-Type": "audio/wav"}))
    return f"/ready, /docs, POST /detect {one_event(answer['events'])}; {doctor(place, 'serve')}"


POSTGRES = "import psycopg\ntry: psycopg.connect('host=127.0.0.1 port=1 connect_timeout=5')\nexcept psycopg.OperationalError: print(psycopg.pq.version())"

def try_postgres(place, bundle):
    "libpq loads and tries to reach a server; without [serve] there is no queue that would use it, and that is said"
    version = place.code(POSTGRES)
    said = place.wakekit("jobs", rc=1).stderr
    want("wakekit[serve]" in said, f"wakekit jobs says {said[-500:]}")
    return f"libpq {version} loads and asks; {doctor(place, 'postgres')}"


def jobs_in_postgres(place):
    "The queue takes the driver: nobody listens at port 1, and that is what it says"
    place.env["WAKEKIT_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    said = place.wakekit("jobs", rc=1).stderr
    del place.env["WAKEKIT_DATABASE_URL"]
    want("Connection refused" in said or "connection failed" in said, f"wakekit jobs with Postgres says {said[-500:]}")
    return "the queue speaks Postgres"


WYOMING = """import asyncio, sys
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info
from wyoming.wake import Detect, Detection
async def main(port, pcm):
    async with AsyncTcpClient("127.0.0.1", port) as c:
        await c.write_event(Describe().event())
        names = [m.name for p in Info.from_event(await c.read_event()).wake for m in p.models]
        for e in (Detect(names=names), AudioStart(16000, 2, 1), *(AudioChunk(16000, 2, 1, pcm[i:i + 2560]) for i in range(0, len(pcm), 2560)), AudioStop()): await c.write_event(e.event())
        while not Detection.is_type((e := await c.read_event()).type): pass
        print(Detection.from_event(e).name)
asyncio.run(asyncio.wait_for(main(int(sys.argv[1]), open(sys.argv[2], "rb").read()[44:]), 60))"""

def try_wyoming(place, bundle):
    "A satellite asks what there is, and hears that the word was said"
    with place.serving("serve", "wyoming", str(bundle), "--uri", f"tcp://127.0.0.1:{free_port()}") as (_, port): name = place.code(WYOMING, str(port), str(recording(place)))
    want(name, "no detection")
    return f"described, and detected {name}; {doctor(place, 'wyoming')}"


ACTIONS = """import subprocess, sys, threading
from websockets.sync.server import serve
got, done = [], threading.Event()
def one(ws): got.append(ws.recv(timeout=60)), done.set()
with serve(one, "127.0.0.1", 0) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.socket.getsockname()[1]
    p = subprocess.run([sys.argv[1], "detect", sys.argv[2], "-", "--json", "--ws", f"ws://127.0.0.1:{port}"], input=open(sys.argv[3], "rb").read()[44:], stdout=subprocess.DEVNULL, timeout=120)
    assert p.returncode == 0 and done.wait(60)
    print(got[0])
    server.shutdown()"""

def try_actions(place, bundle):
    "What was heard arrives at a WebSocket; the MQTT client loads"
    event = json.loads(place.code(ACTIONS, str(place.bin/f"wakekit{EXE}"), str(bundle), str(recording(place))))
    place.code("import paho.mqtt.client as m; m.Client(m.CallbackAPIVersion.VERSION2)")
    return f"{one_event([event])}, told over a WebSocket; {doctor(place, 'actions')}"


def try_dashboard(place, bundle):
    "The page is served, with what it needs for its looks"
    with place.serving("serve", "dashboard", "--port", "0", says="the dashboard") as at:
        page = ask(at, "/")
        want("wakekit" in page and len(page) > 10_000, f"no dashboard: {page[:500]}")
        health = json.loads(ask(at, "/health"))
    return f"/ with {len(page)//1000} kB, /health {health.get('status', 'answers')}; {doctor(place, 'dashboard')}"


TUNE = """from wakekit.data.spoken import DataConfig
from wakekit.learn.config import preset
from wakekit.serve.client import Client
from wakekit.serve.sweeps import Space, SweepPlan, _study
class Presets:
    def get(self, path): return dict(default="tiny", presets=dict(tiny=preset("tiny").to_dict()), data=DataConfig().to_dict())
Client("http://127.0.0.1:1")
space = Space(SweepPlan("kitchen", {"lr": (1e-4, 1e-2, "log"), "model.channels": [16, 24]}), Presets())
study, _ = _study("sweep", mine=True)
for k in range(5):
    t = study.ask(space.ranges)
    study.tell(t, abs(t.params["lr"] - 1e-3))
print(len(study.trials))"""

def try_tune(place, bundle):
    "Five trials of a sweep are chosen and kept; the trainings would be done by a service elsewhere"
    (place.work/"sweep").mkdir()
    return f"{place.code(TUNE)} trials chosen and kept; {doctor(place, 'tune')}"


def try_notebook(place, bundle):
    "A notebook with a widget runs from top to bottom in the kernel that came along"
    cells = [f"from wakekit.serve.widgets import LiveDetector\nw = LiveDetector({str(bundle)!r})\nw", "assert 'live' in w.panels\nprint('shown')"]
    nb = dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")),
        cells=[dict(id=f"c{n}", cell_type="code", source=c, metadata={}, outputs=[], execution_count=None) for n, c in enumerate(cells)])
    (place.work/"nb.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    run(place.bin/f"jupyter{EXE}", "execute", "nb.ipynb", "--inplace", cwd=place.work, env={**place.env, "IPYTHONDIR": str(place.work/"ipython"), "JUPYTER_CONFIG_DIR": str(place.work/"jupyter"), "JUPYTER_DATA_DIR": str(place.work/"jupyter-data")})
    want("shown" in (place.work/"nb.ipynb").read_text(encoding="utf-8"), "the notebook did not run to its end")
    lab = run(place.bin/f"jupyter{EXE}", "lab", "--version", cwd=place.work, env=place.env).stdout.strip()
    return f"a notebook with LiveDetector ran, JupyterLab {lab}; {doctor(place, 'notebook')}"


def try_track(place, bundle):
    "TensorBoard starts; without torch there is no training to be told of"
    version = run(place.python, "-m", "tensorboard.main", "--version", cwd=place.work, env=place.env).stdout.strip()
    return f"TensorBoard {version}; {doctor(place, 'track')}"


TRACK = """from pathlib import Path
from wakekit.learn.track import TensorBoardTracker
t = TensorBoardTracker("tb"); t.start("run", dict(lr=.1), {}); t.log(1, loss=.5); t.finish("FINISHED")
assert list(Path("tb").glob("events.out.tfevents.*"))"""

def try_all(place, bundle):
    "All extras get on with each other"
    place.code(TRACK)
    extras = [e for e in TRIALS if e not in ("", "all")]
    return f"figures of a run written for TensorBoard; {jobs_in_postgres(place)}; {doctor(place, *extras)}"


TRIALS = {"": try_runtime, "data": try_data, "serve": try_serve, "postgres": try_postgres, "wyoming": try_wyoming, "actions": try_actions, "dashboard": try_dashboard,
    "tune": try_tune, "notebook": try_notebook, "track": try_track, "train": try_train, "all": try_all} # The last two share an environment: torch is large


# --- the whole

@dataclass
class Row:
    "A line of the table"
    artifact:str       # wheel, sdist or both
    extra:str          # As pip takes it
    packages:int = 0   # Distributions, wakekit included
    mb:float = 0.      # In site-packages, byte code included, pip not
    seconds:float = 0. # Installing and trying
    what:str = ""      # What was done, or what failed
    ok:bool = True     # Did it do it?


def sbom(place, file, about):
    "What is installed, as CycloneDX, with wakekit as what it is about; no path and no index of this machine"
    for p in (place.folder).rglob("wakekit-*.dist-info/direct_url.json"): p.unlink() # where the wheel lay here
    project = place.folder/"project.toml"
    project.write_text("\n".join(["[project]", *(f"{k} = {json.dumps(v)}" for k, v in about.items())]), encoding="utf-8")
    run(place.tools/f"cyclonedx-py{EXE}", "environment", "--output-reproducible", "--mc-type", "library", "--pyproject", project, "-o", file, place.python)
    text = file.read_text(encoding="utf-8")
    want(str(place.folder) not in text and "file:" not in text, f"{file.name} names a path of this machine")
    return json.loads(text)


def weigh(place):
    "What a device has to hold: the whole against the mark, and our own share, which may not grow unseen"
    sizes = place.packages()
    total, theirs = sum(sizes.values())/1e6, sum(sizes[n] for n in ("numpy", "onnxruntime"))/1e6
    want(total - theirs <= OWN_MB, f"{total - theirs:.0f} MB beside numpy and onnxruntime, more than {OWN_MB}")
    return f"{'under' if total < RUNTIME_MB else 'OVER'} the mark of {RUNTIME_MB} MB: numpy and onnxruntime {theirs:.0f}, the rest {total - theirs:.0f}"


def attempt(row, do):
    "Do it; how it went and how long it took go into the row, which is printed"
    begun = time.perf_counter()
    try: row.what = do()
    except (Failed, OSError, KeyError, ValueError) as e: row.ok, row.what = False, f"{type(e).__name__}: {e}" if not isinstance(e, Failed) else str(e)
    row.seconds = time.perf_counter() - begun
    first, *more = row.what.splitlines() or [""]
    print(f"{' ok ' if row.ok else 'FAIL'}  {row.artifact:8} {row.extra or '-':10} {row.packages:4d} {row.mb:7.1f} {row.seconds:7.1f}  {first}", flush=True)
    for line in more: print(f"      {line}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog=__doc__.partition("\n")[2], formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["runtime", "sdist", *(t for t in TRIALS if t)]
    parser.add_argument("--out", type=Path, default=ROOT/"dist", help="where the files go; what is there of an earlier release goes away (dist)")
    parser.add_argument("--working-tree", action="store_true", help="build what lies here, committed or not, instead of HEAD")
    parser.add_argument("--only", nargs="*", choices=names, metavar="NAME", help=f"install and try only these, of {', '.join(names)}; none: build and check only")
    parser.add_argument("--newest", action="store_true", help="without constraints.txt: what somebody gets today who only says pip install wakekit")
    parser.add_argument("--tmp", type=Path, help="where the environments are made and removed again, some 3 GB (the system's temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")
    parser.add_argument("--tag", help="build nothing: check that this tag, such as v0.1.0, is the version that the files name, and that its changes have a date")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="with --tag: write what changed there")
    args = parser.parse_args()
    if args.tag:
        try: check_tag(ROOT, args.tag)
        except Failed as e: return print(e, file=sys.stderr) or 1
        if args.notes: args.notes.write_text(changes(ROOT)[1] + "\n", encoding="utf-8")
        return 0
    if not (ROOT/".git").exists(): parser.error("a release is built from a clone: there is no git here")
    chosen, rows, out = names if args.only is None else args.only, [], args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for p in (*out.glob("wakekit-*"), *out.glob("sbom-*"), out/"SHA256SUMS"): p.unlink(missing_ok=True)
    print(f"      {'artifact':8} {'extra':10} pkgs      MB       s", flush=True)
    with tempfile.TemporaryDirectory(prefix="wakekit-release-", dir=args.tmp, ignore_cleanup_errors=True) as tmp:
        tmp = Path(tmp).resolve()
        source, tools, files, places = tmp/"source", tmp/"tools"/BIN, {}, {}
        source.mkdir()
        def make():
            run(sys.executable, "-m", "venv", tools.parent)
            run(tools/"python", "-m", "pip", "install", "--quiet", "-r", ROOT/"bench"/"release.txt")
            copy_source(source, args.working_tree)
            files["wheel"], files["sdist"] = build(tools, source, out)
            return check_files(tools, source, files["wheel"], files["sdist"])
        rows.append(attempt(Row("both", ""), make))
        if not rows[0].ok: return 1
        bundle = shutil.copytree(source/"tests"/"data"/"toy_bundle", tmp/"loud")
        constraints = None if args.newest else source/"constraints.txt"
        about = metadata(files["wheel"])
        for name in chosen:
            extra, artifact = ("", name if name == "sdist" else "wheel") if name in ("runtime", "sdist") else (name, "wheel")
            row = Row(artifact, extra)
            def do():
                place = places.pop("train", None) if name == "all" else None
                place = place or Place(tmp/name, tools, constraints)
                try:
                    place.install(files[artifact], extra)
                    row.packages, row.mb = len(sizes := place.packages()), sum(sizes.values())/1e6
                    said = TRIALS[extra](place, bundle)
                    if artifact == "wheel" and extra in ("", "all"): sbom(place, out/f"sbom-{extra or 'runtime'}.cdx.json", about)
                    return f"{said}; {weigh(place)}" if not extra else said
                finally:
                    if name == "train" and "all" in chosen: places["train"] = place
                    else: shutil.rmtree(place.folder, ignore_errors=True)
            rows.append(attempt(row, do))
    checksums(out)
    if args.json: args.json.write_text(json.dumps([r.__dict__ for r in rows], indent=1) + "\n", encoding="utf-8")
    bad = [r.extra or r.artifact for r in rows if not r.ok]
    print(f"{'FAILED: ' + ', '.join(bad) if bad else 'all is well'}; {out}:")
    for p in sorted(out.iterdir()): print(f"  {p.stat().st_size/1e6:8.2f} MB  {p.name}")
    return int(bool(bad))


if __name__ == "__main__": sys.exit(main())
