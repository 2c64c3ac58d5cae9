"The inbox from a microphone to a training: commands and services that keep, decisions that training knows, two models on the same sounds"
import asyncio, contextlib, json, os, re, shutil, signal, subprocess, sys, threading, time
from pathlib import Path
import numpy as np
import pytest
pytest.importorskip("wakekit.data.inbox")
from wakekit.core import DatasetError, WakekitError
from wakekit.data.audio import to_int16
from wakekit.data.inbox import Inbox
from wakekit.data.interchange import Dataset
from wakekit.data.inbox import FROM_INBOX
from wakekit.ship.keep import Keeper, Listening, Writer
from wakekit.ship.stream import Detector
from wakekit.ship.toy import chime, toy_bundle

SR = 16_000
MAIN = "import sys; sys.modules['torch'] = None; from wakekit.cli import main; sys.exit(main())" # detecting and keeping need no torch

@pytest.fixture
def home(tmp_path, monkeypatch):
    toy_bundle(tmp_path/"hall.wake")
    monkeypatch.setenv("WAKEKIT_DATA_DIR", str(tmp_path/"data"))
    monkeypatch.setenv("WAKEKIT_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("WAKEKIT_LOGS_DIR", str(tmp_path/"logs"))
    Dataset.create(tmp_path/"data/datasets/hall", "Ding Dong")
    return tmp_path

def inbox_of(home, name="hall"): return Inbox(Dataset.open(home/"data/datasets"/name))
def evening(s=12, *chimes):
    x = np.random.default_rng(3).normal(0, 1e-3, s*SR).astype(np.float32)
    for at, hz in chimes or ((3, 660), (8, 663)): x[at*SR:][:5120] += chime(dong_hz=hz)
    return to_int16(x)

def run(home, *words, input=None, **env):
    r = subprocess.run([sys.executable, "-c", MAIN, *map(str, words)], input=input, capture_output=True, timeout=120, cwd=home, env={**os.environ, **env})
    return r.returncode, r.stdout.decode(), r.stderr.decode()

def check(inbox, pcm, what):
    found = sorted(inbox.found(open=True), key=lambda f: f.start_s)
    assert [f.kind for f in found] == ["trigger", "near"]
    for f in found:
        a = round(f.start_s*SR)
        assert np.array_equal(to_int16(inbox.load(f.id)), pcm[a:a + round(f.duration_s*SR)]) and f.duration_s == 3
        assert f.origin.startswith(what) and f.decision is None and f.heard.endswith("Z")
        assert f.detector["phrase"] == "ding dong" and f.detector["threshold"] == .5 and len(f.detector["digest"]) == 12
        assert f.predictions == [] or list(f.predictions) == []

@pytest.mark.parametrize("command", [("listen",), ("detect",)])
def test_a_stream_is_kept_word_for_word(home, command):
    pcm = evening()
    code, out, err = run(home, *command, home/"hall.wake", "-", "--inbox", "hall", "--json", input=pcm.tobytes())
    assert code == 0 and len(out.splitlines()) == 1 and "does not leave this machine" in err and "14 days and 200 MB" in err and "2 sounds were kept" in err, err
    check(inbox_of(home), pcm, "wakekit listen on ")

def test_it_is_off_unless_somebody_asks(home):
    pcm = evening().tobytes()
    code, out, err = run(home, "listen", home/"hall.wake", "-", input=pcm)
    assert code == 0 and "kept" not in err
    code, out, err = run(home, "listen", home/"hall.wake", "-", "--inbox", "", input=pcm, WAKEKIT_INBOX="hall")
    assert code == 0 and "kept" not in err and not inbox_of(home).found()
    code, out, err = run(home, "listen", home/"hall.wake", "-", input=pcm, WAKEKIT_INBOX="hall", WAKEKIT_INBOX_DAYS="3", WAKEKIT_INBOX_MB="5")
    assert code == 0 and "3 days and 5 MB" in err and len(inbox_of(home).found()) == 2
    code, out, err = run(home, "listen", home/"hall.wake", "-", "--inbox", "hall", input=pcm, WAKEKIT_INBOX_DAYS="0", WAKEKIT_INBOX_MB="0")
    assert code == 0 and "without a limit" in err and len(inbox_of(home).found()) == 2
    code, out, err = run(home, "inbox", "sweep", "hall", "--json", WAKEKIT_INBOX_DAYS="0", WAKEKIT_INBOX_MB="0") # 0 is the same to everybody
    assert code == 0 and json.loads(out) == dict(gone=[], left=2)

def test_what_cannot_be_kept_is_said_before_anything_is_heard(home):
    Dataset.create(home/"data/datasets/other", "hey kit")
    for words, env, said in ((("--inbox", "nowhere"), {}, "no dataset 'nowhere'"), (("--inbox", "other"), {}, "of that phrase"), (("--inbox", "hall"), dict(WAKEKIT_INBOX_DAYS="-1"), "WAKEKIT_INBOX_DAYS")):
        code, out, err = run(home, "listen", home/"hall.wake", "-", *words, input=evening().tobytes(), **env)
        assert code == 1 and said in err and not out, err
    (home/"x.wav").write_bytes(b"")
    assert run(home, "detect", home/"hall.wake", home/"x.wav", "--inbox", "hall")[0] == 2

@contextlib.contextmanager
def service(home, *words, says):
    "A service in a process of its own; yields the address that it says"
    p = subprocess.Popen([sys.executable, "-c", MAIN, "serve", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=home)
    lines = []
    address, end = None, time.monotonic() + 90
    while address is None and time.monotonic() < end and (line := p.stderr.readline()):
        lines.append(line)
        if m := re.search(says, line): address = m[1]
    threading.Thread(target=lambda: lines.extend(p.stderr), daemon=True).start()
    try:
        assert address, "".join(lines)
        yield address, lines
    finally:
        p.send_signal(signal.SIGINT)
        try: p.wait(30)
        except subprocess.TimeoutExpired: p.kill()

def test_the_detection_service_keeps(home):
    pytest.importorskip("fastapi")
    from websockets.sync.client import connect
    pcm = evening()
    with service(home, "detect", "--port", "0", "--inbox", "hall", says=r"the detection service: (http\S+)/docs") as (address, lines):
        with connect(address.replace("http", "ws") + "/detect/stream", proxy=None) as ws:
            ws.recv(10)
            ws.send(pcm.astype("<i2").tobytes())
            ws.send('{"type": "end"}')
            while json.loads(ws.recv(20))["type"] != "done": pass
    assert any("does not leave this machine" in l for l in lines)
    check(inbox_of(home), pcm, "wakekit serve detect on ")

def test_wyoming_keeps(home):
    pytest.importorskip("wyoming")
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.ping import Ping
    pcm = evening()
    async def speak(host, port):
        async with AsyncTcpClient(host, port) as c:
            await c.write_event(AudioStart(SR, 2, 1).event())
            for a in range(0, len(pcm), 1024): await c.write_event(AudioChunk(SR, 2, 1, pcm[a:a + 1024].tobytes()).event())
            await c.write_event(AudioStop().event())
            await c.write_event(Ping().event()) # answered when all before it was heard
            return [(await asyncio.wait_for(c.read_event(), 30)).type for _ in range(2)]
    with service(home, "wyoming", home/"hall.wake", "--uri", "tcp://127.0.0.1:0", "--inbox", "hall", says=r"the wake-word service: tcp://(\S+)") as (address, lines):
        host, _, port = address.rpartition(":")
        assert asyncio.run(speak(host, int(port))) == ["detection", "pong"]
    check(inbox_of(home), pcm, "wakekit serve wyoming on ")

def test_only_models_of_its_phrase_are_kept(home):
    toy_bundle(home/"kit.wake", phrase="hey kit")
    pcm = evening()
    pytest.importorskip("wyoming")
    from wakekit.serve.words import Words
    from wakekit.serve.wyoming import WakeStream
    out = []
    s = WakeStream(Words(home), lambda: Keeper(out.append, phrase="ding dong"))
    s.hear(pcm.tobytes())
    assert {m.detector["name"] for m in out} == {"hall"} and len(s.hot) == 2

def test_the_limits_hold_on_disk_whatever_comes(home):
    inbox, place = inbox_of(home), home/"data/datasets/hall/inbox"
    writer, rng, most = Writer(inbox, 7, .4), np.random.default_rng(0), 0
    out = []
    for _ in Listening(Detector(home/"hall.wake"), Keeper(out.append)).listen(np.split(evening(), 100)): pass
    from dataclasses import replace
    for k in range(12):
        writer(replace(out[0], pcm=rng.integers(-99, 99, 48_000).astype(np.int16)))
        end = time.monotonic() + 20
        while writer.kept <= k and time.monotonic() < end: time.sleep(.01)
        most = max(most, sum(p.stat().st_size for p in place.iterdir()))
    inbox.accept(inbox.found()[0].id, "negative", by="ann")
    writer.close()
    assert writer.stats()["kept"] == 12 and 250_000 < most <= 400_000 and 0 < len(inbox.found(open=True)) < 5

def test_a_decision_is_what_training_calls_a_false_wake(home, monkeypatch):
    inbox, ds = inbox_of(home), Dataset.open(home/"data/datasets/hall")
    ids = [inbox.put(np.random.default_rng(k).integers(-999, 999, 48_000).astype(np.int16), "trigger", sample_rate=SR, origin="hall", start_s=1., heard="", score=.9, detector={}, predictions=[])[0].id for k in range(5)]
    clips = [inbox.accept(i, label, by="ann") for i, label in zip(ids, ("negative", "noise", "positive"))]
    inbox.reject(ids[3])
    assert all(c.source == FROM_INBOX + "hall" for c in clips)
    own = ds.add(np.random.default_rng(9).normal(0, .1, SR).astype(np.float32), "negative", source="radio")
    import wakekit.ship.quickstart as q
    class Enough(Exception): pass
    seen = {}
    def prepare(folder, data, positives, background, noise, rooms, near, woken):
        seen.update(positives=positives, background=background, noise=noise, near=near, woken=woken)
        raise Enough
    monkeypatch.setattr(q, "prepare", prepare)
    with pytest.raises(Enough): q.train_dataset(Dataset.open(ds.path), home/"out.wake")
    ids_of = lambda what: {Path(i.src).stem for i in seen[what]}
    assert {i.group for i in seen["woken"]} == {clips[0].id, clips[1].id}, "held out with nobody's calls"
    assert ids_of("woken") == {clips[0].id, clips[1].id} and ids_of("background") == {own.id} and ids_of("positives") == {clips[2].id} and not ids_of("noise") | ids_of("near")

def test_two_models_and_sounds_that_are_gone(home):
    from wakekit.serve.again import compare_inbox
    inbox = inbox_of(home)
    put = lambda x: inbox.put(x, "trigger", sample_rate=SR, origin="hall", start_s=0., heard="2026-01-01T10:00:00Z", score=.9, detector={}, predictions=[])[0].id
    pcm = evening()
    ids = [put(pcm[a*SR:(a + 3)*SR]) for a in (2, 7)] + [put(pcm[:SR] + np.int16(1))]
    (home/"data/datasets/hall/inbox"/f"{ids[1]}.wav").unlink()
    (home/"data/datasets/hall/inbox"/f"{ids[2]}.wav").write_bytes(b"no sound")
    both = compare_inbox(inbox, home/"hall.wake", toy_bundle(home/"strict.wake", threshold=.99), progress=False)
    assert [b.id for b in both.both] == [ids[0]] and {i for i, _ in both.skipped} == {ids[2]} and both.newly_quiet == both.both
    assert both.p_wakes == both.p_calls == 1 and json.dumps(both.to_dict()) and "1 that wake one" in both.claims[0]
    with pytest.raises(DatasetError, match="nothing in the inbox"): compare_inbox(inbox, home/"hall.wake", home/"strict.wake", kind="missed")

def test_two_models_and_sounds_that_are_swept_meanwhile(home, monkeypatch):
    from wakekit.serve import again
    inbox = inbox_of(home)
    for k, a in enumerate((2, 7)): inbox.put(evening()[a*SR:(a + 3)*SR], "trigger", sample_rate=SR, origin="hall", start_s=float(k), heard="2026-01-01T10:00:00Z", score=.9, detector={}, predictions=[])
    heard = again._heard
    def sweeping(detector, item):
        for f in inbox.found():
            if f.id != item.name:
                f.path.with_suffix(".json").unlink()
                f.path.unlink()
        return heard(detector, item)
    monkeypatch.setattr(again, "_heard", sweeping)
    both = again.compare_inbox(inbox, home/"hall.wake", home/"hall.wake", progress=False)
    assert len(both.both) == 1 and len(both.skipped) == 1 and "there is no sound" in both.skipped[0][1]
    def one_by_one(*_): raise AssertionError("sounds are compared with each other")
    monkeypatch.setattr(again.Both, "__eq__", one_by_one)
    assert [(r["sounds"], r["newly_quiet"], r["newly_waking"]) for r in both.rows()] == [(1, 0, 0)]
    inbox.put(evening()[:SR], "trigger", sample_rate=SR, origin="hall", start_s=9., heard="", score=.9, detector={}, predictions=[])
    monkeypatch.setattr(again, "_heard", lambda *_: shutil.rmtree(inbox.dataset.path, ignore_errors=True) or 1.)
    with pytest.raises((WakekitError, OSError)): again.compare_inbox(inbox, home/"hall.wake", home/"hall.wake", progress=False) # the whole dataset is no sound that has gone


def test_names_that_others_chose_stay_in_their_cell_and_command_no_terminal(home):
    ds, x = Dataset.open(home/"data/datasets/hall"), lambda k: np.random.default_rng(k).normal(0, .1, SR).astype(np.float32)
    sound, _ = ds.inbox.put(x(0), "near", origin="up | stairs\nhall \x1b]0;owned\x07\x9b31m")
    ds.add(x(1), "negative", original_name="a | b\n\x1b[2J.wav")
    (ds.inbox.path/f"{'0'*16}.wav").write_bytes(b"RIFF")
    (ds.inbox.path/f"{'0'*16}.json").write_text("{half", encoding="utf-8")
    code, out, err = run(home, "inbox", "list", "hall")
    rows = [line for line in out.splitlines() if line.startswith("  ")]
    assert code == 0 and len(rows) == 2 and "up ¦ stairs hall" in rows[1] and all(c == "\n" or c.isprintable() for c in out)
    assert f"{'0'*16}.json" in err and "inbox delete hall" in err  # a sound that cannot be read is not passed over in silence
    code, out, _ = run(home, "data", "list", "hall")
    assert code == 0 and "a ¦ b" in out and all(c == "\n" or c.isprintable() for c in out)
    assert run(home, "inbox", "delete", "hall", "0"*16)[0] == 0 and not run(home, "inbox", "list", "hall")[2]
