"Sweeps through the queue: a real service, workers that are played, killed, away; and one that trains."
import contextlib, itertools, math, os, signal, socket, subprocess, sys, threading, time
import numpy as np
import pytest
pytest.importorskip("optuna", reason="pip install wakekit[tune]")
pytest.importorskip("fastapi")
import httpx2
from fastapi.testclient import TestClient
from wakekit.core import ConfigError, LockError, WakekitError, file_lock
from wakekit.data.synth import draw_utterances, synthesize
from wakekit.env import Settings
from wakekit.serve.client import Client, JobHandle, ServiceError
from wakekit.serve.compare import Aside, aside_from, compare, flips
from wakekit.serve.events import event
from wakekit.serve.jobs import Worker, in_background
from wakekit.serve.queue import place_of
from wakekit.serve.sweeps import Space, Sweep, SweepPlan, _study, epochs_of_job, kept_epoch, sweep
from wakekit.serve.training import create_app
from wakekit.ship.stream import Bundle
from wakekit.ship.toy import chime, toy_bundle

LONG = 120  # s, for whatever happens on a busy machine
LITTLE = {"epochs": 4}
RATES = SweepPlan("kitchen", {"lr": (1e-4, 1e-2, "log")}, "tiny", LITTLE)


@pytest.fixture(autouse=True)
def few_threads(monkeypatch): monkeypatch.setenv("OMP_NUM_THREADS", "1")

@pytest.fixture(scope="module")
def clips(): return {"positive": [x for _, x in synthesize(draw_utterances(["computer"], 12, seed=1))], "negative": [x for _, x in synthesize(draw_utterances(["commuter"], 12, seed=2))]}

@contextlib.contextmanager
def serving(tmp, clips):
    "A service without workers, with a dataset"
    with TestClient(create_app(Settings(data_dir=tmp, training_dir=tmp/"training", models_dir=tmp/"models", device="cpu")), raise_server_exceptions=False) as web:
        service = Client(http=web)
        service.create_dataset("kitchen", "computer")
        for label, sounds in clips.items(): service.upload("kitchen", sounds, label)
        yield web

@pytest.fixture
def web(tmp_path, clips):
    with serving(tmp_path, clips) as web: yield web

@pytest.fixture(scope="module")
def shared(tmp_path_factory, clips):
    "One for all who queue nothing"
    with serving(tmp_path_factory.mktemp("shared"), clips) as web: yield web

def told(lr, k):
    "How an epoch is judged: 0.001 is best"
    return round(60*min(1, .1 + .2*abs(math.log10(lr/1e-3)) + .4/k))/60

class Played:
    "A worker who takes jobs and tells of epochs as told; may be held before an epoch"
    def __init__(self, web, until=lambda job, k: None, fails=lambda job: ""):
        self.queue, self.root, self.until, self.fails, self.over = web.app.state.service.queue, web.app.state.service.root, until, fails, threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
    def __enter__(self):
        self.queue.here("played", kinds=["train"])
        self.thread.start()
        return self
    def __exit__(self, *_):
        self.over.set()
        self.thread.join(LONG)
    def work(self):
        while not self.over.is_set():
            if not (job := self.queue.claim("played", 600)):
                self.over.wait(.01)
                continue
            c, stopped = job.payload["config"], False
            for k in range(1, c["epochs"] + 1):
                if stopped: break
                self.until(job, k)
                rate = told(c["lr"], k)
                stopped = self.queue.renew(job, 600, happened=[event("job.epoch", job.id, "kitchen", epoch=k, epochs=c["epochs"], loss=1/k, false_reject_rate=rate, mean_false_reject_rate=rate, hours=.5, clips=60)])
                self.over.wait(.02)
            if stopped: self.queue.finish(job, "cancelled")
            elif why := self.fails(job): self.queue.finish(job, "failed", error=why)
            else:
                toy_bundle(place_of(self.root, job)/"export", threshold=.3 if c["lr"] < 2e-3 else .7, lineage=dict(dataset_fingerprint="1"))
                self.queue.finish(job, "succeeded", dict(bundle="export"))

def looked_at(folder):
    "For `Played`: no epoch ends before the sweep has seen the one before it"
    def seen(job, k): wait_for(lambda: k == 1 or any(t.user_attrs.get("job") == job.id and k - 1 in t.intermediate_values for t in _study(folder)[0].get_trials(deepcopy=False)))
    return seen

def wait_for(true):
    end = time.time() + LONG
    while not (found := true()): assert time.time() < end; time.sleep(.01)
    return found


# ---- what may be searched

WRONG = [({"model.chanels": [16, 24]}, {}, "did you mean channels"), ({"modl.channels": [16]}, {}, "did you mean model"), ({"lr.high": [1]}, {}, "one value"), ({"model": [1, 2]}, {}, "group of fields"),
         ({"data.fillers": [1]}, {}, "did you mean filler"), ({"lr": (1e-4, 2)}, {}, "between 1e-09 and 1"), ({"model.channels": [32, 2]}, {}, "between 4 and 1024"), ({"lr": (3e-3, 1e-3)}, {}, "from the lower"),
         ({"lr": (0, 1e-3, "log")}, {}, "above 0"), ({"lr": 3e-3}, {}, "list of choices"), ({"lr": []}, {}, "list of choices"), ({"lr": (1e-3, 2e-3, "exp")}, {}, "list of choices"), ({"start": ("a", "b")}, {}, "list of choices"), ({"start": ["encoder", "nothing"]}, {}, "must be one of"),
         ({"model.dilations": (1, 4)}, {}, "no range"), ({"lr": [1e-3]}, {"lr": 1e-3}, "give it once"), ({"model.channels": [16]}, {"model": {"channels": 24}}, "give it once"), ({}, {}, "nothing to search"),
         ({"verifier.lr": [1e-3]}, {}, "second look"), ({"data.valid_share": (.1, .5)}, {}, "judged on"), ({"data.filler": [10, 20]}, {}, "judged on"), ({"seed": [0, 1]}, {}, "moves speakers"), ({"target_false_accepts_per_hour": [1., 10.]}, {}, "easiest target"),
         ({"refractory_ms": (100, 9000)}, {}, "counted"), ({"lr": [1e-3]}, {"epochz": 3}, "did you mean epochs"), ({"batch.positive": (.1, .9)}, {}, "shares of a batch")]

@pytest.mark.parametrize("space,overrides,said", WRONG)
def test_what_cannot_be_searched_is_refused_before_anything_is_queued(shared, tmp_path, space, overrides, said):
    with pytest.raises(ConfigError, match=said): sweep(Client(http=shared), SweepPlan("kitchen", space, "tiny", overrides), tmp_path/"sweep")
    assert shared.get("/jobs").json()["jobs"] == []

def test_a_dataset_or_a_preset_that_is_not_there(web, tmp_path):
    service = Client(http=web)
    with pytest.raises(ConfigError, match="no preset 'tinny'"): sweep(service, RATES.replace(preset="tinny"), tmp_path/"a")
    with pytest.raises(ServiceError, match="attic"): sweep(service, RATES.replace(dataset="attic"), tmp_path/"b")
    service.create_dataset("attic", "computer")
    with pytest.raises(ServiceError, match="at least 10 clips"): sweep(service, RATES.replace(dataset="attic"), tmp_path/"b")
    with pytest.raises(ConfigError, match="no sweep in"): Sweep(tmp_path/"nowhere")
    assert service.jobs() == []

def test_ranges_and_choices_come_back_as_they_were_meant(shared):
    space = Space(SweepPlan("kitchen", {"augment.snr_db": [[0, 20], [5, 30]], "model.channels": (16, 64, 8), "lr": (1e-3, 1e-2, "log"), "batch.synthetic": [None, .5]}, "tiny"), Client(http=shared))
    assert space.values({"augment.snr_db": "[5, 30]", "model.channels": 24, "lr": .002, "batch.synthetic": None}) == {"augment.snr_db": [5, 30], "model.channels": 24, "lr": .002, "batch.synthetic": None}
    assert type(space.ranges["model.channels"]).__name__ == "IntDistribution" and space.ranges["lr"].log and space.start() == {} and space.grid(1000) == []


# ---- a search

def test_the_best_is_found_and_the_poor_are_stopped(web, tmp_path):
    service = Client(http=web)
    with Played(web, looked_at(tmp_path/"sweep")): found = sweep(service, RATES, tmp_path/"sweep", trials=14, at_once=2, look_s=.02)
    trials = found.trials
    assert len(trials) == 14 and {t.state for t in trials} == {"succeeded", "pruned"} and trials[0].params == {"lr": .003} and found.preset.state == "succeeded"
    assert found.best.value == min(t.value for t in trials if t.value is not None) <= trials[0].value and abs(math.log10(found.best.params["lr"]/1e-3)) < .5
    for t in trials:
        job = service.get(f"/jobs/{t.job}")
        assert job["payload"]["config"]["lr"] == t.params["lr"] and job["payload"]["force"] and job["state"] == {"succeeded": "succeeded", "pruned": "cancelled"}[t.state]
        if t.value is not None: assert t.value == told(t.params["lr"], t.epoch) and t.value_95[0] < t.value < t.value_95[1] and t.clips == 60
    text = found._repr_markdown_()
    assert "95 %" in text and "too good" in text and all(t.job in text for t in trials) and "changed during" not in text
    assert len(found.plot()) == 2
    with Played(web): more = sweep(service, RATES, tmp_path/"sweep", trials=16, look_s=.02)
    assert more.trials[:14] == trials and len(more.trials) == 16 == len(service.jobs())

def test_few_combinations_are_each_tried_once(web, tmp_path):
    plan = SweepPlan("kitchen", {"lr": [1e-3, 3e-3], "model.dilations": [[1, 2, 4, 4, 6], [1, 2, 4, 8]]}, "tiny", LITTLE, prune=False)
    with Played(web): found = sweep(Client(http=web), plan, tmp_path/"sweep", trials=50, look_s=.02)
    assert sorted((t.params["lr"], len(t.params["model.dilations"])) for t in found.trials) == [(1e-3, 4), (1e-3, 5), (3e-3, 4), (3e-3, 5)] and found.best.params["lr"] == 1e-3
    assert len(Client(http=web).jobs()) == 4 and found.trials[0].params == {"lr": 3e-3, "model.dilations": [1, 2, 4, 4, 6]}
    with pytest.raises(ConfigError, match="holds another sweep: searched"): sweep(Client(http=web), RATES, tmp_path/"sweep")

def test_the_same_values_twice_are_one_training(web, tmp_path):
    plan = SweepPlan("kitchen", {"model.channels": [24, 32]}, "tiny", LITTLE, prune=False)
    with Played(web):
        sweep(Client(http=web), plan, tmp_path/"sweep", trials=1, look_s=.02) # fewer than there are combinations: not a grid
        found = sweep(Client(http=web), plan, tmp_path/"sweep", trials=8, look_s=.02)
    assert [t.state for t in found.trials] == ["succeeded"]*8 and len({t.job for t in found.trials}) == len(Client(http=web).jobs()) == 2

def test_values_that_contradict_each_other_are_a_failed_trial(web, tmp_path):
    plan = SweepPlan("kitchen", {"batch.positive": [.1, .45], "batch.cut": [0., .2]}, "tiny", LITTLE, prune=False)
    with Played(web): found = sweep(Client(http=web), plan, tmp_path/"sweep", trials=12, look_s=.02)
    failed = [t for t in found.trials if t.state == "failed"]
    assert [t.params for t in failed] == [{"batch.positive": .45, "batch.cut": .2}] and "shares of a batch" in failed[0].why and not failed[0].job and len(found.trials) == 5 and found.best.value is not None


def test_a_search_whose_trainings_all_fail_stops(web, tmp_path):
    with Played(web, fails=lambda job: "no space left"):
        with pytest.raises(WakekitError, match="last five trials failed.*no space left"): sweep(Client(http=web), RATES, tmp_path/"sweep", trials=20, look_s=.02)
    with pytest.raises(WakekitError, match="no trial.*no space left"): Sweep(tmp_path/"sweep").best
    assert 5 <= len(Client(http=web).jobs()) <= 6


# ---- others meddle

def test_a_job_that_somebody_cancels_or_deletes(web, tmp_path, monkeypatch):
    service, plan = Client(http=web), RATES.replace(prune=False)
    def interrupted(s): raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("wakekit.serve.sweeps.time.sleep", interrupted)
        sweep(service, plan, tmp_path/"sweep", trials=5, at_once=3)
    ids = [t.job for t in Sweep(tmp_path/"sweep").trials]
    for id in ids[1:]: JobHandle(service, id).cancel()
    JobHandle(service, ids[2]).delete()
    with Played(web): found = sweep(service, plan, tmp_path/"sweep", trials=5, at_once=3, look_s=.02)
    assert [t.why for t in found.trials] == ["", "somebody cancelled its job", "somebody deleted its job", "", ""] and [t.state for t in found.trials] == ["succeeded", "failed", "failed", "succeeded", "succeeded"]
    JobHandle(service, found.best.job).delete() # when all is over, a trial keeps its figures without its job
    assert sweep(service, plan, tmp_path/"sweep", trials=5).best == found.best

def test_only_one_process_writes(web, tmp_path):
    with file_lock(tmp_path/"sweep"/".lock"), pytest.raises(LockError): sweep(Client(http=web), RATES, tmp_path/"sweep")

def test_ctrl_c_leaves_the_jobs_and_the_next_call_finds_them(web, tmp_path, monkeypatch):
    service, go = Client(http=web), threading.Event()
    def interrupted(s):
        if len(service.jobs()) >= 2: raise KeyboardInterrupt
    with Played(web, until=lambda job, k: go.wait(LONG)):
        with monkeypatch.context() as m:
            m.setattr("wakekit.serve.sweeps.time.sleep", interrupted)
            with pytest.raises(KeyboardInterrupt, match="goes on without us"): sweep(service, RATES, tmp_path/"sweep", trials=4, at_once=2)
        before = [t.job for t in Sweep(tmp_path/"sweep").trials]
        assert len(before) == 2 and {j["state"] for j in service.jobs()} <= {"queued", "running"}
        go.set()
        found = sweep(service, RATES, tmp_path/"sweep", trials=4, at_once=2, look_s=.02)
    assert [t.job for t in found.trials][:2] == before and len(service.jobs()) == 4 == len(found.trials)

def test_a_sweep_that_is_given_up(web, tmp_path, monkeypatch):
    def interrupted(s): raise KeyboardInterrupt
    monkeypatch.setattr("wakekit.serve.sweeps.time.sleep", interrupted)
    service = Client(http=web)
    with pytest.raises(KeyboardInterrupt): sweep(service, RATES, tmp_path/"sweep", trials=4, at_once=3)
    assert len(Sweep(tmp_path/"sweep").cancel(service)) == 3 and {j["state"] for j in service.jobs()} == {"cancelled"} and Sweep(tmp_path/"sweep").cancel(service)

def test_a_change_of_the_data_is_told(web, tmp_path):
    with Played(web): found = sweep(Client(http=web), RATES.replace(prune=False), tmp_path/"sweep", trials=2, look_s=.02)
    text = (tmp_path/"sweep"/"trials.log").read_text()
    (tmp_path/"sweep"/"trials.log").write_text(text[::-1].replace('"1":"atad"', '"2":"atad"', 1)[::-1])
    assert "changed during the sweep" in Sweep(tmp_path/"sweep")._repr_markdown_() and "changed during the sweep" not in found._repr_markdown_()


# ---- the service goes away, the process is killed

def test_a_service_that_goes_away_and_comes_back(web, tmp_path, caplog):
    asked, away = itertools.count(), {k for start in (7, 23, 40) for k in range(start, start + 6)}
    def shaky(request):
        n = next(asked)
        if n in away and n%2: raise httpx2.ConnectError("gone", request=request)
        r = web.request(request.method, request.url.raw_path.decode(), content=request.content, headers=dict(request.headers))
        if n in away: raise httpx2.ReadError("the answer is lost", request=request)
        return httpx2.Response(r.status_code, content=r.content, headers={"content-type": r.headers.get("content-type", "")})
    far = Client("http://far:8080", http=httpx2.Client(transport=httpx2.MockTransport(shaky), base_url="http://far:8080"), tries=1)
    with Played(web): found = sweep(far, RATES, tmp_path/"sweep", trials=6, at_once=2, look_s=.02)
    assert len(found.trials) == 6 == len(Client(http=web).jobs()) and next(asked) > 46 and "the sweep waits for it" in caplog.text

def test_a_service_that_stays_away(web, tmp_path):
    gone = []
    def far(request):
        if gone: raise httpx2.ConnectError("gone", request=request)
        r = web.request(request.method, request.url.raw_path.decode(), content=request.content, headers=dict(request.headers))
        if request.url.path == "/train": gone.append(1)
        return httpx2.Response(r.status_code, content=r.content)
    client = Client("http://far:8080", http=httpx2.Client(transport=httpx2.MockTransport(far), base_url="http://far:8080"), tries=1)
    with pytest.raises(ServiceError, match="nobody answers"): sweep(client, RATES, tmp_path/"sweep", look_s=.02, patience_s=.2)
    with Played(web): found = sweep(Client(http=web), RATES, tmp_path/"sweep", trials=2, look_s=.02)
    assert len(found.trials) == 2 == len(Client(http=web).jobs())

KILLED = """
import sys
from pathlib import Path
from wakekit.serve.client import Client
from wakekit.serve.sweeps import SweepPlan, sweep
sweep(Client(sys.argv[1]), SweepPlan("kitchen", {"lr": (1e-4, 1e-2, "log")}, "tiny", {"epochs": 4}), sys.argv[2], trials=8, at_once=3, look_s=.01)
"""

@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_sweep_that_is_killed_goes_on_without_a_doubled_job(web, tmp_path):
    import uvicorn
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(web.app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[s]), daemon=True)
        s.listen(64)
        thread.start()
        log, rng = tmp_path/"sweep"/"trials.log", np.random.default_rng(0)
        with Played(web):
            for k in range(4): # each time a little further
                child = subprocess.Popen([sys.executable, "-c", KILLED, address, str(tmp_path/"sweep")])
                before = log.stat().st_size if log.exists() else 0
                wait_for(lambda: child.poll() is not None or (log.exists() and log.stat().st_size > before + rng.integers(1, 1500)))
                child.send_signal(signal.SIGKILL)
                child.wait()
                if k%2: # and the last line was cut in two
                    whole = log.read_bytes()
                    log.write_bytes(whole + b'{"op_code":8,"worker_id":"x","tri')
            found = sweep(Client(http=web), RATES, tmp_path/"sweep", trials=8, at_once=3, look_s=.01)
        server.should_exit = True
        thread.join(LONG)
    jobs = Client(http=web).jobs()
    assert len(found.trials) == 8 and {t.state for t in found.trials} <= {"succeeded", "pruned"}
    assert len(jobs) == 8 and {t.job for t in found.trials} == {j["id"] for j in jobs}, (len(jobs), found.trials)
    assert {j["payload"]["config"]["lr"] for j in jobs} == {t.params["lr"] for t in found.trials}

def test_a_kill_between_the_question_and_its_answer(web, tmp_path):
    service = Client(http=web)
    def killed(*a, **k): raise SystemExit
    for name, after in (("set_trial_user_attr", 2), ("set_trial_param", 1), ("set_trial_state_values", 1), ("set_trial_user_attr", 6)):
        import optuna.storages
        count, was = itertools.count(1), getattr(optuna.storages.JournalStorage, name)
        with pytest.MonkeyPatch.context() as m, pytest.raises(SystemExit):
            m.setattr(optuna.storages.JournalStorage, name, lambda self, *a, **k: killed() if next(count) > after else was(self, *a, **k))
            with Played(web): sweep(service, RATES, tmp_path/"sweep", trials=6, at_once=2, look_s=.01)
    with Played(web): found = sweep(service, RATES, tmp_path/"sweep", trials=6, at_once=2, look_s=.01)
    assert len(found.trials) == 6 == len(service.jobs()) and {t.job for t in found.trials} == {j["id"] for j in service.jobs()}


# ---- the figures

def test_flips_are_mcnemars_test_when_everybody_calls_once():
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 2, (2, 40))
        a, b = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
        exact = min(1., 2*sum(math.comb(a + b, k) for k in range(min(a, b) + 1))/2**(a + b))
        assert abs(flips(one, other) - (1. if a == b else exact)) < 1e-12 and flips(one, other) == flips(other, one)
    assert flips([], []) == 1 and flips([1]*6, [0]*6, ["ann"]*6) == 1.

def test_chance_is_kept_within_its_bounds():
    rng, claimed, naive = np.random.default_rng(1), 0, 0
    for _ in range(400): # twelve speakers of ten calls each; who is missed depends on the speaker, and the detectors are alike
        speakers = np.repeat(np.arange(12), 10)
        one, other = (rng.random(120) < np.repeat(rng.beta(.3, 1, 12), 10) for _ in range(2))
        claimed, naive = claimed + (flips(one, other, speakers) < .05), naive + (flips(one, other) < .05)
    assert claimed/400 < .08 and naive/400 > .3

def test_the_epoch_is_the_one_that_the_trainer_keeps():
    epochs = [dict(epoch=k + 1, epochs=5, mean_false_reject_rate=m, false_reject_rate=f) for k, (m, f) in enumerate([(.0, .0), (.1, .1), (.4, .3), (.3, .5), (.3, .5)])]
    assert kept_epoch(epochs)["epoch"] == 5 and kept_epoch([*epochs[:4], {**epochs[4], "false_reject_rate": .6}])["epoch"] == 4

def chimes(n=40, seed=0):
    rng = np.random.default_rng(seed)
    noise = lambda n: rng.normal(0, .05, n).astype(np.float32)
    calls = [(f"chime {k}", chime(gain_db=rng.uniform(-36, -16)) + noise(len(chime()))) for k in range(n)]
    return Aside(calls, [(f"hall {k}", noise(10*16_000)) for k in range(4)], {}, (False, True))

def test_two_trainings_are_compared(web, tmp_path):
    service = Client(http=web)
    with Played(web): one, other, third = [j for j in (service.train("kitchen", "tiny", {"lr": lr, "epochs": 2, **more}) for lr, more in ((1e-3, {}), (3e-3, {}), (3e-3, {"data.test_share": .3}))) if j.wait()]
    found = compare(service, one.id, other.id, tmp_path/"bundles", ("low", "high"), chimes(80))
    assert found.p_missed < .05 <= found.p_wakes and found.missed[0].sum() < found.missed[1].sum()
    said = " ".join(found.claims)
    assert "low misses fewer calls: this can be claimed" in said and "false wakes nothing can be claimed" in said and "background of this test are synthetic" in said.replace("The background", "background") and "| low |" in found._repr_markdown_()
    few = compare(service, one.id, other.id, tmp_path/"bundles", ("low", "high"), chimes(6))
    assert "No difference can be claimed" in " ".join(few.claims) and few.plot().get_title() == "No difference can be claimed"
    with pytest.raises(ConfigError, match="kept different parts aside"): compare(service, one.id, third.id, tmp_path/"bundles")
    with pytest.raises(ConfigError, match="one training"): compare(service, one.id, one.id, tmp_path/"bundles")
    waiting = service.train("kitchen", "tiny")
    with pytest.raises(ServiceError, match="made no bundle: it is queued"): waiting.download(tmp_path/"none")

def test_what_was_kept_aside_is_not_what_was_learned_from(web, clips):
    service = Client(http=web)
    for k, x in enumerate(x for _, x in synthesize(draw_utterances(["computer"], 60, seed=5))): service.upload("kitchen", x, "positive", speaker=f"person {k%20}")
    job = service.train("kitchen", "tiny", {"data.test_share": .5})
    part = aside_from(service, job.id, calls=4, talk=4)
    from wakekit.data.batches import for_test
    from wakekit.data.recordings import Item
    from wakekit.data.spoken import DataConfig
    data = DataConfig.from_dict(job.now()["payload"]["data"])
    who = set(part.speakers.values())
    assert part.synthetic[0] is False and len(part.calls) >= 10 and all(for_test(Item(None, s), data) for s in who) and len([s for s in who if s.startswith("person")]) < 20
    assert aside_from(service, service.train("kitchen", "tiny").id, calls=4, talk=4).synthetic == (True, True)


# ---- in earnest

def test_a_worker_trains(web, tmp_path):
    service, s = Client(http=web), web.app.state.service
    tiny = {"epochs": 2, "steps_per_epoch": 3, "batch.batch_size": 16, "verifier.steps": 0, "data.synthetic": 0, "data.near_misses": 0, "data.filler": 12, "data.synthetic_rooms": 4}
    with in_background(Worker(s.queue, s.root, s.settings, poll_s=.1)):
        found = sweep(service, SweepPlan("kitchen", {"model.channels": [16]}, "tiny", tiny), tmp_path/"sweep", trials=1, look_s=.2)
    assert found.best.number == 0 and found.best.params == {"model.channels": 32} and found.best.clips and found.best.hours > 0 and found.best.data and found.best.minutes > 0
    history = service.get(f"/jobs/{found.best.job}/artifacts/metrics.json")
    assert kept_epoch([{**e, "epochs": 2} for e in history["training"]])["false_reject_rate"] == found.best.value and history["best_epoch"] == found.best.epoch
    bundle = Bundle.load(JobHandle(service, found.best.job).download(tmp_path/"bundle"))
    assert bundle.manifest["lineage"]["dataset_fingerprint"] == found.best.data
    from wakekit.serve.events import events
    with s.db.transaction() as t: t.execute(events.delete()) # the service forgets old events
    assert [e["epoch"] for e in epochs_of_job(service, JobHandle(service, found.best.job).now(), {})] == [1, 2]
