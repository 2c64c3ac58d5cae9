"The training service and whatever anybody may send it: nothing is stored by halves, nothing leaves the data root, nobody waits for ever."
import asyncio, contextlib, gc, io, json, os, re, shutil, socket, subprocess, sys, threading, time, zipfile
from urllib.parse import quote
import numpy as np, psutil, pytest, soundfile as sf
pytest.importorskip("fastapi")
import sqlalchemy as sa
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.websockets import WebSocketDisconnect
from wakekit.core import file_lock
from wakekit.data.interchange import Dataset
from wakekit.env import Settings
from wakekit.serve import intake as intake_module, http as http_module, live
from wakekit.serve.events import event
from wakekit.serve.http import Guard, Limits
from wakekit.serve.leftovers import delete_job
from wakekit.serve.queue import jobs, place_of
from wakekit.serve.training import Service, create_app
from wakekit.serve.uploads import Form
from wakekit.ship.toy import toy_bundle

SR, WAV = 16_000, {"Content-Type": "audio/wav"}


def noise(seconds=.3, seed=0, sr=SR): return (np.random.default_rng(seed).standard_normal(int(seconds*sr))*.1).astype(np.float32)
def recording(x=None, sr=SR, seed=0, **how):
    out = io.BytesIO()
    sf.write(out, noise(seed=seed, sr=sr) if x is None else x, sr, **{"format": "WAV", **how})
    return out.getvalue()
def tree(path):
    "All files, but for those that a service at rest may touch"
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name != ".lock" and ".db" not in p.name and "index.sqlite" not in p.name}
def settings(tmp, **more): return Settings(data_dir=tmp/"data", training_dir=tmp/"training", models_dir=tmp/"models", device="cpu", **more)
def problem(r, *statuses, code=None):
    "Is this an error as they should be?"
    assert r.status_code in statuses, (r.status_code, r.text[:500])
    assert r.headers["content-type"] == "application/problem+json"
    about = r.json()
    assert about["status"] == r.status_code and all(isinstance(about[k], str) and about[k] for k in ("type", "title", "detail", "code")) and "Traceback" not in r.text, about
    assert code in (None, about["code"]), about
    return about
def upload(web, body=None, label="positive", dataset="kitchen", seed=0, **query): return web.post(f"/datasets/{dataset}/recordings", params=dict(label=label, **query), content=recording(seed=seed) if body is None else body, headers=WAV)
def filled(web, n=12):
    "Enough to train on"
    for i in range(n): assert upload(web, seed=i).status_code == upload(web, label="noise", seed=1000 + i).status_code == 201

@contextlib.contextmanager
def service(tmp, **more):
    "A service with an empty dataset"
    with TestClient(create_app(settings(tmp, **more)), raise_server_exceptions=False) as found:
        assert found.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis")).status_code == 201
        yield found

@pytest.fixture
def web(tmp_path):
    with service(tmp_path) as found: yield found

@pytest.fixture(scope="module")
def common(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("common")
    with service(tmp) as found: yield found, tmp

@pytest.fixture
def shared(common):
    "For what is refused: nothing is stored, nothing half-written, nothing beside the data root"
    web, tmp = common
    before = tree(tmp)
    yield web
    assert tree(tmp) == before
    assert web.get("/datasets/kitchen").json()["clips"] == 0 and [d["name"] for d in web.get("/datasets").json()["datasets"]] == ["kitchen"]

@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    "With enough to train on"
    with service(tmp_path_factory.mktemp("ready")) as found:
        filled(found)
        yield found


# ---- recordings

RIGHT = recording()
zipped = io.BytesIO()
with zipfile.ZipFile(zipped, "w") as z: z.writestr("a.wav", RIGHT)
LIES = {"empty": b"", "text": b"milk, bread\n", "html": b"<html><body>404</body></html>", "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF" + b"\0"*99, "zip": zipped.getvalue(), "cut header": RIGHT[:20], "no samples": recording(np.zeros(0, np.float32)),
        "nan": recording(np.where(np.arange(SR) == 7, np.nan, noise(1)), subtype="FLOAT"), "infinite": recording(np.where(np.arange(SR) == 7, np.inf, noise(1)), subtype="FLOAT"), "integer scale": recording(noise()*300_000, subtype="FLOAT"),
        "silence": recording(np.zeros(SR, np.float32)), "31 s": recording(noise(31)), "raw": noise().tobytes()}
FINE = {"8 bit": dict(subtype="PCM_U8"), "24 bit": dict(subtype="PCM_24"), "float": dict(subtype="FLOAT"), "stereo": dict(x=np.stack([noise(), noise()], 1)), **{f"{sr} Hz": dict(sr=sr) for sr in (8000, 44_100, 48_000, 96_000)},
        "flac": dict(format="FLAC"), "ogg": dict(format="OGG"), "mp3": dict(format="MP3")}

@pytest.mark.parametrize("what", LIES)
def test_what_is_no_recording_is_refused(shared, what):
    for name in ("a.wav", "a.raw", ""):
        r = shared.post("/datasets/kitchen/recordings", data=dict(label="positive"), files={"file": (name, LIES[what])}) if name else upload(shared, LIES[what])
        problem(r, 422, code="bad_audio")
        assert name in r.json()["detail"] or what == "31 s"

def test_every_format_becomes_a_clip(web):
    for what, how in FINE.items():
        r = upload(web, recording(**how), label="noise")
        assert r.status_code in (200, 201) and abs(r.json()["duration_s"] - .3) < .08 and not r.json().get("warning"), (what, r.text)
    assert [upload(web, LIES[k], label="noise").status_code for k in ("silence", "31 s")] == [201, 201]

def test_a_wrong_length_is_stored_with_a_warning(web):
    long = bytearray(recording(noise(1)))
    long[40:44] = (10_000_000).to_bytes(4, "little")
    r = web.post("/datasets/kitchen/recordings", data=dict(label="positive"), files={"file": ("long.wav", bytes(long))})
    assert r.status_code == 201 and "long.wav is damaged" in r.json()["warning"] and r.json()["duration_s"] == 1

def test_warnings_belong_to_their_recording(web):
    "Warnings are a matter of the whole process; three threads decode"
    def one(i):
        body = bytearray(recording(seed=i))
        if i % 2: body[40:44] = (10_000_000).to_bytes(4, "little")
        return bytes(body)
    r = web.post("/datasets/kitchen/recordings", data=dict(label="noise"), files=[("file", (f"{i}.wav", one(i))) for i in range(60)]).json()
    assert len(r["added"]) == 60 and all((f"{c['original_name']} is damaged" in (c.get("warning") or "")) == (int(c["original_name"][:-4]) % 2 == 1) for c in r["added"])
    assert not intake_module._kept_warnings

def test_one_bad_recording_among_many(web):
    r = web.post("/datasets/kitchen/recordings", data=dict(label="positive"), files=[("file", (f"{i}.wav", recording(seed=i % 8))) for i in range(10)] + [("file", ("page.wav", LIES["html"]))])
    assert r.status_code == 201 and [len(r.json()[k]) for k in ("added", "already", "problems")] == [8, 2, 1] and r.json()["problems"][0]["file"] == "page.wav"
    problem(web.post("/datasets/kitchen/recordings", data=dict(label="noise"), files=[("file", (f"{i}.wav", recording(seed=i))) for i in range(2)]), 409)  # all of them are there as positive


# ---- requests

def form(*parts, boundary="x"): return "".join(f"--{boundary}\r\nContent-Disposition: form-data; {about}\r\n\r\n{text}\r\n" for about, text in parts).encode("utf-8", "surrogatepass") + f"--{boundary}--\r\n".encode()
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
LABEL, FILE = ('name="label"', "positive"), ('name="file"; filename="a.wav"', "")

@pytest.mark.parametrize("what,how,status", [
    ("json", dict(json=dict(label="positive")), 415), ("text", dict(content=b"x", headers={"Content-Type": "text/plain"}), 415), ("no type", dict(content=RIGHT), 415), ("urlencoded", dict(data=dict(label="positive")), 415),
    ("no boundary", dict(content=form(LABEL), headers={"Content-Type": "multipart/form-data"}), 415), ("long boundary", dict(content=b"x", headers={"Content-Type": f"multipart/form-data; boundary={'x'*2000}"}), 415),
    ("wrong boundary", dict(content=form(LABEL, boundary="y"), headers=FORM), 400), ("cut", dict(content=form(LABEL, FILE)[:-30], headers=FORM), 400), ("nothing", dict(content=b"", headers=FORM), 400),
    ("no file", dict(content=form(LABEL), headers=FORM), 422), ("no label", dict(content=form(FILE), headers=FORM), 422), ("label twice", dict(content=form(LABEL, ('name="label"', "noise"), FILE), headers=FORM), 422),
    ("wrong label", dict(content=form(('name="label"', "wakeword"), FILE), headers=FORM), 422), ("unknown field", dict(content=form(LABEL, ('name="speakr"', "anna"), FILE), headers=FORM), 422),
    ("no name", dict(content=form(("", "x")), headers=FORM), 400), ("long field", dict(content=form(LABEL, ('name="notes"', "x"*9000), FILE), headers=FORM), 413), ("long text", dict(content=form(LABEL, ('name="notes"', "x"*2001), FILE), headers=FORM), 422),
    ("nul", dict(content=form(LABEL, ('name="notes"', "a\0b"), FILE), headers=FORM), 422), ("surrogate", dict(content=form(LABEL, ('name="notes"', "\ud800"), FILE), headers=FORM), 422),
    ("too many parts", dict(content=form(*[LABEL]*2, *[FILE]*2001), headers=FORM), 422), ("many files before the label", dict(content=form(*[FILE]*300, LABEL), headers=FORM), 413),
    ("long header", dict(content=form((f'name="{"x"*9000}"', "x")), headers=FORM), 400), ("many headers", dict(content=b"--x\r\n" + b"a: b\r\n"*100 + b"\r\nx\r\n--x--\r\n", headers=FORM), 400)], ids=lambda v: v if isinstance(v, str) else "")
def test_requests_that_are_wrong_as_a_whole(shared, what, how, status): problem(shared.post("/datasets/kitchen/recordings", **how), status)

def test_two_thousand_parts_are_enough(shared): problem(shared.post("/datasets/kitchen/recordings?label=positive", content=form(*[FILE]*2001), headers=FORM), 413)

def test_a_label_after_the_file(web):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../\xc3\xbcb\xe2\x82\xac.wav"\r\n\r\n' + RIGHT + b'\r\n--x\r\nContent-Disposition: form-data; name="label"\r\n\r\nnoise\r\n--x--\r\n'
    r = web.post("/datasets/kitchen/recordings", content=body, headers=FORM)
    assert r.status_code == 201 and (r.json()["label"], r.json()["original_name"]) == ("noise", "üb€.wav")

@pytest.mark.parametrize("path,body", [
    ("/datasets", '{"name": "\\ud800"}'), ("/datasets", '{"name": "a\\u0000b"}'), ("/datasets", '{"name": "attic", "phrase": "\\ud800"}'), ("/datasets", '{"name": "attic", "phrase": "a\\u0000b"}'), ("/datasets", '{"\\ud800": 1}'),
    ("/datasets", "["*100_000), ("/datasets", '{"name": ' + "9"*5000 + "}"), ("/datasets", "{"), ("/datasets", "null"), ("/datasets", b"\xff\xfe"), ("/datasets", '{"name": "attic", "phrase": "' + "x"*201 + '"}'),
    ("/train", '{"dataset": "kitchen", "config_overrides": ' + '{"a": '*900 + "1" + "}"*901), ("/train", '{"dataset": "kitchen", "config_overrides": {"\\ud800": 1}}'), ("/train", '{"dataset": "kitchen", "config_overrides": {"data.voices": "\\ud800"}}')])
def test_json_that_means_harm(shared, path, body): problem(shared.post(path, content=body, headers={"Content-Type": "application/json"}), 400, 422)

NAMES = ["../x", "..", ".", "/etc/passwd", "C:\\x", "a/b", "a\\b", "a\0b", "nul", "NUL.txt", "com1", "x"*300, "😀", "", " ", "a.", "a ", "-rf", "~root", "e\u0301", "a\nb", "𐌰"*60, "<x>"]

@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_that_are_none(shared, name):
    problem(shared.post("/datasets", json=dict(name=name, phrase="hey")), 422)
    if not name.strip("."): return # clients drop such parts of an address; see the real server
    at = f"/datasets/{quote(name, safe='')}"
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/metrics"), ("GET", "/recordings"), ("GET", "/recordings/0123456789abcdef/audio")): problem(shared.request(method, at + path), 404, 405)
    problem(shared.post(at + "/recordings?label=noise", content=RIGHT, headers=WAV), 404, 405)
    problem(shared.post("/train", json=dict(dataset=name)), 404)
    problem(shared.get(f"/models/{quote(name, safe='')}/bundle"), 404)

@pytest.mark.parametrize("path", ["/datasets/%2e%2e", "/datasets/%2e%2e%2f%2e%2e%2fetc", "/datasets/kitchen/recordings/..%2f..%2fdataset", "/datasets/kitchen/recordings/dataset/audio", "/jobs/..%2f..", "/jobs/0123456789ab/artifacts/..%2fjob.json", "/trash/kitchen", "/presets/x", "/nothing"])
def test_what_does_not_exist(shared, path):
    for method in ("GET", "DELETE", "PATCH"): problem(shared.request(method, path), 404, 405)

def test_a_name_in_any_script(web):
    for name in ("Küche 2", "漢字", "हिन्दी"):
        r = web.post("/datasets", json=dict(name=name))
        assert r.status_code == 201 and r.headers["location"] == f"/datasets/{quote(name)}" and web.get(r.headers["location"]).json()["name"] == name
        problem(web.post("/datasets", json=dict(name=name.upper())), 409)

@pytest.mark.parametrize("overrides", [{"learning_rate": -1}, {"epochs": 10**12}, {"epochs": -3}, {"epochs": 1.5}, {"epochs": "many"}, {"epochs": None}, {"epochs": True}, {"eepochs": 3}, {"model": 3}, {"model.channels": 0}, {"model": {"channels": -1}}, {"data": 3}, {"data.phrase": "x"},
                                       {"data.synthetic": -1}, {"": 1}, {".": 1}, {"model.": 1}, {"seed": 2**80}], ids=str)
def test_overrides_that_make_no_sense(ready, overrides):
    problem(ready.post("/train", json=dict(dataset="kitchen", config_overrides=overrides)), 422, code="bad_config")
    assert ready.get("/jobs").json()["jobs"] == []

def test_numbers_that_json_does_not_have(ready):
    for word in ("NaN", "Infinity", "-Infinity", "1e999"):
        problem(ready.post("/train", content='{"dataset": "kitchen", "config_overrides": {"learning_rate": %s}}' % word, headers={"Content-Type": "application/json"}), 422)
        problem(ready.post("/train", content='{"dataset": "kitchen", "priority": %s}' % word, headers={"Content-Type": "application/json"}), 422)
    assert ready.get("/jobs").json()["jobs"] == []

@pytest.mark.parametrize("overrides, words", [
    ({"model.features.f_min": 3000, "model.features.f_max": 2000}, ("model.features.f_min=3000", "model.features.f_max=2000", "below")), ({"model": {"features": {"n_fft": 400}}}, ("model.features.n_fft=400", "multiple of 160")),
    ({"batch.positive": .8}, ("batch.positive=0.8", "batch.hard=0.25", "lower")), ({"augment.band_low": [100, 5000]}, ("augment.band_low=[100", "augment.band_high=", "below")), ({"pool_steps": 20}, ("pool_steps=20", "batch.out_steps=26", "lower")),
    ({"verifier.channels": 96}, ("verifier.channels=96", "channels=104", "verifier.steps=0")), ({"epochs": 2.5}, ("epochs", "integer", "2.5")), ({"epochs": "12"}, ("epochs", "integer", '"12"')), ({"lr": True}, ("lr", "number", "true")), ({"lr": 10**400}, ("lr", "number")),
    ({"lr": 1e308}, ("lr", "between")), ({"epochs": 1e300}, ("epochs", "integer")), ({"model.dilations": [1, 2.5]}, ("model.dilations", "2.5")), ({"model.channels": 48, "model": {"channels": 64}}, ("model.channels", "twice")), ({"warmup_steps": 0}, ("warmup_steps", "between 1"))], ids=str)
def test_overrides_that_do_not_go_together(ready, overrides, words):
    detail = problem(ready.post("/train", json=dict(dataset="kitchen", config_overrides=overrides)), 422, code="bad_config")["detail"]
    assert all(w in detail for w in words) and len(detail) < 500, detail
    assert ready.get("/jobs").json()["jobs"] == []

@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("name", ["lr", "epochs", "data.people", "model.features.f_min"])
def test_a_field_that_is_no_number(ready, name, word):
    problem(ready.post("/train", content='{"dataset": "kitchen", "config_overrides": {"%s": %s}}' % (name, word), headers={"Content-Type": "application/json"}), 422)
    assert ready.get("/jobs").json()["jobs"] == []

@pytest.mark.parametrize("language, near", [("xx-klingon", "en"), ("de-DE", "de"), ("en_US", "en-us"), ("", "en"), ("\0", "en"), ("日本語", "ja")])
def test_a_language_that_nobody_speaks(ready, language, near):
    pytest.importorskip("espeakng_loader")
    detail = problem(ready.post("/train", json=dict(dataset="kitchen", language=language)), 422, code="bad_config")["detail"]
    assert "language" in detail and near in detail.partition("may be")[2], detail
    assert ready.get("/jobs").json()["jobs"] == []

def test_whole_numbers_with_a_point_are_whole(web):
    filled(web)
    job = web.post("/train", json=dict(dataset="kitchen", language="de", config_overrides={"epochs": 2.0, "model": {"dilations": [1.0, 2]}, "batch.end_steps": [4.0, 12], "data.synthetic": 30.0}))
    assert job.status_code == 202, job.text
    plan = web.get(f"/jobs/{job.json()['id']}").json()["payload"]
    assert json.dumps([plan["config"]["epochs"], plan["config"]["model"]["dilations"], plan["config"]["batch"]["end_steps"], plan["data"]["synthetic"]]) == "[2, [1, 2], [4, 12], 30]"


# ---- clips

def test_two_reviewers_and_one_clip(web):
    at = f"/datasets/kitchen/recordings/{upload(web).json()['id']}"
    for fields in ({"id": "x"}, {"sha256": "x"}, {"label": "wakeword"}, {"label": 3}, {"original_name": "../x"}, {"notes": "x"*2001}, {"notes": "\0"}): problem(web.patch(at, json=fields), 422)
    etag, found = web.get(at).headers["etag"], []
    def review(i): found.append((web.patch(at, json=dict(notes=f"by {i}"), headers={"If-Match": etag}).status_code, f"by {i}"))
    threads = [threading.Thread(target=review, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert sorted(s for s, _ in found) == [200] + [412]*7 and web.get(at).json()["notes"] in [n for s, n in found if s == 200]
    assert problem(web.patch(at, json=dict(notes="late"), headers={"If-Match": etag}), 412)["code"] == "outdated"
    assert web.patch(at, json=dict(label="negative"), headers={"If-Match": f'"x", {web.get(at).headers["etag"]}'}).json()["label"] == "negative"

def test_ranges_and_conditions(web):
    clip = upload(web).json()
    at = f"/datasets/kitchen/recordings/{clip['id']}/audio"
    get = lambda **h: web.get(at, headers={k.replace("_", "-"): v for k, v in h.items()})
    whole = get()
    n, tag = len(whole.content), whole.headers["etag"]
    assert whole.content[:4] == b"RIFF" and tag == f'"{clip["sha256"]}"' and get(if_none_match=f'"x", {tag}').status_code == get(if_none_match="*").status_code == 304 and get(if_none_match='"x"').status_code == 200
    assert [get(range=r).content for r in ("bytes=0-3", f"bytes={n - 4}-", "bytes=-4", f"bytes=-{n + 99}", f"bytes=0-{n + 99}")] == [whole.content[:4], whole.content[-4:], whole.content[-4:], whole.content, whole.content]
    for r in (f"bytes={n}-", "bytes=-0"): assert problem(get(range=r), 416) and get(range=r).headers["content-range"] == f"bytes */{n}"
    for r in ("bytes=4-2", "bytes=x-", "bytes=-", "seconds=1-2", "bytes=0-1,4-5", "bytes=" + "9"*500 + "-"): assert get(range=r).content == whole.content
    assert [get(range="bytes=0-3", if_range=t).status_code for t in (tag, '"old"', "W/" + tag)] == [206, 200, 200] and get(range=f"bytes={n}-", if_range='"old"').status_code == 200
    svg = web.get(at.replace("audio", "waveform"))
    assert svg.text.startswith("<svg") and web.get(at.replace("audio", "waveform"), headers={"If-None-Match": svg.headers["etag"]}).status_code == 304
    Dataset.open(web.app.state.service.catalog.path("kitchen"))[clip["id"]].path.unlink()
    for r in (get(), web.get(at.replace("audio", "waveform"))): problem(r, 404)

def test_pages_and_cursors(web):
    for i in range(7): upload(web, seed=i, label="noise", speaker="a_b" if i % 2 else "ab")
    seen, cursor = [], ""
    while cursor is not None:
        page = web.get("/datasets/kitchen/recordings", params=dict(limit=3, cursor=cursor)).json()
        seen, cursor = seen + [c["id"] for c in page["clips"]], page["next"]
    assert len(seen) == len(set(seen)) == page["total"] == 7
    assert [web.get("/datasets/kitchen/recordings", params=dict(search=s)).json()["total"] for s in ("a_b", "AB", "%", "' OR 1=1 --")] == [3, 4, 0, 0]
    for cursor in ("5", "NQ==", "eyJhIjoxfQ==", "x"*300, "\0", "'; DROP TABLE items; --\0_0"): problem(web.get("/datasets/kitchen/recordings", params=dict(cursor=cursor)), 422)
    assert web.get("/datasets/kitchen/recordings", params=dict(cursor="2026'; DROP TABLE items; --_0")).status_code == 200 and web.get("/datasets/kitchen/recordings").json()["total"] == 7
    for query in ("limit=0", "limit=1001", "limit=x", "label=wakeword", "speaker=%00"): problem(web.get(f"/datasets/kitchen/recordings?{query}"), 422)


# ---- trash

def test_trash_and_restore(web, tmp_path):
    id = upload(web).json()["id"]
    at = f"/datasets/kitchen/recordings/{id}"
    assert web.delete(at).json()["trashed"] and web.delete(at).json()["trashed"] and web.get("/datasets/kitchen/trash").json()["total"] == 1
    problem(upload(web), 409, code="conflict")
    assert not web.post(at + "/restore").json()["trashed"] and not web.post(at + "/restore").json()["trashed"] and upload(web).status_code == 200
    web.delete(at)
    assert web.delete("/datasets/kitchen/trash").json() == dict(purged=1) and web.delete("/datasets/kitchen/trash").json() == dict(purged=0)
    problem(web.post(at + "/restore"), 404)
    assert upload(web).status_code == 201
    trash = web.delete("/datasets/kitchen").json()["trash"]
    problem(web.get(at), 404)
    assert web.post("/datasets", json=dict(name="Kitchen", phrase="hey")).status_code == 201
    problem(web.post(f"/trash/{trash}/restore"), 409, code="exists")  # the name is taken, whatever its case
    other = web.delete("/datasets/Kitchen").json()["trash"]
    assert web.post(f"/trash/{trash}/restore").json()["clips"] == 1 and web.get(at).json()["id"] == id
    assert web.delete(f"/trash/{other}").status_code == 204 and web.get("/trash").json() == dict(datasets=[])
    for method, path in (("DELETE", f"/trash/{other}"), ("POST", f"/trash/{other}/restore"), ("DELETE", "/trash/..%2fdatasets%2fkitchen"), ("DELETE", "/trash/kitchen")): problem(web.request(method, path), 404)
    kinds = [e["kind"] for e in web.get("/events").json()["events"]]
    assert [k for k in kinds if k.startswith(("dataset", "trash"))] == ["dataset.created", "trash.purged", "dataset.trashed", "dataset.created", "dataset.trashed", "dataset.restored", "dataset.purged"]

@pytest.mark.parametrize("how", ["api", "rm -rf"])
def test_a_dataset_that_goes_while_a_job_needs_it(web, tmp_path, how):
    filled(web)
    job = web.post("/train", json=dict(dataset="kitchen")).json()
    web.delete("/datasets/kitchen") if how == "api" else shutil.rmtree(tmp_path/"training/datasets/kitchen")
    for method, path in (("GET", ""), ("GET", "/metrics"), ("GET", "/recordings"), ("DELETE", ""), ("GET", "/trash"), ("DELETE", "/trash")): problem(web.request(method, "/datasets/kitchen" + path), 404)
    problem(upload(web), 404)
    problem(web.post("/train", json=dict(dataset="kitchen")), 404)
    assert web.get(f"/jobs/{job['id']}").json() == job and web.get("/datasets").json() == dict(datasets=[]) and not (tmp_path/"training/datasets/kitchen").exists()
    assert web.post("/datasets", json=dict(name="kitchen")).json()["clips"] == 0 and upload(web).status_code == 201

def test_a_dataset_that_goes_in_the_middle_of_an_upload(web, tmp_path, monkeypatch):
    upload(web, seed=9)
    staged, go, stage = threading.Event(), threading.Event(), Dataset.stage
    def slow(self, *args, **kwargs):
        found = stage(self, *args, **kwargs)
        staged.set()
        assert go.wait(20)
        return found
    monkeypatch.setattr(Dataset, "stage", slow)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(upload(web)))
    thread.start()
    assert staged.wait(20)
    trash = web.delete("/datasets/kitchen").json()["trash"]
    go.set()
    thread.join()
    problem(answers[0], 404)
    assert not (tmp_path/"training/datasets/kitchen").exists() and web.post(f"/trash/{trash}/restore").json()["clips"] == 1 and upload(web).status_code == 201


# ---- full disks, dying threads, things left open

@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path/"disk"
    disk.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0: pytest.skip("needs root on Linux to mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode: pytest.skip("this machine does not let us mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)

def test_a_full_disk(small_disk):
    with TestClient(create_app(settings(small_disk)), raise_server_exceptions=False) as web:
        web.post("/datasets", json=dict(name="kitchen", phrase="hey"))
        stored, answers = [], set()
        for i in range(250):
            r = upload(web, recording(noise(1, seed=i)))
            answers.add(r.status_code)
            if r.status_code == 201: stored.append(r.json()["id"])
            else: problem(r, 507, code="disk_full")
        home = small_disk/"training/datasets/kitchen"
        assert answers == {201, 507} and 10 < len(stored) < 250
        assert sorted(stored) == sorted(p.stem for p in (home/"clips").glob("*.wav")) == sorted(p.stem for p in (home/"clips").glob("*.json")) and not [p for p in small_disk.rglob("*.tmp")]
        big = small_disk/"big"
        with contextlib.suppress(OSError): big.write_bytes(b"x"*4_000_000)
        names = [web.post("/datasets", json=dict(name=f"new{i}", phrase="hey")) for i in range(3)]
        for r in names: r.status_code == 201 or problem(r, 507)
        assert sorted(d["name"] for d in web.get("/datasets").json()["datasets"]) == sorted(["kitchen", *(r.json()["name"] for r in names if r.status_code == 201)])
        assert web.get(f"/datasets/kitchen/recordings/{stored[0]}/audio").status_code == 200
        for r in (web.patch(f"/datasets/kitchen/recordings/{stored[0]}", json=dict(notes="x"*1900)), web.post("/train", json=dict(dataset="kitchen"))): problem(r, 422, 507) if r.status_code != 200 else None
        big.unlink(missing_ok=True)
        for id in stored[:5]: (home/f"clips/{id}.wav").unlink(), (home/f"clips/{id}.json").unlink()
        assert upload(web, seed=5000).status_code == 201
        told = {e["data"]["clip"] for e in web.get("/events?limit=5000").json()["events"] if e["kind"] == "clip.added"}
        assert told == {*stored, upload(web, seed=5000).json()["id"]}  # those that found the database full were told later

def test_the_thread_that_stores_survives_everything(web, monkeypatch, tmp_path):
    for error in (RuntimeError("bug"), MemoryError(), SystemExit(), KeyboardInterrupt(), OSError(5, "I/O error")):
        with monkeypatch.context() as m:
            def fail(*a, **k): raise error
            m.setattr(Dataset, "commit", fail)
            problem(upload(web), 500)
        with monkeypatch.context() as m:
            m.setattr(intake_module, "added", fail)
            assert upload(web, seed=99).status_code in (200, 201, 500)
    assert web.app.state.service.intake.thread.is_alive() and upload(web).status_code == 201
    web.delete("/datasets/kitchen")
    assert not list(tmp_path.rglob("*.tmp"))

def test_somebody_who_does_not_wait(web):
    "A future that is cancelled must not end the thread that would have filled it"
    intake, ds = web.app.state.service.intake, web.app.state.service.catalog.open("kitchen")
    futures = [intake.take(ds, recording(seed=i), "positive") for i in range(20)]
    assert not any(f.cancel() for f in futures) and all(f.result()[1] for f in futures) and upload(web, seed=30).status_code == 201

def test_nothing_stays_open(web):
    upload(web)
    process, large = psutil.Process(), recording(noise(45))  # waits on disk
    def all_kinds(n):
        for i in range(n):
            many = [("file", (f"{k}.wav", LIES["html"] if k % 2 else RIGHT)) for k in range(40)]
            web.post("/datasets/kitchen/recordings", data=dict(label="positive"), files=many)
            web.post("/datasets/kitchen/recordings", data=dict(label="wakeword"), files=many)
            web.post("/datasets/kitchen/recordings", data=dict(label="positive"), files=[("file", ("large.wav", large))]*2)
            web.post("/datasets/kitchen/recordings", content=form(LABEL, FILE, FILE)[:-30], headers=FORM)
            web.post("/datasets/kitchen/recordings", content=b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + large, headers=FORM)
    opened = process.num_handles if os.name == "nt" else process.num_fds
    all_kinds(2)
    files = opened()
    gc.disable() # it would hide what is not closed
    try: all_kinds(8)
    finally: gc.enable()
    assert opened() <= files + 3
    gc.collect()
    memory = process.memory_info().rss
    all_kinds(8)
    gc.collect()
    assert process.memory_info().rss < memory + 40e6 and not list((web.app.state.service.root/"tmp").iterdir())

def test_two_thousand_small_files_before_their_label_do_not_fill_the_memory(tmp_path):
    f = Form(b"x", tmp_path)
    with pytest.raises(Exception, match="before their label"):
        for i in range(2001): f.parser.write((b"" if i == 0 else b"\r\n") + b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"y"*100_000)
    assert sum(not file._rolled for _, file in f.files) <= 45 # 4 MiB
    open_files = [file for _, file in f.files]
    f.close()
    assert all(file.closed for file in open_files)


# ---- jobs

def test_a_request_that_is_sent_twice(web):
    filled(web)
    web.post("/datasets", json=dict(name="attic"))
    for i in range(12): upload(web, seed=i, dataset="attic"), upload(web, seed=1000 + i, dataset="attic", label="noise")
    ask = lambda key, **more: web.post("/train", json=dict(dataset="kitchen", **more), headers={"Idempotency-Key": key} if key else {})
    first, second, other, none = ask("a"), ask("a"), ask("b"), ask("")
    assert first.status_code == 202 and first.headers["location"] == f"/jobs/{first.json()['id']}" and first.json()["id"] == second.json()["id"] and len({r.json()["id"] for r in (first, other, none)}) == 3
    problem(web.post("/train", json=dict(dataset="attic"), headers={"Idempotency-Key": "a"}), 409, code="key_used")
    problem(ask("x"*201), 422)
    assert len([e for e in web.get("/events").json()["events"] if e["kind"] == "job.queued"]) == 3 == len(web.get("/jobs").json()["jobs"])

def test_states_of_jobs(web):
    filled(web)
    id = web.post("/train", json=dict(dataset="kitchen")).json()["id"]
    for path in (f"/jobs/{id}/artifacts/manifest.json", "/jobs/0123456789ab", "/jobs/0123456789ab/logs", "/jobs/x", f"/jobs/{id.upper()}x"): problem(web.get(path), 404)
    assert web.get(f"/jobs/{id}/artifacts").json() == dict(artifacts=[])
    problem(web.post("/models/kitchen/promote", json=dict(job_id=id)), 409, code="wrong_state")
    assert web.post(f"/jobs/{id}/cancel").json()["state"] == "cancelled" and web.post(f"/jobs/{id}/cancel").json()["state"] == "cancelled" and web.post(f"/jobs/{id}/retry", json=dict(force=True)).json()["state"] == "queued"

def succeeded(web):
    filled(web)
    s, id = web.app.state.service, web.post("/train", json=dict(dataset="kitchen")).json()["id"]
    held = s.queue.claim("me")
    s.queue.renew(held, lines=[("info", f"line {i}") for i in range(5)])
    toy_bundle(s.root/"jobs"/id/"export")
    s.queue.finish(held, "succeeded")
    return id

def test_artifacts_and_models(web, tmp_path):
    id = succeeded(web)
    found = {a["name"]: a for a in web.get(f"/jobs/{id}/artifacts").json()["artifacts"]}
    assert set(found) == {"manifest.json", "model.onnx"}
    at = f"/jobs/{id}/artifacts/model.onnx"
    whole = web.get(at)
    tag = whole.headers["etag"]
    assert tag == f'"{found["model.onnx"]["sha256"]}"' and len(whole.content) == found["model.onnx"]["bytes"] and web.get(at, headers={"If-None-Match": tag}).status_code == 304
    parts = [web.get(at, headers={"Range": f"bytes={a}-{a + 999}", "If-Range": tag}).content for a in range(0, len(whole.content), 1000)]
    assert b"".join(parts) == whole.content and web.get(at, headers={"Range": "bytes=0-9", "If-Range": '"old"'}).content == whole.content
    for file in ("job.json", "..%2fjob.json", "%2e%2e", "x"): problem(web.get(f"/jobs/{id}/artifacts/{file}"), 404)
    for name in ("../x", "nul"): problem(web.post(f"/models/{quote(name, safe='')}/promote", json=dict(job_id=id)), 404, 405, 422)
    assert web.post("/models/kitchen/promote", json=dict(job_id=id)).json()["current"] == 1 == web.post("/models/kitchen/promote", json=dict(job_id=id)).json()["current"]
    r = web.get("/models/kitchen/bundle")
    assert sorted(zipfile.ZipFile(io.BytesIO(r.content)).namelist()) == ["manifest.json", "model.onnx"] and web.get("/models/kitchen/bundle", headers={"If-None-Match": r.headers["etag"]}).status_code == 304
    problem(web.get("/models/kitchen/bundle?number=2"), 404)
    problem(web.post("/models/kitchen/rollback"), 409, 422)
    shutil.rmtree(tmp_path/"training/jobs"/id)
    problem(web.get(at), 404)
    problem(web.post("/models/attic/promote", json=dict(job_id=id)), 404, 422)
    assert [m["name"] for m in web.get("/models").json()["models"]] == ["kitchen"]

def test_a_log_that_goes_on_where_it_stopped(web):
    id = succeeded(web)
    read = lambda **h: web.get(f"/jobs/{id}/logs", headers=h).text
    lines = [json.loads(l) for l in read().splitlines()]
    assert [l["message"] for l in lines] == [f"line {i}" for i in range(5)]
    sse = read(Accept="text/event-stream")
    assert sse.count("event: log") == 5 and sse.endswith("event: end\ndata: {}\n\n")
    rest = read(**{"Accept": "text/event-stream", "Last-Event-ID": str(lines[2]["n"])})
    assert rest.count("event: log") == 2 and "line 3" in rest and "line 2" not in rest
    assert read(**{"Accept": "text/event-stream", "Last-Event-ID": "rubbish"}).count("event: log") == 5 and read(**{"Accept": "text/event-stream", "Last-Event-ID": "9"*19}).count("event: log") == 0


# ---- doors

def test_a_token(tmp_path):
    app = create_app(settings(tmp_path, api_token="geheim-ü"))
    with TestClient(app, raise_server_exceptions=False) as web:
        right = {"Authorization": "Bearer geheim-ü".encode()}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "geheim-ü".encode()}, {"Authorization": "Basic geheim-ü".encode()}, {"Authorization": "Bearer "}):
            assert problem(web.get("/datasets", headers=headers), 401) and web.get("/datasets", headers=headers).headers["www-authenticate"] == "Bearer"
        assert web.get("/datasets", headers=right).status_code == web.get("/health").status_code == 200
        for path in ("/health//", "/health/", "/docs-files", "/docs/x", "/nothing", "/datasets?ticket=x"): problem(web.get(path), 401)
        assert "cdn" not in (page := web.get("/docs").text) and all(web.get(p).status_code == 200 for p in re.findall(r'(?:src|href)="(/[^"]+)"', page)) # nothing from another host
        schema = web.get("/openapi.json").json()
        assert schema["security"] == [{"token": []}] and schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        problem(web.get("/datasets", headers=[("Authorization", "Bearer wrong"), ("Authorization", "Bearer geheim-ü".encode())]), 400)
        ticket = lambda: web.post("/ws/ticket", headers=right).json()["ticket"]
        def opens(path="/ws/events", **headers):
            try:
                with web.websocket_connect(path, headers=headers) as s: return s.receive_json()["kind"] == "hello"
            except WebSocketDisconnect as e:
                assert e.code == 1008
                return False
        t = ticket()
        assert [opens(), opens("/ws/events?ticket=x"), opens(**right), opens(f"/ws/events?ticket={t}"), opens(f"/ws/events?ticket={t}"), opens(f"/ws/events?ticket={ticket()}", Origin="https://evil.example"), opens(f"/ws/events?ticket={ticket()}", Origin="http://localhost:5173")] == [False, False, True, True, False, False, True]
        problem(web.get(f"/datasets?ticket={ticket()}"), 401)  # it opens a socket, nothing else
        t, before = ticket(), http_module.TICKET_S
        http_module.TICKET_S = -1
        try: assert not opens(f"/ws/events?ticket={t}")
        finally: http_module.TICKET_S = before

def test_tickets_of_many_at_once_and_never_too_many():
    guard, found = Guard(None, "x"), []
    threads = [threading.Thread(target=lambda: found.extend(guard.ticket() for _ in range(3000))) for _ in range(6)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(set(found)) == 18_000 and len(guard.tickets) == http_module.MOST_TICKETS and guard._known(b"", f"after=1&ticket={found[-1]}") and not guard._known(b"", f"ticket={found[-1]}")

def test_where_a_request_comes_from(web):
    new = lambda name, **h: web.post("/datasets", json=dict(name=name), headers=h)
    for origin in ("https://evil.example", "null", "http://[", "http://testserver.evil.example", "http://testserver@evil.example"): problem(new("attic", Origin=origin), 403, code="foreign_origin")
    assert [new("a", Origin="http://localhost:5173").status_code, new("b", Origin="http://testserver").status_code] == [201, 201]
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1", "localhost."): problem(web.get("/datasets", headers={"Host": host}), 403, code="foreign_host")
    assert all(web.get("/datasets", headers={"Host": h}).status_code == 200 for h in ("127.0.0.1:8080", "localhost", "[::1]:80", "training:8080"))
    problem(web.get("/datasets", headers=[("Host", "localhost"), ("Host", "evil.example")]), 400)

def test_preflight(web):
    ask = lambda origin: web.options("/datasets", headers={"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,if-match"})
    good, bad = ask("http://localhost:5173"), ask("https://evil.example")
    assert good.status_code == 200 and good.headers["access-control-allow-origin"] == "http://localhost:5173" and "access-control-allow-origin" not in bad.headers
    r = web.get("/datasets/attic", headers={"Origin": "http://localhost:5173"})
    assert problem(r, 404) and r.headers["access-control-allow-origin"] == "http://localhost:5173" and "ETag" in r.headers["access-control-expose-headers"]


# ---- events

def hear(web, n, **query):
    with web.websocket_connect("/ws/events?" + "&".join(f"{k}={v}" for k, v in query.items())) as s: return s.receive_json(), [s.receive_json() for _ in range(n)]

def test_nothing_is_missed_between_two_calls(web, monkeypatch):
    monkeypatch.setattr(live, "IN_MEMORY", 50) # so that most of it comes from the database
    s = web.app.state.service
    start, seen = s.db.last_seq(), []
    def busy():
        for i in range(40): s.db.tell(*(event("tick", n=10*i + k) for k in range(10)))
    thread = threading.Thread(target=busy)
    thread.start()
    while len(seen) < 400:
        hello, found = hear(web, min(37, 400 - len(seen)), after=seen[-1]["seq"] if seen else start)
        assert not hello["gap"]
        seen += found
    thread.join()
    assert [e["data"]["n"] for e in seen] == list(range(400)) and [e["seq"] for e in seen] == list(range(start + 1, start + 401))

def test_numbers_that_are_too_old_too_new_or_none(web, monkeypatch):
    monkeypatch.setattr(live, "IN_MEMORY", 5)
    s = web.app.state.service
    s.db.tell(*(event("tick", n=i) for i in range(100)))
    while s.hub.last < s.db.last_seq(): time.sleep(.01)
    s.db.forget(10)
    last = s.db.last_seq()
    hello, found = hear(web, 10, after=3)
    assert hello["gap"] and [e["seq"] for e in found] == list(range(last - 9, last + 1)) and web.get("/events?after=3").json()["gap"] and not web.get(f"/events?after={last - 10}").json()["gap"]
    assert not hear(web, 0, after=last)[0]["gap"] and hear(web, 0, after=last + 1000)[0] | dict(seq=last) == dict(kind="hello", seq=last, after=last, gap=True)
    for after in ("x", "-1", str(2**70)):
        with pytest.raises(WebSocketDisconnect): hear(web, 0, after=after)
        problem(web.get(f"/events?after={after}"), 422)

def test_a_database_that_goes_and_comes_back(web, monkeypatch):
    from wakekit.serve.events import Database, DatabaseError
    def away(*a, **k): raise DatabaseError("away")
    with monkeypatch.context() as m:
        for name in ("tell", "events_after", "last_seq", "rows", "transaction"): m.setattr(Database, name, away)
        assert upload(web).status_code == 201 and web.get("/health").json()["status"] == "degraded"  # what is recorded is not lost because nobody can be told
        with web.websocket_connect("/ws/events?after=0") as s, pytest.raises(WebSocketDisconnect) as left: s.receive_json()
        assert left.value.code == 1013
        for path in ("/jobs", "/events"): assert problem(web.get(path), 503, code="database_away")
    assert upload(web, seed=1).status_code == 201 and web.get("/health").json()["status"] == "ok"
    assert [e["kind"] for e in hear(web, 3, after=0)[1]] == ["dataset.created", "clip.added", "clip.added"]


def test_what_listeners_say_is_ignored(web):
    with web.websocket_connect("/ws/events") as s:
        s.receive_json()
        for k in range(20): s.send_bytes(b"x"*1000), s.send_text("{"), s.send_json([])
        web.app.state.service.db.tell(event("tick"))
        assert s.receive_json()["kind"] == "tick" and web.app.state.service.hub.listeners == 1


# ---- a real server

SERVER = """
import sys, uvicorn
from pathlib import Path
from wakekit.env import Settings
from wakekit.serve.training import create_app
tmp, fd = Path(sys.argv[1]), int(sys.argv[2])
uvicorn.run(create_app(Settings(data_dir=tmp, training_dir=tmp/"training", models_dir=tmp/"models", device="cpu", max_upload_mb=100)), fd=fd, log_level="warning")
"""

@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if os.name == "nt": pytest.skip("needs a socket that a child can inherit")
    tmp = tmp_path_factory.mktemp("server")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(64)
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp), str(s.fileno())], pass_fds=[s.fileno()])
        port = s.getsockname()[1]
    try:
        server = Server(process, port, tmp)
        assert b" 201 " in server.say(b"POST /datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 19\r\nConnection: close\r\n\r\n" + b'{"name": "kitchen"}')
        assert b" 201 " in server.say(server.head(len(RIGHT)) + RIGHT)
        yield server
        assert b" 200 " in server.say(b"GET /datasets/kitchen HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") # whatever happened, it lives
    finally:
        process.terminate()
        process.wait(20)

class Server:
    def __init__(self, process, port, tmp): self.process, self.port, self.home, self.about = process, port, tmp/"training/datasets/kitchen", psutil.Process(process.pid)
    def head(self, length=None, kind=b"audio/wav"): return b"POST /datasets/kitchen/recordings?label=noise HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + kind + b"\r\nConnection: close\r\n" + (b"Content-Length: %d" % length if length is not None else b"Transfer-Encoding: chunked") + b"\r\n\r\n"
    def connect(self): return socket.create_connection(("127.0.0.1", self.port), timeout=60)
    def say(self, pieces):
        "Send bytes, or pieces that are made as they go, until the server has had enough; what it answers"
        with self.connect() as s:
            try:
                for p in [pieces] if isinstance(pieces, bytes) else pieces: s.sendall(p)
            except OSError: pass # it has hung up
            return self.answer(s)
    def answer(self, s):
        got = b""
        try:
            while piece := s.recv(65536): got += piece
        except OSError: pass
        return got
    def files(self): return sorted(p.relative_to(self.home).as_posix() for p in self.home.rglob("*") if p.is_file() and not p.name.startswith(("index", ".lock")))

def test_two_gigabytes_that_are_announced(server):
    before, memory = server.files(), server.about.memory_info().rss
    for kind in (b"audio/wav", b"multipart/form-data; boundary=x", b"application/json"):
        with server.connect() as s:
            s.sendall(server.head(2_000_000_000, kind))
            answer = server.answer(s)  # though not a byte of the body was sent
        assert b" 413 " in answer.splitlines()[0] and b"application/problem+json" in answer
    for length in (b"-1", b"1e9", b"+5", b"1"*5000):
        assert server.say(b"POST /datasets/kitchen/recordings HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\nConnection: close\r\nContent-Length: " + length + b"\r\n\r\n").split()[1] in (b"400", b"413")
    assert server.files() == before and server.about.memory_info().rss < memory + 20e6

@pytest.mark.parametrize("kind", ["bare", "one file", "many small files", "long field"])
def test_two_gigabytes_that_are_not_announced(server, kind):
    start, between = {"bare": (b"", b""), "one file": (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n', b""), "long field": (b'--x\r\nContent-Disposition: form-data; name="notes"\r\n\r\n', b""),
                      "many small files": (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n', b'\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n')}[kind]
    before, memory, most, chunk = server.files(), server.about.memory_info().rss, 0, b"y"*900_000 + between
    def pieces():
        nonlocal most
        yield server.head(kind=b"audio/wav" if kind == "bare" else b"multipart/form-data; boundary=x")
        if start: yield b"%x\r\n%b\r\n" % (len(start), start)
        for i in range(2200):
            if i % 10 == 0: most = max(most, server.about.memory_info().rss)
            yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
        raise AssertionError("all of it was taken")
    answer = server.say(pieces())
    assert not answer or b" 413 " in answer.splitlines()[0] or b" 422 " in answer.splitlines()[0], answer[:300]
    assert server.files() == before and most < memory + 60e6, (most - memory)/1e6

def test_clients_that_leave_in_the_middle(server):
    before, files = server.files(), server.about.num_fds()
    for i in range(60):
        with server.connect() as s:
            s.sendall(server.head(len(RIGHT)*9, (b"audio/wav", b"multipart/form-data; boundary=x")[i % 2]) + (RIGHT, b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + RIGHT)[i % 2])
            if i % 3 == 0: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0") # not even a goodbye
    end = time.monotonic() + 30
    while server.about.num_fds() > files + 2: # the database's come and go, so one look has to do
        assert time.monotonic() < end, server.about.num_fds()
        time.sleep(.05)
    assert server.files() == before

def test_requests_that_mean_two_things(server):
    head = b"Host: localhost\r\nConnection: close\r\n"
    for extra in (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"Host: evil.example\r\n", b"Content-Type: audio/wav\r\nContent-Type: text/plain\r\n", b"Origin: http://localhost\r\nOrigin: https://evil.example\r\n"):
        answer = server.say(b"POST /datasets HTTP/1.1\r\n" + head + extra + b"\r\n5\r\nhello\r\n0\r\n\r\nGET /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.split()[1] in (b"400", b"403", b"411", b"422", b"501") and answer.count(b"HTTP/1.1 ") == 1, (extra, answer[:300])
    for path in (b"/datasets/../../etc/passwd", b"/datasets/..%2f..%2fetc%2fpasswd", b"//etc/passwd", b"/datasets/%00", b"/datasets/%ff%fe", b"http://evil.example/datasets/x"):
        assert server.say(b"GET " + path + b" HTTP/1.1\r\n" + head + b"\r\n").split()[1] in (b"400", b"403", b"404"), path

@pytest.mark.parametrize("pause,pieces,status", [(60, [b"x"]*3, 408), (.02, [b"x"]*3000, 408), (0, [b"x"*500]*3000, 413), (0, [b"x"*10]*30, 200)])
def test_bodies_that_stand_still_or_trickle(pause, pieces, status):
    left, sent = list(pieces), []
    async def app(scope, receive, send):
        while (await receive())["more_body"]: pass
        await send(dict(type="http.response.start", status=200, headers=[]))
    async def receive():
        await asyncio.sleep(pause)
        return dict(type="http.request", body=left.pop(0), more_body=bool(left))
    async def send(message): sent.append(message)
    asyncio.run(Limits(app, 1_000_000, slowest_s=.1)(dict(type="http", method="POST", path="/", headers=[(b"content-type", b"audio/wav")]), receive, send))
    assert sent[0]["status"] == status and (status == 200) == (not left)


def test_a_job_that_has_ended_may_be_forgotten_with_its_files(web):
    s = web.app.state.service
    job = s.queue.enqueue("train", {}, "kitchen")
    problem(web.delete(f"/jobs/{job.id}"), 409)
    held = s.queue.claim("anna")
    folder = place_of(s.root, job)
    (folder/"export").mkdir(parents=True)
    (folder/"export"/"manifest.json").write_text('{"files": {}}')
    problem(web.delete(f"/jobs/{job.id}"), 409)
    s.queue.finish(held, "succeeded")
    assert len(web.get(f"/jobs/{job.id}/artifacts").json()["artifacts"]) == 1
    assert web.delete(f"/jobs/{job.id}").status_code == 204 and not folder.exists()
    for path in ("", "/artifacts", "/logs", "/events"): problem(web.get(f"/jobs/{job.id}{path}"), 404)
    problem(web.delete(f"/jobs/{job.id}"), 404)
    assert web.get("/events").json()["events"][-1]["kind"] == "job.deleted"


def test_a_listing_tells_at_once_what_was_changed_here_and_soon_what_was_changed_elsewhere(web):
    s = web.app.state.service
    clips = lambda: {d["name"]: (d["clips"], d["trash"]) for d in web.get("/datasets").json()["datasets"]}
    web.post("/datasets", json=dict(name="attic", phrase="computer"))
    assert clips() == dict(kitchen=(0, 0), attic=(0, 0))
    for n in range(5):
        id = web.post("/datasets/kitchen/recordings?label=noise", content=recording(seed=n), headers={"Content-Type": "audio/wav"}).json()["id"]
        assert clips()["kitchen"] == (n + 1, 0) and web.get("/datasets/kitchen").json()["labels"]["noise"]["clips"] == n + 1
    web.patch(f"/datasets/kitchen/recordings/{id}", json=dict(label="negative"))
    assert web.get("/datasets").json()["datasets"][1]["labels"]["negative"]["clips"] == 1
    web.delete(f"/datasets/kitchen/recordings/{id}")
    assert clips()["kitchen"] == (4, 1)
    web.delete("/datasets/attic")
    assert clips() == dict(kitchen=(4, 1))
    Dataset.open(s.root/"datasets"/"kitchen").add(np.random.default_rng(9).normal(0, .1, 8000).astype(np.float32), "noise") # another process
    shutil.rmtree(s.root/"datasets"/"attic", ignore_errors=True)
    end = time.time() + 20
    while clips() != dict(kitchen=(5, 1)) and time.time() < end: time.sleep(.1)
    assert clips() == dict(kitchen=(5, 1))


def test_more_requests_than_can_be_answered_are_told_so():
    async def waits(scope, receive, send): await asyncio.sleep(.3)
    async def many():
        layer, told = Limits(waits, 10**6, at_once=3), []
        async def send(m): told.append(m.get("status"))
        async def receive(): return dict(type="http.request", body=b"", more_body=False)
        await asyncio.gather(*(layer(dict(type="http", path="/", headers=[], method="GET"), receive, send) for _ in range(5)))
        return told, layer.now
    told, left = asyncio.run(many())
    assert told.count(503) == 2 and left == 0


def test_a_dataset_that_another_process_works_on_holds_nobody_else_up(web):
    web.post("/datasets", json=dict(name="attic", phrase="computer"))
    with file_lock(web.app.state.service.root/"datasets"/"attic"/".lock", timeout_s=1):
        waits = threading.Thread(target=lambda: late.append(upload(web, dataset="attic", seed=1).status_code))
        late = []
        waits.start()
        time.sleep(.3)
        assert [upload(web, seed=k).status_code for k in range(2, 5)] == [201]*3 and not late
    waits.join(20)
    assert late == [201] and len(Dataset.open(web.app.state.service.root/"datasets"/"attic")) == 1


# ---- numbers

def numbers(s):
    "What Prometheus makes of the page: {name: {labels in order of their names: value}}; it refuses what is wrong"
    found = {}
    for family in text_string_to_metric_families(s.metrics.text().decode()):
        for n in family.samples:
            mine, key = found.setdefault(n.name.removeprefix("wakekit_"), {}), tuple(v for _, v in sorted(n.labels.items()))
            assert key not in mine, (n.name, key)
            mine[key] = n.value
    return found

@pytest.fixture
def busy(tmp_path):
    "A service, nobody but the test at work, and jobs in all states"
    s = Service(settings(tmp_path))
    q = s.queue
    for state in ("succeeded", "failed", "cancelled"):
        q.enqueue("train", {}, "kitchen")
        q.finish(q.claim("anna"), state)
    q.enqueue("deploy", {})
    held = q.claim("deployer", kinds=("deploy",))
    q.give_back(held, "killed by signal 9", strike=True)
    q.finish(q.claim("deployer", kinds=("deploy",)), "succeeded")
    q.enqueue("train", {}, "attic")
    q.renew(q.claim("anna"), lease_s=-1)
    s.held = q.claim("ben")
    waits = [q.enqueue("train", {}, "kitchen").id for _ in range(2)]
    with s.db.transaction() as t: t.execute(jobs.update().where(jobs.c.id == waits[1]).values(queued=jobs.c.queued - 500))
    q.cancel(q.enqueue("train", {}).id)  # nobody ever had it
    yield s
    s.close()

def test_jobs_and_the_trash_are_filtered(busy, web):
    assert {j.kind for j in busy.queue.jobs(kind="deploy")} == {"deploy"} and len(busy.queue.jobs(kind="train")) + len(busy.queue.jobs(kind="deploy")) == len(busy.queue.jobs())
    assert {j["kind"] for j in web.get("/jobs?kind=deploy").json()["jobs"]} == {"deploy"} and web.get("/jobs?kind=synthesize").json() == {"jobs": []} and web.get("/jobs?kind=cake").status_code == 422
    for k, (label, speaker) in enumerate((("positive", "anna"), ("negative", "anna"), ("positive", "bert"))):
        clip = upload(web, label=label, seed=500 + k, speaker=speaker).json()
        assert web.delete(f"/datasets/kitchen/recordings/{clip['id']}").status_code == 200
    count = lambda **how: web.get("/datasets/kitchen/trash", params=how).json()["total"]
    assert (count(), count(label="positive"), count(speaker="anna"), count(label="negative", speaker="bert"), count(search="bert")) == (3, 2, 2, 0, 1)

@pytest.mark.parametrize("content", ["{}", "[]", '{"phrase": 7}', "no json"])
def test_a_dataset_that_was_damaged_by_hand_spoils_no_listing(web, tmp_path, content):
    web.post("/datasets", json=dict(name="attic", phrase="hey attic"))
    [about] = tmp_path.rglob("attic/dataset.json")
    about.write_text(content)
    found = web.get("/datasets")
    assert found.status_code == 200 and {d["name"] for d in found.json()["datasets"]} == {"kitchen", "attic"}
    assert web.get("/datasets/kitchen").status_code == 200 and web.get("/datasets/attic/metrics").status_code < 500

def test_numbers_of_jobs_in_all_states(busy):
    found = numbers(busy)
    assert {k: v for k, v in found["jobs"].items() if v} == {("train", "queued"): 2, ("train", "running"): 1, ("train", "succeeded"): 1, ("train", "failed"): 1, ("train", "cancelled"): 2, ("deploy", "succeeded"): 1}
    assert len(found["jobs"]) == 30 and 500 <= found["queue_oldest_seconds"]["train",] < 600 and found["queue_oldest_seconds"]["deploy",] == 0
    assert found["job_attempts_lost_total"] == {(how, kind): 0 for how in ("lease", "process") for kind in ("train", "deploy", "synthesize", "look", "annotate", "compare")} | {("lease", "train"): 1, ("process", "deploy"): 1}
    assert {k: v for k, v in found["job_seconds_count"].items() if v} == {("train", "succeeded"): 1, ("train", "failed"): 1, ("train", "cancelled"): 1, ("deploy", "succeeded"): 1}
    assert found["database_up"] == {(): 1} and found["workers"] == {(): 0} and "workers_alive" not in found

def test_how_long_jobs_took(busy):
    q, held = busy.queue, busy.held
    def began(seconds, **then):
        with busy.db.transaction() as t: t.execute(jobs.update().where(jobs.c.id == held.id).values({k: busy.db.now - v for k, v in then.items()} | {"started": busy.db.now - seconds}))
    began(3000, queued=3100)
    q.finish(held, "failed")
    q.retry(held.id)
    while (held := q.claim("anna")).dataset != "attic": pass
    began(90_000, queued=45)  # the day before it was tried again does not count
    q.finish(held, "succeeded")
    found = numbers(busy)
    count, total = (found["job_seconds_" + k] for k in ("count", "sum"))
    assert count["train", "failed"] == 2 and 3000 <= total["train", "failed"] < 3060 and 45 <= total["train", "succeeded"] < 100
    for state in ("failed", "succeeded", "cancelled"):
        below = [v for (kind, le, s), v in sorted(found["job_seconds_bucket"].items(), key=lambda kv: float(kv[0][1])) if (kind, s) == ("train", state)]
        assert below == sorted(below) and below[-1] == count["train", state]
    assert [found["job_seconds_bucket"]["train", le, "failed"] for le in ("1800.0", "3600.0", "+Inf")] == [1, 2, 2]

def test_numbers_of_jobs_under_way_and_no_others(busy):
    s, id = busy, busy.held.id
    labels = ("attic", id, "train")
    say = lambda kind, **data: s.queue.renew(s.held, happened=[event(kind, id, "attic", **data)])
    assert "job_loss" not in numbers(s)
    s.queue.renew(s.held, progress=dict(stage="training", fraction=.25, seconds_left=None), happened=[event("job.epoch", id, "attic", epoch=k, loss=1/(k + 1)) for k in range(4)])
    say("job.resources", cpu_percent=150, memory_mb=512)
    found = numbers(s)
    assert [found[n][labels] for n in ("job_progress", "job_epoch", "job_loss", "job_cpu_cores", "job_memory_bytes")] == [.25, 3, .25, 1.5, 512e6] and not {"job_left_seconds", "job_gpu_memory_bytes"} & set(found)
    say("job.resources", cpu_percent=100, memory_mb=600, gpu_memory_mb=2430, gpu_memory_total_mb=85521)
    say("job.epoch", epoch=4, loss=float("nan"))  # it has diverged
    s.queue.renew(s.held, progress=dict(stage="training", fraction=.5, seconds_left=60))
    found = numbers(s)
    assert [found[n][labels] for n in ("job_progress", "job_left_seconds", "job_epoch", "job_memory_bytes", "job_gpu_memory_bytes")] == [.5, 60, 4, 600e6, 2430e6] and "job_loss" not in found
    s.queue.renew(s.held, lease_s=-1)
    while (again := s.queue.claim("carl")).id != id: pass
    assert "job_memory_bytes" not in numbers(s) and numbers(s)["job_attempts_lost_total"]["lease", "train"] == 2  # what its last worker said is no more
    s.queue.finish(again, "succeeded")
    assert id not in s.metrics.text().decode() and not any(id == k for k in s.underway.said)

def test_numbers_outlive_jobs_and_services(busy, tmp_path):
    before = numbers(busy)
    for job in busy.queue.jobs():
        if job.state not in ("queued", "running"): delete_job(busy.queue, job.id, busy.root)
    busy.db.forget(0)
    other = Service(settings(tmp_path))
    try: found = numbers(other)
    finally: other.close()
    assert sum(found["jobs"].values()) == 3 and all(found[k] == before[k] for k in ("job_attempts_lost_total", "job_seconds_count", "job_seconds_sum", "job_seconds_bucket"))

def test_a_database_that_is_away_takes_only_its_own_numbers(busy):
    path = busy.root/"wakekit.db"
    before = numbers(busy)
    busy.metrics.clips.labels("positive", "added").inc()
    busy.db.close()  # the next look opens it again
    assert not path.with_name(path.name + "-wal").exists()
    path.rename(path.with_suffix(".aside"))
    path.mkdir()
    found = numbers(busy)
    assert found["database_up"] == {(): 0} and found["clips_uploaded_total"] == {("positive", "added"): 1} and "info" in found and not {"jobs", "workers", "job_seconds_count", "last_event"} & set(found)
    path.rmdir()
    path.with_suffix(".aside").rename(path)
    again = numbers(busy)
    assert again["database_up"] == {(): 1} and again["jobs"] == before["jobs"]

def test_numbers_cost_the_same_however_much_there_was(busy, monkeypatch):
    rows, asked = busy.db.rows, []
    def counted(query):
        found = rows(query)
        asked.append(len(found))
        return found
    monkeypatch.setattr(busy.db, "rows", counted)
    def cost():
        asked.clear()
        numbers(busy)
        return len(asked), sum(asked)
    cost()
    before = cost()
    with busy.db.transaction() as t:
        ended = dict(t.execute(sa.select(jobs).where(jobs.c.state == "succeeded", jobs.c.kind == "train")).mappings().first())
        t.execute(jobs.insert(), [ended | dict(id=f"{i:012x}") for i in range(1000)])
        busy.db.add_events(t, [event("job.epoch", busy.held.id, epoch=i, loss=.1) for i in range(500)] + [event("clip.added", dataset="kitchen", clip=f"{i:016x}") for i in range(2000)])
    assert cost() == (before[0], before[1] + 500) and cost() == before  # read once, and never again
    assert numbers(busy)["jobs"]["train", "succeeded"] == 1001 and numbers(busy)["job_epoch"]["attic", busy.held.id, "train"] == 499
    plan = " ".join(r["detail"] for r in rows(sa.text("explain query plan select kind, state, count(*), min(queued) from jobs group by state, kind")))
    assert "COVERING INDEX" in plan  # payloads are not looked at

def test_the_page_of_numbers(web):
    upload(web)
    s = web.app.state.service
    s.queue.here("anna", "cuda:1", kinds=["train"])
    s.queue.here("ben", "cuda:1", kinds=["train", "deploy"])
    r = web.get("/metrics")
    assert r.status_code == 200 and r.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {f.name: f for f in text_string_to_metric_families(r.text)}
    assert [found["wakekit_" + n].type for n in ("jobs", "job_attempts_lost", "job_seconds", "http_requests")] == ["gauge", "counter", "histogram", "counter"] and all(f.documentation for f in found.values())
    alive = {(n.labels["device"], n.labels["takes"]): n.value for n in found["wakekit_workers_alive"].samples}
    assert (alive["cuda:1", "train"], alive["cuda:1", "deploy"]) == (2, 1)
    assert {n.value for n in found["wakekit_workers"].samples} == {2}
