"Clips that the training service has spoken: heard before they are asked for, checked when they are queued, whole whenever somebody pulls the plug."
import contextlib, hashlib, os, shutil, subprocess, sys, threading, time
from pathlib import Path
from urllib.parse import quote
import numpy as np, psutil, pytest
pytest.importorskip("fastapi")
from fastapi.testclient import TestClient
from wakekit.core import PhraseError, file_lock
from wakekit.data.audio import load_audio, to_int16
from wakekit.data.interchange import Dataset
from wakekit.data.speech import draw_speech, find_voices, speak_into, store_speech
from wakekit.env import Settings
from wakekit.serve.client import Client, ServiceError
from wakekit.serve.events import Database
from wakekit.serve.jobs import Worker, in_background
from wakekit.serve.queue import Queue
from wakekit.serve.speaking import MOST_CLIPS, Booth, plan_synthesis
from wakekit.serve.training import create_app

M3, LS = "espeak:en-us+m3", "people:en-us+ls103"
LONG = 240  # s, for whatever happens on a busy machine


@pytest.fixture(autouse=True)
def few_threads(monkeypatch): monkeypatch.setenv("OMP_NUM_THREADS", "1")

def settings(tmp, **more): return Settings(data_dir=tmp/"data", training_dir=tmp/"training", models_dir=tmp/"models", device="cpu", **more)

@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    "A service with its workers, and a dataset"
    with TestClient(create_app(settings(tmp_path_factory.mktemp("service"))), raise_server_exceptions=False) as web:
        web.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis"))
        yield web

def problem(r, *statuses, code=None):
    "Is this an error as they should be?"
    assert r.status_code in statuses and r.headers["content-type"] == "application/problem+json", (r.status_code, r.text[:500])
    assert code in (None, r.json()["code"]), r.text
    return r.json()["detail"]

def ended(web, id):
    end = time.time() + LONG
    while (job := web.get(f"/jobs/{id}").json())["state"] in ("queued", "running"):
        assert time.time() < end, job
        time.sleep(.1)
    return job

def whole(ds):
    "Every clip is what it says it is, and there is nothing else"
    clips = ds.clips()
    for c in clips: assert hashlib.sha256(to_int16(ds.load(c)).astype("<i2").tobytes()).hexdigest() == c.sha256 and c.id == c.sha256[:16]
    assert sorted(p.name for p in (ds.path/"clips").iterdir()) == sorted(f"{c.id}{end}" for c in clips for end in (".json", ".wav"))
    return {c.id: c.label for c in clips}


# ---- a job like a training

def test_clips_come_into_the_dataset_that_everybody_sees(shared):
    body = dict(count=7, near_misses=5, voices=[M3, LS], seed=3)
    r = shared.post("/datasets/kitchen/synthesize", json=body, headers={"Idempotency-Key": "monday"})
    assert r.status_code == 202 and r.headers["location"] == f"/jobs/{r.json()['id']}" and set(r.json()) == set(shared.get(r.headers["location"]).json())
    assert shared.post("/datasets/kitchen/synthesize", json=body, headers={"Idempotency-Key": "monday"}).json()["id"] == r.json()["id"]
    problem(shared.post("/datasets/kitchen/synthesize", json={**body, "seed": 4}, headers={"Idempotency-Key": "monday"}), 409, code="key_used")
    job = ended(shared, r.json()["id"])
    assert (job["kind"], job["state"], job["dataset"], job["result"], job["progress"]["fraction"]) == ("synthesize", "succeeded", "kitchen", dict(spoken=12, added=12), 1), job
    assert job["worker"].endswith("-synthesize") and [j["kind"] for j in shared.get("/jobs?dataset=kitchen").json()["jobs"]] == ["synthesize"]
    clips = shared.get("/datasets/kitchen/recordings").json()["clips"]
    assert {c["voice"] for c in clips} == {M3, LS} and all(c["licence"] and c["speaker"] and c["source"].startswith("synthesized by ") and c["notes"] for c in clips)
    assert {c["notes"] for c in clips if c["label"] == "positive"} == {"hey jarvis"} and "hey jarvis" not in {c["notes"] for c in clips if c["label"] == "negative"}
    labels = {l: n["clips"] for l, n in shared.get("/datasets/kitchen").json()["labels"].items()}
    end = time.time() + LONG # a listing may be two seconds old
    while {d["name"]: d["clips"] for d in shared.get("/datasets").json()["datasets"]}["kitchen"] != 12: assert time.time() < end; time.sleep(.1)
    assert labels == dict(positive=7, negative=5, noise=0) and whole(shared.app.state.service.catalog.open("kitchen")).keys() == {c["id"] for c in clips}
    events = shared.get(f"/jobs/{job['id']}/events").json()["events"]
    assert [e["data"]["clip"] for e in events if e["kind"] == "clip.added"] and {e["data"]["clip"] for e in events if e["kind"] == "clip.added"} == {c["id"] for c in clips}
    assert any(e["kind"] == "job.progress" and e["data"]["stage"] == "speaking" for e in events) and events[-1]["kind"] == "job.succeeded" and {e["dataset"] for e in events} == {"kitchen"}
    assert 'wakekit_jobs{kind="synthesize",state="succeeded"} 1.0' in shared.get("/metrics").text

def test_the_same_seed_adds_nothing_and_another_one_does(shared):
    shared.post("/datasets", json=dict(name="attic", phrase="hey jarvis"))
    asked = [shared.post("/datasets/attic/synthesize", json=dict(count=4, seed=seed, voices=[M3])).json()["id"] for seed in (1, 1, 2)]
    assert [ended(shared, id)["result"] for id in asked] == [dict(spoken=4, added=4), dict(spoken=4, added=0), dict(spoken=4, added=4)]
    assert shared.get("/datasets/attic").json()["clips"] == 8

BAD = [(dict(count=0), "bad_config", "at least one"), (dict(count=-1), "invalid_request", "greater than or equal to 0"), (dict(count=10**9), "invalid_request", f"less than or equal to {MOST_CLIPS}"),
       (dict(count=MOST_CLIPS, near_misses=1), "bad_config", f"at most {MOST_CLIPS}"), (dict(count="many"), "invalid_request", "integer"), (dict(count=2.5), "invalid_request", "integer"), (dict(counts=3), "invalid_request", "Extra inputs"),
       (dict(voices=["espeak:en-us+m33"]), "no_voice", "near: espeak:en-us+m3"), (dict(voices=["ls103"]), "no_voice", LS), (dict(voices=["\0"]), "no_voice", "near: "), (dict(voices="m3"), "invalid_request", "list"), (dict(voices=[M3]*1001), "invalid_request", "1000"),
       (dict(language="de-DE"), "bad_config", "it may be de"), (dict(language=""), "bad_config", "spoken by no voice"), (dict(language="x"*21), "invalid_request", "20"), (dict(seed=-1), "invalid_request", "0")]

@pytest.mark.parametrize("body,code,said", BAD)
def test_what_cannot_be_spoken_is_refused_when_it_is_queued(shared, body, code, said):
    before = len(shared.get("/jobs").json()["jobs"])
    detail = problem(shared.post("/datasets/kitchen/synthesize", json=body), 422, code=code)
    assert said in detail and len(shared.get("/jobs").json()["jobs"]) == before, detail

def test_datasets_that_cannot_be_spoken_for(shared):
    for name, phrase, said in (("dots", "...", "nothing to say"), ("greek", "Ελένη", "languages that can: el"), ("letters", "xkcd", "spelled letter by letter")):
        shared.post("/datasets", json=dict(name=name, phrase=phrase))
        assert said in problem(shared.post(f"/datasets/{name}/synthesize", json={}), 422, code="bad_phrase")
    problem(shared.post("/datasets/nowhere/synthesize", json={}), 404)
    root = shared.app.state.service.root/"datasets"
    shutil.copytree(root/"dots", root/"mute")
    (root/"mute"/"dataset.json").write_text('{"schema_version": 1, "name": "mute"}')
    assert "phrase" in problem(shared.post("/datasets/mute/synthesize", json={}), 422)
    shutil.rmtree(root/"mute")


# ---- somebody pulls the plug

MANY = 40, 24 # Clips of the phrase, and of near-misses

@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    "What there will be when nothing comes in between: id → label"
    ds = Dataset.create(tmp_path_factory.mktemp("model")/"kitchen", "hey jarvis")
    store_speech(ds, draw_speech("hey jarvis", *MANY, voices=find_voices([M3]), foreign=0))
    return whole(ds)

@pytest.fixture
def here(tmp_path, wanted):
    "(root, queue, dataset, the clips that there will be: id → label)"
    db = Database(f"sqlite:///{tmp_path.as_posix()}/wakekit.db", patience_s=.5)
    for sub in ("datasets", "jobs"): (tmp_path/sub).mkdir()
    yield tmp_path, Queue(db), Dataset.create(tmp_path/"datasets"/"kitchen", "hey jarvis"), wanted
    db.close()

def queued(queue, count=MANY[0], near_misses=MANY[1]): return queue.enqueue("synthesize", plan_synthesis("hey jarvis", count, near_misses, voices=[M3]), "kitchen")
def worker(root, queue): return Worker(queue, root, Settings(device="cpu"), "synthesize", lease_s=8, kinds=("synthesize",))

def until(queue, id, kind):
    for e in queue.follow(id, timeout_s=LONG):
        if e["kind"] == kind: return e
    raise AssertionError(f"{queue.job(id).state}: {queue.job(id).error} {queue.log_after(id)[-5:]}")

@contextlib.contextmanager
def held(queue, job, ds):
    "From the moment at which the first clips are there, nothing more can be stored: the child is in the middle"
    end = time.time() + LONG
    while not any((ds.path/"clips").glob("*.wav")): assert time.time() < end, queue.job(job.id); time.sleep(.001)
    with file_lock(ds.path/".lock", timeout_s=LONG):
        until(queue, job.id, "clip.added")
        yield

def asked_to_stop(queue, job):
    "The child has been told: it may not finish before it hears of it"
    end = time.time() + LONG
    while not any(l["message"].startswith("asked to stop") for l in queue.log_after(job.id)): assert time.time() < end, queue.job(job.id); time.sleep(.01)

def children(process):
    with contextlib.suppress(psutil.Error): return [p for p in psutil.Process(process).children(recursive=True) if "serve.work" in " ".join(p.cmdline())]
    return []

def test_a_killed_child_ends_with_the_same_clips(here):
    root, queue, ds, wanted = here
    job = queued(queue)
    with in_background(worker(root, queue)):
        with held(queue, job, ds):
            for p in children(os.getpid()): p.kill()
        until(queue, job.id, "job.succeeded")
    ds.refresh()
    for rest in (ds.path/"clips").glob(".*"): rest.unlink() # of the child that was killed; they go by themselves a day later
    done = queue.job(job.id)
    assert whole(ds) == wanted and done.attempt == 2 and done.result["spoken"] == sum(MANY), done
    begun = [l["message"] for l in queue.log_after(job.id) if "clips for" in l["message"]]
    assert len(begun) == 2 and begun[0].endswith(", 0 of them are done") and not begun[1].endswith(", 0 of them are done"), begun

def test_a_killed_worker_leaves_no_child_and_another_one_goes_on(here):
    root, queue, ds, wanted = here
    job, url = queued(queue), f"sqlite:///{root.as_posix()}/wakekit.db"
    code = f"""from wakekit.env import Settings
from wakekit.serve.events import Database
from wakekit.serve.jobs import Worker
from wakekit.serve.queue import Queue
Worker(Queue(Database({url!r}, patience_s=.5)), {str(root)!r}, Settings(device="cpu"), lease_s=2, kinds=("synthesize",)).run()"""
    p = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    with held(queue, job, ds):
        left = children(p.pid)
        p.kill()
        p.wait()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert left and not alive
    with in_background(worker(root, queue)): until(queue, job.id, "job.succeeded")
    ds.refresh()
    for rest in (ds.path/"clips").glob(".*"): rest.unlink()
    assert whole(ds) == wanted and queue.job(job.id).attempt == 2

def test_cancelled_in_the_middle_what_is_there_is_whole_and_retry_goes_on(here):
    root, queue, ds, wanted = here
    job = queued(queue)
    with in_background(worker(root, queue)):
        with held(queue, job, ds):
            queue.cancel(job.id)
            asked_to_stop(queue, job)
        until(queue, job.id, "job.cancelled")
        some = whole(ds)
        assert some and some.items() < wanted.items() and not ds.refresh()
        ds.trash(gone := min(some)) # somebody does not like one of them
        last = queue.db.last_seq()
        queue.retry(job.id)
        for e in queue.follow(job.id, last, timeout_s=LONG): pass
    assert queue.job(job.id).state == "succeeded" and whole(ds) == {k: v for k, v in wanted.items() if k != gone}

def test_a_worker_that_stops_gives_the_job_back(here):
    root, queue, ds, wanted = here
    job = queued(queue)
    with in_background(at_work := worker(root, queue)), held(queue, job, ds):
        at_work.stop()
        asked_to_stop(queue, job)
    waiting = queue.job(job.id)
    assert waiting.state == "queued" and waiting.strikes == 0 and whole(ds).items() < wanted.items()

def test_a_dataset_that_is_deleted_meanwhile_fails_the_job(here):
    root, queue, ds, wanted = here
    job = queued(queue, 2000)
    with in_background(worker(root, queue)):
        until(queue, job.id, "clip.added")
        os.replace(ds.path, root/"trash")
        until(queue, job.id, "job.failed")
        assert "'kitchen' has been deleted" in queue.job(job.id).error and not (ds.path/"dataset.json").exists() and not list(ds.path.rglob("*.wav"))
        shutil.rmtree(ds.path, ignore_errors=True)
        other = Dataset.create(ds.path, "computer") # under the same name
        queue.retry(job.id)
        end = time.time() + LONG
        while queue.job(job.id).state != "failed": assert time.time() < end; time.sleep(.05)
        assert "for 'computer' and not for 'hey jarvis'" in queue.job(job.id).error and len(other) == 0
        shutil.rmtree(ds.path)
        os.replace(root/"trash", ds.path) # and back
        late = queued(queue, 20, 10)
        until(queue, late.id, "job.succeeded")
    again = Dataset.open(ds.path)
    assert again.phrase == "hey jarvis" and len(again) > 20

def test_others_may_use_the_dataset_meanwhile(here):
    root, queue, ds, wanted = here
    job = queued(queue)
    with in_background(worker(root, queue)):
        with held(queue, job, ds): pass
        mine = [ds.add((np.random.default_rng(k).standard_normal(4000)*.1).astype(np.float32), "noise").id for k in range(20)]
        until(queue, job.id, "job.succeeded")
    assert whole(ds) == wanted | dict.fromkeys(mine, "noise")


# ---- voices

def test_voices_are_listed_and_heard(shared):
    voices = shared.get("/voices").json()["voices"]
    by_name = {v["name"]: v for v in voices}
    assert by_name[M3] == dict(name=M3, synthesizer="espeak", language="en-us", sex="male", licence=by_name[M3]["licence"]) and by_name[LS]["sex"] == "" and "CC BY" in by_name[LS]["licence"]
    assert by_name["espeak:en-gb-scotland+f2"]["sex"] == "female" and {v["language"].split("-")[0] for v in shared.get("/voices?language=de").json()["voices"]} == {"de"}
    for name in (M3, LS, "espeak:en-us+Mr serious"):
        r = shared.get(f"/voices/{quote(name, safe='')}/sample", params=dict(phrase="hey jarvis"))
        assert r.headers["content-type"] == "audio/wav" and .3 < len(load_audio(r.content))/16_000 < 5, name
        assert shared.get(f"/voices/{quote(name, safe='')}/sample", params=dict(phrase="hey jarvis")).content == r.content
    long = shared.get(f"/voices/{M3}/sample", params=dict(phrase="hey jarvis "*18))
    assert len(load_audio(long.content)) == 10*16_000
    german = shared.get("/voices/espeak:de+m3/sample", params=dict(phrase="Küche"))
    assert german.status_code == 200 and german.content != shared.get("/voices/espeak:de+m3/sample", params=dict(phrase="Kirche", language="de")).content

def test_near_misses_are_what_a_synthesis_speaks(shared):
    found = shared.get("/near-misses", params=dict(phrase="hey jarvis", count=5)).json()["near_misses"]
    assert len(found) == 5 and {m["text"] for m in found} == {u.text for _, u in draw_speech("hey jarvis", 0, 5, voices=find_voices([M3]), foreign=0)}
    assert {m["kind"] for m in found} <= {"sound_alike", "part", "swapped", "repeated", "extended"} and all(m["sounds"] for m in found)

@pytest.mark.parametrize("path,status,code", [
    ("/voices?language=tlh", 422, "bad_config"), ("/voices?language=", 422, "bad_config"), ("/voices/m3/sample?phrase=hey", 404, "no_voice"), (f"/voices/{M3}/sample", 422, "invalid_request"), (f"/voices/{M3}/sample?phrase=", 422, "invalid_request"),
    (f"/voices/{M3}/sample?phrase=...", 422, "bad_phrase"), (f"/voices/{M3}/sample?phrase={'x'*201}", 422, "invalid_request"), (f"/voices/{M3}/sample?phrase=a%00b", 422, "invalid_request"), (f"/voices/{M3}/sample?phrase=hey&language=de", 404, "no_voice"),
    (f"/voices/{'x'*101}/sample?phrase=hey", 422, "invalid_request"), ("/near-misses?phrase=hey&count=0", 422, "invalid_request"), ("/near-misses?phrase=hey&count=151", 422, "invalid_request"), ("/near-misses?phrase=привет", 422, "bad_phrase")])
def test_what_cannot_be_heard_is_refused(shared, path, status, code): problem(shared.get(path), status, code=code)

def test_a_hundred_at_once_do_not_keep_the_service_busy(shared):
    booth, answers = shared.app.state.service.booth, []
    booth.ask("list_voices", language="en-us")
    with booth.turn: # somebody is being heard, and does not come to an end
        threads = [threading.Thread(target=lambda k=k: answers.append(shared.get(f"/voices/{M3}/sample", params=dict(phrase=f"number {k}"))), daemon=True) for k in range(100)]
        for t in threads: t.start()
        end = time.time() + LONG
        while len(answers) < 96: assert time.time() < end, len(answers); time.sleep(.02)
        assert shared.get("/datasets").status_code == 200 and shared.get("/voices").status_code == 200 # and what was asked before is known still
    for t in threads: t.join(LONG)
    assert sorted(r.status_code for r in answers) == [200]*4 + [503]*96
    busy = next(r for r in answers if r.status_code == 503)
    assert "ask again in a moment" in problem(busy, 503, code="busy") and busy.headers["retry-after"]

def test_what_takes_the_synthesizer_down_takes_nothing_else_down(shared):
    booth = shared.app.state.service.booth
    hear = lambda phrase: shared.get(f"/voices/{M3}/sample", params=dict(phrase=phrase))
    hear("first of all")
    booth.process.kill()
    booth.process.wait()
    assert hear("and then").status_code == 200
    nasty = "䎴绐ண_\ufeff沠靱*-ꠝiḑ{\u200d鼅Ϧ᮷h'ྚ" # espeak-ng 1.52 dies of it
    assert shared.get("/voices/espeak:ar+m3/sample", params=dict(phrase=nasty)).status_code in (200, 422) and hear("still there").status_code == 200
    patience, booth.patience_s = booth.patience_s, 0
    try: assert "a shorter phrase may do" in problem(hear("too slow"), 422, code="bad_phrase")
    finally: booth.patience_s = patience
    assert booth.process is None and hear("at last").status_code == 200

def test_a_booth_that_always_dies_is_given_up(monkeypatch):
    from wakekit.serve import speaking
    monkeypatch.setattr(speaking, "_RUN", "import sys; sys.stdin.readline(); sys.exit(11)")
    booth = Booth()
    with pytest.raises(PhraseError, match="dies of that"): booth.ask("alike", phrase="hey")
    assert booth.process is None

def test_a_booth_leaves_with_its_service(tmp_path):
    code = "import os, sys, time\nfrom wakekit.serve.speaking import Booth\nb = Booth()\nb.ask('sample', voice='espeak:en-us+m3', phrase='hey')\nprint(b.process.pid, flush=True)\ntime.sleep(1000)"
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    booth = psutil.Process(int(p.stdout.readline()))
    p.kill()
    p.wait()
    booth.wait(60)

def test_a_service_without_espeak_says_which_extra_brings_it(tmp_path, monkeypatch):
    (tmp_path/"without").mkdir()
    (tmp_path/"without"/"espeakng_loader.py").write_text("raise ImportError('No module named espeakng_loader')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path/"without"))
    with TestClient(create_app(settings(tmp_path)), raise_server_exceptions=False) as web:
        web.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis"))
        for r in (web.get("/voices"), web.get(f"/voices/{M3}/sample?phrase=hey"), web.get("/near-misses?phrase=hey"), web.post("/datasets/kitchen/synthesize", json={})):
            assert "wakekit[train]" in problem(r, 501, code="missing_extra")
        assert web.get("/jobs").json()["jobs"] == []


# ---- from Python

def test_the_client_does_it_all(shared):
    service = Client(http=shared)
    service.create_dataset("cellar", "computer")
    voice = next(v["name"] for v in service.voices("en-gb") if v["sex"] == "female")
    assert service.sample(voice, "computer").ndim == 1 and len(service.near_misses("computer", count=3)) == 3
    job = service.synthesize("cellar", 3, 2, voices=[voice], language="en-gb")
    assert job.wait()["result"] == dict(spoken=5, added=5) and "synthesize" in job._repr_markdown_()
    assert [c["voice"] for c in service.clips("cellar", label="positive")] == [voice]*3
    with pytest.raises(ServiceError, match="near: ") as e: service.synthesize("cellar", voices=["nobody"])
    assert (e.value.status, e.value.code) == (422, "no_voice")

def test_the_command_line_speaks_the_same(tmp_path):
    "`wakekit synth` and the service share what draws and what stores"
    a, b = (Dataset.create(tmp_path/name, "hey jarvis") for name in "ab")
    speak_into(a, 3, 2, seed=5)
    store_speech(b, draw_speech("hey jarvis", 3, 2, seed=5))
    assert whole(a) == whole(b) and len(a) == 5
