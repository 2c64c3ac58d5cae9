"Jobs on both databases, the worker and its children, and the load and kill tests of bench/ in small."
import contextlib, json, os, shutil, signal, sqlite3, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from wakekit.core import LockError, SettingsError
from wakekit.data.interchange import Dataset
from wakekit.env import Settings
from wakekit.serve.events import SCHEMA, Database, DatabaseError, event, versions
from wakekit.serve.jobs import Child, Worker, gpu_memory, in_background, place_of, real_device
from wakekit.serve.queue import AGEING_S, JobError, LeaseLost, Queue, jobs, tallies
from wakekit.serve.work import freeze, plan_training
from wakekit.ship.stream import Bundle

ROOT = Path(__file__).parents[1]
LITTLE = {"epochs": 2, "steps_per_epoch": 4, "batch.batch_size": 16, "verifier.steps": 0, "data.synthetic": 0, "data.near_misses": 0, "data.filler": 24, "data.synthetic_rooms": 4}


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    "Trainings of many tiny tensors: more threads only wait for each other"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# ---- two databases

@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    "A Postgres server of our own, as an address without the database"
    bins = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(p) for p in [shutil.which("initdb")] if p]
    if not bins: pytest.skip("needs Postgres (Debian: apt install postgresql)")
    folder, bin, port = tmp_path_factory.mktemp("pg"), bins[-1].parent, 20_000 + os.getpid()%20_000
    root = os.geteuid() == 0
    as_user = lambda *words: subprocess.run(["su", "postgres", "-s", "/bin/sh", "-c", " ".join(map(str, words))] if root else list(map(str, words)), capture_output=True, text=True)
    if root:
        for p in [folder, *list(folder.parents)[:3]]: p.chmod(0o777 if p == folder else 0o755)
        shutil.chown(folder, "postgres")
    made = as_user(bin/"initdb", "-D", folder/"data", "-A", "trust", "-U", "wakekit")
    started = as_user(bin/"pg_ctl", "-D", folder/"data", "-l", folder/"log", "-w", "-o", f"'-p {port} -k {folder} -c listen_addresses=127.0.0.1'" if root else f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    if started.returncode: pytest.skip(f"Postgres does not start here: {made.stderr[-300:]} {started.stdout[-300:]} {started.stderr[-300:]}")
    yield f"postgresql://wakekit@127.0.0.1:{port}/"
    as_user(bin/"pg_ctl", "-D", folder/"data", "-m", "immediate", "stop")

@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    "An empty database of each kind"
    if request.param == "sqlite": return f"sqlite:///{tmp_path.as_posix()}/jobs.db"
    base, name = request.getfixturevalue("postgres"), f"t{time.time_ns()}"
    with sa.create_engine(base.replace("postgresql:", "postgresql+psycopg:") + "postgres", isolation_level="AUTOCOMMIT").connect() as c: c.execute(sa.text(f"CREATE DATABASE {name}"))
    return base + name

@pytest.fixture
def queue(url):
    db = Database(url)
    yield Queue(db)
    db.close()


def test_a_database_of_plain_bytes(postgres):
    "SQL_ASCII, as servers are made where no language is set"
    name = f"t{time.time_ns()}"
    with sa.create_engine(postgres.replace("postgresql:", "postgresql+psycopg:") + "postgres", isolation_level="AUTOCOMMIT", connect_args=dict(client_encoding="utf8")).connect() as c: c.execute(sa.text(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
    db = Database(postgres + name)
    try:
        db.tell(event("tick", n="küche"))
        assert [e["data"]["n"] for e in db.events_after(0, 5)] == ["küche"]
    finally: db.close()


def test_events_are_in_order_for_whoever_looks_meanwhile(queue):
    seen, at, kinds = [], 0, set()
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(queue.db.tell, *(event("tick", n=f"{w}.{i}.{k}") for k in range(3))) for w in range(6) for i in range(20)]
        while len(seen) < 360:
            for e in queue.db.events_after(at, 50):
                at = e["seq"]
                seen.append(e["data"]["n"])
    assert all(d.exception() is None for d in done) and len(set(seen)) == 360


def test_each_job_is_taken_once(queue):
    wanted = {queue.enqueue("train", {}).id for _ in range(40)}
    def work(name):
        got = []
        while job := queue.claim(name):
            got.append(job.id)
            queue.finish(job, "succeeded")
        return got
    with ThreadPoolExecutor(6) as pool: got = sum(pool.map(work, "abcdef"), [])
    assert len(got) == 40 and set(got) == wanted and queue.count()["succeeded"] == 40


def test_asking_twice_at_once_queues_once(queue):
    with ThreadPoolExecutor(8) as pool: ids = set(pool.map(lambda _: queue.enqueue("train", {}, once="click").id, range(16)))
    assert len(ids) == 1 and queue.count()["queued"] == 1


def test_a_worker_that_slept_may_not_write(queue):
    job = queue.enqueue("train", {}, "kitchen")
    mine = queue.claim("anna", lease_s=0)
    time.sleep(.05)
    bens = queue.claim("ben")
    assert bens.attempt == 2 and bens.strikes == 1
    for what in (lambda: queue.renew(mine), lambda: queue.finish(mine, "failed", error="x"), lambda: queue.give_back(mine, "x"), lambda: queue.renew(mine, lines=[("info", "x")])):
        with pytest.raises(LeaseLost): what()
    queue.finish(bens, "succeeded", dict(bundle="export"))
    assert queue.job(job.id).result == dict(bundle="export") and not queue.log_after(job.id)
    assert [e["kind"] for e in queue.db.events_after(0, job_id=job.id)] == ["job.queued", "job.started", "job.started", "job.succeeded"]


def test_a_job_that_was_to_be_cancelled_when_its_worker_died_is_cancelled(queue):
    job = queue.enqueue("train", {})
    queue.claim("anna", lease_s=0)
    queue.cancel(job.id)
    time.sleep(.05)
    assert queue.claim("ben") is None and queue.job(job.id).state == "cancelled"


def test_a_job_that_kills_its_workers_is_given_up_and_one_that_gets_further_is_not(queue):
    bad, good = queue.enqueue("train", {}), queue.enqueue("train", {})
    for k in range(12):
        for _ in range(2):
            if (held := queue.claim("anna", lease_s=0)) and held.id == good.id: queue.renew(held, 0, mark=k + 1.)
        time.sleep(.02)
    assert queue.job(bad.id).state == "failed" and "5 times without getting any further" in queue.job(bad.id).error
    assert queue.job(good.id).state == "running"


def tallied(queue):
    "{(what, kind, how): number}, whatever the durations were"
    found = {}
    for r in queue.db.rows(sa.select(tallies)): found[r["what"], r["kind"], r["how"]] = found.get((r["what"], r["kind"], r["how"]), 0) + r["n"]
    return found

def test_what_became_of_jobs_is_counted_by_all_workers_at_once(queue):
    for _ in range(60): queue.enqueue("train", {})
    def work(name):
        while job := queue.claim(name):
            if job.attempt == 1 and int(job.id, 16) % 2: queue.give_back(job, "killed", strike=True)
            else: queue.finish(job, ("succeeded", "failed")[int(job.id, 16) % 3 == 0])
    with ThreadPoolExecutor(6) as pool: list(pool.map(work, "abcdef"))
    ids, found = [int(j.id, 16) for j in queue.jobs()], tallied(queue)
    assert len(ids) == 60 and found == {k: v for k, v in {("lost", "train", "process"): sum(i % 2 for i in ids), ("ended", "train", "failed"): sum(i % 3 == 0 for i in ids), ("ended", "train", "succeeded"): sum(i % 3 != 0 for i in ids)}.items() if v}

def test_every_way_to_end_is_counted_once(queue):
    new = lambda: queue.claim("anna", queue.enqueue("train", {}) and 20)
    held = new()
    for _ in range(5):  # the fifth time is the last
        queue.give_back(held, "killed", strike=True)
        if queue.job(held.id).state == "queued": held = queue.claim("anna")
    assert queue.job(held.id).state == "failed" and tallied(queue) == {("lost", "train", "process"): 5, ("ended", "train", "failed"): 1}
    held = new()
    for _ in range(5):
        queue.renew(held, lease_s=-1)
        held = queue.claim("ben") or held
    assert queue.job(held.id).state == "failed" and tallied(queue) == {("lost", "train", "process"): 5, ("lost", "train", "lease"): 5, ("ended", "train", "failed"): 2}
    held = new()
    queue.cancel(held.id)
    queue.give_back(held, "the worker stops")
    lost = new()
    queue.renew(lost, lease_s=-1)
    queue.cancel(lost.id)
    assert queue.claim("ben") is None
    queue.cancel(queue.enqueue("train", {}).id)  # nobody ever had it
    for stale in (held, lost):
        with pytest.raises(LeaseLost): queue.finish(stale, "succeeded")
    queue.give_back(given := new(), "the worker stops")  # in good order
    assert queue.claim("ben").id == given.id
    assert tallied(queue) == {("lost", "train", "process"): 5, ("lost", "train", "lease"): 6, ("ended", "train", "failed"): 2, ("ended", "train", "cancelled"): 2}

def test_a_job_that_took_longer_than_any_bound_is_counted(queue):
    queue.enqueue("train", {})
    held = queue.claim("anna")
    with queue.db.transaction() as t: t.execute(jobs.update().values(started=jobs.c.started - 400_000, queued=jobs.c.queued - 400_000))
    queue.finish(held, "succeeded")
    [row] = queue.db.rows(sa.select(tallies))
    assert row["upto"] == float("inf") and 400_000 <= row["seconds"] < 400_100


def test_numbers_for_prometheus_come_from_both_databases(queue):
    from wakekit.serve.training import Underway, queue_numbers
    for _ in range(3): queue.enqueue("train", {}, "kitchen")
    queue.finish(queue.claim("anna"), "failed")
    held = queue.claim("anna")
    queue.renew(held, progress=dict(stage="training", fraction=.5), happened=[event("job.epoch", held.id, epoch=2, loss=.25)])
    with queue.db.transaction() as t: t.execute(jobs.update().where(jobs.c.state == "queued").values(queued=jobs.c.queued - 500))
    found = {name: values for name, _, values, _ in queue_numbers(queue)}
    assert {k: n for k, n in found["jobs"].items() if n} == {("train", s): 1 for s in ("queued", "running", "failed")} and 500 <= found["queue_oldest_seconds"]["train",] < 600
    assert sum(found["job_seconds"]["train", "failed"][1].values()) == 1 and not any(found["job_attempts_lost_total"].values())
    [(key, about)] = Underway(queue).look().items()
    assert key == (held.id, "train", "kitchen") and (about["loss"], about["fraction"]) == (.25, .5)


def test_nobody_starves(queue):
    low = queue.enqueue("train", {}, priority=-10)
    for _ in range(3): queue.enqueue("train", {}, priority=10)
    assert queue.claim("a").id != low.id
    with queue.db.transaction() as t: t.execute(jobs.update().where(jobs.c.id == low.id).values(queued=jobs.c.queued - 21*AGEING_S))
    assert queue.claim("a").id == low.id


def test_states_forbid(queue):
    job = queue.enqueue("train", {})
    assert queue.retry(job.id).state == "queued" and queue.cancel(job.id).state == queue.cancel(job.id).state == "cancelled"
    assert queue.retry(job.id, dict(force=True)).payload == dict(force=True)
    queue.finish(queue.claim("a"), "failed", error="why")
    with pytest.raises(JobError, match="has failed: there is nothing to stop"): queue.cancel(job.id)
    for id in ("nobody", "0"*12, "a\0b", "é"*12):
        with pytest.raises(JobError) as e: queue.job(id)
        assert e.value.missing


def test_a_database_of_a_newer_wakekit_is_left_alone(queue, url):
    with queue.db.transaction() as t: t.execute(versions.update().values(version=SCHEMA + 1))
    with pytest.raises(DatabaseError, match="newer wakekit"): Database(url)


def test_a_database_that_is_away_says_so():
    with pytest.raises(DatabaseError, match="Is it running") as e: Database("postgresql://wakekit:secret@127.0.0.1:9/nothing")
    assert "secret" not in str(e.value)


def test_a_cancel_that_crosses_a_death_is_a_cancel(queue):
    job = queue.enqueue("train", {}, "kitchen")
    held = queue.claim("anna")
    queue.cancel(job.id)
    queue.give_back(held, "its process was killed", strike=True)
    assert queue.job(job.id).state == "cancelled" and queue.claim("ben") is None
    assert [e["kind"] for e in queue.db.events_after(0)][-1] == "job.cancelled"


def test_following_a_long_job_reaches_its_end(queue):
    job = queue.enqueue("train", {})
    held = queue.claim("anna")
    queue.renew(held, happened=[event("job.progress", job.id, n=i) for i in range(2500)])
    queue.renew(held, lines=[("info", "a\0b")])
    queue.finish(held, "succeeded")
    happened = list(queue.follow(job.id, timeout_s=60))
    assert len(happened) == 2503 and happened[-1]["kind"] == "job.succeeded" and queue.log_after(job.id)[0]["message"] == "a b"


def test_going_back_twice_goes_back_once(tmp_path):
    from wakekit.core import read_json, write_json
    from wakekit.serve.registry import Registry
    from wakekit.serve.work import run_deployment
    from wakekit.ship.deploy import releases
    from wakekit.ship.targets import Target, add_target
    from wakekit.ship.toy import toy_bundle
    registry, target, told = Registry(tmp_path/"models"), Target("kitchen", str(tmp_path/"device")), SimpleNamespace(say=lambda **what: None)
    add_target(tmp_path/"devices.json", target)
    settings = Settings(models_dir=tmp_path/"models", training_dir=tmp_path)
    for k in (1, 2):
        toy_bundle(tmp_path/f"b{k}")
        write_json(tmp_path/f"b{k}"/"manifest.json", {**read_json(tmp_path/f"b{k}"/"manifest.json"), "created": str(k)})
        registry.promote("m", tmp_path/f"b{k}")
        (folder := tmp_path/"jobs"/str(k)).mkdir(parents=True)
        run_deployment(dict(payload=dict(action="deploy", device="kitchen", model="m", number=k)), folder, settings, told)
    (folder := tmp_path/"jobs"/"back").mkdir()
    for _ in range(2): run_deployment(dict(payload=dict(action="rollback", device="kitchen", version=None)), folder, settings, told)
    assert next(r.version for r in releases(target) if r.current) == registry.version("m", 1)["version"]
    shutil.rmtree(tmp_path/"models"/"m"/"1")
    assert registry.promote("m", tmp_path/"b1")["current"] == 1 and Bundle.load(tmp_path/"models"/"m"/"1") and len(registry.about("m")["versions"]) == 2


# ---- the memory of a GPU

@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    "A tool of that name, which runs a few lines of shell; None: there is none"
    if os.name == "nt": pytest.skip("needs a shell script that can be run")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    def says(code, mode=0o755):
        (tmp_path/"nvidia-smi").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{code}\n")
        (tmp_path/"nvidia-smi").chmod(mode)
    return says

CSV = "2317, 81559" # MiB, as `--format=csv,noheader,nounits` prints them

def test_memory_of_a_gpu_is_what_the_tool_says(nvidia_smi, tmp_path, monkeypatch):
    assert gpu_memory("cuda") == {}  # no tool
    nvidia_smi(f"echo $@ > {tmp_path}/asked; echo '{CSV}'")
    assert gpu_memory("cuda:1") == dict(gpu_memory_mb=2430, gpu_memory_total_mb=85521)
    asked = lambda: (tmp_path/"asked").read_text().split()
    assert asked() == ["--id=1", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    for visible, device, id in (("3,5", "cuda:1", "5"), ("GPU-8f3c0f2a-11e8, GPU-77", "cuda", "GPU-8f3c0f2a-11e8"), ("", "cuda", "0"), ("2", "cuda:0", "2")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_memory(device) and asked()[0] == f"--id={id}"
    (tmp_path/"asked").unlink()
    assert gpu_memory("cpu") == gpu_memory("mps") == {} and not (tmp_path/"asked").exists()

@pytest.mark.parametrize("code", ["echo '[N/A], [N/A]'", "echo '[Not Supported], [Not Supported]'", "echo No devices were found; exit 6", f"echo '{CSV}'; exit 9", f"echo '{CSV}'; echo '{CSV}'", "echo 2317 MiB, 81559 MiB", "printf '\\377'", "true", "kill -9 $$"])
def test_a_tool_that_knows_nothing_tells_nothing(nvidia_smi, code):
    nvidia_smi(code)
    assert gpu_memory("cuda") == {}

def test_a_tool_that_hangs_or_cannot_be_run_holds_nobody_up(nvidia_smi, tmp_path, monkeypatch):
    monkeypatch.setattr("wakekit.serve.jobs.GPU_PATIENCE_S", .3)
    monkeypatch.setattr("wakekit.serve.jobs._stuck", [float("-inf")])
    nvidia_smi(f"echo $$ > {tmp_path}/pid; exec sleep 600")
    assert gpu_memory("cuda") == {}
    end = time.monotonic() + 30
    while (pid := (tmp_path/"pid").exists() and (tmp_path/"pid").read_text().strip()) and psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE and time.monotonic() < end: time.sleep(.02)
    assert not pid or not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    nvidia_smi(f"echo '{CSV}'")
    assert gpu_memory("cuda") == {}  # not asked again for a while
    monkeypatch.setattr("wakekit.serve.jobs._stuck", [float("-inf")])
    assert gpu_memory("cuda")
    (tmp_path/"nvidia-smi").write_bytes(b"\x7fELF of another machine")
    assert gpu_memory("cuda") == {}

def test_a_child_on_a_gpu_tells_its_memory(nvidia_smi, tmp_path, monkeypatch):
    monkeypatch.setattr("wakekit.serve.jobs._RUN", "import time; time.sleep(600)")
    nvidia_smi(f"echo '{CSV}'")
    job = SimpleNamespace(id="0"*12, kind="train", dataset="kitchen", payload={})
    for device, known in (("cuda:0", True), ("cpu", False)):
        child = Child(job, tmp_path, tmp_path, dict(device=device))
        try: uses = child.uses()
        finally: child.kill()
        assert uses["memory_mb"] > 0 and (uses.get("gpu_memory_mb") == 2430) == known


# ---- the worker and its child

@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    "A dataset that can be trained on"
    from wakekit.data.speech import speak_into
    ds = Dataset.create(tmp_path_factory.mktemp("calls")/"kitchen", "computer")
    speak_into(ds, 24, 24)
    return ds.path

@pytest.fixture
def root(tmp_path, calls):
    shutil.copytree(calls, tmp_path/"datasets"/"kitchen")
    return tmp_path

@pytest.fixture
def here(root):
    "(queue, worker that is not running yet)"
    db = Database(f"sqlite:///{root.as_posix()}/wakekit.db", patience_s=2)
    queue = Queue(db)
    yield queue, Worker(queue, root, Settings(device="cpu"), lease_s=8, grace_s=20)
    db.close()

def training(queue, force=True, **more):
    return queue.enqueue("train", {**plan_training(Settings(), "tiny", {**LITTLE, **more}), "force": force}, "kitchen")

def child_of(here, timeout_s=300):
    "The process that does a job"
    end = time.time() + timeout_s
    while time.time() < end:
        found = [p for p in psutil.Process().children(recursive=True) if "serve.work" in " ".join(p.cmdline())]
        if found: return found[0]
        time.sleep(.02)
    raise AssertionError("no child was started")

def until(queue, id, kind, timeout_s=300):
    for e in queue.follow(id, timeout_s=timeout_s):
        if e["kind"] == kind: return e
    raise AssertionError(f"{queue.job(id).state}: {queue.job(id).error} {queue.log_after(id)[-5:]}")


def test_killed_training_goes_on_from_its_checkpoint(here, root):
    queue, worker = here
    job = training(queue, epochs=4)
    with in_background(worker):
        until(queue, job.id, "job.epoch")
        child = child_of(here)
        child.kill()
        for e in queue.follow(job.id, timeout_s=300): pass
    happened = queue.db.events_after(0, 5000, job.id)
    resumed = [e["data"] for e in happened if e["kind"] == "job.training"]
    done = queue.job(job.id)
    assert done.state == "succeeded" and done.attempt == 2, done
    assert resumed[0]["epoch"] == 0 and resumed[1]["epoch"] >= 1
    assert [e["data"]["reason"] for e in happened if e["kind"] == "job.waiting"] == ["its process was killed (SIGKILL); was the machine out of memory?"]
    bundle = Bundle.load(place_of(root, job)/"export")
    assert bundle.manifest["lineage"] | {"dataset_fingerprint": ""} == dict(job_id=job.id, dataset="kitchen", dataset_fingerprint="", clips=dict(positive=24, negative=24, noise=0), preset="tiny")
    fractions = [e["data"]["fraction"] for e in happened if e["kind"] == "job.progress"]
    assert fractions and max(fractions) < 1 and done.progress["fraction"] == 1


def test_a_child_does_not_outlive_its_worker(here, root):
    queue, _ = here
    job = training(queue, epochs=2000)
    code = "import sys; from wakekit.cli import main; sys.exit(main())"
    (root/".env").touch()
    env = {**os.environ, "WAKEKIT_DATA_DIR": str(root), "WAKE_TRAINING_DATA_DIR": str(root), "WAKEKIT_DEVICE": "cpu"}
    p = subprocess.Popen([sys.executable, "-c", code, "worker", "--lease", "2", "--env-file", str(root/".env")], cwd=root, env=env, stderr=subprocess.DEVNULL)
    until(queue, job.id, "job.epoch")
    child = child_of(here)
    p.kill()
    p.wait()
    child.wait(60)
    time.sleep(2.5)
    again = queue.claim("another", kinds=("train",))
    assert again.id == job.id and again.attempt == 2
    queue.finish(again, "cancelled")


def test_cancel_leaves_a_whole_checkpoint_and_retry_goes_on(here, root):
    queue, worker = here
    job = training(queue, epochs=2000)
    with in_background(worker):
        until(queue, job.id, "job.epoch")
        queue.cancel(job.id)
        for e in queue.follow(job.id, timeout_s=300): pass
    assert queue.job(job.id).state == "cancelled"
    last = queue.db.last_seq()
    with in_background(Worker(queue, root, Settings(device="cpu"))):
        queue.retry(job.id)
        for e in queue.follow(job.id, last, timeout_s=300):
            if e["kind"] == "job.training": break
        assert e["data"]["epoch"] >= 1
        queue.cancel(job.id)
        for e in queue.follow(job.id, e["seq"], timeout_s=300): pass
    assert queue.job(job.id).state == "cancelled"


def test_a_training_ends_when_its_worker_hears_nothing_from_the_database_and_goes_on_later(here, root):
    queue, worker = here
    job = training(queue, epochs=2000)
    with in_background(worker):
        until(queue, job.id, "job.epoch")
        child = child_of(here)
        with contextlib.closing(sqlite3.connect(root/"wakekit.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE") # nobody else can write, so no lease can be renewed
            gone, _ = psutil.wait_procs([child], timeout=60)
            assert gone
            other.execute("ROLLBACK")
        starts = [e["data"] for e in until_second(queue, job.id, "job.started")]
    assert [s["attempt"] for s in starts] == [1, 2] and starts[1]["abandoned_by"]

def until_second(queue, id, kind):
    found = []
    for e in queue.follow(id, timeout_s=120):
        found += [e] if e["kind"] == kind else []
        if len(found) == 2: return found


def test_what_was_said_while_the_database_was_away_is_written_later_in_order(here, root):
    queue, worker = here
    job = queue.enqueue("train", {})
    held, said = queue.claim("anna"), [[dict(log=["info", f"line {n}"])] for n in range(6)]
    class Talking:
        "A child that says something whenever it is asked"
        class process:
            wait = staticmethod(lambda s: None)
            poll = staticmethod(lambda: None if said else 0)
        def heard(self, everything=False): return said.pop(0) if said else []
    renew, fails = queue.renew, iter([False, True, True, False, True])
    def flaky(*a, **k):
        if next(fails, False): raise DatabaseError("away")
        return renew(*a, **k)
    queue.renew = flaky
    worker._watch(held, Talking())
    assert [l["message"] for l in queue.log_after(job.id)] == [f"line {n}" for n in range(6)]


def test_stopping_a_worker_gives_its_job_back(here, root):
    queue, worker = here
    job = training(queue, epochs=2000)
    with in_background(worker): until(queue, job.id, "job.epoch")
    waiting = queue.job(job.id)
    assert waiting.state == "queued" and waiting.strikes == 0 and not queue.alive()


def test_gates_that_fail_are_a_failed_job_and_force_exports(here, root):
    queue, worker = here
    job = training(queue, force=False)
    with in_background(worker):
        for e in queue.follow(job.id, timeout_s=300): pass
        assert queue.job(job.id).state == "failed" and "fails its gates" in queue.job(job.id).error, queue.job(job.id)
        queue.retry(job.id, dict(force=True))
        for e in queue.follow(job.id, e["seq"], timeout_s=300): pass
    assert queue.job(job.id).state == "succeeded" and Bundle.load(place_of(root, job)/"export").manifest["gates"]["forced"]


def test_the_dataset_may_go_while_its_job_runs(here, root):
    queue, worker = here
    job = training(queue)
    with in_background(worker):
        until(queue, job.id, "job.training")
        shutil.rmtree(root/"datasets"/"kitchen")
        for e in queue.follow(job.id, timeout_s=300): pass
    assert queue.job(job.id).state == "succeeded"


def test_a_frozen_dataset_does_not_change(tmp_path, calls):
    shutil.copytree(calls, tmp_path/"d")
    ds = Dataset.open(tmp_path/"d")
    frozen = freeze(ds.path, tmp_path/"job")
    before, first = frozen.fingerprint(), ds.clips()[0]
    ds.update(first.id, label="noise")
    ds.trash(ds.clips()[1].id)
    ds.purge()
    assert Dataset.open(tmp_path/"job"/"dataset").fingerprint() == before
    lines = [json.loads(l) for l in (tmp_path/"job"/"clips.jsonl").read_text().splitlines()]
    assert len(lines) == 48 and next(l for l in lines if l["id"] == first.id)["label"] == first.label


def test_one_worker_per_device(here, root):
    queue, worker = here
    with in_background(worker):
        while not queue.alive(): time.sleep(.05)
        with pytest.raises(LockError): Worker(queue, root, Settings(device="cpu")).run()
        Worker(queue, root, Settings(device="cpu"), "second").run(until_idle=True)


def test_a_device_that_is_not_there_is_refused_at_once():
    with pytest.raises(SettingsError, match="cuda:77"): real_device("cuda:77")


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root on Linux to mount a small disk")
def test_full_disk_in_training(here, root, tmp_path):
    queue, worker = here
    job = training(queue, epochs=3)
    folder = place_of(root, job)
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode: pytest.skip("this machine does not let us mount a small disk")
    try:
        with in_background(worker):
            for e in queue.follow(job.id, timeout_s=300): pass
            assert queue.job(job.id).state == "failed" and "Free some space" in queue.job(job.id).error, queue.job(job.id)
            assert not (folder/"export").exists()
            subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)
            queue.retry(job.id)
            for e in queue.follow(job.id, e["seq"], timeout_s=300): pass
        assert queue.job(job.id).state == "succeeded" and Bundle.load(folder/"export")
    finally:
        subprocess.run(["umount", folder])


# ---- what bench/ measures, in small

def bench(*words):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout.strip(), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)

def test_kills_lose_nothing():
    code, found = bench("bench/kill.py", "--rounds", 5, "--longest", 3)
    assert code == 0 and found["wrong"] == [] and found["clips"] > 0 and found["jobs"], found

def test_listeners_miss_nothing():
    code, found = bench("bench/load.py", "listeners", "--events", 3000, "--listeners", 10)
    assert code == 0 and found["missed"] == found["out_of_order"] == 0 and found["reconnects"] > 0, found

def test_uploads_are_all_stored():
    _, found = bench("bench/load.py", "uploads", "--quiet", "--uploads", 5, "--clips", 40)
    assert found["stored"] == 200 and found["refused"] == "0 []" and found["peak_mb"] < 300, found

def test_the_service_and_its_workers_load_no_torch():
    code = "import sys; from wakekit.env import Settings; import wakekit.serve.training, wakekit.serve.jobs, wakekit.serve.client; wakekit.serve.work.plan_training(Settings()); print([m for m in ('torch', 'librosa', 'scipy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
