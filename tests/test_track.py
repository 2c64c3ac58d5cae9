"Trackers that hang, raise, dawdle, die and come back; and a real MLflow server where there is one."
import importlib.util, json, os, signal, socket, subprocess, sys, threading, time, urllib.request
from pathlib import Path
import pytest
from wakekit.core import MissingExtraError, SettingsError
from wakekit.env import Settings
from wakekit.learn import track
from wakekit.learn.runs import append_event, epochs_of, read_events
from wakekit.learn.track import TRACKERS, MlflowTracker, Queued, figures, tracking, trackers_for

MLFLOW = os.environ.get("MLFLOW_TEST_PYTHON") or sys.executable # a Python that can run `-m mlflow server`; the client needs no package
has_mlflow = "MLFLOW_TEST_PYTHON" in os.environ or importlib.util.find_spec("mlflow") is not None
LONG = 120 # s; only what hangs takes so long


class Fake:
    "Remembers what it was told"
    def __init__(self): self.seen, self.opened = [], threading.Event()
    def start(self, run, config, tags): self.seen.append(("start", run, config, tags)); self.opened.set()
    def log(self, step, **scalars): self.seen.append(("log", step, scalars))
    def artifact(self, path): self.seen.append(("artifact", Path(path).name))
    def finish(self, status): self.seen.append(("finish", status))
    def steps(self): return [s[1] for s in self.seen if s[0] == "log"]

class Hangs(Fake):
    def start(self, *a): threading.Event().wait()

class HangsLater(Fake):
    def log(self, *a, **k): threading.Event().wait()

class Raises(Fake):
    def start(self, *a): raise RuntimeError("no")

class Slow(Fake):
    def log(self, *a, **k): time.sleep(.02); super().log(*a, **k)

def epoch(n): return dict(kind="epoch", epoch=n, epochs=9, loss=1/n, false_reject_rate=.5, mean_false_reject_rate=.4, threshold=.9, false_accepts_per_hour=.5, hours=1., clips=20, judged_on="synthetic", seconds_left=3)
def begun(folder, *epochs, **more):
    folder.mkdir(exist_ok=True)
    append_event(folder, kind="start", epoch=0, config=dict(lr=.1, model=dict(channels=8)), data="k", device="cpu", **more)
    for n in epochs: append_event(folder, **epoch(n))
    return folder
def tell(q, **event): q.put("event", append_event(q.folder, **event))
def settings(**given): return Settings.load(environ=given, device="cpu", compile="off")

@pytest.fixture
def fake(monkeypatch):
    made = []
    def use(cls):
        monkeypatch.setitem(TRACKERS, "fake", lambda settings, folder: made.append(cls()) or made[-1])
        return made
    return use


# --- the log

def test_a_line_cut_in_two_harms_no_other(tmp_path):
    begun(tmp_path, 1)
    with open(tmp_path/"events.jsonl", "ab") as f: f.write(b'{"time": 1, "kind": "epo')
    append_event(tmp_path, **epoch(2))
    assert [e["kind"] for e in read_events(tmp_path)] == ["start", "epoch", "epoch"]


def test_not_a_number_is_null_in_the_log_and_told_to_nobody(tmp_path):
    event = append_event(tmp_path, **{**epoch(1), "threshold": float("inf"), "loss": float("nan")})
    assert read_events(tmp_path)[0]["loss"] is None
    for e in (event, read_events(tmp_path)[0]): assert not {"loss", "threshold"} & figures(e)[1].keys() and "hours" in figures(e)[1]
    assert "seconds_left" not in figures(event)[1]


# --- the queue

@pytest.mark.parametrize("cls", [Hangs, HangsLater])
def test_who_hangs_is_left_behind(tmp_path, cls, caplog):
    q = Queued("fake", cls(), begun(tmp_path/"run"), size=5)
    for n in range(1, 40): tell(q, **epoch(n))
    q.stop("FINISHED", .2)
    assert q.settle() == 41 and len(q.waiting) <= 5 and caplog.text.count("was not told 41") == 1


def test_who_raises_is_reported_once(tmp_path, caplog):
    q = Queued("fake", Raises(), begun(tmp_path/"run"), wait_s=0)
    for n in range(1, 9): tell(q, **epoch(n))
    while q.failures < 50: time.sleep(.01)
    q.stop("FINISHED", LONG)
    assert q.settle() == 10 and not q.thread.is_alive()
    assert caplog.text.count("cannot be told") == 1 + (q.failures - 1)//100 and caplog.text.count("was not told") == 1


def test_epochs_that_end_in_one_moment_are_two(tmp_path):
    q = Queued("fake", Fake(), begun(tmp_path/"run", 1))
    [*_, first] = read_events(tmp_path/"run")
    q.put("event", {**first, "epoch": 2}) # the thread begins with what the file has, and is then told this
    q.stop("FINISHED", LONG)
    assert q.settle() == 0 and q.tracker.steps() == [1, 2]

def test_who_is_slow_gets_everything_in_order(tmp_path):
    q = Queued("fake", Slow(), begun(tmp_path/"run"))
    for n in range(1, 10): tell(q, **epoch(n))
    q.stop("FINISHED", LONG)
    assert q.settle() == 0 and q.tracker.steps() == list(range(1, 10)) and q.tracker.seen[-1] == ("finish", "FINISHED")


def test_who_comes_back_gets_everything_once(tmp_path):
    class Away(Fake):
        away = 3
        def log(self, step, **k):
            if step == 2 and self.away: self.away -= 1; raise ConnectionError("away")
            super().log(step, **k)
    q = Queued("fake", Away(), begun(tmp_path/"run"), wait_s=.001)
    for n in range(1, 6): tell(q, **epoch(n))
    while q.sent < 5: time.sleep(.01)
    q.stop("FINISHED", LONG)
    assert q.settle() == 0 and sorted(set(q.tracker.steps())) == [1, 2, 3, 4, 5] and len(q.tracker.seen[-5:]) == 5


def test_one_that_is_refused_does_not_hold_up_the_others(tmp_path):
    class Choosy(Fake):
        def log(self, step, **k):
            if step in (1, 3): raise ValueError("never")
            super().log(step, **k)
    q = Queued("fake", Choosy(), begun(tmp_path/"run", 1, 2)) # 1 is refused when it is told from the log, 3 when it happens
    q.put("event", read_events(tmp_path/"run")[0])
    assert q.tracker.opened.wait(LONG)
    while q.told is None: time.sleep(.01)
    for n in (3, 4): tell(q, **epoch(n))
    q.stop("FINISHED", LONG)
    assert q.settle() == 2 and q.tracker.steps() == [2, 4] and q.tracker.seen[-1] == ("finish", "FINISHED")


def test_nobody_is_told_of_a_run_that_never_began(tmp_path):
    q = Queued("fake", Fake(), tmp_path)
    q.stop("FAILED")
    assert q.settle() == 0 and not q.tracker.seen


# --- whom the settings name

def test_settings_choose(tmp_path):
    names = lambda **given: [q.name for q in trackers_for(settings(**given), tmp_path)]
    assert names() == [] and names(MLFLOW_TRACKING_URI="http://x:1") == ["mlflow"] and names(MLFLOW_TRACKING_URI="http://x:1", WAKEKIT_TRACKERS="MLflow,mlflow") == ["mlflow"]
    assert names(MLFLOW_TRACKING_URI="databricks") == [] # set for somebody else
    with pytest.raises(SettingsError, match="did you mean tensorboard.*mlflow, tensorboard"): names(WAKEKIT_TRACKERS="tensorbord")
    with pytest.raises(SettingsError, match="mlflow server"): names(WAKEKIT_TRACKERS="mlflow")
    with pytest.raises(SettingsError, match="not the address of a server"): names(WAKEKIT_TRACKERS="mlflow", MLFLOW_TRACKING_URI="sqlite:///x.db")


def test_a_missing_package_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"wakekit\[track\]"):
        with tracking(settings(WAKEKIT_TRACKERS="tensorboard"), tmp_path): raise AssertionError("began")
    assert not track._open


def test_only_the_first_of_several_processes_tells(tmp_path, monkeypatch, fake):
    made = fake(Fake)
    monkeypatch.setenv("RANK", "1")
    with tracking(settings(WAKEKIT_TRACKERS="fake"), begun(tmp_path/"run")) as told: told(dict(kind="start"))
    assert not made


@pytest.mark.parametrize("error, status", [(None, "FINISHED"), (KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_how_it_ended(tmp_path, fake, error, status):
    made = fake(Fake)
    try:
        with tracking(settings(WAKEKIT_TRACKERS="fake"), begun(tmp_path/"run"), LONG, phrase="computer") as told:
            told(append_event(tmp_path/"run", **epoch(1)))
            if error: raise error
    except (KeyboardInterrupt, ValueError): pass
    seen = made[0].seen
    assert seen[-1] == ("finish", status) and seen[-2] == ("artifact", "events.jsonl")
    _, run, config, tags = seen[0]
    assert run == "run" and config["model"] == dict(channels=8) and tags["phrase"] == "computer" and tags["data"] == "k" and tags["wakekit.version"]


# --- MLflow, with servers that are none

@pytest.fixture
def hole():
    "A port that accepts and never answers"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(50)
        yield f"http://127.0.0.1:{s.getsockname()[1]}"

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_refused_and_swallowed(tmp_path, hole, caplog):
    before = dict(os.environ)
    for name, uri in (("refused", f"http://127.0.0.1:{free_port()}"), ("hole", hole)):
        q = Queued("mlflow", MlflowTracker(uri, folder=begun(tmp_path/name), timeout_s=.2), tmp_path/name, wait_s=.01)
        for n in range(1, 5): tell(q, **epoch(n))
        while not q.failures: time.sleep(.01)
        q.stop("FINISHED", .5)
        assert q.settle() == 6 and f"({uri}" in caplog.text
    assert os.environ == before


def test_the_password_stays_out_of_messages(tmp_path, caplog):
    t = MlflowTracker(f"http://ann:se%2Fcret@127.0.0.1:{free_port()}/base/", timeout_s=.2)
    assert t.headers["Authorization"] == "Basic YW5uOnNlL2NyZXQ=" and t.uri.endswith("/base") and "ann" not in t.uri + t.remedy
    with pytest.raises(OSError) as e: t.ask("GET", "runs/get", run_id="x")
    assert "ret" not in str(e.value)


# --- a training

@pytest.fixture
def waits(monkeypatch):
    "How long the end of a run waits for its trackers, s"
    close = track.Tracking.close
    return lambda s: monkeypatch.setattr(track.Tracking, "close", lambda self, status="FINISHED", timeout_s=None: close(self, status, s))

torch = pytest.importorskip("torch") # from here on

@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    from wakekit.data.batches import prepare
    from wakekit.data.spoken import DataConfig
    return prepare(tmp_path_factory.mktemp("data"), DataConfig(phrase="computer", synthetic=30, near_misses=16, filler=12, synthetic_rooms=2, valid_voices=.3))

def tiny(*more):
    from wakekit.learn.train import preset
    return preset("tiny", ["epochs=2", "steps_per_epoch=2", "warmup_steps=2", "mine_from=1", "mine_every=1", "hard_windows=20", "batch.batch_size=32", "verifier.steps=2", "verifier.batch_size=8", *more])

def same(a, b): return all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize("cls", [Fake, Hangs, Raises])
def test_a_training_is_the_same_with_any_tracker(tmp_path, sets, fake, one_thread, waits, cls):
    from wakekit.learn.train import train
    made = fake(cls)
    waits(LONG if cls is Fake else .3)
    plain = train(sets, tiny(), tmp_path/"plain", settings(), quiet=True)
    told = train(sets, tiny(), tmp_path/"told", settings(WAKEKIT_TRACKERS="fake"), quiet=True)
    assert same(plain.model.state_dict(), told.model.state_dict()) and same(plain.verifier.state_dict(), told.verifier.state_dict())
    keep = lambda f: [{k: v for k, v in e.items() if k not in ("time", "seconds_left")} for e in read_events(f)]
    assert keep(tmp_path/"plain") == keep(tmp_path/"told") and len(made) == 1
    if cls is Fake:
        assert [(s[1], s[2]["loss"]) for s in made[0].seen if s[0] == "log" and "loss" in s[2]] == [(h["epoch"], h["loss"]) for h in told.history]
        assert made[0].seen[0][2] == json.loads(json.dumps(told.config.to_dict())) and any("verifier_loss" in s[2] for s in made[0].seen if s[0] == "log")
        assert made[0].seen[-1] == ("finish", "FINISHED")


def test_a_stopped_training_is_killed_and_goes_on_as_the_same_run(tmp_path, sets, fake, one_thread):
    from wakekit.learn.train import Trainer
    made = fake(Fake)
    def ctrl_c(event):
        if event["kind"] == "epoch": raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): Trainer(*sets, tiny(), tmp_path/"run", settings(WAKEKIT_TRACKERS="fake"), ctrl_c, quiet=True).run()
    Trainer(*sets, tiny(), tmp_path/"run", settings(WAKEKIT_TRACKERS="fake"), quiet=True).run()
    first, second = made
    assert first.seen[-1] == ("finish", "KILLED") and first.steps() == [1] and second.seen[-1] == ("finish", "FINISHED") and second.steps() == [1, 2]
    assert first.seen[0][3]["wakekit.run"] == second.seen[0][3]["wakekit.run"] and first.seen[1] == second.seen[1] # told again as it was, time and all


def test_tensorboard_has_each_epoch_once(tmp_path, sets, one_thread):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'wakekit[track]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from wakekit.learn.train import Trainer
    how = settings(WAKEKIT_TRACKERS="tensorboard")
    for _ in range(2): Trainer(*sets, tiny(), tmp_path/"run", how, quiet=True).run() # the second finds it finished
    shown = EventAccumulator(str(tmp_path/"run"/"tensorboard")).Reload()
    assert [(s.step, pytest.approx(s.value)) for s in shown.Scalars("loss")] == [(e["epoch"], e["loss"]) for e in epochs_of(tmp_path/"run")]
    assert "mean_false_reject_rate" in shown.Tags()["scalars"] and "status/text_summary" in shown.Tags()["tensors"]


# --- a real server

class Server:
    "`mlflow server` on its own port and folder, which can be killed and started again"
    def __init__(self, folder): self.folder, self.port, self.process = folder, free_port(), None
    @property
    def uri(self): return f"http://127.0.0.1:{self.port}"
    def start(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHONPATH"))}
        self.process = subprocess.Popen([MLFLOW, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"], cwd=self.folder,
            stdout=open(self.folder/"server.log", "ab"), stderr=subprocess.STDOUT, start_new_session=True, env={**env, "MLFLOW_DISABLE_TELEMETRY": "true"})
        for _ in range(LONG*2):
            try: return urllib.request.urlopen(self.uri + "/health", timeout=2).read()
            except OSError: time.sleep(.5)
        raise AssertionError((self.folder/"server.log").read_text()[-2000:])
    def kill(self):
        if self.process: os.killpg(self.process.pid, signal.SIGKILL); self.process.wait(); self.process = None
    def get(self, path, **fields): return MlflowTracker(self.uri, timeout_s=30).ask("GET" if "run_id" in fields or "experiment_name" in fields else "POST", path, **fields)

@pytest.fixture
def server(tmp_path, waits):
    waits(LONG)
    if not has_mlflow: pytest.skip("there is no `mlflow server` here: pip install mlflow, or let MLFLOW_TEST_PYTHON name a Python that has it")
    if os.name == "nt": pytest.skip("killing a group of processes needs POSIX")
    (tmp_path/"server").mkdir()
    s = Server(tmp_path/"server")
    s.start()
    yield s
    s.kill()


def test_a_real_server_dies_and_comes_back(tmp_path, sets, server, one_thread):
    "Killed after epoch 2 and started again after epoch 4: the run ends well and has every epoch, each once"
    from wakekit.learn.train import train
    run, config, how = tmp_path/"run", tiny("epochs=6"), settings(MLFLOW_TRACKING_URI=server.uri)
    def meddle(event):
        if event["kind"] != "epoch": return
        if event["epoch"] == 2: server.kill()
        if event["epoch"] == 4: server.start()
    with tracking(how, run, phrase="computer"): result = train(sets, config, run, how, meddle, quiet=True)
    kept = json.loads((run/"mlflow.json").read_text(encoding="utf-8"))
    found = server.get("runs/get", run_id=kept["run_id"])["run"]
    assert found["info"]["status"] == "FINISHED" and found["info"]["run_name"] == "run"
    for name in ("loss", "mean_false_reject_rate", "false_reject_rate", "threshold", "hours", "clips"):
        history = server.get("metrics/get-history", run_id=kept["run_id"], metric_key=name)["metrics"]
        assert [(m["step"], m["value"], m["timestamp"]) for m in sorted(history, key=lambda m: m["step"])] == [(e["epoch"], e[name], int(e["time"]*1000)) for e in epochs_of(run)]
    params, tags = ({p["key"]: p["value"] for p in found["data"][k]} for k in ("params", "tags"))
    assert params["epochs"] == "6" and params["model.channels"] == "32" and len(params) > 50 and tags["phrase"] == "computer" and tags["data"] == result.data_key
    assert [f["path"] for f in server.get("artifacts/list", run_id=kept["run_id"])["files"]] == ["events.jsonl"]
    # the same again: the same run, nothing twice
    train(sets, config, run, how, quiet=True)
    assert len(server.get("metrics/get-history", run_id=kept["run_id"], metric_key="loss")["metrics"]) == 6
    assert len(server.get("runs/search", experiment_ids=[kept["experiment_id"]])["runs"]) == 1


def test_a_real_server_that_was_away_to_the_end(tmp_path, sets, server, one_thread, caplog):
    from wakekit.learn.train import train
    run, how = tmp_path/"run", settings(MLFLOW_TRACKING_URI=server.uri)
    server.kill()
    train(sets, tiny(), run, how, quiet=True)
    assert "was not told" in caplog.text and not (run/"mlflow.json").exists()
    server.start()
    train(sets, tiny(), run, how, quiet=True)
    kept = json.loads((run/"mlflow.json").read_text(encoding="utf-8"))
    assert [m["step"] for m in server.get("metrics/get-history", run_id=kept["run_id"], metric_key="loss")["metrics"]] == [1, 2]


def test_a_run_that_began_anew_is_another_one(tmp_path, server):
    "What a kill left open in the folder is closed; long and many parameters, odd numbers, a lost number of the run"
    long = dict(text="x"*7000, **{f"p{i}": i for i in range(250)})
    first = MlflowTracker(server.uri, "words", tmp_path)
    first.start("run", long, {"wakekit.run": "a", "long": "y"*9000})
    first.log(1, time=1., loss=.5)
    (tmp_path/"again").mkdir()
    lost = MlflowTracker(server.uri, "words", tmp_path/"again") # as if the answer to its creation had been lost
    lost.start("run", long, {"wakekit.run": "a"})
    assert lost.run_id == first.run_id
    second = MlflowTracker(server.uri, "words", tmp_path)
    second.start("run", {}, {"wakekit.run": "b"})
    second.finish("FAILED")
    status = {t.run_id: server.get("runs/get", run_id=t.run_id)["run"] for t in (first, second)}
    assert [status[t.run_id]["info"]["status"] for t in (first, second)] == ["KILLED", "FAILED"]
    params = {p["key"]: p["value"] for p in status[first.run_id]["data"]["params"]}
    assert len(params) == 251 and len(params["text"]) == 6000


def test_a_dataset_is_told_with_its_bundle(tmp_path, server, one_thread):
    from wakekit.data.interchange import Dataset
    from wakekit.data.spoken import DataConfig, synthetic_items
    from wakekit.ship.quickstart import train_dataset
    data, ds = DataConfig(synthetic=40, near_misses=10, filler=24, synthetic_rooms=2, valid_voices=.3, test_voices=.3), Dataset.create(tmp_path/"d", "computer")
    for label, item in synthetic_items(data.replace(phrase="computer"), "test"):
        if label != "near_miss": ds.add(item.src, "positive" if label == "synthetic" else "negative", speaker=item.group)
    bundle = train_dataset(ds, tmp_path/"b", config=tiny(), settings=settings(MLFLOW_TRACKING_URI=server.uri), data=data, force=True)
    kept = json.loads(next(ds.path.rglob("mlflow.json")).read_text(encoding="utf-8"))
    found = server.get("runs/get", run_id=kept["run_id"])["run"]
    metrics, held_out = {m["key"]: m["value"] for m in found["data"]["metrics"]}, json.loads((bundle.path/"metrics.json").read_text(encoding="utf-8"))["held_out"]
    assert metrics["held_out.int8.false_reject_rate"] == held_out["int8"]["at_bundle_threshold"]["false_reject_rate"] and metrics["verifier_loss"] > 0
    assert {f["path"] for f in server.get("artifacts/list", run_id=kept["run_id"])["files"]} == {"README.md", "config.json", "events.jsonl", "manifest.json", "metrics.json"}
    assert found["info"]["status"] == "FINISHED" and {t["key"]: t["value"] for t in found["data"]["tags"]}["dataset"] == ds.fingerprint()
