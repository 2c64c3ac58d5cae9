"Whatever the OpenAPI allows and forbids is sent to the whole training service: WAKEKIT_FUZZ_EXAMPLES=200 pytest tests/test_fuzz.py for more than CI does."
import io, os, re, shutil
from collections import Counter, defaultdict
import numpy as np, pytest, soundfile as sf
import sqlalchemy as sa
pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")
from fastapi.testclient import TestClient
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, FuzzScenarioFinished, NonFatalError, ScenarioFinished
from wakekit.data.dataset import LABELS
from wakekit.env import Settings
from wakekit.serve import routes_environment, routes_jobs
from wakekit.serve.live import log_lines
from wakekit.serve.look import look_at
from wakekit.serve.queue import jobs
from wakekit.serve.training import create_app
from wakekit.ship.evaluate import evaluate
from wakekit.ship.toy import chime, toy_bundle

EXAMPLES = int(os.environ.get("WAKEKIT_FUZZ_EXAMPLES") or 15)
TOKEN = "a-token-for-the-fuzzer"


def wav(seed, seconds=.3):
    out = io.BytesIO()
    sf.write(out, (np.random.default_rng(seed).standard_normal(int(seconds*16_000))*.1).astype(np.float32), 16_000, format="WAV")
    return out.getvalue()


class State:
    "A service in which there is something of everything, and soon again when something was deleted"
    def __init__(self, tmp):
        self.app = create_app(Settings(data_dir=tmp, training_dir=tmp/"training", models_dir=tmp/"models", device="cpu", api_token=TOKEN))
        self.service, self.web = self.app.state.service, TestClient(self.app, headers={"Authorization": f"Bearer {TOKEN}"})
        self.home = self.service.root/"datasets"/"kitchen"
        self.web.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis"))
        for i in range(24): assert self.web.post(f"/datasets/kitchen/recordings?label={'positive' if i < 12 else 'noise'}", content=wav(i), headers={"Content-Type": "audio/wav"}).status_code == 201
        self.clips = [c["id"] for c in self.web.get("/datasets/kitchen/recordings").json()["clips"]]
        assert self.web.post("/datasets/kitchen/changes", json=dict(clips=self.clips[:2], notes="one of two")).json()["change"]["id"] == 1
        look_at(self.service.catalog.open("kitchen"))
        self.sounds = [self.web.post("/datasets/kitchen/inbox", params=dict(origin="porch", score=k/4), content=wav(900 + k), headers={"Content-Type": "audio/wav"}).json()["id"] for k in range(3)]
        self.copy = shutil.copytree(self.home, tmp/"copy")
        self.job = self.web.post("/train", json=dict(dataset="kitchen")).json()["id"]
        toy_bundle(self.service.root/"jobs"/self.job/"export", phrase="hey jarvis")
        ring = np.concatenate([np.zeros(4000, np.float32), chime(), np.random.default_rng(0).normal(0, 1e-3, 4000).astype(np.float32)])
        self.report = evaluate(toy_bundle(tmp/"toy", phrase="hey jarvis"), [("loud", ring), *((f"faint {i}", ring*g) for i, g in enumerate((1e-3, 2e-3)))], [(f"bell {g}", ring*g) for g in (.5, .6)], progress=False)
        self.report.save_sounds(self.service.root/"jobs"/self.job/"heard")
        self.service.queue.finish(self.service.queue.claim("a"), "succeeded")
        self.waiting = self.web.post("/train", json=dict(dataset="kitchen")).json()["id"]
        self.service.registry.promote("kitchen", toy_bundle(tmp/"older", phrase="hey jarvis", threshold=.6))
        assert self.web.post("/models/kitchen/promote", json=dict(job_id=self.job)).json()["current"] == 2
        self.rows = [dict(r) for r in self.service.db.rows(sa.select(jobs))]
        self.trash, self.back, self.turns = self.thrown_away(), set(), 0
    def thrown_away(self):
        self.service.catalog.create("attic", "hey") if "attic" not in self.service.catalog.names() else None
        return self.service.catalog.remove("attic")
    def again(self):
        for row in self.rows: # jobs can be deleted, too
            if not self.service.db.rows(sa.select(jobs.c.id).where(jobs.c.id == row["id"])):
                with self.service.db.transaction() as t: t.execute(jobs.insert().values(**row))
                self.back.add(f"/jobs/{row['id']}")
        if not (self.service.root/"jobs"/self.job/"export").is_dir(): toy_bundle(self.service.root/"jobs"/self.job/"export", phrase="hey jarvis")
        if not (self.service.root/"jobs"/self.job/"heard").is_dir(): self.report.save_sounds(self.service.root/"jobs"/self.job/"heard")
        if not (self.home/"dataset.json").is_file():
            shutil.copytree(self.copy, self.home, dirs_exist_ok=True)
            self.back.add("/datasets/kitchen")
        if gone := [c for c in self.clips[:3] if not any((self.home/place/f"{c}.wav").is_file() for place in ("clips", "trash"))]:
            for c in gone:
                for suffix in (".json", ".wav"): shutil.copy2(self.copy/"clips"/f"{c}{suffix}", self.home/"clips"/f"{c}{suffix}")
            self.service.catalog.open("kitchen").refresh()
        if gone := [s for s in self.sounds if not (self.home/"inbox"/f"{s}.wav").is_file()]:
            self.back |= {f"/datasets/kitchen/inbox/{s}" for s in gone}
            shutil.copytree(self.copy/"inbox", self.home/"inbox", dirs_exist_ok=True)
        if not any(d["id"] == self.trash for d in self.service.catalog.removed()): self.trash = self.thrown_away()
    def can_be_turned(self, path):
        "There is something to do again, or to take back, when somebody asks for it"
        if path == "/datasets/kitchen/changes/redo" and (self.home/"dataset.json").is_file():
            self.turns += 1
            ds = self.service.catalog.open("kitchen")
            if ds.relabel(self.clips[0], notes=f"turn {self.turns}"): ds.undo()
        if path.startswith("/datasets/kitchen/inbox/") and path.endswith("/undo") and (id := path.split("/")[4]) in self.sounds:
            inbox = self.service.catalog.open("kitchen").inbox
            if inbox[id].decision is None: inbox.reject(id)
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.again() # cases are made up long before they are sent
            self.can_be_turned(scope["path"])
        if scope["type"] != "lifespan": return await self.app(scope, receive, send)
        for message in ("startup", "shutdown"): # every client of the fuzzer would end the service
            await receive()
            await send({"type": f"lifespan.{message}.complete"})


def is_problem(ctx, response, case):
    "Every error is `application/problem+json` with all its fields"
    if response.status_code < 400 or response.request.method == "HEAD": return
    about = response.json()
    assert response.headers["content-type"][0] == "application/problem+json", response.headers
    assert about["status"] == response.status_code and all(isinstance(about[k], str) and about[k] for k in ("type", "title", "detail", "code")), about
    assert response.status_code < 500 or is_device_away(response), about


def is_device_away(response): return response.status_code == 502 and "/devices/" in response.request.url # no host that the fuzzer makes up can be reached


def is_change(body):
    "Does a request to change clips keep to the schema, as far as single fields go?"
    text = lambda v: v is None or isinstance(v, str) and len(v) <= 200 and "\0" not in v
    return body["clips"] and set(body) <= {"clips", "label", "notes", "speaker", "source", "trashed", "by"} and body.get("label") in (None, *LABELS) and all(text(body.get(k)) for k in ("notes", "speaker", "source")) and text(body.get("by", ""))


def is_named(model):
    "Does a request name a model as the schema has it?"
    text = lambda v, n: v is None or isinstance(v, str) and len(v) <= n
    return isinstance(model, dict) and set(model) <= {"model", "number", "job_id"} and text(model.get("model"), 64) and text(model.get("job_id"), 40) and (model.get("number") is None or type(model["number"]) is int and 1 <= model["number"] <= 10**9)


def excused(failure, response, back=()):
    "Why a failure is none; back: addresses of what was deleted and put back by `State.again`"
    kind = type(failure).__name__
    # Names that Windows reserves, audio that can be decoded, fields of a config: rules that no JSON Schema can state. What the schema does state is answered with `invalid_request`.
    if kind == "RejectedPositiveData" and response.status_code in (412, 415, 422): return response.json()["code"] != "invalid_request"
    # DELETE of a clip moves it to the trash, where it can still be looked at, heard and restored.
    if kind == "UseAfterFree": return any(place in failure.free for place in ("/recordings/", *back))
    # Every part of a form arrives as text, whatever type it says it had.
    if kind == "AcceptedNegativeData": return response.request.headers.get("Content-Type", "").startswith("multipart/form-data") and "(was string, became " in failure.message
    if kind == "ServerError": return is_device_away(response)
    return False


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("fuzz")
    for tool in ("ssh", "docker"): # devices that the fuzzer adds are never called
        (tmp/tool).write_text("#!/bin/sh\necho no route to host >&2\nexit 255\n")
        (tmp/tool).chmod(0o755)
    os.environ["PATH"], before = f"{tmp}{os.pathsep}{os.environ['PATH']}", os.environ["PATH"]
    found = State(tmp)
    yield found
    found.service.close()
    os.environ["PATH"] = before


def test_the_api_does_what_its_openapi_says(state, monkeypatch):
    monkeypatch.setattr(routes_environment, "AGAIN_S", 3600.) # one doctor is enough, and the fuzzer waits for no answer longer than 10 s
    assert state.service.environment.ask().result()["problem"] is None
    monkeypatch.setattr(routes_jobs, "log_lines", lambda queue, id, after, follow: log_lines(queue, id, after, follow=False)) # nobody ends the jobs whose logs are followed
    config = SchemathesisConfig.from_dict({
        "headers": {"Authorization": f"Bearer {TOKEN}"}, "continue-on-failure": True, "checks": {"enabled": True},
        "generation": {"max-examples": EXAMPLES, "deterministic": not os.environ.get("WAKEKIT_FUZZ_EXAMPLES"), "database": "none"},
    })
    schema = schemathesis.openapi.from_asgi("/openapi.json", state, config=config, headers={"Authorization": f"Bearer {TOKEN}"})
    def there(operation, k, v):
        "What there is in the place of a value that was made up; None: leave it"
        name = "fast" if operation.path.startswith("/presets") else "kitchen"
        return {"name": name, "file": "manifest.json", "clip_id": state.clips[len(str(v)) % 3], "job_id": (state.job, state.waiting)[len(str(v)) % 2], "id": state.trash, "n": len(str(v)) % 3, "sound_id": state.sounds[len(str(v)) % 3]}.get(k)
    @schema.hook
    def map_path_parameters(context, path_parameters):
        state.again()
        for k, v in (path_parameters or {}).items():
            if (known := there(context.operation, k, v)) is not None and sum(map(ord, str(v))) % 5: path_parameters[k] = known
        return path_parameters
    @schemathesis.hook
    def before_call(context, case, kwargs): # the values of the coverage phase go through no other hook
        if case.meta is None or case.meta.phase.name.value != "coverage": return
        for k, v in (case.path_parameters or {}).items():
            if isinstance(v, str) and (known := there(case.operation, k, v)) is not None: case.path_parameters[k] = known
    @schema.hook
    def map_query(context, query):
        if context.operation.path.endswith("/annotate"): # of models, trainings and languages that are made up none is there
            for k, longest in (("model", 64), ("job_id", 40), ("judge", 64), ("language", 20)):
                if isinstance((query or {}).get(k), str) and len(query[k]) <= longest: del query[k]
            if type((query or {}).get("number")) is int and 1 <= query["number"] <= 10**9: del query["number"]
        return query
    @schema.hook
    def map_body(context, body):
        if context.operation.path.endswith("/inbox/compare") and isinstance(body, dict) and all(is_named(body.get(k)) for k in ("one", "other")): body |= {k: dict(model="kitchen", number=n) for k, n in (("one", 1), ("other", 2))}
        if isinstance(body, dict) and isinstance(body.get("job_id"), str) and len(body["job_id"]) % 2 == 0: body["job_id"] = state.job
        if isinstance(body, dict) and isinstance(body.get("clips"), list) and len(str(body)) % 4 and all(isinstance(c, str) and re.fullmatch("[0-9a-f]{16}", c) for c in body["clips"]):
            body["clips"] = state.clips[:min(len(body["clips"]), 3)]
            if isinstance(body.get("trashed"), bool) and is_change(body): body = {k: body[k] for k in ("clips", "trashed")} # together with other fields it is refused
        if isinstance(body, dict) and type(body.get("id")) is int and context.operation.path.endswith(("/undo", "/redo")) and 1 <= body["id"] < 10**6: body["id"] = 1
        if isinstance(body, dict) and type(body.get("file")).__name__ == "Binary": body |= dict(file=type(body["file"])(wav(len(body)))) | (dict(label=body.get("label", "noise")) if context.operation.path.endswith("/recordings") else {})
        return body
    schemathesis.check(is_problem)
    found, calls, went_well, phases, answers = {}, 0, set(), set(), defaultdict(Counter)
    for e in from_schema(schema).execute():
        if isinstance(e, FatalError): raise e.exception
        if isinstance(e, NonFatalError): found[f"{e.label}: {e.value!r}"] = ""
        if isinstance(e, (ScenarioFinished, FuzzScenarioFinished)):
            for case_id, checked in e.recorder.checks.items():
                calls += 1
                response, label = e.recorder.interactions[case_id].response, e.recorder.cases[case_id].value.operation.label
                phases.add(getattr(getattr(e, "phase", None), "name", "fuzz"))
                if response is not None and response.status_code < 400: went_well.add(label)
                if response is not None and response.status_code >= 400: answers[label][response.status_code, str(response.request.url)[:120], response.content[:300]] += 1
                for c in checked:
                    if c.failure_info and not excused(c.failure_info.failure, response, state.back):
                        f = c.failure_info.failure
                        found.setdefault(f"{label}: {c.name}: {f.title}", f"{f.message[:600]}\n{c.failure_info.code_sample[:600]}")
    never = {o.ok().label for o in schema.get_all_operations()} - went_well
    print(f"{calls} calls in {phases}; never went well: {never}")
    for label in never: print(label, *answers[label].most_common(5), sep="\n    ")
    assert not found, f"{len(found)} faults in {calls} calls:\n" + "\n\n".join(f"{k}\n{v}" for k, v in found.items())
    assert never <= {"GET /devices/{name}/releases", "POST /models/{name}/rollback"}, never # there is no device; and of all numbers two are versions
