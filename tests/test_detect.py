"The detection service and whatever anybody may send it: the right answer, the right code, and nobody else disturbed."
import asyncio, contextlib, io, json, re, shutil, socket, struct, subprocess, sys, threading, time
import numpy as np, pytest, soundfile as sf
pytest.importorskip("fastapi")
import soxr
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from wakekit.core import write_json
from wakekit.env import Settings
from wakekit.serve import detect, lines, streams
from wakekit.serve.detect import create_app
from wakekit.serve.registry import Registry
from wakekit.serve.store import Store
from wakekit.ship.stream import Detector
from wakekit.ship.toy import chime, toy_bundle

SR, WAV = 16_000, {"Content-Type": "audio/wav"}


def sound(at=(1, 4), seconds=6., seed=0):
    x = (.001*np.random.default_rng(seed).standard_normal(int(seconds*SR))).astype(np.float32)
    for s in at: x[int(s*SR):][:5120] += chime()[:len(x) - int(s*SR)]
    return x
def pcm(x): return np.rint(np.clip(x, -1, 1)*32767).astype("<i2")
def wav(x, sr=SR, **how):
    out = io.BytesIO()
    sf.write(out, x, sr, **{"format": "WAV", **how})
    return out.getvalue()
def times(messages): return [m["time_s"] for m in messages if m.get("type", "event") == "event"]
def problem(r, *statuses):
    assert r.status_code in statuses and r.headers["content-type"] == "application/problem+json", (r.status_code, r.text[:300])
    assert all(r.json()[k] for k in ("title", "detail", "code")) and "Traceback" not in r.text
    return r.json()

@contextlib.contextmanager
def service(root, **more):
    with TestClient(create_app(Settings(models_dir=root/"models", **{k: more.pop(k) for k in list(more) if k in ("api_token", "max_upload_mb")}), **more), raise_server_exceptions=False) as web: yield web

@pytest.fixture
def models(tmp_path):
    toy_bundle(tmp_path/"models"/"hall", verify=True)
    return tmp_path

@pytest.fixture
def web(models):
    with service(models) as web: yield web

def play(web, data, size=2560, query="", end=True):
    "(messages, code) of a stream"
    messages, code = [], None
    try:
        with web.websocket_connect("/detect/stream" + query) as s:
            for i in range(0, len(data), size): s.send_bytes(data[i:i + size])
            if end: s.send_text('{"type": "end"}')
            while True: messages.append(s.receive_json())
    except WebSocketDisconnect as e: code = e.code
    return messages, code


@pytest.mark.parametrize("size", [1, 7, 320, 999, 2560, 31_999, 10**6])
def test_a_stream_hears_what_python_hears_in_pieces_of_any_length(web, models, size):
    x = pcm(sound()[:2*SR] if size < 9 else sound())
    messages, code = play(web, x.tobytes(), size)
    assert code == 1000 and messages[0]["type"] == "hello" and messages[-1]["type"] == "done"
    assert times(messages) == [e.time_s for e in Detector(models/"models"/"hall").process(np.concatenate([x, np.zeros(3200, np.int16)]))] != []
    assert messages[-1]["seconds"] == len(x)/SR

@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_streams_of_any_rate(web, models, rate):
    x = sound((1, 4, 7), 9)
    messages, code = play(web, pcm(soxr.resample(x, SR, rate)).tobytes(), 4000, f"?rate={rate}")
    assert code == 1000 and np.allclose(times(messages), [e.time_s for e in Detector(models/"models"/"hall").detect(x)], atol=.041)

def test_file_and_stream_and_python_agree(web, models):
    x = pcm(sound((1, 3.5, 6), 9))
    python = [e.time_s for e in Detector(models/"models"/"hall").detect(x.astype(np.float32)/32768)]
    assert len(python) == 3 and times(play(web, x.tobytes())[0]) == times(web.post("/detect", content=wav(x), headers=WAV).json()["events"]) == python
    for how in (dict(format="FLAC"), dict(format="WAV", subtype="FLOAT"), dict(format="OGG", subtype="VORBIS")):
        assert np.allclose(times(web.post("/detect", content=wav(x.astype(np.float32)/32768, **how), headers=WAV).json()["events"]), python, atol=.021)
    stereo = np.stack([x, x], 1)
    assert times(web.post("/detect", files={"file": ("x.wav", wav(stereo))}).json()["events"]) == python

def test_what_is_no_recording(web):
    for body in (b"", b"RIFF", b"<html>404</html>"*99, wav(pcm(sound()))[:30], b"\0"*5000): problem(web.post("/detect", content=body, headers=WAV), 422)
    problem(web.post("/detect", content=wav(np.zeros(0, np.int16)), headers=WAV), 422)
    problem(web.post("/detect", json={}), 415)
    problem(web.post("/detect", data=dict(label="x")), 415)
    problem(web.post("/detect", files=[("file", ("a.wav", wav(pcm(sound())))), ("file2", ("b.wav", b"x"))]), 400, 422)
    problem(web.post("/detect?model=attic", content=wav(pcm(sound())), headers=WAV), 404)
    problem(web.post("/detect", content=b"x", headers={**WAV, "Content-Length": str(3*10**9)}), 413)
    problem(web.get("/detect"), 405)
    problem(web.post("/detect", content=wav(np.zeros(8000*601, np.int16), 8000), headers=WAV), 422)
    assert web.post("/detect", content=wav(pcm(sound())), headers=WAV).json()["snr_db"] > 20

@pytest.mark.parametrize("query,frames,code", [("?rate=4000", (), 1008), ("?rate=1000000", (), 1008), ("?model=attic", (), 1008), ("", ("hello?",), 1003), ("", ('{"type": "stop"}',), 1003), ("", ("[]",), 1003),
                                               ("", (b"\0"*(lines.LONGEST_FRAME + 1),), 1009), ("?rate=fast", (), 1008)])
def test_what_is_no_stream_is_closed_with_a_code_and_others_go_on(web, query, frames, code):
    with web.websocket_connect("/detect/stream") as other:
        other.receive_json()
        said = None
        try:
            with web.websocket_connect("/detect/stream" + query) as s:
                for f in frames: (s.send_bytes if isinstance(f, bytes) else s.send_text)(f)
                while True: s.receive_json()
        except WebSocketDisconnect as e: said = e.code
        assert said == code
        other.send_bytes(pcm(sound((1,), 2)).tobytes())
        other.send_text('{"type": "end"}')
        assert other.receive_json()["type"] == "event" and other.receive_json()["type"] == "done"

def test_noise_of_any_kind_is_only_sound(web):
    rng = np.random.default_rng(0)
    messages, code = play(web, rng.bytes(200_001), 3333)
    assert code == 1000 and messages[-1]["type"] == "done" and messages[-1]["seconds"] == 100_000/SR

def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(web):
    for n in (0, 1, 5001):
        with web.websocket_connect("/detect/stream") as s: s.send_bytes(b"\0"*n)
    end = time.time() + 10
    while web.app.state.service.lines and time.time() < end: time.sleep(.02)
    assert not web.app.state.service.lines

def test_there_is_a_most(models):
    with service(models, most=1) as web, web.websocket_connect("/detect/stream") as first:
        first.receive_json()
        assert play(web, b"", end=False)[1] == 1013

def test_a_quiet_stream_is_closed(web, monkeypatch):
    monkeypatch.setattr(detect, "IDLE_S", -1.)
    with pytest.raises(WebSocketDisconnect) as e, web.websocket_connect("/detect/stream") as s:
        s.receive_json()
        for _ in range(100): s.receive_json()
    assert e.value.code == 1008

def test_a_token(models):
    with service(models, api_token="secret") as web:
        problem(web.post("/detect", content=wav(pcm(sound())), headers=WAV), 401)
        assert web.get("/ready").status_code == web.get("/docs").status_code == 200
        with pytest.raises(WebSocketDisconnect), web.websocket_connect("/detect/stream"): pass
        ticket = web.post("/ws/ticket", headers={"Authorization": "Bearer secret"}).json()["ticket"]
        with web.websocket_connect(f"/detect/stream?ticket={ticket}") as s: assert s.receive_json()["type"] == "hello"
        with pytest.raises(WebSocketDisconnect), web.websocket_connect(f"/detect/stream?ticket={ticket}"): pass

def test_trouble_with_one_stream_is_not_the_others(web, monkeypatch):
    decided = Detector._decided
    def fails(self, scores):
        if self.fails: raise RuntimeError("the second look is gone")
        return decided(self, scores)
    monkeypatch.setattr(Detector, "fails", False, raising=False)
    monkeypatch.setattr(Detector, "_decided", fails)
    with web.websocket_connect("/detect/stream") as good:
        good.receive_json()
        with pytest.raises(WebSocketDisconnect) as e, web.websocket_connect("/detect/stream") as bad:
            bad.receive_json()
            end = time.time() + 5
            while len(web.app.state.service.lines) < 2 and time.time() < end: time.sleep(.01)
            newest = max(web.app.state.service.lines, key=lambda l: l.stream.last_fed)
            newest.stream.ears[0].detector.fails = True
            for _ in range(200):
                bad.send_bytes(b"\0"*2560)
                time.sleep(.01)
            bad.receive_json()
        assert e.value.code == 1011
        good.send_bytes(pcm(sound((1,), 2)).tobytes())
        good.send_text('{"type": "end"}')
        assert good.receive_json()["type"] == "event"

def test_a_new_model_takes_over_in_the_middle_and_nothing_is_lost_or_doubled(models):
    x = pcm(sound(range(1, 39, 2), 40)).tobytes()
    with service(models) as web, contextlib.ExitStack() as stack:
        s = web.app.state.service
        lines = [stack.enter_context(web.websocket_connect("/detect/stream?model=hall")) for _ in range(4)]
        versions = [l.receive_json()["models"][0]["digest"] for l in lines]
        for at in range(0, len(x), 32_000):
            for l in lines: l.send_bytes(x[at:at + 32_000])
            if at == 10*32_000:
                toy_bundle(models/"models"/"new", verify=True, threshold=.45)
                shutil.rmtree(models/"models"/"hall")
                shutil.move(models/"models"/"new", models/"models"/"hall")
                s.store.refresh()
            while any(l.stream.n_waiting for l in s.lines): time.sleep(.005)
            for _ in range(3): s.sweep()
        for l in lines:
            l.send_text('{"type": "end"}')
            heard = []
            while (m := l.receive_json())["type"] != "done": heard.append(m)
            assert [round(m["time_s"]) for m in heard] == list(range(1, 39, 2)), heard
            assert {m["threshold"] for m in heard} == {.5, .45}

def test_a_damaged_bundle_in_the_store_leaves_the_old_one(web, models):
    (models/"models"/"hall"/"model.onnx").write_bytes(b"nonsense")
    manifest = json.loads((models/"models"/"hall"/"manifest.json").read_text())
    write_json(models/"models"/"hall"/"manifest.json", {**manifest, "phrase": "other"})
    shutil.copytree(models/"models"/"hall", models/"models"/"attic")
    web.app.state.service.store.refresh()
    about = web.get("/models").json()
    assert [m["name"] for m in about["models"]] == ["hall"] and set(about["problems"]) == {"hall", "attic"} and str(models) not in json.dumps(about)
    assert times(play(web, pcm(sound()).tobytes())[0]) and web.get("/health").json()["status"] == "degraded"

def test_without_models_it_waits_for_one(tmp_path):
    (tmp_path/"models").mkdir()
    with service(tmp_path) as web:
        problem(web.get("/ready"), 503)
        problem(web.post("/detect", content=wav(pcm(sound())), headers=WAV), 404)
        assert play(web, b"", end=False)[1] == 1008
        toy_bundle(tmp_path/"models"/"hall")
        web.app.state.service.store.refresh()
        assert web.get("/ready").json()["ready"] and len(times(play(web, pcm(sound()).tobytes())[0])) == 2


# ---- a real server

@pytest.fixture
def port(models):
    import uvicorn
    server = uvicorn.Server(uvicorn.Config(create_app(Settings(models_dir=models/"models")), log_level="error", port=0, timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
        thread.start()
        while not server.started: time.sleep(.02)
        yield taken.getsockname()[1]
        server.should_exit = True
        thread.join(20)

def raw(port, query=""):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(f"GET /detect/stream{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got: got += s.recv(4096)
    assert b" 101 " in got
    return s
def frame(payload): return b"\x82" + bytes([0x80 | 127]) + struct.pack(">Q", len(payload)) + b"\0\0\0\0" + payload

def test_one_that_never_reads_and_one_that_breaks_off_in_a_frame_disturb_nobody(port):
    from websockets.sync.client import connect
    deaf, cut, liar = raw(port, "?scores=true"), raw(port), raw(port)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    def pour():
        with contextlib.suppress(OSError):
            for _ in range(3000): deaf.sendall(frame(b"\0"*3200))
    pouring = threading.Thread(target=pour, daemon=True)
    pouring.start()
    cut.sendall(frame(b"\0"*3200)[:1000])
    cut.close()
    liar.sendall(b"\x82" + bytes([0x80 | 127]) + struct.pack(">Q", 1 << 40) + b"\0\0\0\0" + b"x"*1000) # a frame of a terabyte
    with connect(f"ws://127.0.0.1:{port}/detect/stream") as good:
        data = pcm(sound()).tobytes()
        for i in range(0, len(data), 2560): good.send(data[i:i + 2560])
        good.send('{"type": "end"}')
        kinds = [json.loads(m)["type"] for m in good]
    assert kinds == ["hello", "event", "event", "done"]
    for s in (deaf, liar): s.close()
    pouring.join(20)

def test_no_torch(models):
    code = "import sys; sys.modules.update(torch=None, torchaudio=None, librosa=None)\nfrom wakekit.serve.detect import create_app\nfrom wakekit.serve.store import Store\n"
    code += f"s = Store({str(models/'models')!r}).refresh(); create_app(store=s); print(len(s.served))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "1"


def test_trouble_in_a_batch_is_that_of_one_stream(models, monkeypatch):
    served, decided = Store(models/"models").refresh().select(), Detector._decided
    both = [streams.Stream(served), streams.Stream(served)]
    def fails(self, scores):
        if self is both[0].ears[0].detector: raise RuntimeError("the second look is gone")
        return decided(self, scores)
    monkeypatch.setattr(Detector, "_decided", fails)
    for s in both:
        s.feed(pcm(sound()).tobytes())
        s.ending = True
    bad, good = streams.work(both)
    assert isinstance(bad, RuntimeError) and len(times(good)) == 2 and good[-1]["type"] == "done"

def test_a_sender_that_is_faster_than_its_scoring_waits_and_goes_on(web, monkeypatch):
    work = streams.work
    def slow(some):
        time.sleep(.02)
        return work(some)
    monkeypatch.setattr(streams, "work", slow)
    monkeypatch.setattr(streams, "FULL_S", .1)
    x = pcm(sound(range(1, 29, 3), 30)).tobytes()
    for size in (3200, 7777):
        messages, code = play(web, x, size)
        assert code == 1000 and messages[-1]["events"] == 10 and messages[-1]["seconds"] == 30
    said = web.get("/metrics").text
    assert float(re.search(r"wakekit_stream_waits_total ([0-9.]+)", said)[1]) > 0 and float(re.search(r'wakekit_detections_total{model="hall",version="1"} ([0-9.]+)', said)[1]) == 20

def test_a_shadow_is_compared_and_changes_nothing(models, monkeypatch):
    registry = Registry(models/"two")
    registry.promote("hall", toy_bundle(models/"plain"))
    registry.promote("hall", toy_bundle(models/"deaf", threshold=2.))
    app = create_app(Settings(models_dir=models/"two"), Store(models/"two", {"hall": "1"}), shadows={"hall": "2"})
    with TestClient(app) as web:
        messages, code = play(web, pcm(sound((1, 4, 7), 9)).tobytes(), 3200)
        assert code == 1000 and len(times(messages)) == 3 and {m["type"] for m in messages} == {"hello", "event", "done"} and [m["version"] for m in messages[0]["models"]] == ["1"]
        said = web.get("/metrics").text
        assert 'wakekit_compared_calls_total{heard="live",model="hall",shadow="2"} 3.0' in said and "wakekit_shadow_detections_total{" not in said

def test_a_stream_that_is_queued_while_it_ends_ends_once(models):
    s = streams.Stream(Store(models/"models").refresh().select(), 44_100)
    s.feed(pcm(soxr.resample(sound(), SR, 44_100)).tobytes())
    s.ending = True
    first, again = streams.work([s])[0], streams.work([s])[0]
    assert first[-1]["type"] == "done" and len(times(first)) == 2 and not again

def test_pings_of_one_that_never_reads_do_not_pile_up():
    "In five seconds it were hundreds of thousands"
    class Deaf:
        def __init__(self): self.asked = 0
        async def receive(self):
            self.asked += 1
            return {"type": "websocket.receive", "text": '{"type": "ping"}'}
        async def send_text(self, text): await asyncio.sleep(3600)
    async def run():
        scorer, deaf = streams.Scorer(), Deaf()
        try: return await asyncio.wait_for(lines.Line(deaf, streams.Stream([]), scorer).run(), 60), deaf.asked
        finally: scorer.close()
    over, asked = asyncio.run(run())
    assert over.code == 1008 and asked <= lines.MOST_UNREAD + 2

def test_a_model_that_is_replaced_while_it_is_scored_keeps_the_time(models):
    "The place of the change is chosen by the thread that scores"
    old, new = Store(models/"models").refresh().select()[0], Store(models/"models").refresh().select()[0]
    ear, x, heard = streams.Ear(old), pcm(sound((1, 4, 7, 12), 14)), []
    for i in range(0, len(x), 1280):
        if i == 25*1280: ear.follow(new)
        if i == 26*1280: assert ear.joining[2] == 25*1280
        heard += ear.hear(x[i:i + 1280])[2]
    assert [e.time_s for e in heard] == [e.time_s for e in Detector(models/"models"/"hall").process(x)] and ear.served is new


def test_messages_of_all_kinds_arrive_as_they_were_sent():
    "Through a real socket, with the short way that whole binary messages take"
    import random, uvicorn
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from websockets.sync.client import connect
    from wakekit.serve.http import quick_sockets
    async def echo(socket):
        await socket.accept()
        while (m := await socket.receive())["type"] == "websocket.receive":
            if m.get("text") is not None: await socket.send_text(m["text"])
            else: await socket.send_bytes(m["bytes"])
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=[WebSocketRoute("/", echo)]), ws=quick_sockets(), ws_per_message_deflate=False, ws_max_size=1_000_000, log_level="error", timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[taken]), daemon=True)
        thread.start()
        try:
            with connect(f"ws://127.0.0.1:{taken.getsockname()[1]}", proxy=None, compression=None, max_size=None) as w:
                rng, sent = random.Random(0), []
                for _ in range(300):
                    part, kind = lambda: rng.randbytes(rng.choice([0, 1, 125, 126, 2560, 70_000])), rng.randrange(5)
                    said = "stop" + "é"*rng.randrange(40) if kind == 0 else [part() for _ in range(3)] if kind == 1 else part()
                    w.send(said)
                    sent.append(b"".join(said) if isinstance(said, list) else said)
                    if kind == 2: w.ping()
                    if len(sent)%10 == 0: # several are under way at once
                        for want in sent[-10:]: assert w.recv(30) == want
        finally:
            server.should_exit = True
            thread.join(30)
