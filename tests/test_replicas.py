"Detection services behind a real nginx with deploy/nginx.conf: the same answers as without it, and a replica that is killed or added disturbs nobody else's stream."
import contextlib, http.client, json, os, re, shutil, signal, socket, subprocess, sys, threading, time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
import pytest
pytest.importorskip("fastapi")
from test_detect import pcm, sound, wav
from wakekit.ship.stream import Detector
from wakekit.ship.toy import toy_bundle

CONF = Path(__file__).parent.parent/"deploy"/"nginx.conf"
NGINX = os.environ.get("TEST_NGINX") or shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
pytestmark = pytest.mark.skipif(not NGINX or os.name == "nt", reason="needs nginx (Debian: apt install nginx)")
TOKEN = {"Authorization": "Bearer secret"}
LINE = re.compile(r"^ *server inference:8000 resolve(.*);", re.M)


def version(): return tuple(map(int, re.search(r"/(\d+)\.(\d+)\.(\d+)", subprocess.run([NGINX, "-v"], capture_output=True, text=True).stderr).groups()))

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s: return s.getsockname()[1]

def until(what, patience_s=60):
    "Ask until the answer is no longer empty"
    end = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(.02)
    return found

def ask(at, path, method="GET", body=None, **headers):
    "(status, headers, body); `at`: a port here, or an address"
    c = http.client.HTTPConnection(f"127.0.0.1:{at}" if isinstance(at, int) else at, timeout=60)
    try:
        c.request(method, path, body, {**TOKEN, **headers})
        r = c.getresponse()
        return r.status, r.headers, r.read()
    finally: c.close()

def up(at, path="/ready"):
    try: return ask(at, path)[0] == 200
    except OSError: return False

@contextlib.contextmanager
def stream(port, device=None, query=""):
    "A socket, from the first message on"
    from websockets.sync.client import connect
    with connect(f"ws://127.0.0.1:{port}/detect/stream?{f'device={device}' if device else ''}{query}", additional_headers=TOKEN, proxy=None, open_timeout=60) as s:
        assert json.loads(s.recv(60))["type"] == "hello"
        yield s

def say(s, data, size=2560):
    for i in range(0, len(data), size): s.send(data[i:i + size])

def events(s, n=None):
    "Times of the next n events, or of all that come until the stream is over"
    if n is None: s.send('{"type": "end"}')
    found = []
    while n is None or len(found) < n:
        m = json.loads(s.recv(60))
        if m["type"] == "done": break
        found.append(round(m["time_s"], 3))
    return found


class Replica:
    def __init__(self, root, name, models, host="127.0.0.1", port=None):
        self.root, self.models, self.host, self.port = root/name, models, host, port or free_port()
        self.address = f"{self.host}:{self.port}"
        self.root.mkdir(exist_ok=True)
        (self.root/".env").touch()
        self.start()
    def start(self):
        env = {**os.environ, "WAKEKIT_LOGS_DIR": str(self.root), "WAKEKIT_API_TOKEN": "secret", "OMP_NUM_THREADS": "1"}
        with open(self.root/"log.txt", "ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", "import sys; from wakekit.cli import main; sys.exit(main())", "serve", "detect", "--env-file", str(self.root/".env"), "--models", str(self.models), "--host", self.host, "--port", str(self.port)], cwd=self.root, env=env, stdout=log, stderr=log)
    def wait(self):
        until(lambda: up(self.address) or (self.process.poll() is not None and pytest.fail((self.root/"log.txt").read_text()[-2000:])))
        return self
    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None: self.process.send_signal(how)
        self.process.wait(30)
    def streams(self): return json.loads(ask(self.address, "/health")[2])["streams"]


class Nginx:
    "deploy/nginx.conf with other ports and folders; `replicas` in place of the name"
    def __init__(self, root, replicas, **change):
        self.root, self.port, self.conf, self.log, self.change = root, free_port(), root/"nginx.conf", root/"access.txt", change
        self.write(replicas)
        self.errors = open(root/"errors.txt", "wb")
        self.process = subprocess.Popen([NGINX, "-c", str(self.conf), "-p", str(root), "-g", "daemon off;"], stdout=self.errors, stderr=self.errors)
        try: until(lambda: up(self.port, "/health") or (self.process.poll() is not None and pytest.fail((root/"errors.txt").read_text()[-2000:])))
        except BaseException:
            self.stop()
            raise
    def write(self, replicas):
        text = CONF.read_text().replace("/tmp/wakekit-nginx", str(self.root/"nginx")).replace("listen 8000;", f"listen 127.0.0.1:{self.port};").replace("/dev/stdout", str(self.log))
        text, n = LINE.subn(lambda m: "\n".join(f"server 127.0.0.1:{r.port}{m[1]};" for r in replicas), text) if replicas else (text, 1)
        assert n == 1
        for old, new in self.change.items():
            assert old in text
            text = text.replace(old, new)
        if os.geteuid() == 0: text = "user root;\n" + text # the folder of the test is root's
        self.conf.write_text(text)
    def reload(self, replicas):
        self.write(replicas)
        old = self.workers()
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.workers() - old)
    def workers(self):
        import psutil
        return {p.pid for p in psutil.Process(self.process.pid).children()}
    def served(self, path="/health"):
        "device → the replicas that served it, in order"
        found = {}
        for who, address in re.findall(rf'"([^"]*)" "GET {re.escape(path)}" \d+ \S+ s (.+)', self.log.read_text()): found.setdefault(who, []).append(address.split(", ")[-1])
        return found
    def homes(self, devices):
        "Which replica a device is sent to now"
        before = {d: len(p) for d, p in self.served("/models").items()}
        for d in devices: assert ask(self.port, f"/models?device={d}")[0] == 200
        return until(lambda: (now := {d: p[-1] for d, p in self.served("/models").items() if len(p) > before.get(d, 0)}).keys() >= set(devices) and now)
    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.errors.close()


DEVICES = [f"kitchen-{k}" for k in range(24)]

@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("replicas")
    toy_bundle(root/"models"/"hall", verify=True)
    return root

@pytest.fixture(scope="module")
def replicas(models):
    both = [Replica(models, name, models/"models") for name in ("a", "b")]
    try: yield [r.wait() for r in both]
    finally:
        for r in both: r.stop()

@pytest.fixture
def front(replicas, tmp_path):
    for r in replicas: r.wait()
    n = Nginx(tmp_path, replicas)
    yield n
    n.stop()


def test_the_file_as_it_is_shipped(tmp_path):
    "One name, resolved again and again, is understood by nginx 1.27.3 and newer; a list by any"
    text = CONF.read_text().replace("/tmp/wakekit-nginx", str(tmp_path/"nginx"))
    assert len(LINE.findall(text)) == 1
    if version() < (1, 27, 3): text = LINE.sub(r"server 127.0.0.1:8000\1;", text)
    (tmp_path/"nginx.conf").write_text(text)
    r = subprocess.run([NGINX, "-t", "-c", str(tmp_path/"nginx.conf"), "-p", str(tmp_path)], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert "[warn]" not in r.stderr.replace('the "user" directive', ""), r.stderr


def test_recordings(front, replicas):
    "The same answer as from the service itself, in every form, and both replicas give them"
    x = sound((1, 4), 6.)
    direct = ask(replicas[0].port, "/detect", "POST", wav(x), **{"Content-Type": "audio/wav"})
    assert direct[0] == 200 and len(json.loads(direct[2])["events"]) == 2
    for d in DEVICES:
        status, headers, body = ask(front.port, f"/detect?device={d}", "POST", wav(x), **{"Content-Type": "audio/wav"})
        assert (status, body) == (200, direct[2]) and headers["content-type"] == "application/json"
    form = b'--B\r\nContent-Disposition: form-data; name="file"; filename="x.wav"\r\nContent-Type: audio/wav\r\n\r\n%b\r\n--B--\r\n' % wav(x)
    assert ask(front.port, "/detect", "POST", form, **{"Content-Type": "multipart/form-data; boundary=B"})[2] == direct[2]
    long = wav(sound((1, 200), 300.)) # 9.6 MB: more than nginx keeps in memory
    assert ask(front.port, "/detect", "POST", long, **{"Content-Type": "audio/wav"})[2] == ask(replicas[1].port, "/detect", "POST", long, **{"Content-Type": "audio/wav"})[2]
    assert set(front.homes(DEVICES).values()) == {r.address for r in replicas}


def test_streams(front, replicas):
    "Events as Python hears them, at both replicas at once; the same device comes back to the same one"
    x = pcm(sound((1, 4), 6.))
    wanted = [round(e.time_s, 3) for e in Detector(replicas[0].models/"hall").process(x)]
    assert len(wanted) == 2
    homes = front.homes(DEVICES)
    chosen = [d for r in replicas for d in [d for d in DEVICES if homes[d] == r.address][:4]]
    def one(k):
        with stream(front.port, chosen[k]) as s:
            say(s, x.tobytes(), (640, 2560, 2561, 30_000)[k%4])
            return events(s)
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool: assert all(found == wanted for found in pool.map(one, range(len(chosen))))
    with stream(replicas[0].port) as s: # without nginx
        say(s, x.tobytes())
        assert events(s) == wanted
    assert until(lambda: (h := front.served("/detect/stream")) and sum(map(len, h.values())) == 3*len(chosen) and h) == {d: [homes[d]]*3 for d in chosen}
    until(lambda: not sum(r.streams() for r in replicas)) # nginx holds none that is over


def test_what_others_may_not_see_and_what_is_refused(front, replicas):
    for path in ("/metrics", "/%6detrics", "//metrics", "/metrics/", "/monitor", "/monitor/canary"):
        status, headers, body = ask(front.port, path)
        assert status == 404 and headers["content-type"] == "application/problem+json" and json.loads(body)["code"] == "not_found", path
    assert ask(replicas[0].port, "/metrics")[0] == 200
    assert ask(front.port, "/models", Authorization="Bearer wrong")[0] == 401
    assert ask(front.port, "/detect", "POST", b"x", Origin="https://elsewhere.example", **{"Content-Type": "audio/wav"})[0] == 403
    assert ask(front.port, "/detect", "POST", wav(sound()), Origin=f"http://127.0.0.1:{front.port}", **{"Content-Type": "audio/wav"})[0] == 200 # its own page: Host arrives as it was sent
    status, headers, body = ask(front.port, "/detect", "POST", None, **{"Content-Type": "audio/wav", "Content-Length": str(300_000_000)})
    assert status == 413 and headers["content-type"] == "application/problem+json" and json.loads(body)["code"] == "too_large"
    status, headers, body = ask(front.port, "/detect", "POST", b"not audio", **{"Content-Type": "audio/wav"})
    assert status == 422 and json.loads(body)["code"] == "bad_audio"


def test_tickets_open_a_socket_at_the_replica_that_gave_them(front):
    from websockets.sync.client import connect
    for query in ("", *(f"device={d}" for d in DEVICES[:8])):
        ticket = json.loads(ask(front.port, f"/ws/ticket?{query}", "POST")[2])["ticket"]
        with connect(f"ws://127.0.0.1:{front.port}/detect/stream?{query}&ticket={ticket}", proxy=None) as s: assert json.loads(s.recv(60))["type"] == "hello"
    assert "ticket=" not in front.log.read_text()


def test_a_replica_that_is_killed(front, replicas):
    "The streams of the other one hear all of it; those of the dead one are cut off, come again and are served; it comes back, and so do they"
    dead, other = replicas
    x = pcm(sound((1, 4), 6., seed=1))
    wanted = [round(e.time_s, 3) for e in Detector(dead.models/"hall").process(x)]
    first, second = x[:3*16_000].tobytes(), x[3*16_000:].tobytes()
    homes = front.homes(DEVICES)
    with contextlib.ExitStack() as stack:
        from websockets.exceptions import ConnectionClosed
        open_ = {d: stack.enter_context(stream(front.port, d)) for d in DEVICES}
        for s in open_.values(): say(s, first)
        assert all(events(s, 1) == wanted[:1] for s in open_.values())
        until(lambda: Counter(homes.values()) == {r.address: r.streams() for r in replicas}) # now and then a canary is there, too
        dead.stop(signal.SIGKILL)
        cut = {d for d, address in homes.items() if address == dead.address}
        for d in cut:
            with pytest.raises(ConnectionClosed): open_[d].recv(60)
            open_[d] = stack.enter_context(stream(front.port, d)) # at once
            say(open_[d], first)
        for d, s in open_.items():
            say(s, second)
            assert events(s) == (wanted if d in cut else wanted[1:]), d
    assert 0 < len(cut) < len(DEVICES)
    assert set(front.homes(DEVICES).values()) == {other.address}
    status, _, body = ask(front.port, f"/detect?device={min(cut)}", "POST", wav(sound()), **{"Content-Type": "audio/wav"})
    assert status == 200 and len(json.loads(body)["events"]) == 2
    dead.start()
    dead.wait()
    until(lambda: front.homes(DEVICES) == homes)


def test_nobody_is_there(front, replicas):
    for r in replicas: r.stop(signal.SIGKILL)
    try:
        for path in ("/ready", "/health"):
            status, headers, body = ask(front.port, path)
            assert status == 503 and headers["retry-after"] == "5" and json.loads(body)["code"] == "no_replica"
    finally:
        for r in replicas: r.start()
        for r in replicas: r.wait()
    until(lambda: up(front.port))


def test_a_replica_without_a_model_is_passed_over(models, replicas, tmp_path):
    (tmp_path/"none").mkdir()
    empty = Replica(tmp_path, "empty", tmp_path/"none")
    try:
        until(lambda: up(empty.port, "/health"))
        assert ask(empty.port, "/ready")[0] == 503
        front = Nginx(tmp_path, [empty, replicas[0].wait()])
        try: assert all(ask(front.port, f"/ready?device={d}")[0] == 200 for d in DEVICES)
        finally: front.stop()
    finally: empty.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="how a full queue of connections answers")
def test_a_host_that_says_nothing_is_passed_over(replicas, tmp_path):
    "Neither an answer nor a refusal, as from a machine that was switched off"
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4): # its queue is full then
            c = stack.enter_context(socket.socket())
            c.setblocking(False)
            with contextlib.suppress(BlockingIOError): c.connect(silent.getsockname())
        front = Nginx(tmp_path, [SimpleNamespace(port=silent.getsockname()[1]), replicas[0].wait()])
        try: assert all(ask(front.port, f"/ready?device={d}")[0] == 200 for d in DEVICES)
        finally: front.stop()


def test_a_replica_that_is_added(front, replicas, models):
    "Streams that are open stay where they are; only some devices move, and all of those to the new one"
    x = pcm(sound((1, 4), 6., seed=2))
    wanted = [round(e.time_s, 3) for e in Detector(models/"models"/"hall").process(x)]
    many = [f"device-{k}" for k in range(60)]
    before, new = front.homes(many), Replica(models, "c", models/"models")
    try:
        new.wait()
        with contextlib.ExitStack() as stack:
            open_ = [stack.enter_context(stream(front.port, d)) for d in many[:12]]
            for s in open_: say(s, x[:3*16_000].tobytes())
            front.reload([*replicas, new])
            after = until(lambda: (h := front.homes(many)) and new.address in h.values() and h)
            for s in open_:
                say(s, x[3*16_000:].tobytes())
                assert events(s) == wanted
        moved = {d for d in many if after[d] != before[d]}
        assert 0 < len(moved) < 40 and {after[d] for d in moved} == {new.address}
    finally: new.stop()


class Names:
    "A name server that knows one name"
    def __init__(self):
        self.addresses, self.socket = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()
    def run(self):
        while True:
            try: data, who = self.socket.recvfrom(512)
            except OSError: return
            if not data: return
            end = data.index(b"\0", 12) + 5
            a = [b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04" + socket.inet_aton(x) for x in self.addresses] if data[end - 4:end - 2] == b"\0\x01" else []
            self.socket.sendto(data[:2] + b"\x81\x80\0\x01" + len(a).to_bytes(2, "big") + b"\0\0\0\0" + data[12:end] + b"".join(a), who)
    def stop(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b"", ("127.0.0.1", self.port))


@pytest.mark.skipif(not NGINX or version() < (1, 27, 3), reason="needs nginx 1.27.3 or newer (TEST_NGINX names one)")
@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")
def test_one_name_for_all_replicas(models, tmp_path):
    "As Docker's name server has it: a replica is found when the name gets its address, without a reload, and left out when that is gone"
    port, names = free_port(), Names()
    both = [Replica(tmp_path, name, models/"models", f"127.0.0.{k}", port) for k, name in ((2, "a"), (3, "b"))] # containers: one port, several addresses
    try:
        first, second = [r.wait() for r in both]
        names.addresses = [first.host]
        front = Nginx(tmp_path, None, **{"inference:8000": f"inference:{port}", "127.0.0.11 valid=5s": f"127.0.0.1:{names.port} valid=1s"})
        try:
            assert set(front.homes(DEVICES).values()) == {first.address}
            names.addresses = [first.host, second.host]
            until(lambda: set(front.homes(DEVICES).values()) == {first.address, second.address})
            names.addresses = [second.host]
            until(lambda: set(front.homes(DEVICES).values()) == {second.address})
        finally: front.stop()
    finally:
        names.stop()
        for r in both: r.stop()
