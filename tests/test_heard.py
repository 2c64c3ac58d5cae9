"What a training misheard: kept where it belongs, listened to, made clips of, and gone with its job."
import contextlib, errno, io, json, time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
import numpy as np
import pytest
import soundfile as sf
pytest.importorskip("fastapi")
from fastapi.testclient import TestClient
from wakekit.core import read_json
from wakekit.data.interchange import Dataset
from wakekit.env import Settings
from wakekit.serve import routes_environment
from wakekit.serve.client import Client, JobHandle, ServiceError
from wakekit.serve.queue import place_of
from wakekit.serve.training import create_app
from wakekit.ship import listen
from wakekit.ship.evaluate import Recording, evaluate
from wakekit.ship.listen import sound_hash, sounds as sounds_of
from wakekit.ship.quickstart import clip_of
from wakekit.ship.toy import chime, toy_bundle

SR = 16_000


def rung(seconds, at_s=.3, gain_db=-20, seed=0):
    "A room in which it rings"
    x = (.002*np.random.default_rng(seed).standard_normal(int(seconds*SR))).astype(np.float32)
    if gain_db is not None: x[int(at_s*SR):][:5120] += chime(gain_db=gain_db)
    return x

def problem(r, status, code=None):
    assert r.status_code == status and r.headers["content-type"] == "application/problem+json", (r.status_code, r.text[:400])
    assert code in (None, r.json()["code"]), r.json()
    return r.json()["detail"]

def settings(tmp, **more): return Settings(data_dir=tmp/"data", training_dir=tmp/"training", models_dir=tmp/"models", logs_dir=tmp/"logs", device="cpu", **more)


@pytest.fixture
def home(tmp_path):
    "A service with a job that was judged: a clip that is missed, a clip that rings, and an evening in which it rings twice, louder the second time"
    with TestClient(create_app(settings(tmp_path)), raise_server_exceptions=False) as web:
        s = web.app.state.service
        s.catalog.create("door", "ding dong")
        door = s.catalog.open("door")
        faint, short, evening = rung(.9, gain_db=-90), rung(1.1, seed=1), rung(30, 10, seed=2) + rung(30, 20, -17, seed=3)
        clips = SimpleNamespace(faint=door.add(faint, "positive", speaker="anna"), short=door.add(short, "negative", source="hall"), evening=door.add(evening, "negative", speaker="tv", licence="CC0"))
        job = s.queue.enqueue("train", {}, "door")
        bundle = toy_bundle(place_of(s.root, job)/"export")
        report = evaluate(bundle, [("loud", rung(.9, seed=4)), ("faint.wav", faint), ("said", rung(.9, gain_db=-90, seed=5))], [("short.wav", short), ("evening.wav", evening), ("night", rung(20, gain_db=None, seed=6))], progress=False)
        for i in report.calls: i.item.known.update(dict(voice="espeak:en-us+m3") if i.item.name == "said" else {})
        def judge(**how): return report.save_sounds(place_of(s.root, job)/"heard", about=clip_of(door), **how)
        judge()
        s.queue.finish(s.queue.claim("me"), "succeeded")
        yield SimpleNamespace(web=web, s=s, door=door, clips=clips, job=job.id, at=f"/jobs/{job.id}", report=report, judge=judge, folder=place_of(s.root, job)/"heard")

def sounds(h): return h.web.get(f"{h.at}/heard").json()["sounds"]
def number(h, kind, file): return next(s["n"] for s in sounds(h) if s["kind"] == kind and s["file"] == file)
def keep(h, n, label="negative", headers=None, **how): return h.web.post(f"{h.at}/heard/{n}/keep", json=dict(label=label, **how), headers=headers or {})
def labels(h): return {c["id"]: c["label"] for c in h.web.get("/datasets/door/recordings").json()["clips"]}


# ---- the list and the sounds

def test_the_list_says_what_each_sound_is(home):
    found = home.web.get(f"{home.at}/heard").json()
    assert found["counts"] == dict(false_accept=3, nearly=len(home.report.nearly), missed=2) and found["phrase"] == "ding dong" and found["graph"] == "float32"
    by = {(s["kind"], s["file"]): s for s in found["sounds"]}
    assert [s["n"] for s in found["sounds"]] == list(range(len(found["sounds"])))
    assert found["threshold"] == home.report.at_bundle_threshold.threshold and all((s["score"] >= found["threshold"]) == (s["kind"] == "false_accept") for s in found["sounds"])
    faint, short, evening, said = by["missed", "faint.wav"], by["false_accept", "short.wav"], by["false_accept", "evening.wav"], by["missed", "said"]
    assert (faint["clip_id"], faint["speaker"], faint["time_s"]) == (home.clips.faint.id, "anna", None) and faint["snr_db"] is not None and faint["level_db"] < -40
    assert (short["clip_id"], short["source"], short["duration_s"], short["sha256"]) == (home.clips.short.id, "hall", 1.1, home.clips.short.sha256)
    assert (evening["clip_id"], evening["speaker"], round(evening["duration_s"], 3)) == (home.clips.evening.id, "tv", 2.2) and 10 < evening["time_s"] < 21 and -40 < evening["level_db"] < -10
    assert (said["clip_id"], said["voice"]) == (None, "espeak:en-us+m3")
    assert not any(s["kept"] for s in found["sounds"])

def test_the_coach_names_what_woke_it(home):
    coach = lambda: home.web.get(f"{home.at}/heard").json()["coach"]
    assert any("“short.wav”" in a["words"] for a in coach()) and all(set(a) == {"words", "why", "severity"} for a in coach())
    assert home.web.patch(f"/datasets/door/recordings/{home.clips.short.id}", json=dict(notes="said: king kong; distance: 1 m")).status_code == 200
    assert coach()[0]["words"].startswith("Record “king kong” as a negative") and not any("“short.wav”" in a["words"] for a in coach())
    page = home.web.get(f"{home.at}/report").text
    assert "What to record next" in page and "“king kong”" in page
    assert JobHandle(Client(http=home.web), home.job).coach() == coach()
    home.web.delete("/datasets/door") # the sounds are still there, and nobody knows any more what is said in them
    assert any("“short.wav”" in a["words"] for a in coach())

def test_sounds_are_what_was_heard_and_come_in_parts(home):
    evening = home.door.load(home.clips.evening)
    for s in sounds(home):
        at = f"{home.at}/heard/{s['n']}/audio"
        r = home.web.get(at)
        x, sr = sf.read(io.BytesIO(r.content), dtype="int16")
        assert (r.status_code, sr, r.headers["etag"]) == (200, SR, f'"{s["sha256"]}"') and sf.info(io.BytesIO(r.content)).subtype == "PCM_16"
        assert sound_hash(x) == s["sha256"] and len(x)/SR == s["duration_s"] <= 3
        if s["kind"] == "false_accept" and s["file"] == "evening.wav": assert np.array_equal(x/32768, evening[int((s["time_s"] - 1.7)*SR):][:len(x)])
    assert home.web.get(at, headers={"If-None-Match": r.headers["etag"]}).status_code == 304
    part = home.web.get(at, headers={"Range": "bytes=44-143"})
    assert part.status_code == 206 and part.content == r.content[44:144]
    problem(home.web.get(at, headers={"Range": "bytes=999999999-"}), 416)

def test_what_is_not_there(home):
    waiting = home.s.queue.enqueue("train", {}, "door")
    assert home.web.get(f"/jobs/{waiting.id}/heard").json() == dict(graph=None, phrase=None, threshold=None, created=None, counts=dict(false_accept=0, nearly=0, missed=0), sounds=[], coach=[])
    problem(home.web.get(f"/jobs/{waiting.id}/report"), 404)
    for job in ("0"*12, "x", "..%2f..", waiting.id):
        for how in (lambda: home.web.get(f"/jobs/{job}/heard/0/audio"), lambda: home.web.post(f"/jobs/{job}/heard/0/keep", json=dict(label="noise"))): problem(how(), 404)
    for n in (len(sounds(home)), 999): problem(home.web.get(f"{home.at}/heard/{n}/audio"), 404)
    for n in ("-1", "x", "1000", "0%2f..%2fheard.json"): assert home.web.get(f"{home.at}/heard/{n}/audio").status_code in (404, 422)
    for body in (dict(), dict(label="maybe"), dict(label="noise", speaker="x"), dict(label="noise", notes="\0"), dict(label="noise", notes="x"*2001)): problem(home.web.post(f"{home.at}/heard/0/keep", json=body), 422)
    assert len(labels(home)) == 3

def test_a_file_that_went_is_told_and_hides_no_other(home):
    n = number(home, "false_accept", "evening.wav")
    (home.folder/f"{sounds(home)[n]['sha256'][:16]}.wav").unlink()
    problem(home.web.get(f"{home.at}/heard/{n}/audio"), 404)
    problem(keep(home, n), 404)
    assert home.web.get(f"{home.at}/heard/{number(home, 'missed', 'said')}/audio").status_code == 200
    assert home.web.get(f"{home.at}/report").text.count("<audio") == len(sounds(home)) - 1


# ---- keeping

def test_a_moment_becomes_a_clip_once(home):
    n = number(home, "false_accept", "evening.wav")
    before = home.web.get(f"{home.at}/heard/{n}/audio").content
    with ThreadPoolExecutor(6) as pool: answers = list(pool.map(lambda _: keep(home, n), range(6)))
    assert sorted(r.status_code for r in answers) == [200]*5 + [201] and len({r.json()["id"] for r in answers}) == 1, [r.text for r in answers]
    clip = answers[0].json()
    assert len(labels(home)) == 4 and clip["label"] == "negative" and clip["licence"] == "CC0" and clip["speaker"] == "" and "evening.wav at" in clip["notes"]
    assert home.web.get(f"/datasets/door/recordings/{clip['id']}/audio").content == before
    assert sounds(home)[n]["kept"] == dict(clip_id=clip["id"], label="negative")
    assert [e["kind"] for e in home.s.db.events_after(0, 5000) if e["data"].get("clip") == clip["id"]] == ["clip.added"]
    again = keep(home, n, "noise", notes="the kettle")  # on second thoughts
    assert (again.status_code, again.json()["label"], again.json()["notes"], len(labels(home))) == (200, "noise", "the kettle", 4)
    assert sounds(home)[n]["kept"]["label"] == "noise"

def test_a_sound_that_is_a_clip_gets_the_label(home):
    faint, short = home.clips.faint.id, home.clips.short.id
    assert keep(home, number(home, "false_accept", "short.wav"), "positive").json() == home.web.get(f"/datasets/door/recordings/{short}").json()
    assert keep(home, number(home, "missed", "faint.wav"), "noise", notes="nobody can hear that").status_code == 200
    assert labels(home) == {faint: "noise", short: "positive", home.clips.evening.id: "negative"}
    about = home.web.get(f"/datasets/door/recordings/{faint}").json()
    assert (about["notes"], about["speaker"]) == ("nobody can hear that", "anna")
    assert keep(home, number(home, "missed", "faint.wav"), "noise").json()["notes"] == "nobody can hear that"

def test_what_a_synthesizer_said_never_counts_as_a_person(home):
    clip = keep(home, number(home, "missed", "said"), "positive")
    assert (clip.status_code, clip.json()["voice"], clip.json()["speaker"]) == (201, "espeak:en-us+m3", "")

def test_clips_that_were_thrown_away_are_not_brought_back_behind_somebodys_back(home):
    n, id = number(home, "missed", "faint.wav"), home.clips.faint.id
    home.web.delete(f"/datasets/door/recordings/{id}")
    assert "restore" in problem(keep(home, n, "positive"), 409, "in_trash") and sounds(home)[n]["kept"] is None
    home.web.delete("/datasets/door/trash")
    assert keep(home, n, "positive").status_code == 201  # gone for good, and wanted after all
    assert labels(home)[id] == "positive"

def test_a_dataset_that_went_or_is_another_one(home):
    n = number(home, "false_accept", "evening.wav")
    trash = home.web.delete("/datasets/door").json()["trash"]
    assert "restore it" in problem(keep(home, n), 404, "dataset_gone") and not (home.s.root/"datasets"/"door").exists()
    home.web.post("/datasets", json=dict(name="door", phrase="hey jarvis"))
    problem(keep(home, n), 409, "other_phrase")
    assert labels(home) == {} and sounds(home)[n]["kept"] is None
    home.web.delete("/datasets/door")
    home.web.post(f"/trash/{trash}/restore")
    assert keep(home, n).status_code == 201

def test_a_number_that_means_another_sound_now(home):
    n = number(home, "missed", "said")
    tag = home.web.get(f"{home.at}/heard/{n}/audio").headers["etag"]
    assert keep(home, n, "positive", {"If-Match": tag}).status_code == 201
    home.judge(most=1)
    problem(keep(home, 0, "positive", {"If-Match": tag}), 412, "outdated")


# ---- the folder

def test_judging_again_keeps_marks_and_forgets_other_sounds(home):
    n = number(home, "false_accept", "evening.wav")
    first, clip = sounds(home)[n], keep(home, n).json()["id"]
    home.judge(most=1)
    found = sounds(home)
    assert [s["kind"] for s in found if s["kind"] != "nearly"] == ["false_accept", "missed"]
    assert {p.stem for p in home.folder.glob("*.wav")} == {s["sha256"][:16] for s in found}
    home.judge()
    assert next(s for s in sounds(home) if s["sha256"] == first["sha256"])["kept"] == dict(clip_id=clip, label="negative")

def test_a_disk_that_is_full_half_way_leaves_what_was_there(home, monkeypatch):
    before, left = sounds(home), [2]
    save = listen.save_audio
    def full(*how):
        left[0] -= 1
        if left[0] < 0: raise OSError(errno.ENOSPC, "No space left on device")
        return save(*how)
    monkeypatch.setattr(listen, "save_audio", full)
    with pytest.raises(OSError): home.judge()
    assert sounds(home) == before and all(home.web.get(f"{home.at}/heard/{s['n']}/audio").status_code == 200 for s in before)

def test_no_more_than_twenty_of_a_kind_and_none_longer_than_three_seconds(tmp_path):
    long = rung(9, 7.5, -80)                        # a call at the end of a long clip, which nobody hears
    report = evaluate(toy_bundle(tmp_path/"b"), [("loud", rung(.9)), *((f"{i}", rung(.9, gain_db=-90, seed=i)) for i in range(25)), ("long", long)], [(f"{i}", rung(4, 2, seed=i)) for i in range(25)], progress=False)
    found = report.save_sounds(tmp_path/"heard")
    assert [sum(s["kind"] == k for s in found) for k in ("false_accept", "missed")] == [20, 20] and len(report.false_accepts) == 25
    assert all(sf.info(p).duration <= 3 for p in (tmp_path/"heard").glob("*.wav"))
    about, _, load = next(s for s in sounds_of(report, 99) if s[0]["file"] == "long")
    call = next(c for c in report.calls if c.item.name == "long")
    assert np.array_equal(load(), long[int(max(0, call.speech_end_s + .5 - 3)*SR):][:3*SR])

def test_voices_are_in_no_bundle_and_go_with_the_job(home):
    files = {a["name"] for a in home.web.get(f"{home.at}/artifacts").json()["artifacts"]}
    assert not any(f.endswith(".wav") or "heard" in f for f in files) and not list((home.folder.parent/"export").rglob("*.wav"))
    assert list(home.folder.glob("*.wav")) and home.web.delete(home.at).status_code == 204
    assert not home.folder.exists() and not list(home.s.root.rglob("*.kept.json"))
    problem(home.web.get(f"{home.at}/heard"), 404)

def test_a_minute_of_a_long_clip_is_told_from_the_same_name(tmp_path):
    ds, rng = Dataset.create(tmp_path/"d", "ding dong"), np.random.default_rng(0)
    x, y = ((.05*rng.standard_normal(330*SR)).astype(np.float32) for _ in range(2))
    a, b = (ds.add(x, "negative", original_name="rec.wav") for x in (x, y))
    which = clip_of(ds)
    piece = lambda x, k: which(Recording(f"rec.wav from {k} min", None, x[k*60*SR:][:60*SR]))
    assert [(p["clip_id"], p["clip_start_s"]) for p in (piece(x, 2), piece(y, 5))] == [(a.id, 120), (b.id, 300)]
    assert which(Recording("rec.wav from 9 min", None, x[:60*SR]))["clip_id"] is None


# ---- the report

def test_a_report_is_a_page_that_can_do_nothing(home):
    item = home.report.missed[0].item
    object.__setattr__(item, "name", "<script>alert(1)</script>")
    home.judge()
    r = home.web.get(f"{home.at}/report")
    rules = dict(p.strip().partition(" ")[::2] for p in r.headers["content-security-policy"].split(";"))
    assert r.status_code == 200 and r.headers["content-type"].startswith("text/html") and r.headers["x-content-type-options"] == "nosniff"
    assert rules["default-src"] == "'none'" and "sandbox" in rules and not any("script" in k or "allow" in v for k, v in rules.items())
    assert "<script" not in r.text and "&lt;script&gt;alert" in r.text and r.text.count("<audio") == len(sounds(home))
    assert str(home.s.root) not in r.text and f"job {home.job}" in r.text

def test_a_failed_job_has_a_report_that_says_why(home):
    job = home.s.queue.enqueue("train", {}, "door")
    home.report.save_sounds(place_of(home.s.root, job)/"heard")
    home.s.queue.finish(home.s.queue.claim("me"), "failed", error="The model fails its gates: it misses 97 % of calls")
    assert "it misses 97 % of calls" in home.web.get(f"/jobs/{job.id}/report").text

def test_a_job_of_an_earlier_version_has_the_report_of_its_bundle(home):
    counted = read_json(home.folder/"report.json")
    for p in home.folder.iterdir(): p.unlink()
    (home.folder.parent/"export"/"metrics.json").write_text(json.dumps(dict(held_out=dict(float32=counted))))
    r = home.web.get(f"{home.at}/report")
    assert r.status_code == 200 and "<audio" not in r.text and "Operating points" in r.text


# ---- a real training

LITTLE = {"epochs": 2, "steps_per_epoch": 6, "batch.batch_size": 16, "verifier.steps": 0, "target_false_accepts_per_hour": 400, "data.synthetic": 24, "data.near_misses": 0, "data.filler": 24, "data.synthetic_rooms": 4}

def test_a_real_training_keeps_what_it_counts(tmp_path, monkeypatch):
    from wakekit.data.speech import speak_into
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with TestClient(create_app(settings(tmp_path), worker=True)) as web:
        s, client = web.app.state.service, Client("http://testserver", http=web)
        s.catalog.create("kitchen", "computer")
        kitchen = s.catalog.open("kitchen")
        speak_into(kitchen, 12, 0)
        said = [kitchen.load(c) for c in kitchen.clips()]
        for i, x in enumerate(said): kitchen.add(np.concatenate([x, x[::-1]]), "negative", speaker=f"person {i}", licence="CC0") # talk, of a kind
        kitchen.add(np.concatenate([x[::-1] for x in said*9])[:320*SR], "negative", speaker="radio", original_name="radio.wav")
        before = {c.id: c for c in kitchen.clips()}
        job = client.train("kitchen", "tiny", LITTLE, force=True)
        job.wait()
        found = client.get(f"/jobs/{job.id}/heard")
        metrics = read_json(s.root/"jobs"/job.id/"export"/"metrics.json")["held_out"][found["graph"]]
        assert found["counts"] | {"nearly": 0} == dict(false_accept=metrics["at_bundle_threshold"]["false_accepts"], missed=metrics["at_bundle_threshold"]["false_rejects"], nearly=0)
        assert found["threshold"] == metrics["at_bundle_threshold"]["threshold"] and found["graph"] == read_json(s.root/"jobs"/job.id/"export"/"manifest.json")["default_graph"]
        for kind, listed in (("false_accept", metrics["false_accepts"]), ("missed", metrics["missed"])):
            assert [(s["file"], s["score"]) for s in found["sounds"] if s["kind"] == kind] == [(m["file"], m["score"]) for m in listed[:20]]
        assert {"false_accept", "missed"} <= {s["kind"] for s in found["sounds"]}
        for s_ in found["sounds"]:
            assert bool(s_["voice"]) != (s_["clip_id"] is not None and not before[s_["clip_id"]].voice), s_
            x = job.heard_audio(s_["n"])
            if s_["clip_id"]: # it is there in that clip, to the sample
                whole = kitchen.load(s_["clip_id"])
                start = int(max(0., s_["time_s"] - 1.7)*SR) if s_["kind"] != "missed" and len(whole) > 3*SR else 0
                assert np.array_equal(x, whole[s_["clip_start_s"]*SR + start:][:len(x)]), s_
        assert any(s_["clip_id"] for s_ in found["sounds"] if s_["kind"] != "missed")
        assert web.get(f"/jobs/{job.id}/report").text.count("<audio") == sum(min(12, sum(s_["kind"] == k for s_ in found["sounds"])) for k in found["counts"])
        assert not list((s.root/"jobs"/job.id/"export").rglob("*.wav")) and not (s.root/"jobs"/job.id/"work").exists()


# ---- the client

def test_the_client_listens_and_keeps(home):
    job = JobHandle(Client("http://testserver", http=home.web), home.job)
    heard = job.heard()
    n = number(home, "missed", "said")
    assert [s["n"] for s in heard] == list(range(len(heard))) and heard[n]["file"] == "said"
    x = job.heard_audio(n)
    assert x.dtype == np.float32 and sound_hash(x) == heard[n]["sha256"]
    clip = job.keep(heard[n], "positive", notes="spoken")
    assert (clip["label"], clip["notes"], job.keep(n, "positive")["id"], job.heard()[n]["kept"]["clip_id"]) == ("positive", "spoken", clip["id"], clip["id"])
    home.judge(most=1)
    with pytest.raises(ServiceError) as e: job.keep({**heard[n], "n": 0}, "positive")
    assert e.value.status == 412


# ---- the environment

@contextlib.contextmanager
def examined(monkeypatch, tmp_path, code, longest_s=60., **more):
    "A service whose doctor is the code of a child process"
    monkeypatch.setattr(routes_environment, "_RUN", code)
    with TestClient(create_app(settings(tmp_path, **more))) as web:
        web.app.state.service.environment.longest_s = longest_s
        yield web

SAYS = "import json, os, sys; sys.stdin.buffer.read(); print(json.dumps(dict(settings=[], checks=[dict(name='pid', status='ok', detail=str(os.getpid()), remedy='', ms=1)], ok=True)))"

def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(.02)
    return found

def test_the_environment_of_this_machine_without_its_secrets(tmp_path):
    told = Settings.load(environ={"WAKEKIT_API_TOKEN": "open sesame", "MLFLOW_TRACKING_URI": "https://anna:se/s@me@mlflow.example/x?api_token=sesame", "WAKEKIT_DEVICE": "cpu", "WAKEKIT_COMPILE": "off",
                                  **{f"WAKEKIT_{k}_DIR": str(tmp_path/k) for k in ("DATA", "MODELS", "LOGS")}})
    with TestClient(create_app(told), headers={"Authorization": "Bearer open sesame"}) as web:
        web.app.state.service.environment.longest_s = 600.
        assert web.get("/environment", headers={"Authorization": ""}).status_code == 401
        r = web.get("/environment")
        found = r.json()
    assert r.status_code == 200 and "sesame" not in r.text and "s@me" not in r.text and "anna" not in r.text
    rows = {s["name"]: s for s in found["settings"]}
    assert (rows["WAKEKIT_API_TOKEN"]["value"], rows["WAKEKIT_DEVICE"]["source"], rows["WAKEKIT_DEVICE"]["resolved"], rows["WAKEKIT_MODELS_DIR"]["resolved"]) == ("(set)", "environment", "cpu", str((tmp_path/"MODELS").resolve()))
    assert rows["MLFLOW_TRACKING_URI"]["value"] == "https://•••@mlflow.example/x?api_token=•••"
    checks = {c["name"]: c["status"] for c in found["checks"]}
    assert checks["device=cpu"] == "ok" and checks["packages"] == "ok" and found["problem"] is None and found["ok"] is ("failed" not in checks.values())
    assert found["free_bytes"] > 0 and found["versions"]["torch"] and ["deploy"] in [w["kinds"] for w in found["workers"]]

def test_the_doctor_is_asked_once_by_all(tmp_path, monkeypatch):
    go = tmp_path/"go"
    with examined(monkeypatch, tmp_path, f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(.02)\n" + SAYS) as web, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(web.get, "/environment", params=dict(fresh=i % 2 == 1)) for i in range(4)]
        until(lambda: web.app.state.service.environment._child)
        assert web.get("/health").status_code == 200 and not any(a.done() for a in asked)   # nobody else waits for it
        go.touch()
        pids = {a.result(60).json()["checks"][0]["detail"] for a in asked}
        assert len(pids) == 1
        assert {web.get("/environment", params=dict(fresh=f)).json()["checks"][0]["detail"] for f in (False, True)} == pids  # a new one right after it is the same one
        web.app.state.service.environment._until = (float("inf"), 0.)
        assert {web.get("/environment").json()["checks"][0]["detail"]} == pids
        assert {web.get("/environment?fresh=true").json()["checks"][0]["detail"]}.isdisjoint(pids)

@pytest.mark.parametrize("code, words", [("import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)", "was not done within"), ("raise SystemExit(3)", "ended with code 3"), ("print('milk')", "could not be asked")])
def test_a_doctor_that_hangs_or_dies_is_an_answer(tmp_path, monkeypatch, code, words):
    with examined(monkeypatch, tmp_path, code, 3. if "sleep" in code else 60.) as web:
        found = web.get("/environment").json()
        assert words in found["problem"] and found["checks"] == [] and found["ok"] is None and found["versions"]["wakekit"]
        monkeypatch.setattr(routes_environment, "_RUN", SAYS)
        web.app.state.service.environment.longest_s, web.app.state.service.environment._until = 60., (0., 0.)
        assert web.get("/environment").json()["ok"] is True

def test_a_service_that_stops_takes_its_doctor_with_it(tmp_path, monkeypatch):
    with examined(monkeypatch, tmp_path, "import time; time.sleep(600)") as web:
        environment = web.app.state.service.environment
        answer = environment.ask()
        child = until(lambda: environment._child)
    child.wait(60)
    assert "ended with code" in answer.result(60)["problem"]
    environment._until = (0., 0.)
    assert "being stopped" in environment.ask().result(60)["problem"]

def test_a_database_that_is_away_hides_only_its_workers(tmp_path, monkeypatch):
    from wakekit.serve.events import DatabaseError
    with examined(monkeypatch, tmp_path, SAYS) as web:
        def away(): raise DatabaseError("away")
        monkeypatch.setattr(web.app.state.service.queue, "alive", away)
        found = web.get("/environment").json()
        assert "database" in found["problem"] and found["ok"] is True and found["workers"] == [] and found["free_bytes"]

def test_the_client_shows_the_environment(tmp_path, monkeypatch):
    with examined(monkeypatch, tmp_path, SAYS) as web:
        client = Client("http://testserver", http=web)
        assert client.environment()["checks"] == client.environment(fresh=True)["checks"] != []
