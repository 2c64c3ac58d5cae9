"""What the training service bears: uploads, listing, restarts, listeners. Each part prints its figures as JSON; exit code 1 when a mark is missed.

    python bench/load.py uploads              50 requests of 200 clips at once, a training beside them, somebody listing datasets all the time
    python bench/load.py uploads --single     the same clips, each in a request of its own, over 50 connections
    python bench/load.py restart              1,000 datasets with 100 clips each: how soon does the service answer?
    python bench/load.py listeners            10,000 events to 100 sockets that come and go, one of them asleep
"""
import argparse, asyncio, io, json, os, random, resource, shutil, signal, statistics, subprocess, sys, tempfile, threading, time, wave
from pathlib import Path
import numpy as np
from service import Service


def wav(rng, seconds):
    pcm, out = rng.normal(0, 3000, int(16_000*seconds)).astype("<i2"), io.BytesIO()
    with wave.open(out, "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(16_000)
        w.writeframes(pcm.tobytes())
    return out.getvalue()


class Training(Service):
    "A training service whose worker, if there is one, is a process of its own"
    def __init__(self, root):
        root = Path(root).resolve()
        super().__init__(root, "serve", "training", "--no-worker", WAKEKIT_DATA_DIR=str(root), WAKE_TRAINING_DATA_DIR=str(root/"service"), WAKEKIT_MODELS_DIR=str(root/"models"), WAKEKIT_DEVICE="cpu")


def form(clips, label="noise"):
    "A form with many files"
    out = [b'--B\r\nContent-Disposition: form-data; name="label"\r\n\r\n%b\r\n' % label.encode()]
    for i, c in enumerate(clips): out.append(b'--B\r\nContent-Disposition: form-data; name="file"; filename="%d.wav"\r\nContent-Type: audio/wav\r\n\r\n%b\r\n' % (i, c))
    return b"".join([*out, b"--B--\r\n"])


SENDER = """
import http.client, pickle, sys, threading
port, single, work = pickle.load(sys.stdin.buffer)
wrong = []
def send(name, bodies, kind):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for b in bodies:
        c.request("POST", f"/datasets/{name}/recordings?label=noise", b, {"Content-Type": kind})
        r = c.getresponse(); text = r.read()
        if r.status != 201: wrong.append((r.status, text[:200]))
threads = [threading.Thread(target=send, args=(n, b, "audio/wav" if single else "multipart/form-data; boundary=B")) for n, b in work]
print("ready", flush=True)
for t in threads: t.start()
for t in threads: t.join()
print(len(wrong), wrong[:2], flush=True)
"""


def all_events(s):
    found, at = [], 0
    while page := json.loads(s.get(f"/events?limit=5000&after={at}")[1])["events"]: found, at = found + page, page[-1]["seq"]
    return found


def uploads(s, a):
    import pickle
    rng = np.random.default_rng(0)
    s.start()
    for k in range(a.uploads): s.post("/datasets", dict(name=f"kitchen{k}", phrase="hey jarvis"))
    training = None
    if not a.quiet:
        from wakekit.data.interchange import Dataset
        from wakekit.data.speech import speak_into
        speak_into(Dataset.create(s.root/"service"/"datasets"/"calls", "computer"), 40, 40)
        assert s.post("/train", dict(dataset="calls", config_overrides={"epochs": 500, "data.synthetic": 60, "data.near_misses": 40, "data.filler": 40}))[0] == 202
        training = s.run("worker")
        while b'"kind":"job.epoch"' not in s.get("/events?limit=5000")[1].replace(b" ", b""): time.sleep(1)
    clips = [[wav(rng, a.seconds) for _ in range(a.clips)] for _ in range(a.uploads)]
    work = [(f"kitchen{k}", c if a.single else [form(c)]) for k, c in enumerate(clips)]
    sender = subprocess.Popen([sys.executable, "-c", SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    waits, floor, over, peak = [], [], threading.Event(), [0]
    def look():
        while not over.is_set():
            begun = time.perf_counter()
            assert s.get("/datasets")[0] == 200
            waits.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            assert s.get("/health")[0] == 200
            floor.append(time.perf_counter() - begun)
            peak[0] = max(peak[0], s.rss())
            time.sleep(.05)
    looking = threading.Thread(target=look)
    pickle.dump((s.port, a.single, work), sender.stdin)
    sender.stdin.close()
    sender.stdout.readline()
    for _ in range(3): s.get("/datasets") # somebody has been listing before
    batches = lambda: sum(e["kind"] in ("job.epoch", "job.progress") for e in all_events(s)) if training else 0
    trained = batches()
    begun, used = time.perf_counter(), s.cpu_s()
    looking.start()
    wrong = sender.stdout.readline().decode().strip()
    took, used = time.perf_counter() - begun, s.cpu_s() - used
    over.set()
    looking.join()
    stored = sum(d["clips"] for d in json.loads(s.get("/datasets")[1])["datasets"] if d["name"].startswith("kitchen"))
    trained = batches() - trained
    if training:
        training.terminate()
        training.wait(60)
    n = a.uploads*a.clips
    found = dict(clips=n, stored=stored, refused=wrong, clips_per_s=round(n/took), seconds=round(took, 1), cpu_ms_per_clip=round(1000*used/n, 2), peak_mb=round(peak[0]/1e6), looks=len(waits), datasets_p50_ms=round(1000*statistics.median(waits)),
                 datasets_p99_ms=round(1000*sorted(waits)[int(.99*len(waits))]), health_p50_ms=round(1000*statistics.median(floor)), health_p99_ms=round(1000*sorted(floor)[int(.99*len(floor))]), training_events_beside=trained)
    return found, stored == n and found["clips_per_s"] >= 300 and found["peak_mb"] < 300 and found["datasets_p99_ms"] < 100 and (a.quiet or trained > 0)


def restart(s, a):
    "Datasets made on disk, index and all, as other tools leave them"
    from wakekit.data.interchange import Dataset
    rng, folder = np.random.default_rng(0), s.root/"service"/"datasets"
    first = Dataset.create(folder/"d0000", "hey jarvis")
    first.commit([first.stage(rng.normal(0, .1, 1600).astype(np.float32), ("positive", "negative")[i%2]) for i in range(a.clips)])
    for k in range(1, a.datasets):
        copy = folder/f"d{k:04d}"
        shutil.copytree(first.path, copy, copy_function=lambda x, y: (os.link if x.endswith(".wav") else shutil.copy2)(x, y))
        about = json.loads((copy/"dataset.json").read_text())
        (copy/"dataset.json").write_text(json.dumps({**about, "name": copy.name}))
    times = []
    for _ in range(a.times):
        ready = s.start()
        begun = time.perf_counter()
        listed = json.loads(s.get("/datasets")[1])["datasets"]
        listing, again = time.perf_counter() - begun, time.perf_counter()
        s.get("/datasets")
        times.append((ready, listing, time.perf_counter() - again))
        assert len(listed) == a.datasets and sum(d["clips"] for d in listed) == a.datasets*a.clips, (len(listed), sum(d.get("clips", 0) for d in listed))
        s.process.send_signal(signal.SIGKILL)
        s.process.wait()
    worst = [round(max(t[i] for t in times), 2) for i in range(3)]
    return dict(datasets=a.datasets, clips=a.datasets*a.clips, ready_s=worst[0], first_listing_s=worst[1], second_listing_s=worst[2]), worst[0] <= 3


def listeners(s, a):
    "Sockets that come and go while events are written by other processes"
    from websockets.asyncio.client import connect
    from wakekit.serve.events import Database, event
    s.start()
    db = Database(f"sqlite:///{(s.root/'service').as_posix()}/wakekit.db")
    seen, url, first, reconnects = [[] for _ in range(a.listeners)], f"ws://127.0.0.1:{s.port}/ws/events?after=", db.last_seq(), [0]
    async def listen(k):
        rng, last = random.Random(k), first
        while len(seen[k]) < a.events:
            stay = rng.randrange(500, 4000)
            async with connect(url + str(last), max_queue=16, compression=None) as w:
                await w.recv()
                for _ in range(stay):
                    e = json.loads(await w.recv())
                    last = e["seq"]
                    seen[k].append(last)
                    if len(seen[k]) >= a.events: break
            reconnects[0] += 1
    async def sleeper():
        async with connect(url + "0", max_queue=1, compression=None, ping_interval=None) as w:
            await w.recv()
            try: await asyncio.sleep(10_000)
            except asyncio.CancelledError: w.transport.abort()
    def write():
        for i in range(0, a.events, 20): db.tell(*(event("tick", n=n) for n in range(i, i + 20)))
    async def all_of_it():
        asleep = asyncio.create_task(sleeper())
        tasks = [asyncio.create_task(listen(k)) for k in range(a.listeners)]
        await asyncio.sleep(.5)
        writing = asyncio.create_task(asyncio.to_thread(write))
        await asyncio.gather(*tasks, writing)
        asleep.cancel()
        await asyncio.gather(asleep, return_exceptions=True)
    begun = time.perf_counter()
    asyncio.run(all_of_it())
    took = time.perf_counter() - begun
    peak, db_last = s.rss(), db.last_seq()
    db.close()
    right = all(x == list(range(first + 1, first + a.events + 1)) for x in seen)
    return dict(events=a.events, listeners=a.listeners, reconnects=reconnects[0] - a.listeners, missed=sum(a.events - len(set(x)) for x in seen), out_of_order=sum(x != sorted(x) for x in seen), seconds=round(took, 1),
                messages_per_s=round(a.events*a.listeners/took), service_mb=round(peak/1e6), last=db_last), right


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", choices=("uploads", "restart", "listeners"))
    p.add_argument("--uploads", type=int, default=50)
    p.add_argument("--clips", type=int, default=None, help="per upload (200) or dataset (100)")
    p.add_argument("--seconds", type=float, default=1.5, help="length of a clip")
    p.add_argument("--single", action="store_true", help="one request per clip")
    p.add_argument("--quiet", action="store_true", help="no training beside")
    p.add_argument("--datasets", type=int, default=1000)
    p.add_argument("--times", type=int, default=3)
    p.add_argument("--events", type=int, default=10_000)
    p.add_argument("--listeners", type=int, default=100)
    a = p.parse_args()
    a.clips = a.clips or (100 if a.part == "restart" else 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),)*2)
    with tempfile.TemporaryDirectory(prefix="wakekit-load-", ignore_cleanup_errors=True) as root:
        s = Training(root)
        try: found, ok = dict(uploads=uploads, restart=restart, listeners=listeners)[a.part](s, a)
        finally: s.stop() if hasattr(s, "process") and s.process.poll() is None else None
    print(json.dumps(dict(part=a.part, cores=os.cpu_count(), **found, mark_met=ok)))
    sys.exit(not ok)


if __name__ == "__main__": main()
