"Moments of a stream: the same samples however they come, limits, disks that fail, services that go on"
import json, logging, subprocess, sys, threading, time
from types import SimpleNamespace
import numpy as np
import pytest
from wakekit.core import ConfigError
from wakekit.data.audio import to_int16
from wakekit.ship.device import HotDetector
from wakekit.ship.keep import WAITING, Keeper, KeepConfig, Listening, Ring, Writer
from wakekit.ship.stream import Detector
from wakekit.ship.toy import chime, toy_bundle

SR = 16_000

@pytest.fixture(scope="module")
def bundle(tmp_path_factory): return toy_bundle(tmp_path_factory.mktemp("toy")/"hall.wake")

def room(s, *chimes, seed=0):
    "int16 (time,): a room with chimes at (s, Hz of its end)"
    x = np.random.default_rng(seed).normal(0, 1e-3, round(s*SR)).astype(np.float32)
    for at, hz in chimes:
        ding = chime(dong_hz=hz)
        x[round(at*SR):][:len(ding)] += ding
    return to_int16(x)

def moments(bundle, pcm, sizes, config=KeepConfig(), verify=False, **how):
    "Moments when the sound comes in chunks of these sizes, over and over"
    d, out, at, k = Detector(bundle), [], 0, 0
    keeper = Keeper(out.append, config, **how)
    while at < len(pcm):
        chunk = pcm[at:at + sizes[k%len(sizes)]]
        keeper.heard(d, *d.hear(chunk), ("hall", "1", "abc"))
        keeper.sound(chunk)
        at, k = at + len(chunk), k + 1
    return out

@pytest.mark.parametrize("seed", range(4))
def test_ring_remembers_the_end_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    ring, x, n = Ring(.05), rng.integers(-9999, 9999, 6000).astype(np.int16), 0
    while n < len(x):
        m = int(rng.choice([0, 1, 7, 320, 799, 800, 801, 2500]))
        ring.add(x[n:n + m])
        n = min(n + m, len(x))
        a, b = np.sort(rng.integers(0, 6500, 2))
        assert ring.n == n and np.array_equal(ring.part(a, b), x[max(a, n - 800):max(0, min(b, n))][:max(0, min(b, n) - max(a, n - 800, 0))])
    assert ring.x.nbytes == 1600

def test_moments_do_not_depend_on_chunks_and_are_the_very_samples(bundle):
    pcm = room(30, (1, 660), (5, 663), (7.9, 663.5), (9.4, 660), (14, 663), (21, 660), (26, 663))
    usual = moments(bundle, pcm, [1280], KeepConfig(every_s=5.))
    assert [(m.kind, int(m.at_s)) for m in usual] == [("trigger", 1), ("near", 5), ("trigger", 9), ("near", 14), ("trigger", 21), ("near", 26)]
    for m in usual:
        a, b = round(m.start_s*SR), round(m.at_s*SR) + SR
        assert np.array_equal(m.pcm, pcm[a:b]) and a == max(0, round(m.at_s*SR) - 2*SR)
        assert m.detector == dict(name="hall", version="1", digest="abc", phrase="ding dong", threshold=.5)
        assert (m.score >= .5) == (m.kind == "trigger") and m.score >= .25
    rng = np.random.default_rng(1)
    for sizes in ([len(pcm)], [319, 321], [100_000], rng.integers(1, 40_000, 50).tolist()):
        found = moments(bundle, pcm, sizes, KeepConfig(every_s=5.))
        assert [(m.kind, m.at_s, m.score, m.pcm.tobytes()) for m in found] == [(m.kind, m.at_s, m.score, m.pcm.tobytes()) for m in usual], sizes[:3]

def test_a_close_miss_before_a_trigger_is_that_trigger(bundle):
    pcm = room(10, (3, 663), (3.6, 660))
    assert [m.kind for m in moments(bundle, pcm, [1280])] == ["trigger"]

def test_close_misses_are_rare_and_can_be_turned_off(bundle):
    pcm = room(40, *((s, 663) for s in range(2, 38, 2)))
    assert [round(m.at_s) for m in moments(bundle, pcm, [1280])] == [2, 12, 22, 32]
    assert not moments(bundle, pcm, [1280], KeepConfig(near=1.))
    assert not moments(bundle, pcm, [1280], phrase="hey kit")
    for bad in (dict(near=0.), dict(near=1.1), dict(before_s=-1.), dict(after_s=40.)):
        with pytest.raises(ConfigError): Keeper(print, KeepConfig(**bad))

def test_a_second_look_is_heard_out(tmp_path):
    two = toy_bundle(tmp_path/"two.wake", verify=True)
    pcm = room(8, (4, 660))
    (m,) = moments(two, pcm, [1280])
    assert m.kind == "trigger" and np.array_equal(m.pcm, pcm[round(m.start_s*SR):round(m.at_s*SR) + SR])

def test_the_end_of_a_stream_hands_out_what_there_is(bundle):
    pcm, out = room(3, (2.2, 660)), []
    for e in Listening(HotDetector(bundle), Keeper(out.append, origin="hall")).listen(np.split(pcm, 30)): pass
    (m,) = out
    assert len(m.pcm) < 3*SR and np.array_equal(m.pcm, pcm[round(m.start_s*SR):]) and m.origin == "hall"
    assert m.detector["name"] == "hall" and len(m.detector["digest"]) == 12 and m.heard.endswith("Z")

@pytest.mark.parametrize("chunk", [1600, 48_000])
def test_a_close_miss_at_the_end_of_a_stream_is_kept(bundle, chunk):
    pcm, out = room(3, (2.3, 663)), []
    for _ in Listening(Detector(bundle), keeper := Keeper(out.append)).listen(np.split(pcm, len(pcm)//chunk)): pass
    keeper.close() # said twice, there is nothing more
    (m,) = out
    assert m.kind == "near" and m.detector["phrase"] == "ding dong" and np.array_equal(m.pcm, pcm[round(m.start_s*SR):]) and len(pcm) - round(m.at_s*SR) < SR

def test_floats_are_kept_as_they_would_be_written(bundle):
    pcm, out = room(5, (2, 660)), []
    for _ in Listening(Detector(bundle), Keeper(out.append)).listen(np.split(pcm.astype(np.float32)/32768, 50)): pass
    assert np.array_equal(out[0].pcm, pcm[round(out[0].start_s*SR):][:len(out[0].pcm)])

def test_a_hot_detector_says_the_same_whether_or_not_it_is_kept(bundle):
    pcm = room(12, (2, 660), (5, 663), (8, 660))
    chunks = np.split(pcm, 150)
    bare, kept = HotDetector(bundle), Listening(HotDetector(bundle), Keeper(lambda m: None))
    assert [e for c in chunks for e in bare.process(c)] == list(kept.listen(chunks)) != []
    assert (kept.phrase, kept.threshold) == (bare.phrase, bare.threshold)

class Shelf:
    "An inbox in memory whose disk can fail or wait"
    def __init__(self, path):
        (path/"inbox").mkdir(parents=True)
        (path/"dataset.json").write_text("{}")
        self.dataset, self.put_, self.swept, self.trouble, self.hold = SimpleNamespace(path=path, phrase="ding dong"), [], [], None, threading.Event()
        self.hold.set()
    def put(self, pcm, kind, **about):
        self.hold.wait(10)
        if self.trouble: raise self.trouble
        new = pcm.tobytes() not in [p.tobytes() for p in self.put_]
        self.put_.append(pcm)
        (self.dataset.path/"inbox"/f"{len(self.put_)}.wav").write_bytes(pcm.tobytes())
        return kind, new
    def size(self): return sum(p.stat().st_size for p in (self.dataset.path/"inbox").iterdir())
    def sweep(self, max_days, max_mb):
        self.swept.append((max_days, round(max_mb, 6)))
        files = sorted((self.dataset.path/"inbox").iterdir(), key=lambda p: int(p.stem))
        while max_mb and sum(p.stat().st_size for p in files) > max_mb*1e6: files.pop(0).unlink()

def moment(k): return SimpleNamespace(kind="trigger", pcm=np.full(3*SR, k, np.int16), start_s=1., at_s=3., score=.9, heard="", detector={}, origin="hall")
def until(true, s=10):
    end = time.monotonic() + s
    while not true() and time.monotonic() < end: time.sleep(.005)
    assert true()

def test_the_limit_on_disk_is_never_passed(tmp_path):
    shelf = Shelf(tmp_path/"hall")
    writer, most = Writer(shelf, 7, .5), 0
    for k in range(12):
        writer(moment(k))
        until(lambda: writer.kept == k + 1)
        most = max(most, sum(p.stat().st_size for p in (tmp_path/"hall/inbox").iterdir()))
    writer.close()
    assert 300_000 < most <= 500_000 and shelf.swept[0] == (7, .5) and not writer._thread.is_alive()
    assert "7 days" in writer.words() and "does not leave" in writer.words()

def test_what_does_not_fit_leaves_the_rest_alone(tmp_path, caplog):
    shelf = Shelf(tmp_path/"hall")
    (tmp_path/"hall/inbox/0.wav").write_bytes(bytes(40_000))
    writer = Writer(shelf, 7, .05)
    for k in range(3): writer(moment(k))
    writer.close()
    assert writer.stats() == dict(kept=0, known=0, dropped=0, failed=0, full=3) and caplog.text.count("does not fit") == 1 and (tmp_path/"hall/inbox/0.wav").exists()

def test_a_moment_that_just_fits_is_kept_alone(tmp_path):
    shelf = Shelf(tmp_path/"hall")
    writer = Writer(shelf, 7, (2*3*SR + 4096)/1e6)
    for k in range(3): writer(moment(k))
    writer.close()
    assert writer.stats()["kept"] == 3 and len(list((tmp_path/"hall/inbox").iterdir())) == 1

@pytest.mark.parametrize("decided,asked", [(12, 0), (0, 12), (8, 8), (0, 0)])
def test_what_people_accepted_or_asked_for_neither_fills_it_nor_goes(tmp_path, decided, asked):
    from wakekit.data.inbox import Dataset
    ds, rng = Dataset.create(tmp_path/"hall", "ding dong"), np.random.default_rng(0)
    put = lambda kind: ds.inbox.put(rng.integers(-999, 999, 3*SR).astype(np.int16), kind)[0].id
    stays = {put("trigger") for _ in range(decided)}
    for i in stays: ds.inbox.accept(i, "negative")
    stays |= {put(kind) for _ in range(asked//2) for kind in ("proposal", "missed")}
    waits = [put("near") for _ in range(3)]
    writer = Writer(ds.inbox, 7, .5)
    for k in range(9):
        writer(moment(k + 1))
        until(lambda: writer.kept == k + 1)
        assert ds.inbox.size() <= 500_000
    writer.close()
    there = {f.id for f in ds.inbox.found(open=None)}
    assert stays <= there and not there & set(waits) and 3 <= len(there - stays) <= 5
    assert writer.stats() == dict(kept=9, known=0, dropped=0, failed=0, full=0)

def test_no_limit(tmp_path):
    shelf = Shelf(tmp_path/"hall")
    writer = Writer(shelf, 0, 0)
    for k in range(9): writer(moment(k))
    writer.close()
    assert writer.kept == 9 and len(list((tmp_path/"hall/inbox").iterdir())) == 9 and "without a limit" in writer.words() and shelf.swept == [(0, 0)]
    one = Writer(shelf, 3, 0)
    one.close()
    assert "3 days at most" in one.words() and "MB" not in one.words()

def test_a_disk_that_fails_is_told_once_and_comes_back(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    shelf = Shelf(tmp_path/"hall")
    writer = Writer(shelf)
    shelf.trouble = OSError(28, "No space left on device")
    for k in range(5): writer(moment(k))
    until(lambda: writer.failed == 5)
    assert caplog.text.count("No space left") == 1 and writer.trouble == "No space left on device"
    shelf.trouble = None
    writer(moment(9))
    writer.close()
    assert writer.stats() == dict(kept=1, known=0, dropped=0, failed=5, full=0) and "5 were lost" in caplog.text and not writer.trouble

def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    import shutil
    shelf = Shelf(tmp_path/"hall")
    writer = Writer(shelf)
    until(lambda: shelf.swept)
    shutil.rmtree(tmp_path/"hall")
    writer(moment(1))
    writer.close()
    assert writer.failed == 1 and "gone" in writer.trouble and not (tmp_path/"hall").exists()

def test_a_slow_disk_holds_nobody_up(tmp_path, caplog):
    shelf = Shelf(tmp_path/"hall")
    writer = Writer(shelf)
    shelf.hold.clear()
    for k in range(3*WAITING): writer(moment(k)) # returns at once, or this test would not end
    assert writer.dropped >= 3*WAITING - WAITING - 1 and caplog.text.count("too slow") == 1
    shelf.hold.set()
    writer.close(10)
    assert writer.kept + writer.dropped == 3*WAITING

def test_what_is_too_old_goes_also_when_nothing_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("wakekit.ship.keep.LOOK_S", .02)
    shelf = Shelf(tmp_path/"hall")
    writer = Writer(shelf, 3, 1)
    until(lambda: len(shelf.swept) > 3)
    writer.close()

def test_limits_make_sense(tmp_path):
    for bad in (dict(max_days=-1), dict(max_days=float("nan")), dict(max_mb=-1)):
        with pytest.raises(ConfigError, match="WAKEKIT_INBOX"): Writer(Shelf(tmp_path/json.dumps(bad).strip("{}").replace('"', "").replace(": ", "_")), **bad)

def served(bundle, name="hall"):
    from wakekit.serve.store import warm
    return warm(name, "3", bundle)

def test_streams_of_a_service_keep_and_canaries_do_not(bundle):
    from wakekit.serve.streams import Stream, work
    pcm, out = room(9, (2, 660), (6, 663)), []
    def run(keep, shadows=()):
        s = Stream([served(bundle)], keep=keep, shadows=shadows)
        for a in range(0, len(pcm), 700):
            s.feed(pcm[a:a + 700].astype("<i2").tobytes())
            if a%2100 == 0: work([s])
        s.ending = True
        told = work([s])[0]
        s.let_go()
        return told
    run(Keeper(out.append, phrase="Ding Dong"), [served(bundle)])
    assert [(m.kind, m.detector["name"], m.detector["version"]) for m in out] == [("trigger", "hall", "3"), ("near", "hall", "3")]
    assert all(np.array_equal(m.pcm, pcm[round(m.start_s*SR):][:len(m.pcm)]) for m in out)
    assert run(None)[-1]["events"] == 1

def test_a_client_that_vanishes_leaves_what_it_said_last(bundle):
    from wakekit.serve.streams import Stream, work
    out, pcm = [], room(2.7, (2, 660))
    s = Stream([served(bundle)], keep=Keeper(out.append))
    s.feed(pcm.astype("<i2").tobytes())
    work([s])
    assert not out
    s.let_go()
    assert len(out) == 1 and np.array_equal(out[0].pcm, pcm[round(out[0].start_s*SR):])

def test_the_detection_service_keeps_over_its_socket(bundle):
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient
    from wakekit.env import Settings
    from wakekit.serve.detect import create_app
    from wakekit.serve.store import Store
    out, pcm = [], room(6, (2, 660))
    app = create_app(Settings(), Store(bundle), keep=lambda: Keeper(out.append, origin="serve"))
    with TestClient(app) as client, client.websocket_connect("/detect/stream") as ws:
        assert ws.receive_json()["type"] == "hello"
        ws.send_bytes(pcm.astype("<i2").tobytes())
        ws.send_text('{"type": "end"}')
        while ws.receive_json()["type"] != "done": pass
    (m,) = out
    assert m.origin == "serve" and np.array_equal(m.pcm, pcm[round(m.start_s*SR):][:len(m.pcm)])

def test_wyoming_keeps_and_says_the_same(bundle):
    pytest.importorskip("wyoming")
    from wakekit.serve.words import Words
    from wakekit.serve.wyoming import WakeStream
    words, pcm, out = Words(bundle.parent), room(8, (2, 660), (5, 663)), []
    def heard(keep):
        s, found = WakeStream(words, keep), []
        for a in range(0, len(pcm), 1024): found += s.hear(pcm[a:a + 1024].astype("<i2").tobytes())
        found += s.hear(b"", last=True)
        s.start()
        return found
    assert heard(None) == heard(lambda: Keeper(out.append)) != []
    assert [m.kind for m in out] == ["trigger", "near"] and out[0].detector["name"] == "hall"
    assert all(np.array_equal(m.pcm, pcm[round(m.start_s*SR):][:len(m.pcm)]) for m in out)

def test_keeping_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import wakekit.ship.keep, wakekit.cli_live; print('fine')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.strip() == "fine"

def test_a_model_server_that_was_away_leaves_the_sound_where_it_was(bundle):
    pcm, out = room(9, (2, 660), (5, 663)), []
    class Away(Detector):
        "Its graph cannot be reached for a second; what came meanwhile is heard with the next chunk, as behind a remote session"
        gone = range(0)
        def _run(self, pcm, lead):
            if self.n_steps in self.gone: raise OSError("away")
            return super()._run(pcm, lead)
    d = Away(bundle)
    k, lost = Listening(d, Keeper(out.append)), 0
    for i, chunk in enumerate(np.split(pcm, 90)):
        d.gone = range(10**6) if 20 <= i < 30 else range(0)
        try: k.process(chunk)
        except OSError: lost += 1
    assert lost == 10 and [m.kind for m in out] == ["trigger", "near"]
    assert all(len(m.pcm) > SR and np.array_equal(m.pcm, pcm[round(m.start_s*SR):][:len(m.pcm)]) for m in out)
