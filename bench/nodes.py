"""Two machines in one: network namespaces with host names of their own, joined by a cable (veth) and nothing else. Linux, root, iproute2. Prints what it saw as JSON; exit code 1 when something is wrong.

    python bench/nodes.py train      `wakekit train` on both under torchrun, and the same training in one process
    python bench/nodes.py workers    three trainings for two workers and one Postgres on the first; the second worker dies in the middle of its job

Both share one folder, as over NFS, but it is this machine's disk: file locks and slow networks are not tried, nor two GPUs.
"""
import argparse, contextlib, json, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

CABLE, PATIENCE_S = "wkcable", 240
HERE = ["10.77.0.1", "10.77.0.2"]
TINY = ["--synthetic", "40", "--preset", "tiny", "--set", "epochs=2", "--set", "steps_per_epoch=20", "--set", "verifier.steps=0", "--set", "data.near_misses=20", "--set", "data.filler=20", "--force"]


def sh(*words, check=True): return subprocess.run(list(map(str, words)), check=check, capture_output=True, text=True).stdout


class Nodes:
    "The two machines; what is started on them ends with them"
    def __init__(self, root):
        self.root, self.names, self.processes = Path(root), [f"wk{os.getpid()}{x}" for x in "ab"], []
    def __enter__(self):
        for n in self.names: sh("ip", "netns", "add", n)
        sh("ip", "link", "add", CABLE, "netns", self.names[0], "type", "veth", "peer", "name", CABLE, "netns", self.names[1])
        for n, address in zip(self.names, HERE):
            sh("ip", "-n", n, "address", "add", f"{address}/24", "dev", CABLE)
            for link in ("lo", CABLE): sh("ip", "-n", n, "link", "set", link, "up")
        return self
    def __exit__(self, *_):
        for p in self.processes:
            with contextlib.suppress(ProcessLookupError): os.killpg(p.pid, signal.SIGKILL)
            p.wait()
        for n in self.names:
            for pid in sh("ip", "netns", "pids", n, check=False).split():
                with contextlib.suppress(ProcessLookupError): os.kill(int(pid), signal.SIGKILL)
            sh("ip", "netns", "delete", n, check=False)
    def start(self, k, *words, log, **env):
        "A command on machine k"
        alone = ["ip", "netns", "exec", self.names[k], "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', f"machine-{k}"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "WAKEKIT_DEVICE": "cpu", "WAKEKIT_DATA_DIR": str(self.root/"data"), "WAKEKIT_MODELS_DIR": str(self.root/"models"), "GLOO_SOCKET_IFNAME": CABLE, **env}
        with open(self.root/log, "ab") as f: p = subprocess.Popen([*alone, *map(str, words)], cwd=self.root, env=env, stdout=f, stderr=f, start_new_session=True)
        self.processes.append(p)
        return p
    def python(self, k, code, *words, **how): return self.start(k, sys.executable, "-c", code, *words, **how)
    def wakekit(self, k, *words, **how): return self.python(k, "import sys; from wakekit.cli import main; sys.exit(main())", *words, **how)
    def said(self, log): return (self.root/log).read_text(errors="replace") if (self.root/log).exists() else ""
    def sent(self, k): return int(sh("ip", "netns", "exec", self.names[k], "cat", f"/sys/class/net/{CABLE}/statistics/tx_bytes"))
    def until(self, what, *logs):
        "Ask until the answer is no longer empty"
        end = time.monotonic() + PATIENCE_S
        while not (found := what()):
            if time.monotonic() > end: sys.exit("waited in vain:\n" + "\n".join(self.said(l)[-2000:] for l in logs))
            time.sleep(.1)
        return found


def dataset(root, name):
    "Calls and others by voices of espeak-ng"
    from wakekit.data.interchange import Dataset
    from wakekit.data.speech import speak_into
    path = root/name
    speak_into(Dataset.create(path, "computer"), 24, 24)
    return path


def epochs(dataset):
    "What the run in a dataset's folder told of each epoch"
    log, = (dataset/".wakekit").rglob("events.jsonl")
    return [json.loads(l) for l in log.read_text().splitlines() if '"kind": "epoch"' in l]


def train(nodes):
    from wakekit.ship.stream import Bundle
    folders = {n: dataset(nodes.root/"data"/"datasets", n) for n in ("alone", "both")}
    words = lambda name: ["train", name, *TINY, "--out", str(nodes.root/f"{name}.wake")]
    begun = time.monotonic()
    code = nodes.wakekit(0, *words("alone"), log="alone.txt").wait(PATIENCE_S)
    if code: sys.exit(nodes.said("alone.txt")[-3000:])
    alone_s, quiet, begun = time.monotonic() - begun, [nodes.sent(k) for k in (0, 1)], time.monotonic()
    run = [sys.executable, "-c", "import sys; from wakekit.cli import main; sys.exit(main())"]
    both = [nodes.start(k, sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, "--node-rank", k, "--master-addr", HERE[0], "--master-port", 29_500, "--no-python", *run, *words("both"), log=f"both{k}.txt") for k in (0, 1)]
    codes = [p.wait(PATIENCE_S) for p in both]
    both_s, sent = time.monotonic() - begun, [nodes.sent(k) - q for k, q in zip((0, 1), quiet)]
    if any(codes): sys.exit(f"exit codes {codes}\n" + "\n".join(nodes.said(f"both{k}.txt")[-3000:] for k in (0, 1)))
    for n in folders: Bundle.load(nodes.root/f"{n}.wake")
    told = {n: epochs(f) for n, f in folders.items()}
    losses = {n: [round(e["loss"], 3) for e in t] for n, t in told.items()}
    near = all(abs(a - b) < .3*a for a, b in zip(losses["alone"], losses["both"]))
    found = dict(loss_per_epoch=losses, missed_per_epoch={n: [round(e["mean_false_reject_rate"], 3) for e in t] for n, t in told.items()}, seconds=dict(alone=round(alone_s, 1), both=round(both_s, 1)), kb_over_the_cable=[round(b/1000) for b in sent], exit_codes=codes)
    return found, near and len(losses["both"]) == 2 and min(sent) > 100_000


JOBS = """
import json, sys
from wakekit.serve.events import Database
from wakekit.serve.queue import Queue
db = Database(sys.argv[1]); q = Queue(db)
if sys.argv[2] == "add":
    for k in range(3): print(q.enqueue("train", json.loads(sys.argv[3]), "calls").id)
else:
    events = db.events_after(0, 5000)
    print(json.dumps(dict(jobs=[dict(id=j.id, state=j.state, worker=j.worker, attempt=j.attempt, error=j.error, epochs=[e["data"]["epoch"] for e in events if (e["job_id"], e["kind"]) == (j.id, "job.epoch")]) for j in q.jobs()],
                          ended=[e["job_id"] for e in events if e["kind"] == "job.succeeded"])))
db.close()
"""


@contextlib.contextmanager
def postgres(nodes):
    "A server on the first machine that the second one reaches, as a user without rights; its address"
    bins = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:] or sys.exit("needs Postgres (Debian: apt install postgresql)")
    folder, bin = nodes.root/"pg", bins[0]
    folder.mkdir()
    shutil.chown(folder, "postgres")
    nodes.root.chmod(0o755)
    sh("su", "postgres", "-s", "/bin/sh", "-c", f"{bin}/initdb -D {folder}/data -A trust -U wakekit && echo 'host all all 10.77.0.0/24 trust' >> {folder}/data/pg_hba.conf")
    server = nodes.start(0, "su", "postgres", "-s", "/bin/sh", "-c", f"exec {bin}/postgres -D {folder}/data -k {folder} -c listen_addresses={HERE[0]}", log="postgres.txt")
    nodes.until(lambda: "ready to accept connections" in nodes.said("postgres.txt"), "postgres.txt")
    try: yield f"postgresql://wakekit@{HERE[0]}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def workers(nodes):
    from wakekit.ship.stream import Bundle
    dataset(nodes.root/"service"/"datasets", "calls")
    n = [0]
    def ask(url, *words):
        n[0] += 1
        log = f"ask{n[0]}.txt"
        if nodes.python(0, JOBS, url, *words, log=log).wait(60): sys.exit(nodes.said(log)[-2000:])
        return nodes.said(log)
    with postgres(nodes) as url:
        more = dict(WAKEKIT_DATABASE_URL=url, WAKE_TRAINING_DATA_DIR=str(nodes.root/"service"))
        ids = ask(url, "add", json.dumps(plan())).split()
        look = lambda: json.loads(ask(url, "look"))
        both = [nodes.wakekit(k, "worker", "--lease", "3", log=f"worker{k}.txt", **more) for k in (0, 1)]
        def at_work(): return {j["worker"]: j for j in look()["jobs"] if j["state"] == "running" and j["epochs"]}
        victim = nodes.until(lambda: (w := at_work()) and "machine-1-cpu" in w and w, "worker0.txt", "worker1.txt")["machine-1-cpu"]
        for pid in sh("ip", "netns", "pids", nodes.names[1]).split(): os.kill(int(pid), signal.SIGKILL) # worker and training: the power is gone
        both[1].wait()
        end = nodes.until(lambda: (l := look()) and all(j["state"] not in ("queued", "running") for j in l["jobs"]) and l, "worker0.txt")
        both[0].send_signal(signal.SIGTERM)
        code = both[0].wait(60)
    jobs = {j["id"]: j for j in end["jobs"]}
    whole = [Bundle.load(nodes.root/"service"/"jobs"/i/"export").manifest["lineage"]["job_id"] == i for i in ids if (nodes.root/"service"/"jobs"/i/"export").is_dir()]
    found = dict(jobs=[dict(state=jobs[i]["state"], attempts=jobs[i]["attempt"], last_worker=jobs[i]["worker"]) for i in ids], killed=dict(job=ids.index(victim["id"]), after_epoch=victim["epochs"][-1], epochs_told=jobs[victim["id"]]["epochs"]), succeeded_once=sorted(end["ended"]) == sorted(ids), whole_bundles=sum(whole), first_worker_left_with=code)
    taken_over = jobs[victim["id"]]
    return found, found["succeeded_once"] and whole == [True]*3 and taken_over["attempt"] == 2 and taken_over["worker"] == "machine-0-cpu" and code == 0


def plan():
    "What POST /train would queue"
    from wakekit.env import Settings
    from wakekit.serve.work import plan_training
    return plan_training(Settings.load(environ={}, env_file=""), "tiny", {"epochs": 8, "steps_per_epoch": 10, "batch.batch_size": 16, "verifier.steps": 0, "data.synthetic": 0, "data.near_misses": 0, "data.filler": 24, "data.synthetic_rooms": 4}, "en-us") | dict(force=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", choices=("train", "workers"))
    p.add_argument("--out", help="write the JSON there, too")
    a = p.parse_args()
    if sys.platform != "linux" or os.geteuid() or not shutil.which("ip"): sys.exit("needs Linux, root and iproute2")
    with tempfile.TemporaryDirectory(prefix="wakekit-nodes-", ignore_cleanup_errors=True) as root, Nodes(root) as nodes:
        (nodes.root/".env").touch()
        found, ok = dict(train=train, workers=workers)[a.part](nodes)
    text = json.dumps(dict(part=a.part, **found, right=bool(ok)), indent=1)
    if a.out: Path(a.out).write_text(text + "\n")
    print(text)
    sys.exit(not ok)


if __name__ == "__main__": main()
