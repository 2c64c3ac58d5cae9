"The wake-word service: what Home Assistant and satellites do, and what nobody should."
import asyncio, contextlib, json, os, shutil, signal, socket, subprocess, sys, threading
from pathlib import Path
import numpy as np
import pytest

pytest.importorskip("wyoming")
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient, AsyncTcpClient
from wyoming.error import Error
from wyoming.event import async_read_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.wake import Detect, Detection
from wakekit.core import BundleError, WakekitError
from wakekit.serve import wyoming as served
from wakekit.serve.words import Words
from wakekit.serve.wyoming import MAX_PAYLOAD, WakeService
from wakekit.ship.deploy import deploy
from wakekit.ship.stream import Detector
from wakekit.ship.targets import Target
from wakekit.ship.toy import chime, toy_bundle

RATE = 16_000


def recording(*at, seconds=6., seed=0):
    "Noise with a chime at some times, int16"
    x = np.random.default_rng(seed).normal(0, .002, int(seconds*RATE))
    for t in at: x[int(t*RATE):][:len(chime())] += chime()
    return (x*32768).round().astype(np.int16)


def times(bundle, x, **how): return [round(1000*e.time_s) for e in Detector(bundle, **how).detect(x)]


def chunks(raw, rate=RATE, width=2, channels=1, size=2048, begin=0, stamps=True):
    per_ms = rate*width*channels/1000
    return [AudioChunk(rate, width, channels, raw[i:i + size], timestamp=round(begin + i/per_ms) if stamps else None) for i in range(0, len(raw), size)]


async def send(client, *events):
    for e in events: await client.write_event(e.event())


async def detections(client, until="not-detected"):
    "What is told until some event"
    found = []
    while (e := await client.read_event()) is not None and e.type != until:
        if Detection.is_type(e.type): found.append(Detection.from_event(e))
    return found


async def round_of(client, x, names=None, **how):
    "A whole recording, and all that is heard in it; a ping marks the end, as one with detections has no other"
    await send(client, Detect(names=names), AudioStart(RATE, 2, 1), *chunks(x if isinstance(x, bytes) else x.tobytes(), **how), AudioStop(), Ping())
    return await detections(client, "pong")


@pytest.fixture
def models(tmp_path):
    toy_bundle(tmp_path/"models"/"kitchen", phrase="ding dong")
    toy_bundle(tmp_path/"models"/"study", phrase="dong ding", threshold=.6, refractory_ms=2500)
    return tmp_path/"models"


def served_by(models, test, **how):
    "Run `test(service, port)` beside a service"
    async def run():
        service = WakeService(Words(models), **how)
        uri = await service.start("tcp://127.0.0.1:0")
        try: return await test(service, int(uri.rsplit(":", 1)[1]))
        finally: await service.stop()
    return asyncio.run(asyncio.wait_for(run(), 120))


# --- what clients do

class HomeAssistant:
    "Does with a wake-word service what its integration does: components/wyoming/wake_word.py, read in November 2026"
    def __init__(self, port): self.port = port

    async def words(self):
        "What its coordinator does each half minute, within a second"
        async with AsyncTcpClient("127.0.0.1", self.port) as client:
            await send(client, Describe())
            while (event := await asyncio.wait_for(client.read_event(), 10)) is not None:
                if Info.is_type(event.type): break
        program = next(w for w in Info.from_event(event).wake if w.installed)
        return program.name, {m.name: (m.description or m.name, m.phrase) for m in program.models}

    async def process(self, stream, wake_word_id):
        "Sends audio and reads answers side by side until its own word comes; (id, timestamp, audio that was under way) or None"
        async def next_chunk():
            async for chunk in stream: return chunk
        async with AsyncTcpClient("127.0.0.1", self.port) as client:
            await send(client, Detect(names=[wake_word_id] if wake_word_id else None), AudioStart(RATE, 2, 1))
            audio, wake = asyncio.create_task(next_chunk()), asyncio.create_task(client.read_event())
            pending = {audio, wake}
            try:
                while True:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    if wake in done:
                        if (event := wake.result()) is None or Error.is_type(event.type): return None
                        if Detection.is_type(event.type) and (not wake_word_id or event.data["name"] == wake_word_id):
                            return event.data["name"], event.data["timestamp"], [await audio] if audio in pending else None
                        pending.add(wake := asyncio.create_task(client.read_event()))
                    if audio in done:
                        if (chunk := audio.result()) is None: return None
                        await send(client, AudioChunk(RATE, 2, 1, chunk[0], timestamp=chunk[1]))
                        pending.add(audio := asyncio.create_task(next_chunk()))
            finally:
                if audio in pending: await audio
                for task in pending: task.cancel()


async def microphone(x, endless=True):
    "10 ms chunks with their times, and quiet after them for as long as somebody listens"
    raw, i = x.tobytes(), 0
    while i < len(raw) or endless:
        yield (raw[i:i + 320] or bytes(320)), i//32
        i += 320
        await asyncio.sleep(0)


def test_home_assistant(models):
    x = recording(1., 3.5)
    async def test(service, port):
        ha = HomeAssistant(port)
        assert await ha.words() == ("wakekit", {"kitchen": ("ding dong", "ding dong"), "study": ("dong ding", "dong ding")})
        name, at, queued = await ha.process(microphone(x), "study")
        assert (name, at) == ("study", times(models/"study", x)[0]) and (queued is None or len(queued[0][0]) == 320)
        assert (await ha.process(microphone(x), "kitchen"))[:2] == ("kitchen", times(models/"kitchen", x)[0])
        assert (await ha.process(microphone(x), None))[1] == times(models/"kitchen", x)[0] # no word chosen: any
        assert await ha.process(microphone(x, endless=False), "bathroom") is None # told by an error, so it does not wait for ever
    served_by(models, test)


def test_satellite_that_never_starts_or_stops_its_audio(models):
    "It says `detect` when it connects and after each command, sends chunks with monotonic nanoseconds, and keeps the connection"
    x = recording(1.)
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await send(client, Detect(names=["Ding Dong"]), Describe())
            assert (await client.read_event()).type == "info"
            for begin in (3_000_000_000_000, 9_000_000_000_000):
                stamped = chunks(x.tobytes())
                for c in stamped: c.timestamp = begin + c.timestamp*1_000_000
                await send(client, *stamped[:30])
                found = Detection.from_event(await client.read_event())
                assert found.name == "Ding Dong" # as it was asked for
                assert begin + 1_200_000_000 < found.timestamp < begin + 1_400_000_000
                await send(client, Detect(names=["Ding Dong"])) # the command is over
    served_by(models, test)


def test_parity_rounds_and_names(models):
    x, quiet = recording(1., 3.5), recording(seconds=1.)
    async def test(service, port):
        async with AsyncClient.from_uri(f"tcp://127.0.0.1:{port}") as client:
            for names in (["kitchen"], ["study"], ["kitchen", "study"], None): # again and again on one connection
                found = await round_of(client, x, names)
                for word in names or ["kitchen", "study"]: assert [d.timestamp for d in found if d.name == word] == times(models/word, x)
                assert {d.name for d in found} == set(names or ["kitchen", "study"])
            assert await round_of(client, quiet) == []
            await send(client, AudioStart(RATE, 2, 1), *chunks(quiet.tobytes()), AudioStop())
            assert (await client.read_event()).type == "not-detected"
            await send(client, AudioStart(RATE, 2, 1), AudioStop()) # nothing at all
            assert (await client.read_event()).type == "not-detected"
            for size in (31, 640, 100_000): assert [d.timestamp for d in await round_of(client, x[:2*RATE], ["kitchen"], size=size)] == times(models/"kitchen", x[:2*RATE])
            assert [d.timestamp for d in await round_of(client, x, ["kitchen"], begin=70_000)] == [70_000 + t for t in times(models/"kitchen", x)]
            assert [d.timestamp for d in await round_of(client, x, ["kitchen"], stamps=False)] == times(models/"kitchen", x)
    served_by(models, test)


def test_audio_start_begins_anew(models):
    x = np.concatenate([recording(seconds=.5), (chime()*32768).astype(np.int16)])
    cut = RATE//2 + len(chime())//2
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            half, rest = chunks(x[:cut].tobytes()), chunks(np.concatenate([x[cut:], recording(seconds=.5)]).tobytes())
            await send(client, Detect(names=["kitchen"]), *half, *rest, Ping())
            assert len(await detections(client, "pong")) == 1
            await send(client, AudioStart(RATE, 2, 1), *half, AudioStart(RATE, 2, 1), *rest, Ping())
            assert await detections(client, "pong") == [] # two halves of two streams make no chime
            for begin in (0, 70_000): # the second comes within the refractory time of the first, in another stream
                await send(client, AudioStart(RATE, 2, 1, timestamp=begin), *chunks(np.concatenate([x, x[:1600]]).tobytes(), stamps=False), Ping())
                assert [d.timestamp - begin for d in await detections(client, "pong")] == times(models/"kitchen", np.concatenate([x, x[:1600]]))
    served_by(models, test)


def test_other_formats(models):
    import soxr
    x = recording(1., 3.5).astype(np.float32)/32768
    def as_bytes(rate, width, channels):
        y = np.repeat(soxr.resample(x, RATE, rate), channels)
        if width == 1: return (y*128 + 128).round().clip(0, 255).astype("u1").tobytes()
        y = (y*2.**31).clip(-2**31, 2**31 - 129).astype("<i4")
        return y.view("u1").reshape(-1, 4)[:, 4 - width:].tobytes()
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for rate, width, channels in ((48_000, 2, 2), (44_100, 3, 1), (48_000, 4, 6), (16_000, 1, 1), (8_000, 2, 1)):
                found = await round_of(client, as_bytes(rate, width, channels), ["kitchen"], rate=rate, width=width, channels=channels)
                assert np.allclose([d.timestamp for d in found], times(models/"kitchen", x), atol=21), (rate, width, channels) # a step
    served_by(models, test)


def test_the_end_of_a_recording_with_a_second_look(tmp_path):
    toy_bundle(tmp_path/"models"/"kitchen", verify=True)
    manifest = tmp_path/"models"/"kitchen"/"manifest.json"
    m = json.loads(manifest.read_text())
    m["verifier"] |= dict(looks=3, every_ms=40)
    manifest.write_text(json.dumps(m))
    x = recording(2., seconds=2.34) # it ends before the third look
    expected = times(tmp_path/"models"/"kitchen", x)
    assert len(expected) == 1
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client: assert [d.timestamp for d in await round_of(client, x)] == expected
    served_by(tmp_path/"models", test)


def test_clients_at_once(models):
    recordings = [recording(1 + .1*i, 3.5, seed=i) for i in range(6)]
    async def test(service, port):
        async def one(x, word):
            async with AsyncTcpClient("127.0.0.1", port) as client: return [d.timestamp for d in await round_of(client, x, [word])]
        found = await asyncio.gather(*(one(x, w) for x in recordings for w in ("kitchen", "study")))
        assert found == [times(models/w, x) for x in recordings for w in ("kitchen", "study")]
        assert service.stats()["detections"] == sum(map(len, found)) and service.stats()["audio_s"] == 12*6
    served_by(models, test)


def test_unknown_names(models):
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await send(client, Detect(names=["bathroom"]))
            event = await client.read_event()
            assert Error.is_type(event.type) and "bathroom" in event.data["text"] and "kitchen, study" in event.data["text"]
            assert await round_of(client, recording(1.), ["bathroom", "kitchen"]) # one of two is known: no error
            toy_bundle(models/"bathroom")
            await asyncio.to_thread(service.words.refresh)
            assert [d.name for d in await round_of(client, recording(1.), ["bathroom"])] == ["bathroom"]
    served_by(models, test)


# --- models that change

def test_a_new_model_takes_over_in_an_open_stream(models):
    x = recording(1., 3.5, 7.1, 9., seconds=11.)
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await send(client, Detect(names=["kitchen"]), AudioStart(RATE, 2, 1), *chunks(x[:5*RATE].tobytes()))
            found = [Detection.from_event(await client.read_event()) for _ in range(2)]
            before = service.words.loaded["kitchen"].version
            toy_bundle(models/"kitchen", phrase="ding dong", threshold=.7)
            await asyncio.to_thread(service.words.refresh)
            assert service.words.loaded["kitchen"].version != before
            await send(client, *chunks(x[5*RATE:].tobytes(), begin=5000), AudioStop(), Ping())
            found += await detections(client, "pong")
            assert [d.timestamp for d in found[:2]] == times(models/"kitchen", x, threshold=.5)[:2]
            assert [d.timestamp for d in found[2:]] == times(models/"kitchen", x)[2:] # nothing twice, nothing lost
    served_by(models, test)


@pytest.mark.parametrize("before,after", [(1., .5), (.5, 1.)])
def test_it_is_the_new_model_that_listens(models, before, after):
    x = recording(1., 8., seconds=10.)
    toy_bundle(models/"kitchen", threshold=before)
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await send(client, Detect(names=["kitchen"]), *chunks(x[:4*RATE].tobytes()), Ping())
            first = await detections(client, "pong")
            toy_bundle(models/"kitchen", threshold=after)
            await asyncio.to_thread(service.words.refresh)
            await send(client, *chunks(x[4*RATE:].tobytes(), begin=4000), Ping())
            assert (len(first), len(await detections(client, "pong"))) == (int(before < .9), int(after < .9))
    served_by(models, test)


def test_changes_are_seen_by_themselves(models):
    async def test(service, port):
        ha, before = HomeAssistant(port), service.words.loaded
        toy_bundle(models/"hall", phrase="ding")
        while service.words.loaded is before or "hall" not in (await ha.words())[1]: await asyncio.sleep(.05)
        shutil.rmtree(models/"hall")
        while "hall" in (await ha.words())[1]: await asyncio.sleep(.05)
    served_by(models, test, look_s=.05)


def test_layouts_and_damage(tmp_path, models):
    first, second = toy_bundle(tmp_path/"a"), toy_bundle(tmp_path/"b", threshold=.6)
    deploy(first, Target("here", str(models/"attic")))
    (models/"hall").mkdir()
    for n, b in (("1", first), ("2", second)): shutil.copytree(b, models/"hall"/n)
    def promote(n): (models/"hall"/"registry.json").write_text(json.dumps(dict(name="hall", current=n)))
    promote(1)
    words = Words(models, first)
    version = {id: w.version for id, w in words.loaded.items()}
    assert set(version) == {"a", "attic", "hall", "kitchen", "study"} and version["a"] == version["attic"] == version["hall"]
    kept = words.loaded["study"]
    os.utime(models/"study"/"manifest.json", (1, 1))
    words.refresh()
    assert words.loaded["study"] is kept # the same model: its streams have nothing to do
    promote(2)
    deploy(second, Target("here", str(models/"attic")))
    (models/"kitchen"/"model.onnx").write_bytes(b"half")
    (models/"broken").mkdir()
    (models/"broken"/"manifest.json").write_text("{")
    words.refresh()
    now = {id: w.version for id, w in words.loaded.items()}
    assert now["attic"] == now["hall"] != version["hall"] and now["kitchen"] == version["kitchen"] and "broken" not in now
    (models/"hall"/"registry.json").write_text("{")
    os.rename(models, tmp_path/"away") # a disk that is gone for a moment
    for _ in range(3): words.refresh()
    assert set(words.loaded) == set(now)
    with pytest.raises(BundleError, match="no folder"): Words(models)
    (tmp_path/"empty").mkdir()
    with pytest.raises(BundleError, match="no bundle that can be used"): Words(tmp_path/"empty")
    with pytest.raises(BundleError, match="damaged"): Words(tmp_path/"away"/"broken")


# --- what nobody should do

nonsense = [b"\x00\xff"*500 + b"\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"a"*200_000, b"["*60_000 + b"\n", b"[]\n", b"5\n", b'{"type": 5}\n', b'{"data": {}}\n',
    b'{"type": "audio-chunk", "payload_length": 10000000000}\n' + b"x"*100_000, b'{"type": "audio-chunk", "data_length": 1000000000}\n', b'{"type": "detect", "payload_length": "9"}\n',
    b'{"type": "audio-chunk", "payload_length": -4}\n', b'{"type": "detect", "data": [1, 2]}\n', b'{"type": "detect", "data": {"names": "kitchen"}}\n', b'{"type": "detect", "data": {"names": [[]]}}\n',
    b'{"type": "detect", "data": {"names": {"a": 1}}}\n', b'{"type": "audio-chunk", "payload_length": 2}\nab', b'{"type": "audio-chunk", "data": {"rate": 1, "width": 2, "channels": 1}, "payload_length": 2}\nab',
    b'{"type": "audio-chunk", "data": {"rate": NaN, "width": 2, "channels": 1}, "payload_length": 2}\nab', b'{"type": "audio-chunk", "data": {"rate": 16000, "width": {}, "channels": 1}, "payload_length": 2}\nab',
    b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 100000000}, "payload_length": 2}\nab', b'{"type": "ping", "data_length": 3}\n{"a', b'{"type": "ping", "data_length": 2}\n[]']
harmless = [b'{"type": "audio-stop"}\n', b'{"type": "never-heard-of", "data": {"a": 1}, "payload_length": 3}\nabc', b'{"type": "audio-start", "data": {"timestamp": "now", "rate": null}}\n',
    b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1, "timestamp": 1e999}, "payload_length": 3}\nabc', b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1, "timestamp": [1]}}\n']


def test_nonsense_ends_only_its_own_connection(models, caplog):
    x = recording(1., 3.5)
    async def test(service, port):
        async def raw(sent, expect_end):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            if expect_end:
                answer = b""
                try:
                    writer.write_eof()
                    answer = await reader.read()
                except ConnectionError: pass # it closed while we still sent
                assert not answer or b"error" in answer, sent[:60]
            else:
                await async_send(writer, Ping())
                while (await async_read_event(reader)).type != "pong": pass
            writer.close()
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await send(client, Detect(names=["kitchen"]), AudioStart(RATE, 2, 1))
            parts = chunks(x.tobytes())
            for i, c in enumerate(parts): # between any two chunks of a client, somebody else says something
                await send(client, c)
                if i < len(nonsense): await raw(nonsense[i], True)
                elif i < len(nonsense) + len(harmless): await raw(harmless[i - len(nonsense)], False)
            assert i > len(nonsense) + len(harmless)
            await send(client, AudioStop(), Ping())
            assert [d.timestamp for d in await detections(client, "pong")] == times(models/"kitchen", x)
    served_by(models, test)
    assert "fault of wakekit" not in caplog.text


async def async_send(writer, *events):
    from wyoming.event import async_write_event
    for e in events: await async_write_event(e.event(), writer)


def test_a_client_that_leaves_in_a_chunk(models, caplog):
    x = recording(1.)
    async def test(service, port):
        for linger, audio in ((False, True), (True, True), (False, False)): # with answers on their way, by a reset, and in silence
            for part in (b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 2048}\n' + bytes(100), b'{"type": "audio-ch', b'{"type": "detect", "data_length": 20}\n{"na'):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                if audio: await async_send(writer, Detect(), AudioStart(RATE, 2, 1), *chunks(x.tobytes()))
                writer.write(part)
                await writer.drain()
                if linger: writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0") # a reset, not an end
                writer.transport.abort() if linger else writer.close()
        async with AsyncTcpClient("127.0.0.1", port) as client: assert [d.timestamp for d in await round_of(client, x, ["kitchen"])] == times(models/"kitchen", x)
        while service.clients: await asyncio.sleep(.01)
    served_by(models, test)
    assert "fault of wakekit" not in caplog.text


def test_a_client_that_never_reads(models, monkeypatch, caplog):
    monkeypatch.setattr(served, "WRITE_S", .3)
    x = recording(1.)
    async def test(service, port):
        deaf = socket.create_connection(("127.0.0.1", port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop, asked = asyncio.get_running_loop(), b'{"type": "describe"}\n'*1000
        async def spam():
            while True: await loop.sock_sendall(deaf, asked)
        spamming = asyncio.create_task(spam())
        async with AsyncTcpClient("127.0.0.1", port) as client: assert [d.timestamp for d in await round_of(client, x, ["kitchen"])] == times(models/"kitchen", x)
        with pytest.raises(OSError): await spamming # it was left
        while service.clients: await asyncio.sleep(.01)
        deaf.close()
    served_by(models, test)
    assert "does not read its answers" in caplog.text


def test_long_chunks_and_half_samples(models):
    x = recording(1., 3.5, seconds=20.)
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as client:
            for size in (len(x)*2, 4097): assert [d.timestamp for d in await round_of(client, x, ["kitchen"], size=size)] == times(models/"kitchen", x)
        with contextlib.suppress(ConnectionError): # it closes before all was sent
            async with AsyncTcpClient("127.0.0.1", port) as client:
                await send(client, AudioChunk(RATE, 2, 1, bytes(MAX_PAYLOAD + 1)))
                assert await detections(client, "pong") == [] and await client.read_event() is None
    served_by(models, test)


def test_too_many_clients(models, monkeypatch):
    monkeypatch.setattr(served, "MAX_CLIENTS", 2)
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as a, AsyncTcpClient("127.0.0.1", port) as b:
            for c in (a, b):
                await send(c, Ping())
                assert (await c.read_event()).type == "pong"
            async with AsyncTcpClient("127.0.0.1", port) as c: assert await c.read_event() is None
            assert service.refused == 1
        while service.clients: await asyncio.sleep(.01)
        assert await HomeAssistant(port).words()
    served_by(models, test)


def test_slow_scoring_blocks_nobody(models, monkeypatch):
    "One client's chunk takes for ever; meanwhile another one is served from the first event to the last"
    x, gate, hear = recording(1.), threading.Event(), served.WakeStream.hear
    def slow(self, raw, *more):
        if raw[:4] == b"slow": assert gate.wait(20)
        return hear(self, raw, *more)
    monkeypatch.setattr(served.WakeStream, "hear", slow)
    async def test(service, port):
        async with AsyncTcpClient("127.0.0.1", port) as stuck, AsyncTcpClient("127.0.0.1", port) as client:
            await send(stuck, Detect(names=["kitchen"]), AudioChunk(RATE, 2, 1, b"slow"), *chunks(x.tobytes()), AudioStop(), Ping())
            assert [d.timestamp for d in await round_of(client, x, ["kitchen"])] == times(models/"kitchen", x)
            gate.set()
            assert len(await detections(stuck, "pong")) == 1
    served_by(models, test, threads=2)


# --- the process

def test_addresses(models):
    async def refused(uri):
        service = WakeService(Words(models))
        try: await service.start(uri)
        finally: await service.stop()
    async def stopped():
        service = WakeService(Words(models))
        uri = await service.start("tcp://127.0.0.1:0")
        await service.stop()
        with pytest.raises(ConnectionError): await AsyncClient.from_uri(uri).connect()
    asyncio.run(stopped())
    for uri in ("10400", "tcp://localhost", "tcp://localhost:99999", "http://localhost:1", "stdio://", "tcp://:10400"):
        with pytest.raises(WakekitError, match="no address to listen on"): asyncio.run(refused(uri))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(WakekitError, match="does another service"): asyncio.run(refused(f"tcp://127.0.0.1:{other.getsockname()[1]}"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals and sockets in files")
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command(models, stop):
    "In a process of its own, without torch and fastapi, until it is told to stop; a client that is there does not keep it"
    path = models.parent/"wake.sock"
    code = "import sys\nfor m in ('torch', 'fastapi', 'starlette', 'sqlalchemy', 'onnx'): sys.modules[m] = None\nimport wakekit.cli_wyoming\nfrom wakekit.cli_data import commands\nsys.exit(commands.run())"
    p = subprocess.Popen([sys.executable, "-c", code, "serve", "wyoming", str(models), "--uri", f"unix://{path}", "--preload-model", "study", "--threshold", ".55"], stderr=subprocess.PIPE, text=True)
    said = []
    for line in p.stderr:
        said.append(line)
        if "Ctrl-C" in line: break
    x = recording(1., 3.5)
    async def test():
        async with AsyncClient.from_uri(f"unix://{path}") as client:
            found = await round_of(client, x)
            assert [d.timestamp for d in found] == times(models/"study", x, threshold=.55) and {d.name for d in found} == {"study"}
            p.send_signal(stop)
            assert await client.read_event() is None
    asyncio.run(asyncio.wait_for(test(), 60))
    rest = p.communicate(timeout=60)[1]
    assert p.returncode == 0 and "Traceback" not in rest and "stopped after" in rest and "heard 'study'" in rest, "".join(said) + rest
    assert not Path(path).exists()
