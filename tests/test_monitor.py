"What the monitor says of a real service: to a real Prometheus, to people and to the log; and what it does when things break."
import contextlib, io, json, logging, re, shutil, signal, socket, subprocess, sys, threading, time, urllib.error, urllib.parse, urllib.request
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest
pytest.importorskip("fastapi")
import uvicorn
from wakekit.core import jsonable, write_json
from wakekit.data.audio import save_audio
from wakekit.env import Settings
from wakekit.serve import canary as canary_module, monitor as module
from wakekit.serve.canary import Canary, Deaf, play
from wakekit.serve.detect import create_app
from wakekit.serve.drift import EDGES, History, calibrated, psi, reference_of, shifts_of
from wakekit.serve.logs import JsonLines, logs
from wakekit.serve.monitor import Monitor, monitor_routes
from wakekit.serve.store import Store, warm
from wakekit.serve.streams import Stream, work
from wakekit.serve.taps import FOLD, SECONDS, Tap
from wakekit.ship.stream import Bundle, Detector
from wakekit.ship.toy import chime, toy_bundle

SR, ROOT = 16_000, Path(__file__).resolve().parent.parent
FILES = ROOT/"monitoring"
needs = lambda *programs: pytest.mark.skipif(not all(map(shutil.which, programs)), reason=f"needs {', '.join(programs)} (Debian: apt-get install prometheus)")


def sound(at=(1, 4), seconds=6., seed=0):
    x = (.001*np.random.default_rng(seed).standard_normal(int(seconds*SR))).astype(np.float32)
    for s in at: x[int(s*SR):][:5120] += chime()[:len(x) - int(s*SR)]
    return np.rint(np.clip(x, -1, 1)*32767).astype("<i2")
def get(url, data=None, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=60) as r: return json.loads(r.read())
def until(what, seconds=60):
    "The first true answer"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := what(): return found
        time.sleep(.05)
    raise AssertionError("it did not happen")

@pytest.fixture
def served(tmp_path): return warm("hall", "1", toy_bundle(tmp_path/"models"/"hall", verify=True))

@pytest.fixture
def clips(tmp_path):
    (tmp_path/"canary"/"hall"/"negative").mkdir(parents=True)
    for k in range(2): save_audio(tmp_path/"canary"/"hall"/f"{k}.wav", sound((.8,), 2, k)/np.float32(32768))
    save_audio(tmp_path/"canary"/"hall"/"negative"/"quiet.wav", sound((), 1)/np.float32(32768))
    return tmp_path/"canary"

@contextlib.contextmanager
def running(root, folder=None, token="", pace=0., **how):
    "(address, service) of a detection service with its monitor"
    monitor = Monitor(**how)
    app = create_app(Settings(models_dir=root/"models", api_token=token), Store(root/"models").refresh(), watch=monitor.watch)
    canary = Canary(app.state.service, folder, token, pace=pace)
    server = uvicorn.Server(uvicorn.Config(monitor_routes(app, monitor, canary), log_level="critical", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
        thread.start()
        until(lambda: server.started)
        canary.address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        try: yield canary.address, app.state.service
        finally:
            server.should_exit = True
            thread.join(30)


# ---- what is counted

def test_streams_that_are_open_at_once_are_told_apart(served, tmp_path):
    from websockets.sync.client import connect
    with running(tmp_path, every_s=1.) as (address, s):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(connect(address.replace("http", "ws") + "/detect/stream", proxy=None)) for _ in range(3)]
            hiss = [sound((), 9, k)*10**k for k in range(3)] # 20 dB apart
            for at in range(0, len(hiss[0]), 1600): # a look of each in turn
                for w, x in zip(sockets, hiss): w.send(x[at:at + 1600].tobytes())
            until(lambda: len({id(l.stream.watch) for l in s.lines if isinstance(l.stream.watch, Tap)}) == 3)
            for w in sockets:
                w.send(sound((1.5,), 3).tobytes())
                w.send('{"type": "end"}')
                while json.loads(w.recv(30))["type"] != "done": pass
        now = s.monitor.judge(fresh=True)["hall"]
        assert [r.n for r in now["rates"]] == [3, 3, 0, 0] and abs(3600*now["rates"][0].sound_hours - 36) < 1.5
        levels = np.flatnonzero(s.monitor.sounds["hall"].levels.last(1, time.time())[:18])*6 - 120
        assert set(levels.tolist()) <= {-66, -60, -48, -42, -30, -24, -18} and {-60, -42, -24} & set(levels.tolist()) # no second is of two streams

def test_near_misses_of_streams_do_not_mix(served):
    m = Monitor()
    a, b, pcm = Tap(m), Tap(m), np.zeros(1280, np.int16)
    high, low = np.full(4, .3), np.full(4, .01)
    for _ in range(5): # one hovers while the other one is quiet, look by look
        a(served, high, pcm, [])
        b(served, low, pcm, [])
    assert m.heard_of(served).totals.near == 0
    a(served, low, pcm, [])
    assert m.heard_of(served).totals.near == 1

def test_nothing_is_lost_or_doubled_by_threads(served):
    m, per, n = Monitor(), 3000, 8
    def one(k):
        tap, scores = Tap(m, k/n), np.full(4, .02 + .1*k)
        for _ in range(per): tap(served, scores, np.zeros(1280, np.int16), [])
    threads = [threading.Thread(target=one, args=(k,)) for k in range(n)]
    before, _ = sys.getswitchinterval(), sys.setswitchinterval(1e-5)
    try:
        for t in threads: t.start()
        while any(t.is_alive() for t in threads): m.judge(fresh=True)
        for t in threads: t.join()
    finally: sys.setswitchinterval(before)
    m.judge(fresh=True)
    t = m.heard_of(served).totals
    assert t.scores.sum() == 4*per*n and {int(v) for v in t.scores if v} == {4*per} and abs(t.seconds - 4*per*n*.02) < 1e-6

def test_what_waits_is_bounded(served):
    m = Monitor()
    tap, pcm = Tap(m), np.ones(16_000, np.int16)
    for _ in range(3000): tap(served, np.zeros(50), pcm, [])
    assert len(m.heard_of(served).values) < FOLD and len(m.sound_of("hall").facts) < FOLD and sum(map(len, tap.parts)) < 2*SR

@pytest.mark.parametrize("scores", [np.zeros(0), np.full(4, np.nan), np.array([.9, np.nan, np.inf, -1.]), np.full(1000, .3, np.float32)])
def test_no_look_breaks_a_stream(served, scores):
    m = Monitor()
    for pcm in (np.zeros(0, np.int16), np.full(40_000, -32768, np.int16)):
        for _ in range(3): m.watch(served, scores, pcm, [])
    m.judge(fresh=True)
    assert m.heard_of(served).totals.broken == 6*int((~np.isfinite(scores)).sum()) and json.dumps(m.report(), allow_nan=False)
    assert bool(m.heard_of(served).totals.broken) == any("no numbers" in f for f in m.report()["findings"])

def test_dead_and_clipped_microphones(served, tmp_path):
    m = Monitor()
    streams = [Stream([served], watch=Tap(m)) for _ in range(2)]
    m.service = SimpleNamespace(lines=[SimpleNamespace(stream=s) for s in streams], store=SimpleNamespace(served={"hall": served}))
    loud = np.tile([32767, -32768], 8000).astype("<i2")
    for k in range(330):
        streams[0].feed(bytes(32_000))
        streams[1].feed(loud.tobytes() if k%3 == 0 else sound((), 1, k).tobytes())
        work(streams)
    r = m.report()
    assert r["dead_streams"] == 1 and any("silence" in f for f in r["findings"]) and any("clipped" in f for f in r["findings"])
    assert .4 < r["models"]["hall"]["sound"]["hour"]["silent"] < .6 and .1 < r["models"]["hall"]["sound"]["hour"]["clipped"] < .3
    streams[0].feed(sound((), 12).tobytes()) # somebody plugs it in
    work(streams)
    assert m.dead() == 0

def test_a_new_version_is_judged_and_the_old_one_counted(served, tmp_path):
    m, other = Monitor(), warm("hall", "2", toy_bundle(tmp_path/"two", threshold=.6))
    m.service = SimpleNamespace(lines=[], store=SimpleNamespace(served={"hall": served}))
    for s in (served, other): m.watch(s, np.full(50, .1), np.zeros(0, np.int16), [])
    assert m.judge(fresh=True)["hall"]["heard"].version == "1" # the other one is a shadow
    m.service.store.served = {"hall": other}
    for s in (served, other, other): m.watch(s, np.full(50, .1), np.zeros(0, np.int16), [])
    assert m.judge(fresh=True)["hall"]["heard"].version == "2"
    assert {k: t.seconds for k, t in m.totals.items()} == {("hall", "1"): 2., ("hall", "2"): 3.}
    for k in range(10): m.watch(warm("hall", str(k), toy_bundle(tmp_path/str(k), threshold=.3 + .01*k)), np.full(50, .1), np.zeros(0, np.int16), [])
    assert len(m.heard) <= module.VERSIONS + 1 and len(m.totals) == 10

def test_models_that_listen_to_one_stream_both_know_its_sound(served, tmp_path):
    m = Monitor(every_s=1.)
    both = [served, warm("den", "1", toy_bundle(tmp_path/"den"))]
    stream = Stream(both, watch=Tap(m))
    for at in range(0, 4*SR, 1280):
        stream.feed(sound()[at:at + 1280].tobytes())
        work([stream])
    j = m.judge(fresh=True)
    assert set(j) == {"hall", "den"} and j["hall"]["quality"][1][SECONDS] == j["den"]["quality"][1][SECONDS] > 0


def test_a_threshold_set_by_hand_is_the_one_that_counts(tmp_path):
    served = warm("hall", "1", toy_bundle(tmp_path/"hall"), threshold=.9, refractory_ms=2000.)
    h = Monitor().heard_of(served)
    assert (h.half, h.deaf_steps) == (.45, 100) and np.isnan(h.calibration[0]) # what was promised was promised at another one


# ---- what is compared

def held_out(*recordings, used=None):
    "What `reference` needs of held-out material: recordings in one file, of which some belong to it"
    lengths = np.array([len(x) for x in recordings])
    which = list(range(len(recordings)) if used is None else used)
    return SimpleNamespace(background=SimpleNamespace(pcm=np.concatenate(recordings), starts=(np.cumsum(lengths) - lengths)[which], lengths=lengths[which]))
def heard_scores(n=1000): return SimpleNamespace(heard=SimpleNamespace(scores=np.random.default_rng(0).random(n)))

def test_the_bins_are_those_that_export_writes():
    pytest.importorskip("torch")
    from wakekit.ship.export import reference
    noise = np.random.default_rng(0).standard_normal(31*SR)
    soft, loud = (30*noise[:30*SR + SR//2]).astype(np.int16), (3000*noise[:30*SR]).astype(np.int16) # a second that began in one and ended in the other would be full of SNR
    told = reference(heard_scores(), held_out(soft, loud))
    for feature, h in told.items(): assert np.allclose(h["edges"], EDGES[feature]) and len(h["counts"]) == len(EDGES[feature]) - 1
    assert set(told) == set(EDGES) and sum(told["score"]["counts"]) == 1000
    assert told["snr_db"]["counts"][0] == sum(told["snr_db"]["counts"]) == 60 and np.flatnonzero(told["level_dbfs"]["counts"]).tolist() == [9, 16]
    assert np.flatnonzero(reference(heard_scores(), held_out(soft, loud, used=[0]))["level_dbfs"]["counts"]).tolist() == [9] # the other one was not held out

def test_what_export_measures_is_what_live_streams_are_measured_by(served, tmp_path):
    pytest.importorskip("torch")
    from wakekit.ship.export import reference, whole_seconds
    rng = np.random.default_rng(0)
    parts = [np.clip(rng.standard_normal(SR)*g*(1 + h*(np.arange(SR)%4000 < 800)), -32768, 32767).astype(np.int16) for g in (0, .3, 1, 30, 900) for h in (0, 20, 5000)]
    valid = held_out(*parts)
    told, tap = reference(heard_scores(), valid), Tap(m := Monitor(every_s=1.), 1.)
    for x in whole_seconds(valid.background): tap(served, np.zeros(50), x, [])
    sound = m.sound_of("hall")
    sound.fold()
    assert sound.level_total.tolist() == told["level_dbfs"]["counts"].tolist() and sound.snr_total.tolist() == told["snr_db"]["counts"].tolist()
    b = Bundle.load(toy_bundle(tmp_path/"b"))
    write_json(b.path/"reference.json", jsonable(told)) # as export does
    assert {f: c.tolist() for f, c in reference_of(b).items()} == {f: h["counts"].tolist() for f, h in told.items()}
    assert 0 < sound.level_total.sum() < sound.quality.last(1, time.time())[SECONDS] == len(parts) # silence has no level

def test_drift_of_snr_is_judged_against_the_bundle_where_it_tells_of_it(tmp_path):
    quiet, noisy = ({f: dict(edges=EDGES[f].tolist(), counts=[9*(k == at) for k in range(20)]) for f, at in (("score", 0), ("level_dbfs", 12), ("snr_db", bin_))} for bin_ in (6, 1))
    def told(content):
        b = warm("hall", "1", toy_bundle(tmp_path/"b"))
        write_json(b.bundle.path/"reference.json", content)
        m = Monitor(every_s=1.)
        m.heard_of(b).values.append(.01)
        m.sound_of("hall").facts.extend([(-45., 19., 0, False)]*200)
        return {s.feature: s.psi for s in m.judge(fresh=True)["hall"]["shifts"] if (s.against, s.hours) == ("bundle", 24)}
    assert told(quiet)["snr_db"] < .01 and told(noisy)["snr_db"] > 1 and told(noisy)["level_dbfs"] < .01
    old = told({f: h for f, h in noisy.items() if f != "snr_db"}) # as exported until now
    assert set(old) == {"score", "level_dbfs"} and old["level_dbfs"] < .01

def test_a_bundle_that_promises_is_believed_and_one_that_lies_is_not(tmp_path):
    b = Bundle.load(toy_bundle(tmp_path/"b"))
    assert reference_of(b) == {} and calibrated(b)[:2] == (.5, .5)
    good = dict(edges=EDGES["score"].tolist(), counts=[5]*20)
    for bad in (dict(good, counts=[5]*19), dict(good, counts=[-1]*20), dict(good, counts=[0]*20), dict(good, edges=[0]*21), dict(good, counts="many"), None, [1]):
        write_json(tmp_path/"b"/"reference.json", dict(score=bad, level_dbfs=good))
        assert reference_of(b) == {}
    write_json(tmp_path/"b"/"reference.json", dict(score=good))
    assert list(reference_of(b)) == ["score"]
    for bad in (-1, "few", None, float("inf")):
        (tmp_path/"b"/"metrics.json").write_text(json.dumps(dict(held_out=dict(float32=dict(at_bundle_threshold=dict(false_accepts_per_hour=bad, false_accepts_per_hour_95=[0, 1]))))))
        assert calibrated(b)[0] == .5
    assert np.isnan(calibrated(SimpleNamespace(path=tmp_path, manifest=dict(default_graph="float32")))[0])

@pytest.mark.parametrize("jump", [-86_400*400, -3600, 86_400*9, 86_400*4000])
def test_a_clock_that_jumps_neither_breaks_nor_invents(jump):
    h, now = History(20), 1.8e9
    for q in range(96*8): h.add(np.r_[90., np.zeros(19)], now + 900*q)
    now += 900*96*8 + jump
    h.add(np.r_[180., np.zeros(19)], now)
    found = shifts_of("level_dbfs", h, np.r_[1000., np.zeros(19)], now)
    assert all(np.isnan(s.psi) or s.psi < .01 for s in found) and h.rows.min() >= 0 and h.last(24, now)[0] <= 96*90 + 180

def test_too_little_says_nothing():
    h = History(20)
    h.add(np.r_[100., np.zeros(19)], 0.)
    assert {s.word for s in shifts_of("level_dbfs", h, np.r_[np.zeros(19), 100.], 0.)} == {"too early to say"} and np.isnan(psi([0, 0], [1, 2]))

def lived(monitor, served, now, hours, gain=1.):
    "Hours of a quiet room: 185 measured seconds in each"
    rng = np.random.default_rng(int(now[0]))
    for _ in range(hours):
        for k in range(185):
            level = (20 if int(now[0]//3600)%24 < 7 else 60)*gain
            monitor.watch(served, np.full(970, .01), (level*rng.standard_normal(SR//10)).round().astype(np.int16).repeat(10), [])
            now[0] += 3600/185

def test_a_restart_knows_the_week_and_finds_the_gain_that_was_lost(served, tmp_path, caplog):
    now, keep = [0.], tmp_path/"state"/"monitor.npz"
    m = Monitor(every_s=1., clock=lambda: now[0], keep=keep)
    lived(m, served, now, 7*24 + 10)
    m.save()
    m.release()
    unlike = lambda m: {(s.feature, s.hours) for s in m.judge(fresh=True)["hall"]["shifts"] if s.against == "usual" and s.psi >= 1}
    assert unlike(m) == set()
    again = Monitor(every_s=1., clock=lambda: now[0], keep=keep).load()
    with caplog.at_level(logging.WARNING, "wakekit"):
        lived(again, served, now, 2, .1)
        assert ("level_dbfs", 1) in unlike(again) and sum("the level was unlike" in r.message for r in caplog.records) >= 1
        n = len(caplog.records)
        again.judge(fresh=True)
        assert len(caplog.records) == n # once is enough
    fresh = Monitor(every_s=1., clock=lambda: now[0])
    lived(fresh, served, now, 2, .1)
    assert unlike(fresh) == set() # without the week nobody knows

@pytest.mark.parametrize("content", [b"", b"PK\3\4 nonsense", "other shapes"])
def test_a_state_that_cannot_be_read_is_no_end(served, tmp_path, caplog, content):
    keep = tmp_path/"monitor.npz"
    if isinstance(content, bytes): keep.write_bytes(content)
    else: np.savez(keep, about=json.dumps([[f"scores/{served.digest}", 5]]), rows0=np.zeros((3, 3)))
    m = Monitor(keep=keep).load()
    m.watch(served, np.full(50, .1), np.ones(800, np.int16), [])
    m.save()
    m.release()
    again = Monitor(keep=keep).load()
    assert len(again.stored) == 2 # scores and counts; no second of sound was whole
    again.release()
    keep.unlink()
    keep.mkdir() # a folder where the file should be
    m.save()
    assert "cannot be written" in caplog.text

def version(served, name, k): return SimpleNamespace(name=name, version=str(k), digest=f"{name}-{k}", bundle=served.bundle, options={}, about=served.about)
def listened(m, *models):
    for x in models: m.watch(x, np.full(50, .1), np.full(SR, 300, np.int16), [])
def in_file(keep):
    "(kind, digest or name) of each history in the file"
    with np.load(keep) as z: return [tuple(k.split("/", 1)) for k, *_ in json.loads(str(z["about"]))]

def test_years_of_models_that_come_and_go_are_not_kept(served, tmp_path):
    now, m, keep, sizes = [0.], None, tmp_path/"monitor.npz", []
    for week in range(40): # a version each week, a name for each season, a restart now and then
        if week%5 == 0:
            if m: m.save(), m.release()
            m = Monitor(every_s=1., clock=lambda: now[0], keep=keep).load()
        live, gone = version(served, "hall", week), version(served, f"season {week//13}", 0)
        m.service = SimpleNamespace(lines=[], store=SimpleNamespace(served={x.name: x for x in (live, gone)}))
        for _ in range(3):
            listened(m, live, gone)
            now[0] += 7*86_400/3
            m.judge(fresh=True)
        sizes.append((len(m.heard), len(m.sounds), len(m.totals), len(m.stored), len(in_file(keep))))
    assert np.all(np.max(sizes, 0) <= [4, 3, 4, 4, 17]) # two weeks of versions, two seasons
    m.save()
    names = {w for _, w in in_file(keep)}
    assert {"hall", "hall-39", "season 3", "season 3-0"} <= names and not names & {"hall-37", "season 1", "season 1-0"}
    assert m.heard["hall-39"].scores.last(24, now[0] - 7*86_400/3).sum() == 50

def test_a_model_that_is_served_is_never_forgotten_and_one_that_comes_back_is_counted(served):
    now = [0.]
    m = Monitor(every_s=1., clock=lambda: now[0])
    a, b = version(served, "hall", 1), version(served, "den", 1)
    m.service = SimpleNamespace(lines=[], store=SimpleNamespace(served={"hall": a}))
    listened(m, a, b)
    now[0] = 400*86_400. # a house that nobody lives in
    m.judge(fresh=True)
    now[0] += 60 # what was still to be folded counts as then
    m.judge(fresh=True)
    assert set(m.heard) == {a.digest, b.digest}
    now[0] += 9*86_400
    m.judge(fresh=True)
    assert set(m.heard) == {a.digest} and set(m.sounds) == {"hall"} and set(m.totals) == {("hall", "1")}
    listened(m, b, a, b, a) # through the tap that knew both, and measures what the first one is given
    m.judge(fresh=True)
    assert m.heard[b.digest].totals.seconds == 2. and m.sounds["den"].level_total.sum() > 0

def test_versions_that_never_come_back_do_not_pile_up_in_the_file(served, tmp_path):
    now, keep = [1.8e9], tmp_path/"monitor.npz"
    for k in range(12): # a restart with another version, each hour
        m = Monitor(every_s=1., clock=lambda: now[0], keep=keep).load()
        m.service = SimpleNamespace(lines=[], store=SimpleNamespace(served={n: version(served, n, k) for n in ("hall", "den")}))
        listened(m, version(served, "hall", k), version(served, "den", k))
        m.save()
        m.release()
        now[0] += 3600
    kept = {w for kind, w in in_file(keep) if kind == "scores"}
    assert kept == {f"{n}-{k}" for n in ("hall", "den") for k in range(12 - module.VERSIONS, 12)}
    now[0] += 9*86_400
    assert Monitor(clock=lambda: now[0], keep=keep).load().stored == {}

def test_a_file_of_before_is_read(served, tmp_path):
    now, keep = 1.8e9, tmp_path/"monitor.npz"
    rows = np.zeros_like(History(20).rows)
    rows[int(now//module.SLOT_S)%len(rows), 3] = 777
    keys = [f"scores/{c}{served.digest[1:]}" for c in "ABCDEFG"] + [f"scores/{served.digest}"]
    np.savez(keep, about=json.dumps([[k, int(now//module.SLOT_S)] for k in keys]), **{f"rows{i}": rows for i in range(len(keys))})
    m = Monitor(clock=lambda: now, keep=keep).load()
    assert m.heard_of(served).scores.last(1, now)[3] == 777 and len(m.stored) == 7 # without names, none is held against another

def test_of_two_services_with_one_folder_the_second_leaves_the_file_alone(served, tmp_path, caplog):
    now, keep = [1.8e9], tmp_path/"logs"/"monitor.npz"
    first, second = (Monitor(every_s=1., clock=lambda: now[0], keep=keep) for _ in range(2))
    first.load()
    listened(first, version(served, "hall", 1))
    first.save()
    was = keep.read_bytes()
    second.load()
    assert caplog.text.count("belongs to another service") == 1
    for _ in range(3):
        listened(second, version(served, "den", 1))
        now[0] += 1000
        assert "den" in second.judge(fresh=True) # it works, and would write
    second.save()
    second.release() # what it never had
    assert keep.read_bytes() == was and caplog.text.count("belongs to another service") == 1
    listened(first, version(served, "hall", 1))
    first.save()
    assert {w for _, w in in_file(keep)} == {"hall", "hall-1"} and keep.read_bytes() != was
    listened(second, (hall := version(served, "hall", 1)))
    of = lambda m: m.heard[hall.digest].scores.rows.sum()
    for m in (first, second): m.judge(fresh=True)
    both = of(first) + of(second)
    assert of(first) > of(second) > 0
    first.save()
    first.release()
    with caplog.at_level(logging.INFO, "wakekit"): second.judge(fresh=True) # the first one has gone: its week and ours
    assert of(second) == both and "is free now" in caplog.text
    second.save()
    second.release()
    third = Monitor(keep=keep, clock=lambda: now[0]).load()
    assert {k.split("/")[1] for k in third.stored} == {"hall", "hall-1", "den", "den-1"}
    third.heard_of(hall)
    assert of(third) == both

def test_a_service_that_was_killed_leaves_the_file_to_the_next(served, tmp_path, caplog):
    keep = tmp_path/"monitor.npz"
    code = f"import time; from wakekit.serve.monitor import Monitor; m = Monitor(keep={str(keep)!r}).load(); m.save(); print(m.keep, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline().strip() == str(keep)
            assert Monitor(keep=keep).load().taken
            other.send_signal(signal.SIGKILL)
            other.wait(60)
            assert Monitor(keep=keep).load().keep == keep
        finally: other.kill()

def test_two_running_services_in_one_folder_of_logs(served, tmp_path, caplog):
    keep = tmp_path/"monitor.npz"
    with running(tmp_path, keep=keep) as (address, s):
        play(address, "hall", sound(), pace=0.)
        with running(tmp_path, keep=keep) as (other, _): assert play(other, "hall", sound(), pace=0.).events == 2
        assert not keep.exists() # the second one is gone, and has written nothing
    assert ("scores", s.store.served["hall"].digest) in in_file(keep)
    with running(tmp_path, keep=keep) as (_, s): assert s.monitor.keep == keep and s.monitor.stored # a stop gives it back


# ---- the canary

def test_the_canary_sings_through_the_door_that_everybody_uses_and_is_not_counted(served, clips, tmp_path):
    with running(tmp_path, clips, token="secret", every_s=1.) as (address, s):
        with pytest.raises(urllib.error.HTTPError): get(address + "/monitor/canary", b"")
        key = dict(Authorization="Bearer secret")
        sung = get(address + "/monitor/canary", b"", **key)["hall"]
        assert sung["ok"] and (sung["heard"], sung["calls"], sung["false"], sung["others"]) == (2, 2, 0, 1) and sung["difference"] < .001 and sung["score"] > .9
        assert not s.monitor.heard and "wakekit_detections_total{" not in s.metrics.text().decode()
        until(lambda: 'wakekit_streams_closed_total{code="1000"} 4.0' in s.metrics.text().decode())
        s.monitor.canary.token = "old"
        assert not get(address + "/monitor/canary", b"", **key)["hall"]["ok"]
        health = get(address + "/health")
        assert health["status"] == "degraded" and "canary" in health["problems"][0] and get(address + "/ready")["ready"]
        s.monitor.canary.token = "secret"
        get(address + "/monitor/canary", b"", **key)
        assert get(address + "/health")["status"] == "ok"

def test_names_with_spaces_and_more_have_canaries_and_one_song_is_enough(served, clips, tmp_path):
    shutil.copytree(tmp_path/"models"/"hall", tmp_path/"models"/"hey jarvis & tom#1")
    with running(tmp_path, clips) as (address, s):
        sung = get(address + "/monitor/canary", b"")
        assert {n for n, f in sung.items() if f["ok"]} == {"hall", "hey jarvis & tom#1"}
        assert s.monitor.canary._lock.acquire(timeout=30) # somebody lets it sing
        with pytest.raises(urllib.error.HTTPError, match="409"): get(address + "/monitor/canary", b"")
        s.monitor.canary._lock.release()

def test_faults_between_socket_and_model_are_found(served, clips, tmp_path, monkeypatch):
    with running(tmp_path, clips) as (address, s):
        why = lambda: get(address + "/monitor/canary", b"")["hall"]["why"]
        assert why() == ""
        take = Stream.take
        with monkeypatch.context() as m:
            m.setattr(Stream, "take", lambda self, last: np.delete(take(self, last), np.s_[::50]))
            assert "part" in why() or "differ" in why()
        with monkeypatch.context() as m:
            m.setattr(Stream, "take", lambda self, last: take(self, last)*0)
            assert "0 of 2" in why()
        with monkeypatch.context() as m:
            def broken(self, scores): raise RuntimeError("the second look is gone")
            m.setattr(Detector, "_decided", broken)
            assert why()
        assert why() == ""
        (clips/"hall"/"broken.wav").write_bytes(b"no sound")
        assert "broken.wav" in why() and str(tmp_path) not in why()
        (clips/"hall"/"broken.wav").unlink()
        s.monitor.canary.timeout_s = 2.
        s.scorer.close() # a dead thread
        assert "no answer" in why()

def test_a_model_that_is_replaced_is_sung_to_and_found_wanting(served, clips, tmp_path):
    with running(tmp_path, clips) as (address, s):
        canary = s.monitor.canary
        assert canary.due() and canary.run(address)["hall"].ok and not canary.due()
        toy_bundle(tmp_path/"models"/"hall", verify=True, threshold=.99999)
        s.store.refresh()
        assert canary.due()
        sung = canary.run(address)["hall"]
        assert not sung.ok and "0 of 2" in sung.why and sung.digest == s.store.served["hall"].digest
        canary.start(address)
        toy_bundle(tmp_path/"models"/"hall", verify=True)
        s.store.refresh()
        until(lambda: canary.sung["hall"].ok)
        canary.stop()

def test_nobody_is_there(served, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s: address = f"http://127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(Deaf): play(address, "hall", sound(seconds=1), timeout_s=5.)
    with socket.create_server(("127.0.0.1", 0)) as s, pytest.raises(Deaf): play(f"http://127.0.0.1:{s.getsockname()[1]}", "hall", sound(seconds=1), timeout_s=.3) # it takes calls and says nothing

def test_clips_in_the_bundle_are_played(served, tmp_path):
    save_audio(tmp_path/"models"/"hall"/"canary-0.wav", sound((.8,), 2)/np.float32(32768))
    assert [(n, call) for n, _, call in canary_module.canary_clips(None, "hall", served.bundle)] == [("canary-0.wav", True)]


# ---- files for operators, and a real Prometheus

def board(): return json.loads((FILES/"grafana"/"dashboards"/"wakekit-detect.json").read_text())
def expressions():
    "(where, expression) of the dashboard and of the alert rules"
    for p in board()["panels"]:
        for t in p.get("targets", ()): yield p["title"], t["expr"].replace("$instance", ".*").replace("$model", ".*")
    yield from ((f"annotation {a['name']}", a["expr"]) for a in board()["annotations"]["list"])
    for name, expr in re.findall(r"- alert: (\w+)\n +expr: (.*)", (FILES/"alerts.yml").read_text()): yield name, expr

def names_in(expr):
    "Names of metrics in an expression"
    expr = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]|\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)|\boffset \w+", " ", expr)
    return {n for n in re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", expr) if n not in ("and", "or", "unless", "bool")}

def test_names_are_found_in_expressions():
    assert names_in('sum by (le) (rate(a_bucket{x=~"b|c"}[5m])) > 3 * on (i) d_total unless e offset 5m') == {"a_bucket", "d_total", "e"}
    assert len(list(expressions())) > 50 and all(names_in(e) for _, e in expressions())

def test_the_dashboard_hangs_together():
    d, places = board(), {}
    assert d["uid"] and d["editable"] is False and len({p["id"] for p in d["panels"]}) == len(d["panels"])
    for p in d["panels"]:
        g = p["gridPos"]
        assert g["x"] + g["w"] <= 24
        for x in range(g["x"], g["x"] + g["w"]):
            for y in range(g["y"], g["y"] + g["h"]): assert places.setdefault((x, y), p["id"]) == p["id"], p["title"]
    uid = re.search(r"uid: (\S+)", (FILES/"grafana"/"provisioning"/"datasources"/"prometheus.yml").read_text())[1]
    assert {t["datasource"]["uid"] for p in d["panels"] for t in p.get("targets", ())} == {uid}
    assert {v["name"] for v in d["templating"]["list"]} == set(re.findall(r"\$(\w+)", "".join(t["expr"] for p in d["panels"] for t in p.get("targets", ()))))

def test_every_alert_says_what_to_do_and_is_tested():
    text, tests = (FILES/"alerts.yml").read_text(), (FILES/"alerts_test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(set(alerts)) == len(alerts) > 15
    for part in text.split("- alert: ")[1:]: assert re.search(r"severity: (page|warning|info)", part) and "summary:" in part and "remedy:" in part
    fires = set(re.findall(r'alertname="(\w+)",?[^}]*}\', value: 1', tests)) | set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests))
    assert fires == set(alerts)

@needs("promtool")
def test_promtool_agrees_and_its_tests_can_fail(tmp_path):
    run = lambda *a, **how: subprocess.run(["promtool", *a], capture_output=True, text=True, timeout=300, **how)
    for args in (("check", "config", str(FILES/"prometheus.yml")), ("check", "rules", str(FILES/"alerts.yml")), ("test", "rules", str(FILES/"alerts_test.yml"))):
        done = run(*args)
        assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path/"alerts.yml").write_text((FILES/"alerts.yml").read_text().replace("for: 3h", "for: 30h").replace("wakekit_canary_ok == 0", "wakekit_canary_ok == 7"))
    text = (FILES/"alerts_test.yml").read_text()
    (tmp_path/"alerts_test.yml").write_text(text[:text.index("  - name: half a healthy day")] + text[text.index("  - name: the service is gone"):])
    done = run("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert done.returncode and all(n in done.stdout + done.stderr for n in ("WakekitSoundUnlike", "WakekitCanaryNotHeard"))

def week(served):
    "A clock and a state in which a week is known, so that everything has a number"
    now = [0.]
    m = Monitor(every_s=1., clock=lambda: now[0])
    for hour in range(7*24 + 12):
        m.sound_of("hall").facts.extend([(-50., 9., 0, False)]*200)
        m.heard_of(served).values.extend([.01]*40_000)
        m.heard_of(served).note([], 1)
        now[0] += 3600
        m.judge(fresh=True)
    return m, now[0]

@pytest.fixture
def lively(served, clips, tmp_path):
    "(address, service, clip) of a service with a past, that has heard something of every kind"
    m, then = week(served)
    write_json(tmp_path/"models"/"hall"/"reference.json", {f: dict(edges=EDGES[f].tolist(), counts=[100]*20) for f in EDGES})
    m.keep, begun, clip = tmp_path/"week.npz", time.time(), (clips/"hall"/"0.wav").read_bytes()
    m.save()
    m.release()
    with running(tmp_path, clips, keep=m.keep, clock=lambda: then + time.time() - begun) as (address, s):
        play(address, "hall", sound(), pace=0.)
        get(address + "/monitor/canary", b"")
        get(address + "/detect", clip, **{"Content-Type": "audio/wav"})
        s.monitor.judge(fresh=True)
        yield address, s, clip

def test_every_expression_names_what_a_real_run_exposes(lively):
    exposed = set(re.findall(r"^(\w+)[{ ]", lively[1].metrics.text().decode(), re.M)) | {"up"}
    for where, e in expressions(): assert names_in(e) <= exposed, (where, names_in(e) - exposed)
    assert "wakekit_drift_psi" in exposed and not [n for n in exposed if n.startswith("wakekit_") and n.count("__")]

@contextlib.contextmanager
def prometheus(target, place, patience=""):
    "Ask a Prometheus that reads a service each second, with another patience of the alerts"
    (place/"prometheus.yml").write_text((FILES/"prometheus.yml").read_text().replace("127.0.0.1:8000", target.removeprefix("http://")).replace("15s", "1s"))
    (place/"alerts.yml").write_text(re.sub(r"\n +for: \w+", patience, (FILES/"alerts.yml").read_text()))
    with socket.create_server(("127.0.0.1", 0)) as s: port = s.getsockname()[1]
    p = subprocess.Popen(["prometheus", f"--config.file={place/'prometheus.yml'}", f"--storage.tsdb.path={place/'data'}", f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    def ask(query=None, path="query"): return get(f"http://127.0.0.1:{port}/api/v1/{path}" + ("?" + urllib.parse.urlencode(dict(query=query)) if query else ""))["data"]
    try: yield ask
    finally:
        p.terminate()
        p.wait(30)

@needs("prometheus")
def test_a_real_prometheus_reads_a_real_run_and_alerts(lively, tmp_path):
    address, s, clip = lively
    with prometheus(address, tmp_path) as ask:
        result = lambda q: ask(q)["result"]
        until(lambda: result("wakekit_canary_ok == 1"))
        get(address + "/detect", clip, **{"Content-Type": "audio/wav"})
        until(lambda: result("changes(wakekit_detect_seconds_count[1m]) > 0 and on () count_over_time(up[1m]) > 3"))
        stored = set(ask(path="label/__name__/values"))
        for where, e in expressions(): assert names_in(e) <= stored, where
        for p in board()["panels"]:
            for t in p.get("targets", ()): assert result(t["expr"].replace("$instance", ".*").replace("$model", ".*")), (p["title"], t["expr"])
        rules = [r for g in ask(path="rules")["groups"] for r in g["rules"]]
        assert len(rules) > 15 and {r["health"] for r in rules} <= {"ok", "unknown"}
        assert [a["metric"]["alertname"] for a in result('ALERTS{alertstate="firing"}') if a["metric"]["severity"] == "page" and a["metric"]["alertname"] != "WakekitDown"] == [] # which one slow answer is enough for, with no patience
        toy_bundle(tmp_path/"models"/"hall", verify=True, threshold=.99999)
        s.store.refresh()
        get(address + "/monitor/canary", b"")
        until(lambda: result('ALERTS{alertname="WakekitCanaryNotHeard",alertstate="firing"}'))


# ---- logs

def test_logs_of_a_service_are_json_whatever_happens(served, tmp_path, monkeypatch):
    out, file = io.StringIO(), tmp_path/"logs"/"detect.jsonl"
    def broken(self, scores): raise RuntimeError("the second look\nis gone")
    with logs("json", file, out), running(tmp_path) as (address, s):
        assert play(address, "hall", sound(), pace=0.).events == 2
        with monkeypatch.context() as m:
            m.setattr(Detector, "_decided", broken)
            with pytest.raises(Deaf): play(address, "hall", sound(), pace=0.)
        s.monitor.canary.token, s.monitor.canary.address = "", "http://127.0.0.1:9"
        s.monitor.canary.run("http://127.0.0.1:9")
    lines = [json.loads(l) for l in out.getvalue().splitlines()]
    assert all({"time", "level", "logger", "message"} <= l.keys() for l in lines) and file.read_text() == out.getvalue()
    words = [l for l in lines if "was heard" in l["message"]]
    assert [(l["model"], l["version"]) for l in words] == [("hall", "1")]*2 and all(l["score"] > .5 for l in words)
    assert [l["error"]["type"] for l in lines if "error" in l] == ["RuntimeError"] and any(l.get("canary_ok") is False for l in lines)

def test_lines_of_many_threads_stay_whole_and_files_turn_over(tmp_path, monkeypatch):
    from wakekit.serve import logs as log_module
    monkeypatch.setattr(log_module, "FILE_BYTES", 20_000)
    log = logging.getLogger("wakekit.serve.test")
    with logs("json", tmp_path/"x.jsonl", io.StringIO()):
        threads = [threading.Thread(target=lambda k=k: [log.info("line\n%d of %s", i, "é"*20, extra=dict(thread_no=k)) for i in range(200)]) for k in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
    files = sorted(tmp_path.glob("x.jsonl*"))
    assert 1 < len(files) <= log_module.FILES_KEPT + 1 and all(f.stat().st_size <= 20_500 for f in files)
    assert all(json.loads(l)["thread_no"] in range(4) for f in files for l in f.read_text(encoding="utf-8").splitlines())

def test_what_cannot_be_formatted_is_still_a_line():
    class Odd:
        def __str__(self): return "odd\u2028\x00"
    record = logging.makeLogRecord(dict(name="x", msg="%d %d", args=("a",), levelname="ERROR", odd=Odd(), half="\udcff", exc_info=(None, None, None)))
    line = JsonLines().format(record)
    assert json.loads(line)["odd"].startswith("odd") and line.encode() and "\n" not in line and "error" not in json.loads(line)
