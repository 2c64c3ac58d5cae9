"""The same satellites at `wakekit serve wyoming` and at wyoming-openwakeword, in turn, each on the same core: `python bench/streams.py wyoming`.

Every satellite sends a sound with calls of either service's phrase in it. wakekit should hear what Python's Detector hears in that sound; the other service those calls that it also hears when nobody else speaks.
A detection carries a time: wakekit's is that of the sound, the other service's that of the newest chunk it had when it began to look. From that chunk to the answer is the first delay; the second is from the end of the call, and has in it how long a detector waits by design.
"""
import asyncio, importlib.metadata, json, random, shutil, socket, statistics, subprocess, sys, time
from pathlib import Path
import numpy as np
from service import Process, free_port, launch, leave_core, wakekit

SR, CHUNK, BEGIN_MS = 16_000, 1024, 1000 # samples that a satellite sends at once; timestamp of the first of them, since 0 means none


class Server(Process):
    "A Wyoming wake-word service in a process of its own"
    def __init__(self, name, version, word, phrase, root, start, shift):
        self.name, self.version, self.word, self.phrase, self.root, self.port, self.shift = name, version, word, phrase, root, free_port(), shift # shift: for a detection on the border of two chunks
        root.mkdir()
        self.process = start(f"tcp://127.0.0.1:{self.port}")
        while self.process.poll() is None:
            try: return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError: time.sleep(.05)
        sys.exit(f"{name} did not start: {self.log()[-2000:]}")


class Satellite(asyncio.Protocol):
    "A client that costs little"
    def __init__(self, on_detection): self.on_detection, self.buffer = on_detection, b""
    def connection_made(self, transport): self.transport = transport
    def send(self, type, payload=b"", **data): self.transport.write(json.dumps(dict(type=type, data=data, payload_length=len(payload))).encode() + b"\n" + payload)
    def data_received(self, data):
        self.buffer += data
        while b"\n" in self.buffer:
            line, _, rest = self.buffer.partition(b"\n")
            event = json.loads(line)
            n, m = event.get("data_length") or 0, event.get("payload_length") or 0
            if len(rest) < n + m: return
            self.buffer = rest[n + m:]
            if event["type"] == "detection": self.on_detection({**(event.get("data") or {}), **(json.loads(rest[:n]) if n else {})})


async def speak(server, pcm, begin):
    "Send sound in real time from `begin` on; ([(s of the sound, when it was told)], when each chunk was sent)"
    def detected(d): told.append(((d["timestamp"] - BEGIN_MS)/1000, time.perf_counter()))
    told, sent = [], []
    _, satellite = await asyncio.get_running_loop().create_connection(lambda: Satellite(detected), "127.0.0.1", server.port)
    satellite.send("detect", names=[server.word])
    satellite.send("audio-start", rate=SR, width=2, channels=1)
    for i in range(0, len(pcm), CHUNK):
        if (wait := begin + i/SR - time.perf_counter()) > 0: await asyncio.sleep(wait)
        sent.append(time.perf_counter())
        satellite.send("audio-chunk", pcm[i:i + CHUNK].tobytes(), rate=SR, width=2, channels=1, timestamp=BEGIN_MS + 1000*i//SR)
    satellite.send("audio-stop")
    await asyncio.sleep(1) # one of the services leaves the connection open, the other one goes on listening
    satellite.transport.close()
    return told, sent


async def turn(server, sounds, seconds):
    "All satellites at once; what they were told, CPU seconds per second of a stream, and the largest memory"
    begin, used, peak = time.perf_counter() + 1, [], 0
    tasks = [asyncio.create_task(speak(server, x, begin + random.Random(k).uniform(0, CHUNK/SR))) for k, x in enumerate(sounds)]
    for at in (begin + 1, *(begin + 1 + s for s in range(1, max(2, int(seconds) - 1)))):
        await asyncio.sleep(max(0, at - time.perf_counter()))
        used.append((time.perf_counter(), server.cpu_s()))
        peak = max(peak, server.rss())
    talks = await asyncio.gather(*tasks)
    return talks, (used[-1][1] - used[0][1])/(used[-1][0] - used[0][0])/len(sounds), peak


def spoken(phrase, n):
    "A phrase in voices of espeak-ng"
    from wakekit.data.synth import draw_utterances, synthesize
    return [x[:3*SR] for _, x in synthesize(draw_utterances(phrase, n, seed=1), progress=False)]


def heard_alone(server, calls, pcm16):
    "The calls that a service hears when little else is said"
    rng, quiet = np.random.default_rng(9), lambda s: np.zeros(int(s*SR), np.float32)
    sounds = [pcm16(.002*rng.standard_normal(len(x := np.concatenate([quiet(1.5), call, quiet(2.5)]))) + x) for call in calls]
    async def all_of_it(): return await asyncio.gather(*(speak(server, x, time.perf_counter() + .5) for x in sounds))
    return [call for call, (told, _) in zip(calls, asyncio.run(all_of_it())) if told]


def loud_end_s(call):
    "When the last frame ends that is within 25 dB of the loudest, s"
    frames = call[:len(call)//320*320].reshape(-1, 320)
    power = (frames**2).mean(1)
    return .02*float(np.flatnonzero(power >= power.max()*10**-2.5)[-1] + 1)


class Account:
    "What a service heard of what it should hear, and when"
    def __init__(self):
        self.due = self.heard = self.repeated = self.others = self.base = self.peak = 0
        self.after_chunk, self.after_call, self.cpu = [], [], []
    def add(self, server, told, sent, windows):
        "`windows`: for each call that is due (from s, to s, s at which it was loud last)"
        at = lambda s: sent[min(len(sent) - 1, max(0, int(s*SR/CHUNK + server.shift)))]
        inside = [[(s, when) for s, when in told if low <= s <= high] for low, high, _ in windows]
        for events, (_, _, loud) in zip(inside, windows):
            if not events: continue
            s, when = events[0]
            self.after_chunk.append(when - at(s))
            self.after_call.append(when - at(loud))
        self.due, self.heard, self.repeated = self.due + len(windows), self.heard + sum(map(bool, inside)), self.repeated + sum(len(e) - 1 for e in inside if e)
        self.others += len(told) - sum(map(len, inside))


def windows_of(planted, which, calls, heard=None):
    "Where the calls of one of the phrases are due: from the beginning of each to a second after it. With `heard`, only those in which Python hears something"
    mine = [(begin, end + 1, begin + loud_end_s(calls[k])) for begin, end, k in planted if k in which]
    return mine if heard is None else [w for w in mine if any(w[0] <= t <= w[1] for t in heard)]


def ours(root, bundle):
    from wakekit import __version__
    shutil.copytree(bundle.path, root/"models"/"word")
    return Server("wakekit", __version__, "word", bundle.phrase, root/"ours", lambda uri: wakekit(root/"ours", "serve", "wyoming", str(root/"models"), "--uri", uri, core=0), -1e-3)


def peer(root, python, word):
    version = subprocess.run([python, "-c", "from importlib.metadata import version; print(version('wyoming-openwakeword'))"], capture_output=True, text=True, check=True).stdout.strip()
    return Server("wyoming-openwakeword", version, word, word.replace("_", " "), root, lambda uri: launch(root, Path(python).absolute(), "-W", "ignore", "-m", "wyoming_openwakeword", "--uri", uri, core=0), 1e-3) # the path as it is: an environment is known by its link


def calls_of(root, a, load_calls, pcm16):
    "Calls of the other service's phrase that it hears when nobody disturbs it, found with a process of their own"
    s = peer(root, a.peer_python, a.peer_model)
    try: found = heard_alone(s, load_calls(a.peer_calls)[:24] if a.peer_calls else spoken(s.phrase, 24), pcm16)
    finally: s.stop()
    if not found: sys.exit(f"{s.name} hears none of the calls: {s.log()[-2000:]}")
    return found


def wyoming(root, a, bundle, calls, sound, expected, load_calls, pcm16, percentile):
    root, rng = Path(root), np.random.default_rng(a.seed)
    theirs = calls_of(root/"alone", a, load_calls, pcm16) if a.peer_python else []
    calls = calls*max(1, round(len(theirs)/len(calls)))
    every = calls + theirs*max(1, round(len(calls)/max(1, len(theirs)))) # as many calls of either phrase
    sounds = [sound(every, a.seconds, rng, a.every, 2.) for _ in range(a.streams)]
    due = [[windows_of(planted, range(len(calls)), every, expected(bundle, pcm)) for pcm, planted in sounds], [windows_of(planted, range(len(calls), len(every)), every) for _, planted in sounds]]
    servers, accounts = [ours(root, bundle)], [Account(), Account()]
    try:
        if a.peer_python: servers.append(peer(root/"peer", a.peer_python, a.peer_model))
        leave_core(0)
        for s, mine in zip(servers, accounts): # each loads its model for its first client
            heard_alone(s, [np.zeros(SR, np.float32)], pcm16)
            mine.base = s.rss()
        for n in range(a.turns):
            for s, mine, windows in list(zip(servers, accounts, due))[::1 if n%2 == 0 else -1]:
                talks, cpu, peak = asyncio.run(turn(s, [pcm for pcm, _ in sounds], a.seconds))
                mine.cpu, mine.peak = [*mine.cpu, cpu], max(mine.peak, peak)
                for (told, sent), w in zip(talks, windows): mine.add(s, told, sent, w)
    finally:
        for s in servers: s.stop()
    rows = [dict(service=f"{s.name} {s.version}", phrase=s.phrase, cpu_s_per_stream_s=round(statistics.mean(m.cpu), 5), of_turns=[round(c, 5) for c in m.cpu], streams_per_core=round(1/statistics.mean(m.cpu)), base_mb=round(m.base/1e6), peak_mb=round(m.peak/1e6),
                 kb_per_stream=round((m.peak - m.base)/1000/a.streams), due=m.due, heard=m.heard, repeated=m.repeated, others=m.others, chunk_p50_ms=percentile(m.after_chunk, .5), chunk_p99_ms=percentile(m.after_chunk, .99),
                 call_p50_ms=percentile(m.after_call, .5), call_p99_ms=percentile(m.after_call, .99)) for s, m in zip(servers, accounts)]
    print(table(rows), file=sys.stderr)
    return dict(streams=a.streams, seconds=a.seconds, turns=a.turns, chunk_ms=1000*CHUNK/SR, wyoming=importlib.metadata.version("wyoming"), services=rows), all(r["heard"] for r in rows) and rows[0]["heard"] == rows[0]["due"] and not rows[0]["others"]


def table(rows):
    "Side by side"
    names = dict(service="", phrase="listens for", cpu_s_per_stream_s="CPU s per s of a stream", streams_per_core="streams that one core could bear", base_mb="memory with one client, MB", kb_per_stream="memory per stream, kB", heard="calls heard", due="of those that are due",
                 repeated="told more than once", others="told where nobody called", chunk_p50_ms="told after the deciding chunk, median ms", chunk_p99_ms="the same, 99th percentile", call_p50_ms="told after the end of the call, median ms", call_p99_ms="the same, 99th percentile")
    lines = [[text, *(str(r[k]) for r in rows)] for k, text in names.items()]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in [lines[0], ["-"*w for w in widths], *lines[1:]])
