"""Kill the training service, its worker, the trainings and the deployments at random moments, again and again, while clips are uploaded and jobs queued.

    python bench/kill.py --rounds 200
    python bench/kill.py --rounds 200 --database postgresql://user@host/name

Most jobs are trainings that shall succeed. Others fail at a gate, are cancelled, tried again, deleted; models are promoted and brought to a device, which is a folder here.
At the end nothing that was answered may be missing: every clip is there with the samples that were sent, every job has gone from state to state as it may and ended as it should, every bundle is whole, on the device, too.
Exit code 1 when that is not so. One JSON document on stdout.
"""
import argparse, hashlib, io, json, os, random, signal, sys, tempfile, threading, time, wave
from collections import Counter
from pathlib import Path
import httpx2 as httpx
import numpy as np
import psutil
from service import free_port, wakekit

PLANS = ["succeed"]*4 + ["fail", "fail, then succeed", "fail, then be deleted", "be cancelled", "be cancelled, then succeed"] + ["ship"]*4
AFTER = {None: ["queued"], "queued": ["started", "cancelled"], "running": ["started", "waiting", "succeeded", "failed", "cancelled", "cancelling"], "succeeded": ["deleted"], "failed": ["queued", "deleted"], "cancelled": ["queued", "deleted"]} # State → what may happen
TINY = {"epochs": 3, "steps_per_epoch": 4, "batch.batch_size": 16, "verifier.steps": 0, "data.synthetic": 0, "data.near_misses": 0, "data.filler": 24, "data.synthetic_rooms": 4}


def wav(rng, seconds=.4):
    "A recording that nobody has sent before, as bytes, and the SHA-256 of its samples"
    pcm, out = (rng.normal(0, 3000, int(16_000*seconds))).astype("<i2"), io.BytesIO()
    with wave.open(out, "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(16_000)
        w.writeframes(pcm.tobytes())
    return out.getvalue(), hashlib.sha256(pcm.tobytes()).hexdigest()


class Trial:
    "Service and worker that are started again whenever they are gone"
    def __init__(self, root, database, seed, lease_s):
        self.root, self.rng, self.lease_s = root, random.Random(seed), lease_s
        self.port = free_port()
        self.env = {**os.environ, "WAKEKIT_DATA_DIR": str(root), "WAKE_TRAINING_DATA_DIR": str(root/"service"), "WAKEKIT_MODELS_DIR": str(root/"models"), "WAKEKIT_DEVICE": "cpu",
                    "WAKEKIT_DATABASE_URL": database, "OMP_NUM_THREADS": "1"}
        self.enough, self.over, self.processes, self.clips, self.jobs, self.open, self.kills, self.lock = False, False, {}, {}, {}, {}, Counter(), threading.Lock()
        self.web = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def start(self, what):
        more = ["serve", "training", "--no-worker", "--port", str(self.port)] if what == "service" else ["worker", "--lease", str(self.lease_s), "--strikes", "100000"]
        self.processes[what] = wakekit(self.root, *more, env=self.env)

    def keep_up(self):
        while not self.over:
            with self.lock:
                for what in ("service", "worker"):
                    if what not in self.processes or self.processes[what].poll() is not None: self.start(what)
            time.sleep(.1)

    def ask(self, method, path, **how):
        "Ask until there is an answer"
        while not self.over:
            try: r = self.web.request(method, path, **how)
            except httpx.TransportError: r = None
            if r is not None and r.status_code < 500: return r
            time.sleep(.1)

    def upload(self, seed):
        rng = np.random.default_rng([seed, 1])
        while not self.over:
            data, sha = wav(rng)
            r = self.ask("POST", "/datasets/load/recordings?label=noise", content=data, headers={"Content-Type": "audio/wav"})
            if r is None: return
            assert r.status_code in (200, 201), r.text
            self.clips[r.json()["id"]] = sha
            time.sleep(.05)

    def queue_jobs(self):
        "Two jobs wait at any time; each is treated as its plan says"
        while not self.over and not (self.enough and not self.open):
            waiting = self.ask("GET", "/jobs", params=dict(state="queued"))
            if waiting is None: return
            if len(waiting.json()["jobs"]) < 2 and not self.enough: self.queue_one(self.rng.choice(PLANS))
            for id, plan in list(self.open.items()): self.tend(id, plan)
            time.sleep(.5)

    def queue_one(self, plan):
        "Queue a job, once, however often the answer is lost"
        key, done = {"Idempotency-Key": f"{len(self.jobs)}-{self.rng.random()}"}, next((k for k, p in self.jobs.items() if p == "succeed" and k not in self.open), None)
        if plan == "ship" and done is None: plan = "succeed" # something to ship
        if plan == "ship":
            r = self.ask("POST", "/models/load/promote", json=dict(job_id=done))
            if r is None or r.status_code == 409: return # it has not succeeded yet
            assert r.status_code == 200, r.text
            r = self.ask("POST", "/devices/shelf/deploy", json=dict(model="load", force=True), headers=key)
        else: r = self.ask("POST", "/train", json=dict(dataset="calls", preset="tiny", config_overrides=TINY, force=not plan.startswith("fail")), headers=key)
        if r is None: return
        assert r.status_code == 202, r.text
        self.jobs[r.json()["id"]] = plan
        if "," in plan or "cancelled" in plan: self.open[r.json()["id"]] = plan

    def tend(self, id, plan):
        "Do what is to be done about a job in its state"
        job = self.ask("GET", f"/jobs/{id}")
        if job is None: return
        if job.status_code == 404: return self.open.pop(id) # deleted; the answer was lost
        state = job.json()["state"]
        if "cancelled" in plan and state in ("queued", "running") and self.rng.random() < .3: self.ask("POST", f"/jobs/{id}/cancel")
        elif state == "succeeded" or (plan == "be cancelled" and state == "cancelled"): self.open.pop(id)
        elif state in ("failed", "cancelled") and plan.endswith("deleted"): self.ask("DELETE", f"/jobs/{id}")
        elif state in ("failed", "cancelled") and plan.endswith("succeed"):
            self.ask("POST", f"/jobs/{id}/retry", json=dict(force=True))
            self.open.pop(id)

    def victim(self):
        "A process to kill, and what it is"
        what = self.rng.choice(("service", "worker", "training", "training", "deployment"))
        p = self.processes.get(dict(training="worker", deployment="service").get(what, what))
        if p is None or p.poll() is not None: return what, None
        if what in ("service", "worker"): return what, p.pid
        try: children = psutil.Process(p.pid).children()
        except psutil.Error: return what, None
        return what, children[0].pid if children else None

    def round(self, longest_s):
        time.sleep(self.rng.uniform(.1, longest_s))
        what, pid = self.victim()
        while pid is None:
            time.sleep(.05)
            what, pid = self.victim()
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: return
        self.kills[what] += 1


def prepare(trial):
    "A dataset that can be trained on, an empty one for the uploads, and a device"
    from wakekit.ship.targets import Target, add_target
    from wakekit.data.interchange import Dataset
    from wakekit.data.speech import speak_into
    speak_into(Dataset.create(trial.root/"service"/"datasets"/"calls", "computer"), 24, 24)
    add_target(trial.root/"service"/"devices.json", Target("shelf", str(trial.root/"shelf")))
    r = trial.ask("POST", "/datasets", json=dict(name="load", phrase="computer"))
    assert r.status_code in (201, 409), r.text


def check(trial):
    "What is wrong at the end; empty when nothing is"
    from wakekit.data.audio import load_audio, to_int16
    from wakekit.data.interchange import Dataset
    from wakekit.serve.events import Database
    from wakekit.serve.queue import Queue
    from wakekit.ship.stream import Bundle
    wrong, ds, db = [], Dataset.open(trial.root/"service"/"datasets"/"load"), Database(trial.env["WAKEKIT_DATABASE_URL"])
    there = {c.id: c for c in ds.clips()}
    for id, sha in trial.clips.items():
        if id not in there: wrong.append(f"clip {id} was answered and is gone")
        elif hashlib.sha256(to_int16(load_audio(there[id].path)).astype("<i2").tobytes()).hexdigest() != sha: wrong.append(f"clip {id} is not what was sent")
    if ds.problems: wrong.append(f"unusable files: {ds.problems[:3]}")
    events, at = [], 0
    while page := db.events_after(at, 5000): events, at = events + page, page[-1]["seq"]
    added = Counter(e["data"]["clip"] for e in events if e["kind"] == "clip.added")
    wrong += [f"clip {c} was announced {n} times" for c, n in added.items() if n != 1]
    left = {j.id: j for j in Queue(db).jobs(limit=100_000)}
    for id, plan in trial.jobs.items():
        job, folder, state, ends = left.get(id), trial.root/"service"/"jobs"/id, None, Counter()
        for kind in (e["kind"].partition(".")[2] for e in events if e["job_id"] == id):
            if kind not in ("queued", "started", "waiting", "succeeded", "failed", "cancelled", "cancelling", "deleted"): continue
            if kind not in AFTER[state]: wrong.append(f"job {id}: {kind} after {state}")
            ends[kind] += 1
            state = dict(started="running", waiting="queued", cancelling="running").get(kind, kind)
        if ends["succeeded"] > 1: wrong.append(f"job {id} succeeded {ends['succeeded']} times")
        if plan.endswith("deleted"):
            if job or folder.exists() or state != "deleted": wrong.append(f"job {id} was deleted, and is {state}")
            continue
        if job is None or job.state != state: wrong.append(f"job {id} is {job and job.state}, its events say {state}")
        elif state not in {"fail": ("failed",), "be cancelled": ("cancelled", "succeeded")}.get(plan, ("succeeded",)): wrong.append(f"job {id} should {plan}, and is {state}: {job.error}")
        elif state == "succeeded" and plan != "ship":
            try:
                if Bundle.load(folder/"export").manifest["lineage"]["job_id"] != id: wrong.append(f"job {id} has the bundle of another")
            except Exception as e: wrong.append(f"job {id}: {e}")
            rest = sorted(p.name for p in folder.iterdir() if p.name not in ("export", "heard", "run.jsonl", "clips.jsonl", ".lock", ".export.lock"))
            if rest: wrong.append(f"job {id} left {rest}")
    if "ship" in trial.jobs.values():
        try: Bundle.load(trial.root/"shelf"/"current")
        except Exception as e: wrong.append(f"on the device: {e}")
    if extra := set(left) - set(trial.jobs): wrong.append(f"{len(extra)} jobs that nobody was told of: {sorted(extra)[:3]}")
    attempts = [j.attempt for j in left.values()]
    db.close()
    return wrong, dict(clips=len(trial.clips), unanswered_clips=len(there) - len(trial.clips), unannounced_clips=len(set(trial.clips) - set(added)), jobs=dict(Counter(trial.jobs.values())), attempts=sum(attempts), most_attempts=max(attempts, default=0), events=len(events))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=200)
    p.add_argument("--database", default="", help="default: SQLite in the data root")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--longest", type=float, default=6., help="between two kills, s")
    p.add_argument("--root", default="", help="default: a temporary folder")
    a = p.parse_args()
    root = Path(a.root or tempfile.mkdtemp(prefix="wakekit-kill-")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    trial, begun = Trial(root, a.database or f"sqlite:///{root.as_posix()}/wakekit.db", a.seed, lease_s=3), time.time()
    threads = [threading.Thread(target=trial.keep_up, daemon=True)]
    threads[0].start()
    prepare(trial)
    threads += [threading.Thread(target=trial.upload, args=(k,), daemon=True) for k in range(2)]
    submitting = threading.Thread(target=trial.queue_jobs, daemon=True)
    for t in [*threads[1:], submitting]: t.start()
    for n in range(a.rounds):
        trial.round(a.longest)
        if (n + 1)%10 == 0: print(f"{n + 1} kills, {len(trial.clips)} clips, {len(trial.jobs)} jobs", file=sys.stderr, flush=True)
    trial.enough, deadline = True, time.time() + 900
    submitting.join()
    while time.time() < deadline:
        states = Counter(j["state"] for j in trial.ask("GET", "/jobs", params=dict(limit=1000)).json()["jobs"])
        if not states["queued"] and not states["running"]: break
        time.sleep(1)
    trial.over = True
    time.sleep(1.5)
    with trial.lock:
        for q in trial.processes.values(): q.terminate()
        for q in trial.processes.values(): q.wait(60)
    wrong, found = check(trial)
    print(json.dumps(dict(rounds=a.rounds, database=(a.database or "sqlite").split(":")[0], seconds=round(time.time() - begun), kills=dict(trial.kills), **found, wrong=wrong[:20]), indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__": main()
