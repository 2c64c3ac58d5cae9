"Does a job of DBOS survive its worker, and does it run once?  python trial.py URL"
import json, os, signal, subprocess, sys, tempfile, time
WORKER = '''
import json, os, sys, time
from dbos import DBOS
url, executor, log = sys.argv[1:4]
DBOS(config={"name": "trial", "system_database_url": url, "executor_id": executor, "log_level": "ERROR", "application_version": "1", "run_admin_server": False})
def say(**f): open(log, "a").write(json.dumps(dict(pid=os.getpid(), t=round(time.time(), 2), **f)) + "\\n")
@DBOS.step()
def epoch(job, n):
    say(job=job, epoch=n)
    time.sleep(.5)
@DBOS.workflow()
def train(job):
    say(job=job, at="start")
    for n in range(8): epoch(job, n)
    say(job=job, at="end")
DBOS.launch()
DBOS.register_queue("training", worker_concurrency=1)
for job in sys.argv[4:]: DBOS.enqueue_workflow("training", train, job) if hasattr(DBOS, "enqueue_workflow") else DBOS.retrieve_queue("training").enqueue(train, job)
while True:
    time.sleep(.5)
    if os.path.exists(log + ".recover"):
        DBOS._recover_pending_workflows(open(log + ".recover").read().split())
        os.unlink(log + ".recover")
'''
def rows(log): return [json.loads(l) for l in open(log)] if os.path.exists(log) else []
def worker(url, executor, log, *jobs): return subprocess.Popen([sys.executable, "-c", WORKER, url, executor, log, *jobs], stderr=subprocess.DEVNULL if not os.environ.get("V") else None)
def until(log, f, s=40):
    end = time.time() + s
    while time.time() < end and not f(rows(log)): time.sleep(.1)
    return f(rows(log))
def trial(name, url, executors, wait=30, kill=True):
    log = tempfile.mktemp()
    a = worker(url, executors[0], log, "job")
    assert until(log, lambda r: any(x.get("epoch") == 1 for x in r)), "first worker never began"
    b = worker(url, executors[1], log)
    time.sleep(2)
    if kill: os.kill(a.pid, signal.SIGKILL)
    until(log, lambda r: sum(x.get("at") == "end" for x in r) > (0 if kill else 1), wait)
    r = rows(log)
    done = {}
    for x in r:
        if "epoch" in x: done.setdefault(x["epoch"], set()).add(x["pid"])
    print(f"{name}: finished {sum(x.get('at')=='end' for x in r)} times; epochs {sorted(done)}; run by more than one process: {[k for k, v in done.items() if len(v) > 1]}", flush=True)
    for p in (a, b):
        if p.poll() is None: p.kill()
def paused(url):
    "A worker that sleeps (a laptop lid, swapping), is taken for dead, and wakes up"
    log = tempfile.mktemp()
    a, b = worker(url, "one", log, "job"), worker(url, "two", log)
    assert until(log, lambda r: any(x.get("epoch") == 1 for x in r))
    os.kill(a.pid, signal.SIGSTOP)
    open(log + ".recover", "w").write("one")
    until(log, lambda r: any(x["pid"] == b.pid for x in r), 20)
    os.kill(a.pid, signal.SIGCONT)
    until(log, lambda r: sum(x.get("at") == "end" for x in r) > 1, 20)
    r, done = rows(log), {}
    for x in r:
        if "epoch" in x: done.setdefault(x["epoch"], set()).add("one" if x["pid"] == a.pid else "two")
    print(f"a worker that slept and was recovered by hand: finished by {['one' if x['pid'] == a.pid else 'two' for x in r if x.get('at') == 'end']}; epochs run by both: {[k for k, v in done.items() if len(v) > 1]}", flush=True)
    for p in (a, b): p.kill()
if __name__ == "__main__":
    fresh = lambda n: (sys.argv[1] + n) if len(sys.argv) > 1 else f"sqlite:///{tempfile.mkdtemp()}/dbos.sqlite"
    trial("two workers named alike, none killed", fresh("a"), ("local", "local"), 15, kill=False)
    trial("two workers with names of their own, the first one killed, 60 s waited", fresh("b"), ("one", "two"), 60)
    paused(fresh("c"))
