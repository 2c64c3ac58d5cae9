"""What the detection services bear on one core. Prints its figures as JSON; exit code 1 when a mark is missed.

    python bench/streams.py live --bundle kitchen.wake --calls calls/          300 microphones for a minute, each with a wake word every few seconds
    python bench/streams.py files --bundle kitchen.wake --calls calls/         50 clips of 3 s per second
    python bench/streams.py soak --bundle kitchen.wake --calls calls/ --hours 1    100 microphones that come and go, some of them badly behaved
    python bench/streams.py swap --bundle kitchen.wake --calls calls/          models that are promoted, rolled back and replaced while 40 microphones talk
    python bench/streams.py wyoming --bundle kitchen.wake --calls calls/ --peer-python peer/bin/python    20 satellites here, and at wyoming-openwakeword

Without --bundle, the toy detector of the tests and its chime. A service is held to one core (taskset); this program takes the others. --hours .02 is a quick try.
For the last part: python3.11 -m venv peer && peer/bin/pip install wyoming-openwakeword==1.8.2 'numpy<2'
"""
import argparse, asyncio, base64, bisect, contextlib, io, json, os, random, re, shutil, signal, socket, statistics, struct, sys, tempfile, time, wave
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
import numpy as np
from service import Service, leave_core

SR, CHUNK_MS = 16_000, 80


@contextlib.contextmanager
def serving(root, bundle=None, **how):
    "The detection service on the first core, with a bundle, or what is in the folder of models already"
    if bundle: shutil.copytree(bundle.path, Path(root)/"models"/"word")
    s = Service(root, "serve", "detect", ready="/ready", core=0, WAKEKIT_MODELS_DIR=str(Path(root)/"models"), OMP_NUM_THREADS="1", **how)
    s.start()
    leave_core(0)
    try: yield s
    finally: s.stop()


# ---- Sound

def noise(seconds, rng): return (.002*rng.standard_normal(int(seconds*SR))).astype(np.float32)


def sound(calls, seconds, rng, every_s, rest_s=0.):
    "Quiet talk-free sound with calls in it, int16, and the calls: (begin s, end s, which). Nobody calls in the last `rest_s`"
    x, at, planted = noise(seconds, rng), rng.uniform(1, every_s), []
    while True:
        which, k = int(rng.integers(len(calls))), int(at*SR)
        call = calls[which]
        if k + len(call) > len(x) - rest_s*SR: return pcm16(x), planted
        x[k:k + len(call)] += call
        planted.append((k/SR, (k + len(call))/SR, which))
        at += len(call)/SR + rng.uniform(.7*every_s, 1.3*every_s)


def pcm16(x): return np.rint(np.clip(x, -1, 1)*32767).astype("<i2")


def load_calls(folder):
    "Recordings of the phrase, or the toy's chime"
    if folder:
        from wakekit.data.audio import find_audio, load_audio
        return [load_audio(p)[:3*SR] for p in list(find_audio(folder))[:200]]
    from wakekit.ship.toy import chime
    return [chime()]


def expected(bundle, pcm, whole=False):
    "What Python hears in it, s; as in a whole recording, or in a stream that goes on"
    from wakekit.ship.stream import Detector
    d = Detector(bundle)
    return [round(e.time_s, 3) for e in (d.detect(pcm) if whole else d.process(pcm))]


@dataclass
class Sound:
    "What a microphone sends, and what Python hears in it"
    pcm:np.ndarray # int16
    rate:int       # That it is sent with, samples per second
    said:int       # That the stream is opened with; not the same when it lies
    planted:list   # Calls: (begin, end), s as the service counts
    expected:list  # Events, s as the service counts
    @property
    def seconds(self): return len(self.pcm)/self.said
    def quiet(self, low, high, rng):
        "A moment at which nobody calls, nor has just called, s; the end of the sound if there is none"
        for _ in range(200):
            t = rng.uniform(low, min(high, self.seconds))
            if all(t < begin or t > end + 1.2 for begin, end in self.planted) and all(abs(t - e) > .6 for e in self.expected): return t
        return min(high, self.seconds)


def recorded(calls, bundle, seconds, rate, said, every_s, rng):
    "A sound at another rate than 16 kHz, and what Python hears when it is told `said`"
    import soxr
    pcm, planted = sound(calls, seconds, rng, every_s)
    if rate != SR: pcm = pcm16(soxr.resample(pcm.astype(np.float32)/32768, SR, rate))
    heard = pcm if said == SR else np.clip(np.rint(32768*soxr.resample(pcm.astype(np.float32)/32768, said, SR)), -32768, 32767).astype("<i2")
    return Sound(pcm, rate, said, [(begin*rate/said, end*rate/said) for begin, end, _ in planted], expected(bundle, heard))


def compare(wanted, heard, until=float("inf"), near_s=.1):
    "(missed, doubled, others) among the times of events; what is later than `until` may be there or not"
    counts, others = [0]*len(wanted), 0
    for t in heard:
        k = min(range(len(wanted)), key=lambda i: abs(wanted[i] - t), default=None)
        if k is not None and abs(wanted[k] - t) <= near_s: counts[k] += 1
        elif t <= until: others += 1
    return sum(not n and t <= until for n, t in zip(counts, wanted)), sum(n - 1 for n in counts if n), others


# ---- A microphone

def frame(payload, op=2):
    "A frame of a client, masked with zeros"
    n = len(payload)
    head = bytes([0x80 | op, 0x80 | n]) if n < 126 else bytes([0x80 | op, 0x80 | 126]) + n.to_bytes(2, "big") if n < 65_536 else bytes([0x80 | op, 0x80 | 127]) + n.to_bytes(8, "big")
    return b"".join((head, b"\0\0\0\0", payload))


class Microphone(asyncio.Protocol):
    "A client that costs little: raw frames out, messages in"
    def __init__(self, port, query="", on_message=None):
        self.port, self.query, self.on_message, self.buffer, self.open, self.over, self.code = port, query, on_message, b"", asyncio.Event(), asyncio.Event(), None
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
            elif op == 8: self.code = int.from_bytes(payload[:2], "big")
            if op == 8: self.over.set()
    def connection_lost(self, e):
        self.open.set()
        self.over.set()


@dataclass
class Talk:
    "What came of a stream"
    events:list = field(default_factory=list) # (time s, delay s, phrase)
    seconds:float = 0.   # That were sent, as the service counts
    finished:bool = False # Did the service say `done`?
    code:int = None      # With which it closed
    cut:bool = False     # Were we stopped?


async def play(port, pcm, begin, rate=SR, said=SR, seconds=None, query="", piece=None, leave="end", stop=None):
    """Send sound in real time from `begin` on; what came of it. `piece` gives the length of the next frame in bytes.
    `leave`: how it ends; "end" as it should, "gone" with the connection broken, in a frame, "silent" as when the network is gone, or bytes that are no audio"""
    def on_message(m):
        if m["type"] == "event":
            k = min(len(ends) - 1, bisect.bisect_left(ends, m["time_s"]*2*said - 1e-3))
            talk.events.append((round(m["time_s"], 3), time.perf_counter() - sent_at[k] if ends and not silent else None, m["phrase"]))
        elif m["type"] == "done": talk.finished = True
    talk, data, sent_at, ends, silent = Talk(), memoryview(pcm).cast("B"), [], [], False
    _, mic = await asyncio.get_running_loop().create_connection(lambda: Microphone(port, query, on_message), "127.0.0.1", port)
    await mic.open.wait()
    at, last = 0, len(data) if seconds is None else min(len(data), round(seconds*said)*2)
    while at < last and not mic.over.is_set():
        if stop and stop.is_set(): break
        n = piece() if piece else 2*(rate*CHUNK_MS//1000)
        wait = begin + at/2/rate - time.perf_counter()
        if wait > 0: await asyncio.sleep(wait)
        sent_at.append(time.perf_counter())
        upto = min(at + n, last)
        mic.transport.write(frame(data[at:upto]))
        ends.append(at := upto)
    talk.seconds, talk.cut = at/2/said, at < last and bool(stop and stop.is_set())
    if talk.cut and leave != "gone": leave = "end"
    if leave == "gone":
        mic.transport.write(frame(bytes(3200))[:1000])
        await asyncio.sleep(0)
        mic.transport.abort()
        return talk
    if leave == "silent":
        silent = True
        mic.transport.pause_reading()
        with contextlib.suppress(asyncio.TimeoutError): await asyncio.wait_for((stop or asyncio.Event()).wait(), 45) # more than two pings
        with contextlib.suppress(RuntimeError): mic.transport.resume_reading()
    else: mic.transport.write(frame(b'{"type": "end"}', 1) if leave == "end" else leave)
    with contextlib.suppress(asyncio.TimeoutError): await asyncio.wait_for(mic.over.wait(), 30)
    talk.code = mic.code
    mic.transport.close()
    return talk


def percentile(delays, q):
    "ms, of delays in s"
    delays = sorted(d for d in delays if d is not None)
    return round(1000*delays[min(len(delays) - 1, int(q*len(delays)))], 1) if delays else None


# ---- The parts

def live(root, a, bundle, calls):
    rng = np.random.default_rng(0)
    sounds = [sound(calls, a.seconds, rng, a.every)[0] for _ in range(min(a.streams, 40))]
    wanted, peak, used = [expected(bundle, x) for x in sounds], [0], [0., 0.]
    async def all_of_it(s):
        begin = time.perf_counter() + 2
        tasks = [asyncio.create_task(play(s.port, sounds[k%len(sounds)], begin + random.Random(k).uniform(0, CHUNK_MS/1000) + 1.7*(k//len(sounds)))) for k in range(a.streams)] # not two that hear the same at once
        async def look():
            await asyncio.sleep(5)
            used[0], at = s.cpu_s(), time.perf_counter()
            while not all(t.done() for t in tasks):
                peak[0] = max(peak[0], s.rss())
                if time.perf_counter() < begin + a.seconds - 2: used[1] = (s.cpu_s() - used[0])/(time.perf_counter() - at)
                await asyncio.sleep(1)
        looking = asyncio.create_task(look())
        talks = await asyncio.gather(*tasks)
        await looking
        return talks
    with serving(root, bundle) as s:
        idle = s.rss()
        talks = asyncio.run(all_of_it(s))
    delays, finished = [d for t in talks for _, d, _ in t.events], sum(t.finished for t in talks)
    wrong = sum([t for t, _, _ in talk.events][:len(wanted[k%len(sounds)])] != wanted[k%len(sounds)] for k, talk in enumerate(talks))
    found = dict(streams=a.streams, seconds=a.seconds, chunk_ms=CHUNK_MS, events=len(delays), expected=sum(len(wanted[k%len(sounds)]) for k in range(a.streams)), streams_with_other_events=wrong, finished=finished,
                 p50_ms=percentile(delays, .5), p99_ms=percentile(delays, .99), worst_ms=percentile(delays, 1), cpu_percent=round(100*used[1]), memory_mb=round(peak[0]/1e6), kb_per_stream=round((peak[0] - idle)/1000/a.streams))
    return found, finished == a.streams and not wrong and delays and found["p99_ms"] <= 100 and found["kb_per_stream"] <= 200


def wav(pcm):
    out = io.BytesIO()
    with wave.open(out, "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(SR)
        w.writeframes(pcm.tobytes())
    return out.getvalue()


async def post(port, body, query=""):
    "Ask about a recording; (status, body of the answer)"
    r, w = await asyncio.open_connection("127.0.0.1", port)
    w.write(f"POST /detect{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: audio/wav\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    head, _, answer = (await r.read()).partition(b"\r\n\r\n")
    w.close()
    return int((head.split(b" ", 2) + [b"0"])[1]), answer


def files(root, a, bundle, calls):
    rng, waits, wrong = np.random.default_rng(0), [], []
    bodies = [wav(pcm16(noise(3., rng) + (np.pad(call := calls[int(rng.integers(len(calls)))], (0, 3*SR - len(call))) if k < 40*a.share else 0))) for k in range(40)]
    heard = [expected(bundle, np.frombuffer(b[44:], "<i2"), whole=True) for b in bodies]
    async def ask(s, begin, k):
        await asyncio.sleep(max(0, begin + k/a.rate - time.perf_counter()))
        at = time.perf_counter()
        status, answer = await post(s.port, bodies[k%len(bodies)])
        waits.append(time.perf_counter() - at)
        if status != 200 or len(json.loads(answer)["events"]) != len(heard[k%len(bodies)]): wrong.append((status, answer[:200]))
    async def all_of_it(s):
        begin = time.perf_counter() + .5
        await asyncio.gather(*(ask(s, begin, k) for k in range(int(a.rate*a.seconds))))
    with serving(root, bundle) as s:
        asyncio.run(all_of_it(s))
        memory = s.rss()
    found = dict(requests=len(waits), per_s=a.rate, with_calls=a.share, with_events=sum(map(bool, heard))/len(heard), wrong=len(wrong), p50_ms=percentile(waits, .5), p99_ms=percentile(waits, .99), memory_mb=round(memory/1e6))
    return found, not wrong and found["p99_ms"] <= 30


# ---- An hour of coming and going

USUAL = (8000, 11_025, 16_000, 16_000, 16_000, 22_050, 32_000, 44_100, 48_000)
KINDS = dict(plain=50, odd=18, gone=10, silent=4, liar=8, wrong=10) # What streams do, of a hundred
WRONG = [("text", "", frame(b"hello?", 1), 1003), ("a message that there is not", "", frame(b'{"type": "stop"}', 1), 1003), ("a frame of a million bytes", "", frame(bytes(1_048_577)), 1009),
         ("a frame of a terabyte", "", b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"\0\0\0\0" + b"x"*1000, 1009), ("a model that there is not", "?model=attic", b"", 1008), ("a rate that there is not", "?rate=4000", b"", 1008)]


@dataclass
class Tally:
    "What was counted"
    kinds:Counter = field(default_factory=Counter)
    wrong_ends:Counter = field(default_factory=Counter)
    delays:list = field(default_factory=list)
    different:list = field(default_factory=list) # The first streams that heard other things than Python
    planted:int = 0
    expected:int = 0
    heard:int = 0
    missed:int = 0
    doubled:int = 0
    others:int = 0
    sound_s:float = 0.
    open:int = 0
    def judge(self, kind, sound, talk, code, what):
        "A stream is over: did it hear what Python hears?"
        sure = talk.seconds if kind in ("plain", "odd", "liar") and not talk.cut else talk.seconds - 8 # who leaves like that does not hear the last answers
        times = [t for t, _, _ in talk.events]
        missed, doubled, others = compare([t for t in sound.expected if t <= talk.seconds], times, sure)
        if (missed or doubled or others) and len(self.different) < 10: self.different.append(dict(kind=what, rate=sound.rate, said=sound.said, seconds=round(talk.seconds, 2), sure=round(sure, 2), python=[t for t in sound.expected if t <= talk.seconds], heard=times))
        self.kinds[kind] += 1
        if kind != "liar": self.delays += [d for _, d, _ in talk.events]
        self.planted, self.expected, self.heard = self.planted + sum(end <= sure for _, end in sound.planted), self.expected + sum(t <= sure for t in sound.expected), self.heard + sum(t <= sure for t in times)
        self.missed, self.doubled, self.others, self.sound_s = self.missed + missed, self.doubled + doubled, self.others + others, self.sound_s + talk.seconds
        if talk.code != code and not talk.cut or (code == 1000 and not talk.finished): self.wrong_ends[f"{what}: {talk.code}, not {code}"] += 1
    def line(self): return f"{self.open} streams open, {sum(self.kinds.values())} over, {self.heard} of {self.expected} calls heard, {self.missed} missed, {self.doubled} doubled, {self.others} others, {sum(self.wrong_ends.values())} wrong ends"


async def come_and_go(port, kind, sounds, rng, length_s, tally, stop):
    "One stream, from its beginning to its end"
    snd, (what, query, leave, code) = rng.choice([s for s in sounds if (s.rate != s.said) == (kind == "liar")]), rng.choice(WRONG)
    seconds = snd.quiet(.7*length_s*snd.rate/snd.said, length_s*snd.rate/snd.said, rng)
    how = dict(gone=dict(leave="gone"), silent=dict(leave="silent"), odd=dict(piece=lambda: rng.choice((0, 1, 3, rng.randrange(9999), rng.randrange(9999)))), wrong=dict(leave=leave or "end", **(dict(query=query) if query else {}))).get(kind, {})
    how.setdefault("query", f"?rate={snd.said}")
    tally.open += 1
    talk = await play(port, snd.pcm, time.perf_counter(), snd.rate, snd.said, seconds, stop=stop, **how)
    tally.open -= 1
    if kind == "wrong" and query: talk.seconds = 0.
    tally.judge(kind, snd, talk, dict(gone=None, silent=talk.code, wrong=code).get(kind, 1000), what if kind == "wrong" else kind)


def quarters(samples, seconds):
    "Medians of the second and the last quarter, and the change in per cent"
    part = lambda i: [v for t, v in samples if i*seconds/4 <= t < (i + 1)*seconds/4]
    if not part(1) or not part(3): return None, None, None
    second, last = statistics.median(part(1)), statistics.median(part(3))
    return round(second/1e6, 1), round(last/1e6, 1), round(100*(last/second - 1), 2)


def soak(root, a, bundle, calls):
    rng, seconds = np.random.default_rng(a.seed), 3600*a.hours
    shortest, longest, tally, samples, stop = min(20., .15*seconds), min(300., .4*seconds), Tally(), [], asyncio.Event()
    rate = lambda: int(rng.choice(USUAL)) if rng.random() < .5 else int(rng.integers(8000, 48_001))
    tell = lambda text: print(("\r\033[K" if sys.stderr.isatty() else "") + text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    sounds = []
    for k in range(a.sounds):
        if k == 0 or sys.stderr.isatty(): tell(f"making sounds: {k + 1} of {a.sounds}")
        r = rate()
        sounds.append(recorded(calls, bundle, longest, r, r if k%5 else next(other for other in iter(rate, None) if abs(other - r) > 1000), min(a.every, longest/2), rng))
    async def slot(s, k, deadline, later):
        mine = random.Random(f"{a.seed} {k}")
        await asyncio.sleep(mine.uniform(0, min(20., seconds/20)))
        while not stop.is_set() and (left := deadline - time.perf_counter()) > shortest:
            kind = mine.choices(list(KINDS), KINDS.values())[0]
            one = asyncio.create_task(come_and_go(s.port, kind, sounds, mine, min(left, mine.uniform(shortest, longest)), tally, stop))
            if kind != "silent": await one
            else:
                later.append(one)
                await asyncio.sleep(mine.uniform(5, 20))
    async def watch(s, begun, every):
        used, told = s.cpu_s(), 0
        while True:
            now = time.perf_counter() - begun
            if now >= len(samples)*every: samples.append((now, s.rss()))
            if sys.stderr.isatty() or now >= told*min(30., seconds/5):
                told += 1
                tell(f"{now/60:.1f} of {seconds/60:.1f} min: {tally.line()}, {s.rss()/1e6:.0f} MB, {100*(s.cpu_s() - used)/max(now, 1):.0f} % CPU")
            await asyncio.sleep(1)
    async def all_of_it(s):
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        begun, later = time.perf_counter(), []
        watching = asyncio.create_task(watch(s, begun, min(10., seconds/40)))
        results = await asyncio.gather(*(slot(s, k, begun + seconds, later) for k in range(a.streams)), return_exceptions=True)
        took, used = time.perf_counter() - begun, s.cpu_s()
        watching.cancel()
        results += await asyncio.gather(*later, return_exceptions=True)
        for _ in range(70):
            if s.process.poll() is not None: return took, used, -1, ["the service has ended"]
            if not (left := json.loads((await asyncio.to_thread(s.get, "/health"))[1])["streams"]): break
            await asyncio.sleep(1)
        return took, used, left, [repr(r) for r in results if isinstance(r, BaseException)]
    with serving(root, bundle, apart=True) as s:
        used = s.cpu_s()
        took, cpu, left, trouble = asyncio.run(all_of_it(s))
        numbers = {} if left < 0 else dict(re.findall(r"^wakekit_(\w+) (\S+)$", s.get("/metrics")[1].decode(), re.M))
    tell("")
    said = [l for l in s.log().splitlines() if re.search(r"Traceback|Error|\berror\b|failed|stumbled|fault of", l)]
    second, last, change = quarters(samples, took)
    found = dict(hours=round(took/3600, 3), streams=a.streams, stopped_early=stop.is_set(), opened=dict(tally.kinds), sound_hours=round(tally.sound_s/3600, 2), planted=tally.planted, python_hears=tally.expected, heard=tally.heard, missed=tally.missed, doubled=tally.doubled, others=tally.others,
                 different=tally.different, wrong_ends=dict(tally.wrong_ends), trouble=trouble[:5], left_open=left, errors_in_log=len(said), log=said[:5], second_quarter_mb=second, last_quarter_mb=last, change_percent=change, peak_mb=round(max(v for _, v in samples)/1e6, 1),
                 rss_mb=[round(v/1e6, 1) for _, v in samples[::max(1, len(samples)//60)]], p50_ms=percentile(tally.delays, .5), p99_ms=percentile(tally.delays, .99), cpu_percent=round(100*(cpu - used)/took), waits=float(numbers.get("stream_waits_total", 0)))
    right = not (tally.missed or tally.doubled or tally.others or tally.wrong_ends or trouble or left or said)
    return found, right and not stop.is_set() and tally.heard > 0 and change is not None and abs(change) <= 5


# ---- Other models, meanwhile

class Changes:
    "Two models that are replaced again and again: one by a registry, one by hand. Their phrases say which version heard a call"
    def __init__(self, root, bundle):
        from wakekit.serve.registry import Registry
        self.root, self.bundle, self.models, self.n = root, bundle, root/"models", 0
        self.registry = Registry(self.models)
        first = self.variant()
        self.registry.promote("word", first)
        shutil.copytree(first, self.models/"plain")
    def variant(self):
        "The same detector under another name, a bundle of its own"
        from wakekit.core import write_json
        self.n += 1
        folder = self.root/f"variant{self.n}"
        shutil.copytree(self.bundle.path, folder)
        write_json(folder/"manifest.json", self.bundle.manifest | dict(phrase=f"version {self.n}"))
        return folder
    def change(self):
        new = self.variant()
        self.registry.roll_back("word") if self.n%3 == 0 else self.registry.promote("word", new)
        shutil.copytree(new, self.models/".new")
        (self.models/"plain").rename(self.models/".old")
        (self.models/".new").rename(self.models/"plain")
        shutil.rmtree(self.models/".old")


def swap(root, a, bundle, calls):
    rng, counts, posts, wrong_posts = np.random.default_rng(a.seed), Counter(), [0], []
    changes, sounds = Changes(Path(root), bundle), [recorded(calls, bundle, a.seconds, SR, SR, a.every, rng) for _ in range(min(a.streams, 40))]
    clip = pcm16(noise(3., rng) + np.pad(calls[0], (0, 3*SR - len(calls[0]))))
    in_clip = len(expected(bundle, clip, whole=True))
    async def swapping(begin):
        for k in range(a.swaps):
            await asyncio.sleep(max(0, begin + (k + 1)*(a.seconds - 10)/(a.swaps + 1) - time.perf_counter()))
            await asyncio.to_thread(changes.change)
    async def posting(s, end):
        while time.perf_counter() < end:
            status, answer = await post(s.port, wav(clip), "?model=word")
            posts[0] += 1
            if status != 200 or len(json.loads(answer)["events"]) != in_clip: wrong_posts.append((status, answer[:200].decode()))
            await asyncio.sleep(.25)
    async def all_of_it(s):
        begin = time.perf_counter() + 1
        streams = [play(s.port, sounds[k%len(sounds)].pcm, begin + random.Random(k).uniform(0, CHUNK_MS/1000), query=f"?model={('word', 'plain')[k%2]}") for k in range(a.streams)]
        return (await asyncio.gather(*streams, swapping(begin), posting(s, begin + a.seconds)))[:a.streams]
    with serving(root) as s:
        talks = asyncio.run(all_of_it(s))
        served = [m["phrase"] for m in json.loads(s.get("/models")[1])["models"]]
    for k, talk in enumerate(talks):
        snd, versions = sounds[k%len(sounds)], [v for _, _, v in talk.events]
        counts.update(zip(("missed", "doubled", "others"), compare(snd.expected, [t for t, _, _ in talk.events], snd.seconds - 1)))
        counts.update(expected=len(snd.expected), heard=len(versions), handovers=sum(v != w for v, w in zip(versions, versions[1:])), finished=talk.finished, streams_that_changed=len(set(versions)) > 1)
    delays = [d for talk in talks for _, d, _ in talk.events]
    found = dict(streams=a.streams, seconds=a.seconds, swaps=a.swaps, served_at_the_end=served, **{k: counts[k] for k in ("expected", "heard", "missed", "doubled", "others", "finished", "handovers", "streams_that_changed")},
                 posts=posts[0], wrong_posts=len(wrong_posts), first_wrong=wrong_posts[:2], p50_ms=percentile(delays, .5), p99_ms=percentile(delays, .99))
    return found, counts["finished"] == a.streams and counts["handovers"] > 0 and not (counts["missed"] or counts["doubled"] or counts["others"] or wrong_posts)


def satellites(root, a, bundle, calls):
    from peers import wyoming
    return wyoming(root, a, bundle, calls, sound, expected, load_calls, pcm16, percentile)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = dict(live=dict(streams=300, seconds=60., every=30.), files=dict(seconds=60.), soak=dict(streams=100, every=20.), swap=dict(streams=40, seconds=120., every=8.), wyoming=dict(streams=20, seconds=15., every=6.))
    p.add_argument("part", choices=list(usual))
    p.add_argument("--bundle", help="of a trained detector; default: the toy")
    p.add_argument("--calls", help="folder of recordings of its phrase")
    p.add_argument("--streams", type=int, help="at once: 300 live, 100 that come and go, 40 while models are swapped, 20 satellites")
    p.add_argument("--seconds", type=float, help="how long: 60; 120 for swap, 15 a turn for wyoming")
    p.add_argument("--every", type=float, help="seconds from one call to the next in a stream: 30; 20 for soak, 8 for swap, 6 for wyoming")
    p.add_argument("--rate", type=float, default=50., help="files: requests per second")
    p.add_argument("--share", type=float, default=.5, help="files: share of clips with a call in them")
    p.add_argument("--hours", type=float, default=1., help="soak: how long; .02 is a try")
    p.add_argument("--sounds", type=int, default=30, help="soak: how many different ones are sent")
    p.add_argument("--swaps", type=int, default=6, help="swap: how often models change")
    p.add_argument("--turns", type=int, default=2, help="wyoming: for each service, in turn")
    p.add_argument("--peer-python", help="wyoming: Python of the environment in which wyoming-openwakeword is installed")
    p.add_argument("--peer-model", default="hey_jarvis", help="wyoming: which of its models listens")
    p.add_argument("--peer-calls", help="wyoming: folder of recordings of that phrase; default: spoken by espeak-ng")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", help="write the JSON there, too")
    a = p.parse_args()
    for k, v in usual[a.part].items():
        if getattr(a, k) is None: setattr(a, k, v)
    from wakekit.ship.stream import Bundle
    from wakekit.ship.toy import toy_bundle
    with tempfile.TemporaryDirectory(prefix="wakekit-streams-", ignore_cleanup_errors=True) as root:
        (Path(root)/"models").mkdir()
        bundle, calls = Bundle.load(a.bundle or toy_bundle(Path(root)/"toy")), load_calls(a.calls)
        found, ok = dict(live=live, files=files, soak=soak, swap=swap, wyoming=satellites)[a.part](root, a, bundle, calls)
    text = json.dumps(dict(part=a.part, bundle=Path(a.bundle).name if a.bundle else "toy", **found, mark_met=bool(ok)))
    if a.out: Path(a.out).write_text(text + "\n")
    print(text)
    sys.exit(not ok)


if __name__ == "__main__": main()
