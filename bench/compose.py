"""Starts the whole with Docker Compose and uses it as people do: a table of what holds, exit code 1 when something does not.

    python bench/compose.py                              builds, starts, trains, detects, kills, comes back; about half an hour
    python bench/compose.py --only up,use,kill           some of the parts
    python bench/compose.py --build-network host --torch-index ''   where containers do not reach the package index, or torch's

Needs a Docker engine, docker-compose 1.29 or Compose v2, this package with [train,serve] and, for the pictures, Chromium. It works in a copy of this repository under --work, with ports of its own, and takes everything down in the end.
Images of others that cannot be pulled (Postgres, nginx, Prometheus) are made from Debian's packages and named in the table as stand-ins.
"""
import argparse, contextlib, json, os, re, shutil, socket, subprocess, sys, tempfile, time, urllib.error, urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO/"tests"), str(REPO)]
DEFAULT = ("model-server", "inference", "training", "worker", "dashboard", "jupyter")
PORTS = dict(WAKEKIT_DASHBOARD_PORT=17860, WAKEKIT_DETECT_PORT=18000, WAKEKIT_MODEL_PORT=18001, WAKEKIT_TRAINING_PORT=18080, WAKEKIT_JUPYTER_PORT=18888,
             WAKEKIT_NGINX_PORT=18088, WAKEKIT_PROMETHEUS_PORT=19090, WAKEKIT_GRAFANA_PORT=13000, WAKEKIT_MLFLOW_PORT=15000)
SLIM_MB = 130 # python:3.11-slim itself, unpacked; counted in place of a stand-in for it
LIMITS_MB = {"wakekit-inference": 400, "wakekit-train": 2200}
LITTLE = {"epochs": 3, "steps_per_epoch": 60, "verifier.steps": 0, "data.synthetic": 100, "data.near_misses": 60, "data.filler": 60, "data.synthetic_rooms": 8} # a minute or two: enough to know its own calls
STAND_INS = {"postgres": "postgresql", "prom/prometheus": "prometheus"}

START = {"prom/prometheus": 'mkdir -p /prometheus\nexec prometheus "$@"\n', "postgres": """ln -sfn /usr/lib/postgresql/*/bin /pg
at=/var/lib/postgresql/data
mkdir -p $at && chown postgres $at
if [ ! -f $at/PG_VERSION ]; then
    su postgres -c "/pg/initdb -D $at -U $POSTGRES_USER --auth-host=trust"
    echo "host all all all trust" >> $at/pg_hba.conf
    echo "create database $POSTGRES_DB" | su postgres -c "/pg/postgres --single -D $at postgres"
fi
exec su postgres -c "/pg/postgres -D $at -h 0.0.0.0 -k /tmp"
"""}


class Failed(Exception): "A check that does not hold; the text says what was seen"


def wait(what, seconds, why, every=1.):
    "Until `what()` is true"
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if found := what(): return found
        if time.monotonic() > end: raise Failed(f"not within {seconds:g} s: {why}")
        time.sleep(every)


class House:
    "A copy of the repository, with Compose in it"
    def __init__(self, a):
        self.a, self.at = a, Path(a.work or tempfile.mkdtemp(prefix="wakekit-compose-"))
        self.rows, self.files = [], ["docker-compose.yml"]
        self.env = {"WAKEKIT_BUILD_NETWORK": a.build_network, "WAKEKIT_TORCH_INDEX": a.torch_index, **{k: str(v) for k, v in PORTS.items()}}
        self.base = a.compose.split() or (["docker", "compose"] if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0 else ["docker-compose"])
        listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=REPO, capture_output=True, check=True).stdout.decode().split("\0")
        for name in filter(None, listed):
            if (REPO/name).is_file():
                (self.at/name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPO/name, self.at/name)

    def compose(self, *words, check=True, timeout=1800, files=None, **env):
        "docker-compose with our settings; what it said"
        r = subprocess.run([*self.base, "-p", "wakecheck", *(w for f in files or self.files for w in ("-f", f)), *words], cwd=self.at, env={**os.environ, **self.env, **env, "COMPOSE_HTTP_TIMEOUT": "300"},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        if check and r.returncode: raise Failed(f"compose {' '.join(words[:3])}: exit code {r.returncode}: … {r.stdout[-500:]}")
        return r.stdout

    def ids(self, service): return self.compose("ps", "-q", service, check=False).split()
    def inspect(self, service): return json.loads(docker("inspect", self.ids(service)[0]))[0]
    def healthy(self, service):
        with contextlib.suppress(IndexError, Failed): return self.inspect(service)["State"].get("Health", {}).get("Status") == "healthy"
    def all_healthy(self, services=DEFAULT, seconds=240): wait(lambda: all(self.healthy(s) for s in services), seconds, "healthy: " + ", ".join(s for s in services if not self.healthy(s)))
    def inside(self, service, *words, **how): return self.compose("exec", "-T", service, *words, **how)
    def url(self, name): return f"http://127.0.0.1:{PORTS[name]}"

    def check(self, part, what, do):
        "One row of the table"
        begun = time.monotonic()
        try: ok, said = True, do()
        except (Failed, AssertionError, OSError, subprocess.SubprocessError, KeyError, ValueError) as e: ok, said = False, f"{type(e).__name__}: {e}" if not isinstance(e, Failed) else str(e)
        except Exception as e: ok, said = False, f"{type(e).__name__}: {e}"
        self.rows.append((part, what, ok, " ".join(str(said or "").split()), time.monotonic() - begun))
        print(f"{'ok  ' if ok else 'FAIL'} {part}: {what}: {self.rows[-1][3][:600]} ({self.rows[-1][4]:.0f} s)", flush=True)
        return ok


def docker(*words, check=True):
    r = subprocess.run(["docker", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and r.returncode: raise Failed(f"docker {' '.join(words)}: {r.stdout[-800:]}")
    return r.stdout


def ask(url, body=None, token="", **headers):
    "(status, body)"
    r = urllib.request.Request(url, body, {**headers, **({"Authorization": f"Bearer {token}"} if token else {})})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(r, timeout=60) as f: return f.status, f.read()
    except urllib.error.HTTPError as e: return e.code, e.read()


def stand_in(image):
    "Debian's package as an image, where the real one cannot be pulled; what was done"
    there = subprocess.run(["docker", "image", "inspect", "-f", '{{index .Config.Labels "stand-in"}}', image], capture_output=True, text=True)
    if there.returncode == 0: return there.stdout.strip().replace("<no value>", "") or "the real one"
    if subprocess.run(["docker", "pull", "-q", image], capture_output=True, timeout=300).returncode == 0: return "the real one"
    name = image.partition(":")[0]
    if name == "nginx": # that of Debian's stable is too old to ask for names again
        with tempfile.TemporaryDirectory() as d:
            subprocess.run(["debootstrap", "--variant=minbase", "--include=nginx-light", "sid", d], check=True, capture_output=True)
            subprocess.run(f"tar -C {d} -c . | docker import --change 'LABEL stand-in=\"a stand-in from Debian unstable\"' --change 'CMD [\"nginx\", \"-g\", \"daemon off;\"]' - {image}", shell=True, check=True, capture_output=True)
        return "a stand-in from Debian unstable"
    with tempfile.TemporaryDirectory() as d:
        (Path(d)/"start.sh").write_text(START[name])
        (Path(d)/"Dockerfile").write_text(f'FROM python:3.11-slim\nRUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends {STAND_INS[name]}\n'
                                          'LABEL stand-in="a stand-in from Debian"\nENV PATH="/pg:${PATH}"\nCOPY start.sh /start.sh\nENTRYPOINT ["sh", "/start.sh"]\n')
        docker("build", "--network", "host", "-q", "-t", image, d)
    return "a stand-in from Debian"


def speech(n, seed):
    "Clips of the phrase and of other things, as arrays"
    from wakekit.data.synth import draw_utterances, synthesize
    say = lambda texts, k, seed: [x for _, x in synthesize(draw_utterances(texts, k, seed=seed))]
    return say(["computer"], n, seed), say(["commuter", "good morning", "what time is it", "compete"], n, seed + 1)


def wav(x):
    import io, soundfile
    f = io.BytesIO()
    soundfile.write(f, x, 16_000, format="WAV", subtype="PCM_16")
    return f.getvalue()


# ---- The parts

def up(h):
    "From nothing to healthy, without any .env"
    def first():
        h.compose("up", "-d", "--build", timeout=3600)
        h.all_healthy()
        return ", ".join(DEFAULT)
    h.check("up", "docker-compose up -d --build, no .env: every default service healthy", first)
    def again():
        h.compose("down")
        begun = time.monotonic()
        h.compose("up", "-d", "--build")
        h.all_healthy()
        took = time.monotonic() - begun
        if took > 60: raise Failed(f"{took:.0f} s, and 60 were wanted")
        return f"{took:.0f} s"
    h.check("up", "from cached layers to healthy within 60 s", again)
    def sizes():
        slim = docker("image", "inspect", "-f", "{{.Size}}", "python:3.11-slim", check=False).strip()
        base = int(slim)/1e6 if slim.isdigit() else 0 # BuildKit does not keep it by name
        found, wrong = [], []
        for name in ("wakekit-inference", "wakekit-api", "wakekit-train", "wakekit-dev"):
            mb = int(docker("image", "inspect", "-f", "{{.Size}}", f"{name}:latest"))/1e6
            if base > 200: mb += SLIM_MB - base # a stand-in for python:3.11-slim
            found.append(f"{name} {mb:.0f} MB")
            if mb > LIMITS_MB.get(name, 1e9): wrong.append(f"{name}: {mb:.0f} of {LIMITS_MB[name]} MB")
        if wrong: raise Failed("; ".join(wrong))
        return ", ".join(found) + (f" (with {SLIM_MB} MB for python:3.11-slim, whose stand-in here has {base:.0f})" if base > 200 else "")
    h.check("up", "sizes of images", sizes)
    def limits():
        said = []
        for s in DEFAULT:
            about = h.inspect(s)
            c, config = about["HostConfig"], about["Config"]
            if not (c["NanoCpus"] and c["Memory"] and c["RestartPolicy"]["Name"] == "unless-stopped" and c["CapDrop"] == ["ALL"] and config["User"] not in ("", "0", "0:0")): raise Failed(f"{s}: {c['NanoCpus']} {c['Memory']} {config['User']!r}")
            said.append(f"{s} {c['NanoCpus']/1e9:g} cores {c['Memory']/2**30:g} GB")
        return ", ".join(said)
    h.check("up", "limits, user, capabilities in docker inspect", limits)


def doctors(h):
    "What each container resolved, and that one line of .env changes it"
    h.compose("up", "-d", "--build", timeout=3600)
    h.all_healthy()
    for s in DEFAULT:
        def one():
            (h.at/f"doctor-{s}.txt").write_text(h.inside(s, "wakekit", "doctor", check=False))
            found = json.loads(h.inside(s, "wakekit", "doctor", "--json"))
            checks = {c["name"]: c for c in (found.get("checks") or found["doctor"]["checks"])}
            if bad := [n for n, c in checks.items() if c["status"] == "failed"]: raise Failed(f"{bad}")
            return "; ".join(checks[n]["detail"][:60] for n in checks if n.startswith(("host", "device=", "quant_")))
        h.check("doctor", s, one)
    def switch():
        said = []
        for name in ("qnnpack", "fbgemm"):
            (h.at/".env").write_text(f"WAKEKIT_QUANT_BACKEND={name}\n")
            h.compose("up", "-d")
            h.all_healthy(("training", "worker"))
            line = next(l for l in h.inside("worker", "wakekit", "doctor").splitlines() if f"quant_backend={name}" in l)
            if " ok " not in line[:5]: raise Failed(line)
            said.append(" ".join(line.split())[:90])
        (h.at/".env").unlink()
        h.compose("up", "-d")
        return "; ".join(said)
    h.check("doctor", "one line of .env switches the backend of the worker", switch)


def use(h):
    "From outside: record, train, detect, look; and what was made stays"
    h.compose("up", "-d", "--build", timeout=3600)
    h.all_healthy()
    from wakekit.serve.review import Client # it knows inboxes, too
    c = Client(h.url("WAKEKIT_TRAINING_PORT"))
    calls, others = speech(40, 5)
    def upload():
        c.create_dataset("kitchen", "computer")
        a, b = c.upload("kitchen", calls[:30], "positive"), c.upload("kitchen", others[:30], "negative")
        if len(a["added"]) != 30 or len(b["added"]) != 30: raise Failed(f"{a} {b}")
        return "60 clips"
    h.check("use", "a dataset is made, clips are uploaded", upload)
    def train():
        job = c.train("kitchen", "tiny", LITTLE, force=True)
        job.wait()
        h.job = job
        return f"job {job.id}, model kitchen {c.promote('kitchen', job)['current']}"
    h.check("use", "a training runs, its bundle becomes the model", train)
    def annotate():
        import numpy as np
        evening = np.concatenate([np.pad(x, 24_000) for x in (others[30], *calls[30:33], others[31])])
        found = c.annotate("kitchen", evening, voices=6).wait()["result"]
        if not found["candidates"] or found["bad"] or not found["speech_s"] or not c.inbox("kitchen")["total"]: raise Failed(f"{found}")
        return f"{found['speech_s']:.1f} of {found['duration_s']:.1f} s are speech, {found['candidates']} possible calls wait in the inbox, for 3 calls and 2 other words"
    h.check("use", "the service looks through a recording", annotate)
    def detect():
        wait(lambda: json.loads(ask(h.url("WAKEKIT_DETECT_PORT") + "/models")[1])["models"], 60, "the detection service has the model")
        heard = 0
        for x in calls[:10]:
            status, body = ask(h.url("WAKEKIT_DETECT_PORT") + "/detect", wav(x), **{"Content-Type": "audio/wav"})
            if status != 200: raise Failed(f"{status}: {body[:300]}")
            heard += bool(json.loads(body)["events"])
        if heard < 5: raise Failed(f"{heard} of 10 calls that it was trained on")
        ready = wait(lambda: (r := ask(h.url("WAKEKIT_MODEL_PORT") + "/v2/models/kitchen"))[0] == 200 and json.loads(r[1]), 60, "the model server has the model")
        return f"{heard} of 10 calls that it was trained on (a training of a minute); the model server has {ready['name']}"
    h.check("use", "POST /detect hears it, the model server has it", detect)
    def pages():
        from browser import Page
        token = re.search(r"token=(\w+)", h.compose("logs", "--no-color", "jupyter")).group(1)
        shots = []
        for name, url, ready in (("dashboard", h.url("WAKEKIT_DASHBOARD_PORT") + "/", "document.body.innerText.includes('kitchen')"), ("jupyter", h.url("WAKEKIT_JUPYTER_PORT") + f"/lab?token={token}", "document.body.innerText.includes('guides')")):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
                page = Page(Path(d), width=1280)
                try:
                    page.open(url)
                    page.until(ready)
                    time.sleep(2) # pictures of a page that has settled
                    page.picture(h.at/f"{name}.png")
                    shots.append(f"{name}.png")
                finally: page.close()
        return ", ".join(shots)
    h.check("use", "dashboard and JupyterLab in Chromium", pages)
    def guide():
        h.inside("jupyter", "jupyter", "execute", "--inplace", "/data/notebooks/guides/explore_a_dataset.ipynb", timeout=900)
        nb = json.loads((h.at/"data/notebooks/guides/explore_a_dataset.ipynb").read_text())
        n = sum(bool(cell.get("outputs")) for cell in nb["cells"])
        if n < 5: raise Failed(f"{n} cells with outputs")
        return f"guides/explore_a_dataset: {n} cells with outputs"
    h.check("use", "a guide is executed in the container", guide)
    def stays():
        h.inside("worker", "sh", "-c", "echo from the container > /data/note.txt")
        h.compose("down")
        if (h.at/"data/note.txt").read_text() != "from the container\n": raise Failed("data/note.txt is not on the host")
        h.compose("up", "-d")
        h.all_healthy()
        d, status = c.dataset("kitchen"), json.loads(ask(h.url("WAKEKIT_DETECT_PORT") + "/models")[1])["models"]
        if d["wake_clips"] != 30 or not status or c.get(f"/jobs/{h.job.id}")["state"] != "succeeded": raise Failed(f"{d} {status}")
        return "a file of the container, 60 clips, the job and the model are there after down and up"
    h.check("use", "what was made stays", stays)
    def batch():
        said = h.compose("run", "--rm", "data-prep", "wakekit", "synth", "hello house", "--dataset", "batch", "--count", "6")
        if not (h.at/"data/batch").is_dir() and not list((h.at/"data").rglob("batch")): raise Failed(said)
        return said.strip().splitlines()[-1]
    h.check("use", "data-prep speaks into a dataset", batch)


def kill(h):
    "Each container dies while a training runs: it comes back, and the job ends"
    h.compose("up", "-d", "--build", timeout=3600)
    h.all_healthy()
    from wakekit.serve.client import Client
    c = Client(h.url("WAKEKIT_TRAINING_PORT"), tries=9)
    def all_of_them():
        if not any(d["name"] == "kitchen" for d in c.datasets()):
            calls, others = speech(30, 5)
            c.create_dataset("kitchen", "computer")
            c.upload("kitchen", calls, "positive"), c.upload("kitchen", others, "negative")
        job, said = c.train("kitchen", "tiny", LITTLE | {"epochs": 15, "seed": 3}, force=True), []
        wait(lambda: (j := job.now())["state"] == "running" and j["progress"].get("fraction", 0) > .02, 180, "the training runs")
        for s in DEFAULT:
            pid, restarts = h.inspect(s)["State"]["Pid"], h.inspect(s)["RestartCount"]
            if job.now()["state"] not in ("queued", "running"): raise Failed(f"the training was over before {s} was killed")
            subprocess.run([*([] if os.getuid() == 0 else ["sudo", "-n"]), "kill", "-9", str(pid)], check=True) # as the kernel does when memory is short
            wait(lambda: h.inspect(s)["RestartCount"] > restarts, 60, f"{s} is started again")
            wait(lambda: h.healthy(s), 180, f"{s} is healthy again")
            said.append(f"{s} at {100*job.now()['progress'].get('fraction', 0):.0f} %")
        for s in DEFAULT: # an order of the operator, which the engine does not undo by itself: up -d does
            if job.now()["state"] not in ("queued", "running"): raise Failed(f"the training was over before docker kill of {s}")
            docker("kill", h.ids(s)[0])
            h.compose("up", "-d", s)
            wait(lambda: h.healthy(s), 180, f"{s} is healthy again")
        state = wait(lambda: (j := job.now())["state"] in ("succeeded", "failed", "cancelled") and j, 1200, f"the job ends")
        if state["state"] != "succeeded": raise Failed(f"{state['state']}: {state['error']}")
        return f"killed by the system, each came back by itself: {', '.join(said)}; docker kill of each, and up -d; the job succeeded at attempt {state['attempt']}"
    h.check("kill", "each container is killed during a training", all_of_them)


def bad(h):
    "Mistakes that people make: what the first line of the log says"
    h.compose("down")
    def first_line(service, want, **env):
        def look():
            with contextlib.suppress(Failed): h.compose("up", "-d", "--no-deps", service, **env)
            lines = lambda: [l.partition("|")[2].strip() for l in h.compose("logs", "--no-color", service, check=False).splitlines() if "|" in l]
            try: said = wait(lambda: lines(), 60, f"{service} says something")[0]
            finally: h.compose("rm", "-sf", service, check=False)
            if not re.search(want, said): raise Failed(said)
            return said
        return look
    def dotenv(text): (h.at/".env").write_text(text)
    h.check("bad input", "a value in .env that does not exist", lambda: (dotenv("WAKEKIT_DEVICE=gpu\n"), first_line("worker", "WAKEKIT_DEVICE.*must be one of")())[1])
    h.check("bad input", "a backend that is no backend", lambda: (dotenv("WAKEKIT_QUANT_BACKEND=qnnpak\n"), first_line("worker", "must be one of")())[1])
    h.check("bad input", "a GPU is asked for, and there is none", lambda: (dotenv("WAKEKIT_DEVICE=cuda\n"), first_line("worker", "impossible here: torch sees no GPU")())[1])
    h.check("bad input", "published to everybody without a token", lambda: (dotenv(""), first_line("inference", "there is no token", WAKEKIT_BIND="0.0.0.0")())[1])
    h.check("bad input", "a token's file that is missing", lambda: first_line("inference", "cannot be read", WAKEKIT_API_TOKEN_FILE="/run/secrets/nothing")())
    (h.at/".env").unlink(missing_ok=True)
    def broken():
        dotenv("this is no line\nWAKEKIT_SEED=41\n")
        try: said = h.compose("config", check=False)
        finally: (h.at/".env").unlink()
        if re.search("WAKEKIT_SEED: '?41", said): return "this Compose passes it over; the lines beside it count"
        if ".env" not in said: raise Failed(said[-300:])
        return said.strip().splitlines()[-1][:200]
    h.check("bad input", "a line in .env that is none", broken)
    if os.getuid() == 0:
        other = h.at/"foreign"
        other.mkdir(exist_ok=True)
        (other/"mine").touch()
        os.chown(other, 4242, 4242)
        h.check("bad input", "a folder of somebody else", first_line("training", "belongs to user 4242.*WAKEKIT_UID=4242", WAKE_TRAINING_HOST_DATA_DIR="./foreign"))
        small = h.at/"small"
        small.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", str(small)], check=True)
        try:
            (small/"full").write_bytes(b"x"*2**20)
            h.check("bad input", "a full disk", first_line("training", "full disk|MB left", WAKE_TRAINING_HOST_DATA_DIR="./small"))
            subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
            h.check("bad input", "a read-only folder", first_line("training", "read-only", WAKE_TRAINING_HOST_DATA_DIR="./small"))
        finally: subprocess.run(["umount", str(small)])
    else: h.check("bad input", "a folder of somebody else, a full disk, a read-only one", lambda: "skipped: only root can make them")
    def port():
        with socket.create_server(("127.0.0.1", PORTS["WAKEKIT_DETECT_PORT"])):
            said = h.compose("up", "-d", "--no-deps", "inference", check=False)
            h.compose("rm", "-sf", "inference", check=False)
        line = next((l for l in said.splitlines() if re.search("already|in use", l)), "")
        if not line: raise Failed(said[-500:])
        return line.strip()[:300]
    h.check("bad input", "a port that is taken", port)
    def gpu():
        said = h.compose("up", "-d", "--no-deps", "worker", files=["docker-compose.yml", "docker-compose.gpu.yml"], check=False, WAKEKIT_TAG="latest")
        h.compose("rm", "-sf", "worker", check=False)
        line = next((l for l in said.splitlines() if re.search("nvidia|device driver|gpu", l, re.I) and "ERROR" in l), "") or next((l for l in said.splitlines() if re.search("nvidia|device driver", l)), "")
        if not line: raise Failed(said[-500:])
        return line.strip()[:300]
    h.check("bad input", "the GPU file without a GPU", gpu)
    def token():
        h.env["WAKEKIT_API_TOKEN"] = "right"
        try:
            h.compose("up", "-d", "--no-deps", "training")
            wait(lambda: ask(h.url("WAKEKIT_TRAINING_PORT") + "/health")[0] == 200, 60, "the training service")
            status, body = ask(h.url("WAKEKIT_TRAINING_PORT") + "/datasets", token="wrong")
            right, _ = ask(h.url("WAKEKIT_TRAINING_PORT") + "/datasets", token="right")
            if (status, right) != (401, 200): raise Failed(f"{status} {right}")
            return f"401: {json.loads(body)['detail']}"
        finally: del h.env["WAKEKIT_API_TOKEN"]
    h.check("bad input", "a wrong token", token)
    h.compose("down")


def scale(h):
    "Postgres, several workers, replicas behind nginx"
    from wakekit.serve.client import Client
    files = ["docker-compose.yml", "docker-compose.scale.yml"]
    text = (h.at/"docker-compose.scale.yml").read_text()
    said = {i: stand_in(i) for i in re.findall(r"image: ((?:postgres|nginx):\S+)", text)}
    h.compose("down")
    h.files, before = files, h.files
    h.env["WAKEKIT_DETECT_PORT"] = "18100-18109" # each replica has one of its own; nginx has the one for everybody
    def workers():
        h.compose("up", "-d", "--build", "--scale", "worker=2", "--scale", "inference=2", timeout=3600)
        h.all_healthy(("training",), 180)
        wait(lambda: len(h.ids("worker")) == 2, 30, "two workers")
        c = Client(h.url("WAKEKIT_TRAINING_PORT"), tries=9)
        calls, others = speech(30, 7)
        c.create_dataset("hall", "computer")
        c.upload("hall", calls, "positive"), c.upload("hall", others, "negative")
        jobs = [c.train("hall", "tiny", LITTLE | {"epochs": 2, "seed": k}, force=True) for k in range(2)]
        for j in jobs: j.wait()
        names = {j.now()["worker"] for j in jobs}
        if len(names) != 2: raise Failed(f"both jobs were done by {names}")
        c.promote("hall", jobs[0])
        return f"two workers against Postgres did one job each ({', '.join(f'{k}: {v}' for k, v in said.items())})"
    h.check("scale", "docker-compose.scale.yml, --scale worker=2", workers)
    def replicas():
        wait(lambda: ask(h.url("WAKEKIT_NGINX_PORT") + "/ready")[0] == 200, 60, "nginx finds a replica")
        x = speech(2, 5)[0][0]
        ring = lambda: [ask(h.url("WAKEKIT_NGINX_PORT") + f"/detect?device=k{k}", wav(x), **{"Content-Type": "audio/wav"})[0] for k in range(24)] # both replicas are asked
        found = ring()
        docker("kill", h.ids("inference")[0])
        after = ring()
        if set(found + after) != {200}:
            log = h.compose("logs", "--no-color", "nginx", check=False).splitlines()
            raise Failed(f"{found}, one killed: {after}; " + " / ".join(l for l in log if re.search(r'" 50\d |\[(error|warn)', l))[-1500:])
        return "48 of 48 requests of 24 devices through nginx, one of two replicas killed in between"
    h.check("scale", "replicas of the detection service behind nginx", replicas)
    h.compose("down", "-v")
    h.files, h.env["WAKEKIT_DETECT_PORT"] = before, str(PORTS["WAKEKIT_DETECT_PORT"])


def monitoring(h):
    "Profile monitoring: Prometheus scrapes, MLflow is told"
    text = (h.at/"docker-compose.yml").read_text()
    said = {i: stand_in(i) for i in re.findall(r"image: (prom/prometheus:\S+)", text)}
    def scrape():
        h.compose("--profile", "monitoring", "up", "-d", "--build", "prometheus", "mlflow", "inference", "training", timeout=3600, MLFLOW_TRACKING_URI="http://mlflow:5000")
        def targets():
            found = json.loads(ask(h.url("WAKEKIT_PROMETHEUS_PORT") + "/api/v1/targets")[1])["data"]["activeTargets"]
            return len(found) >= 3 and all(t["health"] == "up" for t in found) and found
        found = wait(targets, 180, "Prometheus reaches its targets")
        rules = json.loads(ask(h.url("WAKEKIT_PROMETHEUS_PORT") + "/api/v1/rules")[1])["data"]["groups"]
        wait(lambda: ask(h.url("WAKEKIT_MLFLOW_PORT") + "/health")[0] == 200, 120, "MLflow")
        return f"{', '.join(t['labels']['job'] for t in found)} are up, {sum(len(g['rules']) for g in rules)} rules; MLflow answers ({', '.join(f'{k}: {v}' for k, v in said.items())}); Grafana's image was not tried"
    h.check("monitoring", "--profile monitoring", scrape)
    h.compose("--profile", "monitoring", "down", "-v")


PARTS = dict(up=up, doctor=doctors, use=use, kill=kill, monitoring=monitoring, scale=scale, bad=bad)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default=",".join(PARTS), metavar="PARTS", help=f"of {', '.join(PARTS)}; with commas")
    p.add_argument("--work", metavar="DIR", help="where the copy of the repository, pictures and doctors' reports are; default: a new folder, removed in the end")
    p.add_argument("--build-network", default="default", help="host where containers do not reach the package index")
    p.add_argument("--torch-index", default="https://download.pytorch.org/whl/cpu", help="'' for PyPI's")
    p.add_argument("--compose", default="", metavar="PROGRAM", help="'docker compose' or docker-compose; default: the first of them that is there")
    p.add_argument("--keep", action="store_true", help="leave everything running")
    p.add_argument("--out", help="write the table there, as Markdown")
    a = p.parse_args()
    if unknown := set(a.only.split(",")) - set(PARTS): p.error(f"no such part: {', '.join(unknown)}")
    if not shutil.which("docker"): sys.exit("docker is not installed here")
    h = House(a)
    try:
        for name in a.only.split(","):
            try: PARTS[name](h)
            except (Failed, subprocess.SubprocessError) as e: h.rows.append((name, "the part as a whole", False, " ".join(str(e).split())[:600], 0))
    finally:
        if not a.keep:
            h.compose("--profile", "monitoring", "down", "-v", "--remove-orphans", check=False)
            if not a.work: shutil.rmtree(h.at, ignore_errors=True)
    table = "\n".join(["| part | check | | what was seen | s |", "|---|---|---|---|---|", *(f"| {part} | {what} | {'ok' if ok else 'FAILED'} | {said[:400].replace('|', '/')} | {s:.0f} |" for part, what, ok, said, s in h.rows)])
    print("\n" + table)
    if a.out: Path(a.out).write_text(table + "\n", encoding="utf-8")
    sys.exit(not all(r[2] for r in h.rows))


if __name__ == "__main__": main()
