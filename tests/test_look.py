"A look at a dataset through a real service with its own worker: what it finds, what is stale, what is gone, and that nobody has to wait for it."
import json, time
import numpy as np, pytest
pytest.importorskip("fastapi")
pytest.importorskip("torch")
from fastapi.testclient import TestClient
from wakekit.core import MissingExtraError
from wakekit.data.synth import draw_utterances, synthesize
from wakekit.env import Settings
from wakekit.serve import look
from wakekit.serve.training import create_app

PATIENCE_S = 120


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("look")
    with TestClient(create_app(Settings(data_dir=tmp/"data", training_dir=tmp/"training", models_dir=tmp/"models", device="cpu"))) as found:
        found.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis"))
        ds = found.app.state.service.catalog.open("kitchen")
        for label, texts in (("positive", ["hey jarvis"]), ("negative", ["turn on the light", "good morning"])):
            for u, x in synthesize(draw_utterances(texts, 12, seed=0)): ds.add(x, label, voice=str(u.voice))
        found.wrong = [c.id for c in ds.clips("positive")][:2]
        ds.relabel(found.wrong, label="negative")
        yield found

def looked(web, name="kitchen"):
    r = web.post(f"/datasets/{name}/look")
    assert r.status_code == 202 and r.headers["location"] == f"/jobs/{r.json()['id']}"
    end = time.monotonic() + PATIENCE_S
    while (job := web.get(f"/jobs/{r.json()['id']}").json())["state"] not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < end, job
        assert web.get("/health").status_code == 200  # the service answers meanwhile
        time.sleep(.1)
    return job

def test_what_a_look_finds(web):
    for what in ("report", "report.html", "coach", "map"): assert (r := web.get(f"/datasets/kitchen/{what}")).status_code == 409 and r.json()["code"] == "no_look"
    job = looked(web)
    assert job["state"] == "succeeded" and job["result"]["clips"] == 24 and job["result"]["note"] == "" and job["kind"] == "look"
    report, m = web.get("/datasets/kitchen/report").json(), web.get("/datasets/kitchen/map").json()
    assert {s["id"] for s in report["suspects"][:2]} == set(web.wrong) and report["coach"] and not report["stale"]
    at = {p["id"]: p for p in m["points"]}
    assert len(at) == 24 and all(at[id]["suspect"] > 0 and at[id]["looks"] == "positive" for id in web.wrong)
    assert {p["id"] for p in web.get("/datasets/kitchen/map?suspects=true").json()["points"]} >= set(web.wrong)
    # among their own: most of the five nearest on the map are calls
    for id in web.wrong:
        near = sorted(m["points"], key=lambda p: np.hypot(p["x"] - at[id]["x"], p["y"] - at[id]["y"]))[1:6]
        assert sum(p["label"] == "positive" or p["id"] in web.wrong for p in near) >= 3
    page = web.get("/datasets/kitchen/report.html")
    assert page.headers["content-type"].startswith("text/html") and "sandbox" in page.headers["content-security-policy"] and "kitchen" in page.text
    assert web.get("/datasets/kitchen/report.html", headers={"If-None-Match": page.headers["etag"]}).status_code == 304

def test_what_was_changed_since(web):
    if web.get("/datasets/kitchen/map").status_code == 409: looked(web)
    gone, clips = web.get("/datasets/kitchen/map").json()["points"][0]["id"], 24
    assert web.post("/datasets/kitchen/changes", json=dict(clips=web.wrong, label="positive")).json()["change"]["clips"] == 2
    assert web.delete(f"/datasets/kitchen/recordings/{gone}").status_code == 200
    report, m = web.get("/datasets/kitchen/report").json(), web.get("/datasets/kitchen/map").json()
    assert report["stale"] and report["clips"] == clips and not m["stale"] and m["total"] == clips - 1  # the map tells of clips as they are
    assert all(p["label"] == "positive" for p in m["points"] if p["id"] in web.wrong)
    web.post(f"/datasets/kitchen/recordings/{gone}/restore")
    assert web.get("/datasets/kitchen/map").json()["total"] == clips
    web.post("/datasets/kitchen/changes/undo", json={})

def test_one_look_at_a_time(web):
    a, b = (web.post("/datasets/kitchen/look").json()["id"] for _ in range(2))
    assert a == b and looked(web)["id"] == a

def test_damaged_or_without_torch(web, monkeypatch):
    home = web.app.state.service.catalog.path("kitchen")/look.FOLDER
    (home/"map.json").write_text("{", encoding="utf-8")
    assert (r := web.get("/datasets/kitchen/map")).status_code == 501 and "look again" in r.json()["detail"]
    def missing(*_): raise MissingExtraError("'torch' is not installed. Install it with: pip install 'wakekit[train]'")
    monkeypatch.setattr(look, "need", missing)
    about = look.look_at(web.app.state.service.catalog.open("kitchen"))
    assert "torch" in about["note"] and about["suspects"] == 0
    report = web.get("/datasets/kitchen/report").json()
    assert not report["embedded"] and report["suspects"] == [] and "torch" in report["note"] and report["findings"] is not None
    assert (r := web.get("/datasets/kitchen/map")).status_code == 501 and "torch" in r.json()["detail"]
    (home/"look.json").write_text("[", encoding="utf-8")
    assert web.get("/datasets/kitchen/report").json()["code"] == "no_look"

def test_a_dataset_that_is_gone(web):
    assert web.post("/datasets/nowhere/look").status_code == web.get("/datasets/nowhere/map").status_code == 404
    web.post("/datasets", json=dict(name="attic", phrase="hey attic"))
    s = web.app.state.service
    job = looked(web, "attic")  # nothing in it
    assert job["state"] == "succeeded" and job["result"]["clips"] == 0, job
    assert web.get("/datasets/attic/report").json()["clips"] == 0
    waiting = s.queue.enqueue("look", {}, "gone")
    end = time.monotonic() + PATIENCE_S
    while (found := web.get(f"/jobs/{waiting.id}").json())["state"] not in ("failed", "succeeded"):
        assert time.monotonic() < end
        time.sleep(.1)
    assert found["state"] == "failed" and "restore it" in found["error"]

def test_clips_that_come_in_the_middle(web, monkeypatch):
    ds, real, n = web.app.state.service.catalog.open("kitchen"), look._rows, [0]
    def rows(d):
        found, n[0] = real(d), n[0] + 1
        if n[0] == 1: d.add((np.random.default_rng(9).standard_normal(8000)*.1).astype(np.float32), "noise")
        return found
    monkeypatch.setattr(look, "_rows", rows)
    about = look.look_at(ds)
    assert n[0] == 2 and about["clips"] == len(ds) and len(json.loads((ds.path/"look"/"map.json").read_text(encoding="utf-8"))["points"]) == len(ds)
