"The inbox of a dataset through the training service: handed in, heard, decided on, taken back; and what is refused."
import io, shutil, threading, zipfile
import numpy as np, pytest, soundfile as sf
pytest.importorskip("fastapi")
from fastapi.testclient import TestClient
from wakekit.env import Settings
from wakekit.serve import routes_inbox
from wakekit.serve.training import create_app

SR, WAV = 16_000, {"Content-Type": "audio/wav"}
AT = "/datasets/kitchen/inbox"


def sound(seed=0, seconds=.5): return (np.random.default_rng(seed).standard_normal(int(seconds*SR))*.1).astype(np.float32)
def wav(x, **how):
    out = io.BytesIO()
    sf.write(out, x, SR, format="WAV", **how)
    return out.getvalue()

def problem(r, status, code=None, word=""):
    assert r.status_code == status and r.headers["content-type"] == "application/problem+json", (r.status_code, r.text)
    assert code in (None, r.json()["code"]) and word in r.json()["detail"], r.json()
    return r.json()

def hand_in(web, seed=0, seconds=.5, **about): return web.post(AT, params=about, content=wav(sound(seed, seconds)), headers=WAV)
def events(web, after=0): return [e for e in web.get("/events", params=dict(after=after)).json()["events"]]
def last(web): return web.get("/events").json()["last"]

@pytest.fixture
def web(tmp_path):
    app = create_app(Settings(data_dir=tmp_path/"data", training_dir=tmp_path/"training", models_dir=tmp_path/"models", device="cpu"))
    found = TestClient(app, raise_server_exceptions=False)  # without its workers
    found.service = app.state.service
    found.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis"))
    yield found
    found.service.close()


def test_a_sound_from_somewhere_else_becomes_a_clip(web):
    about = dict(kind="near", origin="porch, 3", start_s=12.5, heard="2026-03-14T06:58:12.25+02:00", score=.44, detector="kitchen", version="3", threshold=.5)
    r = hand_in(web, **about)
    s = r.json()
    assert r.status_code == 201 and r.headers["location"] == f"{AT}/{s['id']}" and s["warning"] is None
    assert {k: s[k] for k in ("kind", "origin", "start_s", "heard", "score", "outcome", "decision")} == dict(kind="near", origin="porch, 3", start_s=12.5, heard="2026-03-14T04:58:12.250Z", score=.44, outcome="open", decision=None)
    assert s["detector"] == dict(name="kitchen", version="3", threshold=.5) and abs(s["duration_s"] - .5) < 1e-6
    again = hand_in(web, **about)
    assert again.status_code == 200 and again.json()["id"] == s["id"]
    assert web.get(f"{AT}/{s['id']}").json() == {k: v for k, v in s.items() if k != "warning"}
    play = web.get(f"{AT}/{s['id']}/audio")
    x, sr = sf.read(io.BytesIO(play.content), dtype="float32")
    assert sr == SR and np.abs(x - sound()).max() < 1e-4
    assert web.get(f"{AT}/{s['id']}/audio", headers={"Range": "bytes=0-3"}).content == b"RIFF"
    assert web.get(f"{AT}/{s['id']}/audio", headers={"If-None-Match": play.headers["etag"]}).status_code == 304
    picture = web.get(f"{AT}/{s['id']}/spectrogram?width=50")
    assert picture.content[:4] == b"\x89PNG" and web.get(f"{AT}/{s['id']}/spectrogram?width=50", headers={"If-None-Match": picture.headers["etag"]}).status_code == 304
    after = last(web)
    r = web.post(f"{AT}/{s['id']}/accept", json=dict(label="negative", start_s=.1, end_s=.4, speaker="Ada", by="Bob", note="the radio"))
    assert r.status_code == 200 and r.json()["outcome"] == "negative"
    clip, = web.get("/datasets/kitchen/recordings").json()["clips"]
    assert clip["id"] == r.json()["decision"]["clip_id"] and clip["label"] == "negative" and clip["speaker"] == "Ada" and clip["source"] == "inbox: porch, 3" and abs(clip["duration_s"] - .3) < 1e-3
    assert web.get("/datasets/kitchen").json()["labels"]["negative"]["clips"] == 1
    assert [(e["kind"], e["data"].get("outcome")) for e in events(web, after)] == [("clip.added", None), ("inbox.decided", "negative")]

def test_what_waits_page_by_page(web):
    ids = [hand_in(web, k, kind="trigger" if k % 2 else "proposal", score=k/10).json()["id"] for k in range(7)]
    web.post(f"{AT}/{ids[0]}/reject", json={})
    page = lambda **q: web.get(AT, params=q).json()
    assert [s["id"] for s in page()["sounds"]] == ids[:0:-1] and page()["total"] == page()["waiting"] == 6  # the newest first
    assert [s["id"] for s in page(offset=1, limit=2)["sounds"]] == [ids[5], ids[4]] and page(limit=1)["total"] == 6
    assert [s["id"] for s in page(state="decided")["sounds"]] == ids[:1] and page(state="decided")["waiting"] == 6
    assert page(state="all")["total"] == 7 and page(kind="trigger")["total"] == 3 and page(kind="near")["sounds"] == [] and page(offset=99)["sounds"] == []

def test_taken_back_and_decided_anew(web):
    id = hand_in(web).json()["id"]
    accept = lambda **how: web.post(f"{AT}/{id}/accept", json=how)
    first = accept(label="positive").json()["decision"]["clip_id"]
    other = accept(label="negative", start_s=.2).json()["decision"]["clip_id"]
    trashed = {c["id"]: c["trashed"] for at in ("recordings", "trash") for c in web.get(f"/datasets/kitchen/{at}").json()["clips"]}
    assert trashed == {first: True, other: False}
    after = last(web)
    assert web.post(f"{AT}/{id}/undo").json()["outcome"] == "open" and web.get("/datasets/kitchen/recordings").json()["total"] == 0
    assert [e["kind"] for e in events(web, after)] == ["clip.trashed", "inbox.decided"]
    problem(web.post(f"{AT}/{id}/undo"), 409, "nothing_to_undo")
    assert accept(label="positive").json()["decision"]["clip_id"] == first and web.get("/datasets/kitchen").json()["trash"] == 1
    assert web.post(f"{AT}/{id}/reject", json=dict(note="a guest", by="Ada")).json()["decision"]["note"] == "a guest"
    assert web.post(f"{AT}/{id}/reject").json()["outcome"] == "rejected"  # said twice, and without a word
    assert web.get("/datasets/kitchen/recordings").json()["total"] == 0

def test_gone_for_good(web):
    ids = [hand_in(web, k).json()["id"] for k in range(4)]
    web.post(f"{AT}/{ids[0]}/accept", json=dict(label="noise"))
    web.post(f"{AT}/{ids[1]}/reject")
    clip = web.post(f"{AT}/{ids[3]}/accept", json=dict(label="noise")).json()["decision"]["clip_id"]
    after, home = last(web), web.service.catalog.path("kitchen")
    for id in ids[:3]:
        r = web.delete(f"{AT}/{id}")
        assert r.status_code == 204 and not r.content and not (home/"inbox"/f"{id}.wav").exists() and not (home/"inbox"/f"{id}.json").exists()
        for again in (web.delete(f"{AT}/{id}"), web.get(f"{AT}/{id}")): problem(again, 404)
    assert [(e["kind"], e["data"]["sound"]) for e in events(web, after)] == [("inbox.deleted", id) for id in ids[:3]]
    assert {c["id"] for c in web.get("/datasets/kitchen/recordings").json()["clips"]} == {clip, ids[0]}
    for where in ("/datasets/nowhere/inbox/" + ids[3], f"{AT}/0123456789abcdef", f"{AT}/agreement"): assert web.delete(where).status_code in (404, 405)
    web.delete(f"/datasets/kitchen/recordings/{clip}")
    assert web.get(f"{AT}/{ids[3]}").status_code == 200
    assert web.delete("/datasets/kitchen/trash").json() == dict(purged=1)
    problem(web.get(f"{AT}/{ids[3]}"), 404)
    assert not list(home.rglob(f"{ids[3]}*"))

def test_no_limit(web, monkeypatch):
    web.service.settings = web.service.settings.replace(inbox_mb=0, inbox_days=0)
    monkeypatch.setattr(routes_inbox, "_MUCH", 0)
    for k in range(3): hand_in(web, k)
    assert web.get(AT).json()["total"] == 3

def test_who_may_be_believed(web):
    inbox = web.service.catalog.open("kitchen").inbox
    for k, score in enumerate((.9, .8, .7, .2)):
        f, _ = inbox.put(sound(k), "proposal", score=score, predictions=[dict(by="examples", label="positive", score=score), dict(by="judge", label="positive" if k != 1 else "negative", score=1.)])
        if k < 3: web.post(f"{AT}/{f.id}/{'reject' if k == 1 else 'accept'}", json={} if k == 1 else dict(label="positive"))
    found = web.get(f"{AT}/agreement").json()
    assert (found["decided"], found["positive"], found["machines"]["judge"]["kappa"], found["machines"]["examples"]["asked"]) == (3, 2, 1., 4)
    assert found["pairs"][0]["items"] == 4 and web.get(f"{AT}/agreement?precision=.5").json()["precision"] == .5
    problem(web.get(f"{AT}/agreement?precision=2"), 422)

BROKEN = {"a page": b"<html>"*30, "half a header": b"RIFF\x10\0\0\0WA", "no bytes": b"", "silence": wav(np.zeros(8000)), "not a number": wav(np.full(8000, np.nan, np.float32), subtype="FLOAT"), "a zip": b"PK\3\4" + bytes(60)}

@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_sound_is_refused(web, what):
    problem(web.post(AT, content=BROKEN[what], headers=WAV), 422, "bad_audio")
    assert web.get(AT).json()["total"] == 0 and not list((web.service.root/"tmp").iterdir())

def test_requests_that_are_wrong_as_a_whole(web):
    body = wav(sound())
    problem(web.post(AT, json={}), 415)
    problem(web.post(AT, files=[("file", ("a.wav", body)), ("file", ("b.wav", body))]), 413)
    problem(web.post(AT, data=dict(label="positive"), files=dict(file=("a.wav", body))), 422, "unknown_field", "label")
    problem(web.post(AT, content=b"--x--\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"}), 422, "no_file")
    problem(web.post(AT, content=b"--x\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\nRIFF", headers={"Content-Type": "multipart/form-data; boundary=x"}), 400, "cut_off")
    for q in (dict(kind="door"), dict(score="nan"), dict(score=2), dict(start_s=-1), dict(heard="yesterday"), dict(origin="a\0b"), dict(origin="x"*201)): problem(web.post(AT, params=q, content=body, headers=WAV), 422, "invalid_request")
    problem(web.post(AT, params=dict(heard="2026-13-41T25:00:00Z"), content=body, headers=WAV), 422, "bad_moment")
    problem(hand_in(web, seconds=61), 422, "too_long", "60 s")
    assert web.get(AT).json()["total"] == 0
    assert web.post(AT, files=dict(file=("a.flac", body))).status_code == 201

def test_a_damaged_recording_is_kept_with_a_warning(web):
    r = web.post(AT, files=dict(file=("porch.wav", wav(sound())[:-2000]))).json()
    assert r["warning"].startswith("porch.wav is damaged 0.44 s into") and abs(r["duration_s"] - 7000/SR) < 1e-6

@pytest.mark.parametrize("how,status,code", [(dict(label="door"), 422, "invalid_request"), (dict(), 422, "invalid_request"), (dict(label="noise", start_s=.4, end_s=.1), 422, None), (dict(label="noise", start_s=.2, end_s=.25), 422, None),
    (dict(label="noise", end_s=9), 422, None), (dict(label="noise", start_s=-1), 422, "invalid_request"), (dict(label="noise", start_s="0"), 422, "invalid_request"), (dict(label="noise", why="?"), 422, "invalid_request"), (dict(label="noise", by="x"*201), 422, "invalid_request")])
def test_decisions_that_are_none(web, how, status, code):
    id = hand_in(web).json()["id"]
    problem(web.post(f"{AT}/{id}/accept", json=how), status, code)
    assert web.get(f"{AT}/{id}").json()["outcome"] == "open" and web.get("/datasets/kitchen/recordings").json()["total"] == 0

def test_a_call_is_not_half_a_minute_long(web):
    id = hand_in(web, seconds=40).json()["id"]
    problem(web.post(f"{AT}/{id}/accept", json=dict(label="positive")), 422, "too_long", "start_s")
    assert web.post(f"{AT}/{id}/accept", json=dict(label="positive", start_s=2, end_s=4)).status_code == 200
    assert web.post(f"{AT}/{id}/accept", json=dict(label="noise")).status_code == 200

def test_a_sound_that_is_a_clip_with_another_label(web):
    web.post("/datasets/kitchen/recordings?label=positive", content=wav(sound()), headers=WAV)
    id = hand_in(web).json()["id"]
    problem(web.post(f"{AT}/{id}/accept", json=dict(label="noise")), 409, "conflict", "already here as positive")
    assert web.post(f"{AT}/{id}/accept", json=dict(label="positive")).json()["outcome"] == "positive"
    assert web.post(f"{AT}/{id}/undo").status_code == 200 and web.get("/datasets/kitchen/recordings").json()["total"] == 1  # it was there before

@pytest.mark.parametrize("name,id", [("nowhere", "0123456789abcdef"), ("kitchen", "0123456789abcdef"), ("kitchen", "..%2F..%2Fdataset"), ("kitchen", "x"*300), ("..", "0123456789abcdef")])
def test_what_does_not_exist(web, name, id):
    at = f"/datasets/{name}/inbox/{id}"
    for r in (web.get(at), web.get(f"{at}/audio"), web.get(f"{at}/spectrogram"), web.post(f"{at}/accept", json=dict(label="noise")), web.post(f"{at}/reject", json={}), web.post(f"{at}/undo")): problem(r, 404)
    if name == "nowhere":
        for r in (web.get(f"/datasets/{name}/inbox"), web.get(f"/datasets/{name}/inbox/agreement"), web.post(f"/datasets/{name}/inbox", content=wav(sound()), headers=WAV)): problem(r, 404)

def test_a_token_and_a_limit(tmp_path):
    app = create_app(Settings(data_dir=tmp_path/"data", training_dir=tmp_path/"training", models_dir=tmp_path/"models", device="cpu", api_token="secret", max_upload_mb=1))
    web = TestClient(app)
    mine = dict(Authorization="Bearer secret")
    web.post("/datasets", json=dict(name="kitchen"), headers=mine)
    for r in (web.get(AT), web.post(AT, content=wav(sound()), headers=WAV), web.post(f"{AT}/0123456789abcdef/accept", json=dict(label="noise"))): problem(r, 401)
    problem(web.post(AT, content=wav(sound(seconds=40)), headers=WAV | mine), 413, "too_large")
    assert web.post(AT, content=wav(sound()), headers=WAV | mine).status_code == 201
    app.state.service.close()

def test_the_inbox_goes_to_the_trash_and_comes_back_with_its_dataset(web, tmp_path):
    id = hand_in(web).json()["id"]
    trash = web.delete("/datasets/kitchen").json()["trash"]
    problem(web.get(AT), 404)
    web.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis"))
    assert web.get(AT, params=dict(state="all")).json()["total"] == 0  # another one
    web.delete("/datasets/kitchen")
    assert web.post(f"/trash/{trash}/restore").status_code == 200
    assert [s["id"] for s in web.get(AT).json()["sounds"]] == [id]
    assert web.post(f"{AT}/{id}/accept", json=dict(label="noise")).status_code == 200

def test_an_archive_has_no_inbox(web, tmp_path):
    hand_in(web)
    web.post("/datasets/kitchen/recordings?label=noise", content=wav(sound(5)), headers=WAV)
    web.service.catalog.open("kitchen").export_zip(tmp_path/"kitchen.zip")
    names = zipfile.ZipFile(tmp_path/"kitchen.zip").namelist()
    assert any(n.endswith(".wav") for n in names) and not any("inbox" in n for n in names)

def test_a_dataset_that_goes_in_the_middle(web, monkeypatch):
    put, home = routes_inbox.load_audio, web.service.root/"datasets"/"kitchen"
    def slow(*args, **how):
        x = put(*args, **how)
        web.delete("/datasets/kitchen")
        return x
    monkeypatch.setattr(routes_inbox, "load_audio", slow)
    problem(hand_in(web), 404)
    assert not home.exists() and web.post("/datasets", json=dict(name="kitchen")).status_code == 201

def test_what_nobody_asked_for_does_not_stay_for_ever(web, monkeypatch):
    service = web.service
    service.settings = service.settings.replace(inbox_mb=1)
    monkeypatch.setattr(routes_inbox, "_MUCH", 0)  # look each time
    wanted, kept = hand_in(web, 100, 10, kind="missed").json()["id"], hand_in(web, 101, 10).json()["id"]
    web.post(f"{AT}/{kept}/accept", json=dict(label="noise"))
    ids = [hand_in(web, k, 10).json()["id"] for k in range(6)]
    left = [s["id"] for s in web.get(AT, params=dict(state="all")).json()["sounds"]]
    assert left == [*ids[:-4:-1], kept, wanted]  # three of 320 kB fit into a megabyte
    assert sum(e["data"]["sounds"] for e in events(web) if e["kind"] == "inbox.swept") == 3

def test_two_people_and_one_inbox(web):
    ids, seen, wrong = [hand_in(web, k).json()["id"] for k in range(12)], [], []
    def decide(how):
        for id in ids:
            r = web.post(f"{AT}/{id}/{how}", json=dict(label="noise") if how == "accept" else {})
            if r.status_code != 200: wrong.append(r.text)
            seen.append(web.get(AT, params=dict(state="all")).json()["total"])
    people = [threading.Thread(target=decide, args=(how,)) for how in ("accept", "reject", "accept")]
    for p in people: p.start()
    for p in people: p.join()
    assert not wrong and set(seen) == {12}
    outcomes = {s["id"]: s["outcome"] for s in web.get(AT, params=dict(state="all")).json()["sounds"]}
    clips = {c["id"] for c in web.get("/datasets/kitchen/recordings").json()["clips"]}
    assert set(outcomes.values()) <= {"noise", "rejected"} and clips == {id for id, o in outcomes.items() if o == "noise"}

def test_a_sidecar_that_somebody_has_damaged_spoils_nothing_else(web):
    ids = [hand_in(web, k).json()["id"] for k in range(2)]
    home = web.service.catalog.path("kitchen")/"inbox"
    (home/f"{ids[0]}.json").write_text("{", encoding="utf-8")
    assert [s["id"] for s in web.get(AT).json()["sounds"]] == ids[1:]
    problem(web.get(f"{AT}/{ids[0]}"), 404)
    (home/f"{ids[1]}.wav").unlink()
    problem(web.get(f"{AT}/{ids[1]}/audio"), 404)
    shutil.rmtree(home)
    assert web.get(AT).json()["total"] == 0
