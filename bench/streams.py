"""What the detection service bears on one core: live streams over WebSockets, files over HTTP. Prints its figures as JSON; exit code 1 when a mark is missed.

    python bench/streams.py live --bundle kitchen.wake --calls calls/          300 microphones for a minute, each with a wake word every few seconds
    python bench/streams.py files --bundle kitchen.wake --calls calls/         50 clips of 3 s per second

Without --bundle, the toy detector of the tests and its chime. The service is held to one core (taskset); this program takes the others.
"""
import argparse, asyncio, base64, http.client, io, json, os, random, re, shutil, socket, statistics, subprocess, sys, tempfile, time, wave
from pathlib import Path
import numpy as np
import psutil

SR, CHUNK_MS = 16_000, 80


class Service:
    "A detection service in a process of its own, on one core"
    def __init__(self, root, core=0):
        self.root = Path(root)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        (self.root/".env").write_text("")
        env = {**os.environ, "WAKEKIT_MODELS_DIR": str(self.root/"models"), "OMP_NUM_THREADS": "1"}
        pin = ["taskset", "-c", str(core)] if shutil.which("taskset") and core is not None else []
        code = "import sys; from wakekit.cli import main; sys.exit(main())"
        self.process = subprocess.Popen([*pin, sys.executable, "-c", code, "serve", "detect", "--port", str(self.port), "--env-file", str(self.root/".env")], cwd=self.root, env=env, stdout=subprocess.DEVNULL, stderr=open(self.root/"log.txt", "ab"))
        while True:
            try:
                if self.get("/ready")[0] == 200: break
            except OSError: time.sleep(.05)
            if self.process.poll() is not None: sys.exit(f"the service did not start: {(self.root/'log.txt').read_text()[-2000:]}")
        self.ps = psutil.Process(self.process.pid)
    def get(self, path, method="GET", body=None, headers={}):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            c.request(method, path, body, headers)
            r = c.getresponse()
            return r.status, r.read()
        finally: c.close()
    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def sound(calls, seconds, rng, every_s):
    "Quiet talk-free sound with calls in it, int16, and how many calls there are"
    x = (.002*rng.standard_normal(int(seconds*SR))).astype(np.float32)
    at, n = rng.uniform(1, every_s), 0
    while at + 3 < seconds:
        call = calls[int(rng.integers(len(calls)))]
        k = int(at*SR)
        x[k:k + len(call)] += call[:len(x) - k]
        n, at = n + 1, at + len(call)/SR + rng.uniform(.7*every_s, 1.3*every_s)
    return np.rint(np.clip(x, -1, 1)*32767).astype("<i2"), n


def load_calls(folder, phrase_bundle):
    "Recordings of the phrase, or the toy's chime"
    if folder:
        from wakekit.data.audio import find_audio, load_audio
        return [load_audio(p)[:3*SR] for p in list(find_audio(folder))[:200]]
    from wakekit.ship.toy import chime
    return [chime()]


def expected(bundle, pcm):
    "What Python hears in it"
    from wakekit.ship.stream import Detector
    return [round(e.time_s, 3) for e in Detector(bundle).process(pcm)]


def frame(payload, op=2):
    "A frame of a client, masked with zeros"
    n = len(payload)
    head = bytes([0x80 | op, 0x80 | n]) if n < 126 else bytes([0x80 | op, 0x80 | 126]) + n.to_bytes(2, "big") if n < 65_536 else bytes([0x80 | op, 0x80 | 127]) + n.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Microphone(asyncio.Protocol):
    "A client that costs little: raw frames out, messages in"
    def __init__(self, port, query="", on_message=None):
        self.port, self.query, self.on_message, self.buffer, self.open, self.over = port, query, on_message, b"", asyncio.Event(), asyncio.Event()
    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(f"GET /detect/stream{self.query} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    def data_received(self, data):
        self.buffer += data
        if not self.open.is_set():
            if b"\r\n\r\n" not in self.buffer: return
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if b" 101 " not in head.split(b"\r\n")[0]: raise SystemExit(head[:200])
            self.open.set()
        while len(self.buffer) >= 2:
            op, n, at = self.buffer[0] & 15, self.buffer[1] & 127, 2
            if n == 126:
                if len(self.buffer) < 4: return
                n, at = int.from_bytes(self.buffer[2:4], "big"), 4
            if len(self.buffer) < at + n: return
            payload, self.buffer = self.buffer[at:at + n], self.buffer[at + n:]
            if op == 1: self.on_message(json.loads(payload))
            elif op == 9: self.transport.write(frame(payload, 10))
            elif op == 8: self.over.set()
    def connection_lost(self, e): self.over.set()


async def play(port, pcm, begin, sent, heard, query="", done=None):
    "Send sound in real time from `begin` on; (time of the event, delay) into `heard`"
    def on_message(m):
        if m["type"] == "event":
            k = min(len(sent_at) - 1, int(m["time_s"]*1000/CHUNK_MS - 1e-6))
            heard.append((round(m["time_s"], 3), time.perf_counter() - sent_at[k] if sent_at else 0.))
        elif m["type"] == "done": finished.append(m)
    loop, finished, sent_at = asyncio.get_running_loop(), [], []
    _, mic = await loop.create_connection(lambda: Microphone(port, query, on_message), "127.0.0.1", port)
    await mic.open.wait()
    n = SR*CHUNK_MS//1000
    frames = [frame(pcm[i:i + n].tobytes()) for i in range(0, len(pcm), n)]
    for k, f in enumerate(frames):
        wait = begin + k*CHUNK_MS/1000 - time.perf_counter()
        if wait > 0: await asyncio.sleep(wait)
        sent_at.append(time.perf_counter())
        mic.transport.write(f)
        sent[0] += 1
    mic.transport.write(frame(b'{"type": "end"}', 1))
    try: await asyncio.wait_for(mic.over.wait(), 30)
    except asyncio.TimeoutError: pass
    mic.transport.close()
    return bool(finished)


def live(s, a, bundle, calls):
    rng = np.random.default_rng(0)
    sounds = [sound(calls, a.seconds, rng, a.every)[0] for _ in range(min(a.streams, 40))]
    wanted = [expected(bundle, x) for x in sounds]
    heard, sent, idle = [[] for _ in range(a.streams)], [0], s.ps.memory_info().rss
    peak, used = [0], [0., 0.]
    async def all_of_it():
        begin = time.perf_counter() + 2
        tasks = [asyncio.create_task(play(s.port, sounds[k%len(sounds)], begin + random.Random(k).uniform(0, CHUNK_MS/1000), sent, heard[k])) for k in range(a.streams)]
        async def look():
            await asyncio.sleep(5)
            used[0], at = sum(s.ps.cpu_times()[:2]), time.perf_counter()
            while not all(t.done() for t in tasks):
                peak[0] = max(peak[0], s.ps.memory_info().rss)
                if time.perf_counter() < begin + a.seconds - 2: used[1] = (sum(s.ps.cpu_times()[:2]) - used[0])/(time.perf_counter() - at)
                await asyncio.sleep(1)
        looking = asyncio.create_task(look())
        ended = await asyncio.gather(*tasks)
        await looking
        return ended
    ended = asyncio.run(all_of_it())
    delays = sorted(d for h in heard for _, d in h)
    wrong = sum([t for t, _ in h] != wanted[k%len(sounds)] and [t for t, _ in h][:len(wanted[k%len(sounds)])] != wanted[k%len(sounds)] for k, h in enumerate(heard))
    at = lambda q: round(1000*delays[min(len(delays) - 1, int(q*len(delays)))], 1) if delays else None
    found = dict(streams=a.streams, seconds=a.seconds, chunk_ms=CHUNK_MS, events=len(delays), expected=sum(len(wanted[k%len(sounds)]) for k in range(a.streams)), streams_with_other_events=wrong, finished=sum(ended),
                 p50_ms=at(.5), p99_ms=at(.99), worst_ms=at(1), cpu_percent=round(100*used[1]), memory_mb=round(peak[0]/1e6), kb_per_stream=round((peak[0] - idle)/1000/a.streams))
    return found, sum(ended) == a.streams and not wrong and delays and found["p99_ms"] <= 100 and found["kb_per_stream"] <= 200


def files(s, a, bundle, calls):
    rng = np.random.default_rng(0)
    def wav():
        x = sound(calls, 3., rng, 1.5)[0] if rng.random() < a.share else sound(calls, 3., rng, 99.)[0]
        out = io.BytesIO()
        with wave.open(out, "wb") as w:
            w.setnchannels(1), w.setsampwidth(2), w.setframerate(SR)
            w.writeframes(x.tobytes())
        return out.getvalue()
    bodies, waits, wrong = [wav() for _ in range(40)], [], []
    async def ask(begin, k):
        await asyncio.sleep(max(0, begin + k/a.rate - time.perf_counter()))
        at, body = time.perf_counter(), bodies[k%len(bodies)]
        r, w = await asyncio.open_connection("127.0.0.1", s.port)
        w.write(f"POST /detect HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\nContent-Type: audio/wav\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        answer = await r.read()
        waits.append(time.perf_counter() - at)
        if b" 200 " not in answer[:20]: wrong.append(answer[:200])
        w.close()
    async def all_of_it():
        begin = time.perf_counter() + .5
        await asyncio.gather(*(ask(begin, k) for k in range(int(a.rate*a.seconds))))
    asyncio.run(all_of_it())
    waits.sort()
    found = dict(requests=len(waits), per_s=a.rate, with_calls=a.share, wrong=len(wrong), p50_ms=round(1000*statistics.median(waits), 1), p99_ms=round(1000*waits[int(.99*len(waits))], 1), memory_mb=round(s.ps.memory_info().rss/1e6))
    return found, not wrong and found["p99_ms"] <= 30


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", choices=("live", "files"))
    p.add_argument("--bundle", help="of a trained detector; default: the toy")
    p.add_argument("--calls", help="folder of recordings of its phrase")
    p.add_argument("--streams", type=int, default=300)
    p.add_argument("--seconds", type=float, default=60.)
    p.add_argument("--every", type=float, default=30., help="live: seconds from one call to the next in a stream")
    p.add_argument("--rate", type=float, default=50., help="files: requests per second")
    p.add_argument("--share", type=float, default=.5, help="files: share of clips with a call in them")
    a = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="wakekit-streams-", ignore_cleanup_errors=True) as root:
        (Path(root)/"models").mkdir()
        if a.bundle: shutil.copytree(a.bundle, Path(root)/"models"/"word")
        else:
            from wakekit.ship.toy import toy_bundle
            toy_bundle(Path(root)/"models"/"word")
        calls, s = load_calls(a.calls, a.bundle), Service(root)
        os.sched_setaffinity(0, set(os.sched_getaffinity(0)) - {0} or {0})
        try: found, ok = dict(live=live, files=files)[a.part](s, a, Path(root)/"models"/"word", calls)
        finally: s.stop()
    print(json.dumps(dict(part=a.part, bundle=Path(a.bundle).name if a.bundle else "toy", **found, mark_met=bool(ok))))
    sys.exit(not ok)


if __name__ == "__main__": main()
