"Actions on an event, with real receivers: alive, dead, slow, busy, hanging, elsewhere."
import importlib.util, json, logging, os, shutil, socket, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest
from wakekit.core import ConfigError
from wakekit.ship.actions import ActionError, Actions, Command, Line, Mqtt, MqttSender, Post, PostSender, Socket, SocketSender, announcement
from wakekit.ship.stream import Event

EVENT = Event("ding dong", 1., .98, 1., 1., .9, .5)
posix = pytest.mark.skipif(os.name == "nt", reason="process groups and sh are POSIX")

def until(true, s=20):
    "Wait for something; a bound for the worst machine, not a measurement"
    late = time.monotonic() + s
    while not true() and time.monotonic() < late: time.sleep(.01)
    return true()

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

class House:
    "An HTTP server that answers what it is told, and remembers what it got"
    def __init__(self, *answers, hang=None):
        house = self
        self.answers, self.got, self.hang = list(answers), [], hang
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_POST(self):
                house.got.append((self.path, dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")))
                if house.hang: house.hang.wait(30)
                self.send_response(house.answers.pop(0) if house.answers else 200)
                self.send_header("Location", f"http://127.0.0.1:{house.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
            do_GET = do_POST
            def log_message(self, *a): pass
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.block_on_close, self.port = True, False, self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
    def url(self, path="/hook"): return f"http://127.0.0.1:{self.port}{path}"
    def __enter__(self): return self
    def __exit__(self, *_):
        if self.hang: self.hang.set()
        self.server.shutdown(), self.server.server_close()


# ---- a line

def test_put_never_waits_and_the_oldest_goes():
    go, got = threading.Event(), []
    def send(event, left_s):
        go.wait(30)
        got.append(event["n"])
    line = Line("x", send, queue=3)
    line.put(dict(n=0))
    assert until(lambda: line.counts()["waiting"] == 0)
    for n in range(1, 100): line.put(dict(n=n)) # returns, though nobody takes any
    assert line.counts() == dict(done=0, failed=0, dropped=96, waiting=3)
    go.set()
    assert line.close() and got == [0, 97, 98, 99]
    line.put(dict(n=100))
    assert line.counts() == dict(done=4, failed=0, dropped=97, waiting=0)

def test_an_old_event_is_not_delivered():
    go, got = threading.Event(), []
    def send(event, left_s):
        got.append(event["n"])
        go.wait(30)
    line = Line("x", send, keep_s=.05)
    for n in range(3): line.put(dict(n=n))
    assert until(lambda: got == [0])
    time.sleep(.1)
    go.set()
    assert line.close() and got == [0] and line.counts()["dropped"] == 2

def test_one_message_per_change_of_state(caplog):
    bad = threading.Event()
    bad.set()
    def send(event, left_s):
        if bad.is_set(): raise ActionError("nobody there")
    line = Line("lamp", send, queue=100)
    with caplog.at_level(logging.WARNING):
        for _ in range(20): line.put({})
        assert until(lambda: line.counts()["failed"] == 20)
        bad.clear()
        for _ in range(20): line.put({})
        assert until(lambda: line.counts()["done"] == 20)
        bad.set()
        line.put({})
        assert line.close()
    assert [r.getMessage() for r in caplog.records] == ["lamp fails: nobody there", "lamp works again, after 20 tries in vain", "lamp fails: nobody there"]

def test_a_fault_of_a_sender_does_not_end_the_line():
    def send(event, left_s):
        if event["n"] == 0: raise RuntimeError("a bug")
    line = Line("x", send)
    for n in range(2): line.put(dict(n=n))
    assert line.close() and (line.done, line.failed) == (1, 1)

def test_closing_does_not_wait_for_a_receiver_that_hangs():
    never = threading.Event()
    line = Line("x", lambda *_: never.wait(60))
    for n in range(3): line.put({})
    assert until(lambda: line.counts()["waiting"] == 2)
    assert line.close(wait_s=.05) is False and line.counts()["dropped"] == 2
    never.set()

def test_at_once():
    both, go = threading.Barrier(2, timeout=20), threading.Event()
    line = Line("x", lambda *_: both.wait(), at_once=2) # each waits for the other
    for n in range(2): line.put({})
    assert line.close(20) and line.done == 2


# ---- commands

def test_command_gets_environment_and_stdin(tmp_path):
    code = "import json, os, sys; d = json.load(sys.stdin); json.dump([d, {k: v for k, v in os.environ.items() if k.startswith('WAKEKIT_')}], open(sys.argv[1], 'w'))"
    with Actions({"run": [{"command": [sys.executable, "-c", code, str(tmp_path/"out.json")]}]}) as actions: actions(EVENT)
    given, env = json.loads((tmp_path/"out.json").read_text())
    assert given["phrase"] == env["WAKEKIT_PHRASE"] == "ding dong" and float(env["WAKEKIT_SCORE"]) == .9 and float(env["WAKEKIT_START_S"]) == .98 and env["WAKEKIT_TIME_S"] == "1.0"
    assert env["WAKEKIT_ID"] == given["id"] and given["heard"].endswith("Z")

@posix
def test_no_shell_unless_asked(tmp_path):
    bad = Event(f"$(touch {tmp_path}/a)`touch {tmp_path}/b`; touch {tmp_path}/c", 1., 1., 1., 1., .9, .5)
    options = {"run": [{"command": f"sh -c 'cat >{tmp_path}/in; echo \"$WAKEKIT_PHRASE\" >{tmp_path}/env'"}, {"command": f"echo $WAKEKIT_PHRASE | tr a-z A-Z >{tmp_path}/shell", "shell": True}]}
    with Actions(options) as actions: actions(bad)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["env", "in", "shell"]
    assert (tmp_path/"env").read_text().strip() == bad.phrase and (tmp_path/"shell").read_text().strip() == bad.phrase.upper()

@posix
def test_time_limit_kills_the_whole_family(tmp_path):
    c = Command(["sh", "-c", f"sleep 300 & echo $! >{tmp_path}/child; wait"], timeout_s=1.)
    with pytest.raises(ActionError, match="longer than 1 s"): c.send({}, 9)
    child = int((tmp_path/"child").read_text())
    def gone():
        try: return Path(f"/proc/{child}/stat").read_text().split(")")[1].split()[0] == "Z" if Path("/proc").is_dir() else os.kill(child, 0)
        except OSError: return True
    assert until(gone)

@posix
def test_one_at_a_time_and_closing_kills_what_runs(tmp_path):
    actions = Actions({"run": [{"command": ["sh", "-c", f"echo x >>{tmp_path}/begun; sleep 300"], "timeout_s": 300}]})
    for _ in range(3): actions(EVENT)
    assert until(lambda: (tmp_path/"begun").is_file())
    assert actions.close(wait_s=.2) # sleep was killed, so its thread came to its end
    c, = actions.counts().values()
    assert (tmp_path/"begun").read_text() == "x\n" and c == dict(done=0, failed=1, dropped=2, waiting=0)

@posix
def test_a_lot_of_output_stays_small_and_errors_show_its_end(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(ActionError, match="exit code 4: the end"):
        Command(["sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 4"]).send({}, 9)
    assert sum(len(r.getMessage()) for r in caplog.records) < 1200

def test_a_command_that_does_not_read_its_input(): Command([sys.executable, "-c", ""]).send(dict(phrase="x"*1_000_000), 9) if os.name == "nt" else Command(["true"]).send(dict(phrase="x"*100_000), 9)

def test_odd_phrases():
    for phrase in ("nul\0nul", "\ud800"):
        with pytest.raises(ActionError, match="cannot be started"): Command([sys.executable, "-c", ""]).send(dict(phrase=phrase), 9)


# ---- HTTP

def test_post_token_id_and_retry():
    with House(500, 503, 429, 200) as house:
        os.environ["T_TOKEN"] = "s3cret"
        with Actions({"post": [{"url": house.url("/api/webhook/x"), "token_env": "T_TOKEN"}]}) as actions:
            actions(EVENT)
            assert until(lambda: list(actions.counts().values())[0]["done"] == 1)
        assert len(house.got) == 4 and len({body["id"] for *_, body in house.got}) == 1
        path, headers, body = house.got[-1]
        assert path == "/api/webhook/x" and headers["Authorization"] == "Bearer s3cret" and headers["Content-Type"] == "application/json"
        assert {k: body[k] for k in EVENT.to_dict()} == EVENT.to_dict()

@pytest.mark.parametrize("code", [301, 302, 307, 308, 400, 401, 404])
def test_what_is_not_tried_again(code):
    with House(code) as house, Actions({"post": [{"url": house.url()}]}) as actions:
        actions(EVENT)
        assert until(lambda: list(actions.counts().values())[0]["failed"] == 1)
        assert [p for p, *_ in house.got] == ["/hook"] # once, and never elsewhere

def test_dead_slow_and_hanging_servers_do_not_disturb_the_others(caplog):
    import numpy as np
    from pathlib import Path
    from wakekit.ship.stream import Detector
    bundle = Path(__file__).parent/"data"/"toy_bundle" # wakes for anything loud
    x = np.zeros(8*16_000, np.float32)
    for s in range(1, 8): x[16_000*s:16_000*s + 4000] = .3*np.random.default_rng(s).standard_normal(4000)
    alone = [e.to_dict() for e in Detector(bundle, refractory_ms=500).listen(np.array_split(x, 100))]
    assert len(alone) == 7
    with House(hang=threading.Event()) as hangs, House() as good, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0)), deaf.listen(0) # takes connections and never answers
        actions = Actions({"post": [{"url": u, "timeout_s": 20} for u in (hangs.url(), f"http://127.0.0.1:{deaf.getsockname()[1]}/", f"http://127.0.0.1:{free_port()}/", good.url())], "queue": 2, "keep_s": 60})
        heard = []
        for e in Detector(bundle, refractory_ms=500).listen(np.array_split(x, 100)):
            actions(e)
            heard.append(e.to_dict())
            assert until(lambda: len(good.got) == len(heard)) # each arrives before the next, whatever the others do
        assert heard == alone
        counts = list(actions.counts().values())
        assert [c["done"] for c in counts] == [0, 0, 0, 7] and counts[0]["dropped"] == counts[1]["dropped"] == 4
        hangs.hang.set()
        actions.close(wait_s=.1)

def test_token_file_is_read_anew(tmp_path):
    f = tmp_path/"token"
    f.write_text("one\n")
    with House() as house:
        sender = PostSender(Post(house.url(), token_file=str(f)))
        sender.send({}, 5)
        f.write_text("two\n")
        sender.send({}, 5)
        assert [h["Authorization"] for _, h, _ in house.got] == ["Bearer one", "Bearer two"]


# ---- WebSocket

@pytest.fixture
def console():
    pytest.importorskip("websockets.sync.server")
    from websockets.sync.server import serve
    class Console:
        def __init__(self): self.got, self.tokens, self.port, self.server = [], [], free_port(), None
        def start(self):
            def listen(s):
                self.tokens.append(s.request.headers.get("Authorization"))
                for _ in range(200): s.send("chatter that nobody asked for")
                for m in s: self.got.append(json.loads(m))
            self.server = serve(listen, "127.0.0.1", self.port)
            threading.Thread(target=self.server.serve_forever, daemon=True).start()
        def stop(self):
            for c in [c for c in getattr(self.server, "connections", ())]: c.close()
            self.server.shutdown()
        @property
        def url(self): return f"ws://127.0.0.1:{self.port}/events"
    c = Console()
    yield c
    if c.server: c.stop()

def test_websocket_reconnects(console):
    console.start()
    os.environ["T_TOKEN"] = "s3cret"
    sender = SocketSender(Socket(console.url, token_env="T_TOKEN"))
    line = Line("console", sender.send, sender.end, keep_s=60)
    for n in range(3): line.put(dict(n=n))
    assert until(lambda: line.done == len(console.got) == 3)
    first = sender._socket
    first.socket.shutdown(socket.SHUT_RDWR) # the connection breaks
    line.put(dict(n=3))
    assert until(lambda: line.done == 4) and sender._socket is not first
    assert until(lambda: {m["n"] for m in console.got} == {0, 1, 2, 3}) # it may chatter still when it confirms, and reads nothing once we have left
    assert line.close() and console.tokens == ["Bearer s3cret"]*2

def test_websocket_that_comes_later(console, caplog):
    sender = SocketSender(Socket(console.url))
    line = Line("console", sender.send, sender.end, keep_s=60)
    line.put(dict(n=0))
    assert until(lambda: line._bad >= 1)
    console.start()
    assert until(lambda: line.done == 1) and line.close()

def test_websocket_that_hangs_or_is_elsewhere():
    with socket.socket() as deaf: # accepts, never shakes hands
        deaf.bind(("127.0.0.1", 0)), deaf.listen(5)
        with pytest.raises(ActionError) as e: SocketSender(Socket(f"ws://127.0.0.1:{deaf.getsockname()[1]}/", timeout_s=.2)).send({}, 5)
        assert e.value.again
    for code in 302, 401:
        with House() as house:
            house.answers = [code]*5
            with pytest.raises(ActionError) as e: SocketSender(Socket(f"ws://127.0.0.1:{house.port}/hook")).send({}, 5)
            assert not e.value.again and [p for p, *_ in house.got] == ["/hook"]


# ---- MQTT, with mosquitto

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
broker_needed = pytest.mark.skipif(not MOSQUITTO or importlib.util.find_spec("paho") is None, reason="needs an MQTT broker and paho-mqtt: apt install mosquitto; pip install paho-mqtt")

class Broker:
    def __init__(self, folder, *lines):
        self.port, self.folder = free_port(), folder
        (folder/"m.conf").write_text("\n".join([f"listener {self.port} 127.0.0.1", *(lines or ["allow_anonymous true"])]) + "\n")
        self.start()
    def start(self):
        self.p = subprocess.Popen([MOSQUITTO, "-c", str(self.folder/"m.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        def there():
            with socket.socket() as s: return s.connect_ex(("127.0.0.1", self.port)) == 0
        assert until(there)
    def stop(self):
        self.p.kill()
        self.p.wait()
    def url(self, topic="wakekit/kitchen", scheme="mqtt", host="127.0.0.1"): return f"{scheme}://{host}:{self.port}/{topic}"

class Subscriber:
    def __init__(self, port, topic="#", tls=None):
        paho = pytest.importorskip("paho.mqtt.client")
        self.got, ready = [], threading.Event()
        self.c = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if tls: self.c.tls_set(tls)
        self.c.on_message = lambda c, u, m: self.got.append((m.topic, m.payload.decode(), m.retain))
        self.c.on_subscribe = lambda *_: ready.set()
        self.c.on_connect = lambda *_: self.c.subscribe(topic, 2)
        self.c.reconnect_delay_set(1, 1)
        self.c.connect_async("localhost" if tls else "127.0.0.1", port)
        self.c.loop_start()
        assert ready.wait(20)
    def close(self): self.c.disconnect(), self.c.loop_stop()

@pytest.fixture
def broker(tmp_path):
    pytest.importorskip("paho.mqtt.client")
    b = Broker(tmp_path)
    yield b
    b.stop()

@broker_needed
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mqtt(broker, qos):
    sub = Subscriber(broker.port)
    with Actions({"mqtt": [{"url": broker.url(), "qos": qos}]}) as actions:
        for _ in range(5): actions(EVENT)
    c, = actions.counts().values()
    assert c["done"] == 5 and until(lambda: len(sub.got) == 5)
    sub.close()
    topic, text, retained = sub.got[0]
    assert topic == "wakekit/kitchen" and not retained and json.loads(text)["phrase"] == "ding dong" and json.loads(text)["event_type"] == "heard"

@broker_needed
def test_mqtt_broker_goes_and_comes_back(broker, caplog):
    sender = MqttSender(Mqtt(broker.url()))
    line = Line("mqtt", sender.send, sender.end, keep_s=60)
    line.put(dict(n=0))
    assert until(lambda: line.done == 1)
    broker.stop()
    assert until(lambda: not sender._up.is_set())
    line.put(dict(n=1))
    assert until(lambda: line._bad >= 1)
    broker.start()
    sub = Subscriber(broker.port)
    line.put(dict(n=2))
    assert until(lambda: line.done == 3, 60) and line.close()
    assert until(lambda: 2 in [json.loads(t)["n"] for _, t, _ in sub.got])
    sub.close()
    assert sum("fails" in r.getMessage() for r in caplog.records) == sum("works again" in r.getMessage() for r in caplog.records) == 1

@broker_needed
def test_nothing_old_is_published_when_the_broker_comes_back(broker):
    sender = MqttSender(Mqtt(broker.url()))
    assert sender._up.wait(20)
    os.kill(broker.p.pid, 19) if os.name != "nt" else pytest.skip("needs SIGSTOP") # it hangs: the connection stands, nothing is confirmed
    line = Line("mqtt", sender.send, sender.end, keep_s=.5)
    line.put(dict(n=0))
    assert until(lambda: line.failed == 1)
    assert not sender._up.is_set() # a new client
    broker.stop()
    broker.start()
    sub = Subscriber(broker.port)
    assert until(lambda: sender._up.is_set(), 60)
    line.keep_s = 20
    line.put(dict(n=1))
    assert line.close(20) and until(lambda: len(sub.got) >= 1)
    sub.close()
    assert [json.loads(t)["n"] for _, t, _ in sub.got] == [1]

@broker_needed
def test_mqtt_user_and_password(tmp_path, monkeypatch):
    if not (tool := shutil.which("mosquitto_passwd")): pytest.skip("no mosquitto_passwd here")
    (tmp_path/"users").write_text("")
    subprocess.run([tool, "-b", str(tmp_path/"users"), "pi", "raspberry"], check=True, capture_output=True)
    b = Broker(tmp_path, "allow_anonymous false", f"password_file {tmp_path/'users'}", *(["user root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []))
    try:
        monkeypatch.setenv("MQTT_USERNAME", "pi")
        for password, done in ("wrong", 0), ("raspberry", 1):
            monkeypatch.setenv("MQTT_PASSWORD", password)
            sender = MqttSender(Mqtt(b.url()))
            if done: sender.send({}, 20)
            else:
                assert until(lambda: "refuses" in sender._why)
                with pytest.raises(ActionError, match="MQTT_USERNAME and MQTT_PASSWORD"): sender.send({}, .2)
            sender.end()
    finally: b.stop()

@broker_needed
def test_mqtt_tls(tmp_path):
    if not (openssl := shutil.which("openssl")): pytest.skip("no openssl here")
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path/"key.pem", "-out", tmp_path/"cert.pem"], check=True, capture_output=True)
    b = Broker(tmp_path, "allow_anonymous true", f"certfile {tmp_path/'cert.pem'}", f"keyfile {tmp_path/'key.pem'}", *(["user root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []))
    try:
        sub = Subscriber(b.port, tls=str(tmp_path/"cert.pem"))
        good, stranger = MqttSender(Mqtt(b.url(scheme="mqtts", host="localhost"), ca_file=str(tmp_path/"cert.pem"))), MqttSender(Mqtt(b.url(scheme="mqtts", host="localhost")))
        good.send(dict(n=1), 20)
        with pytest.raises(ActionError): stranger.send(dict(n=2), 1.5) # a certificate that nobody vouches for
        assert until(lambda: len(sub.got) == 1)
        for x in (good, stranger): x.end()
        sub.close()
    finally: b.stop()
    with pytest.raises(ConfigError, match="PEM"): MqttSender(Mqtt("mqtts://localhost/x", ca_file=str(tmp_path/"none.pem")))

@broker_needed
def test_home_assistant_discovery(broker):
    options = Mqtt(broker.url(), discovery="homeassistant", name="Kitchen")
    sender = MqttSender(options)
    sender.send(EVENT.to_dict(), 20)
    late = Subscriber(broker.port) # Home Assistant starts after us, so all of this is retained
    topic, about = announcement(options)
    assert until(lambda: len(late.got) == 2) and dict((t, x) for t, x, _ in late.got)[about["availability_topic"]] == "online"
    assert json.loads(dict((t, x) for t, x, _ in late.got)[topic]) == about
    sender._client._sock_close() # the connection breaks without a good-bye: the broker says so
    assert until(lambda: late.got[-1][1] == "offline")
    assert until(lambda: late.got[-1][1] == "online", 60)
    sender.end()
    assert until(lambda: late.got[-1][1] == "offline")
    late.close()


# ---- wakekit listen

@posix
def test_listen_acts_and_ends_in_order(tmp_path):
    import numpy as np
    bundle = Path(__file__).parent/"data"/"toy_bundle" # wakes for anything loud
    x = np.zeros(3*16_000, "<i2")
    x[16_000:20_000] = np.random.default_rng(0).integers(-9000, 9000, 4000)
    env = {**os.environ, "T_TOKEN": "s3cret", "WAKEKIT_DATA_DIR": str(tmp_path)}
    with House() as house:
        words = ["listen", str(bundle), "-", "--json", "--post", house.url(), "--token-env", "T_TOKEN", "--run", f"sh -c 'sleep .3; cat >{tmp_path}/heard.json'", "--post", f"http://127.0.0.1:{free_port()}/dead"]
        p = subprocess.Popen([sys.executable, "-c", "import wakekit.cli_deploy as c; import sys; sys.exit(c.commands.run(sys.argv[1:]))", *words], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            p.stdin.write(x.tobytes()), p.stdin.flush() # and the pipe stays open
            event = json.loads(p.stdout.readline())
            p.terminate()
            out, err = p.communicate(timeout=60)
        finally: p.kill()
        assert p.returncode == 0 and b"Traceback" not in err, err.decode()
        assert err.decode().count("dead fails") == 1
        (_, headers, body), = house.got
        assert headers["Authorization"] == "Bearer s3cret" and body["time_s"] == event["time_s"] == json.loads((tmp_path/"heard.json").read_text())["time_s"] # the program that was running came to its end


# ---- options

@pytest.mark.parametrize("options, says", [
    ({"run": [{"command": "no-such-program-at-all"}]}, "there is no program"), ({"run": [{"command": "echo 'open"}]}, "cannot be split"), ({"run": [{"command": ""}]}, "there is no program"), ({"run": [{}]}, "lacks"),
    ({"run": [{"command": "echo", "at_once": 0}]}, "at_once"), ({"queue": 0}, "queue"), ({"keep_s": float("nan")}, "keep_s"), ({"post": [{"url": "ftp://x"}]}, "no address"), ({"post": [{"url": "http://u:p@x/"}]}, "without user"),
    ({"post": [{"url": "http://x", "token_env": "T_NO_SUCH"}]}, "T_NO_SUCH"), ({"ws": [{"url": "http://x"}]}, "wss://"), ({"ws": [{"url": "ws://x:port/"}]}, "no address"), ({"mqtt": [{"url": "mqtt://x"}]}, "no topic"),
    ({"mqtt": [{"url": "mqtt://x/a/+"}]}, "no topic"), ({"mqtt": [{"url": "mqtt://x/a", "qos": 3}]}, "qos"), ({"pots": []}, "did you mean post"), ([], "mapping")])
def test_wrong_options(options, says, tmp_path):
    (tmp_path/"a.json").write_text(json.dumps(options))
    with pytest.raises(ConfigError, match=says): Actions(tmp_path/"a.json")

def test_a_damaged_file(tmp_path):
    (tmp_path/"a.json").write_text('{"run": [')
    with pytest.raises(ConfigError, match="damaged"): Actions(tmp_path/"a.json")
