"One sound, and everything that hears it: the same events by file, by stream, from Home Assistant's side, in a browser, on the command line, in a notebook and in one file on a small board."
import json, re, subprocess, time, urllib.request
from dataclasses import dataclass
from pathlib import Path
import numpy as np, pytest, soundfile, soxr
pytest.importorskip("fastapi")
connect = pytest.importorskip("websockets.sync.client").connect
# What they share: commands in processes of their own, a browser, a Wyoming client; `file`, `package`, `page` and `runtime` are fixtures
from test_cli import TYPED, child_env, wakekit
from test_runtime import cli as alone, file # noqa: F401
from test_web import package, page, runtime, served # noqa: F401
from test_wyoming import HomeAssistant, round_of, served_by
from wakekit.data.audio import load_audio
from wakekit.ship.stream import Detector
from wakekit.ship.toy import WINDOW, chime, toy_bundle

SR, STEP_S = 16_000, .02
LOOKS = dict(file="verifier.onnx", samples=WINDOW, frames=100, hop_samples=160, n_mels=1, floor=0., rates=[1., .95], sure=[-2., 2.], every_ms=60, smooth_ms=40., open_at=.3, first_weight=.25, looks=2, parameters=0)
QUIET = np.zeros(SR//5, np.int16) # goes on after a recording, for whoever hears a stream that has no end
CALLS, DEAF, NOISY = (1.2, 5.2, 8.013, 11.2137), (3.1, 9.913), 16. # s; the second are within the refractory time, the last is no call to the second look
BEFORE = {1.2: .012, 5.2: .038, 8.013: .045, 11.2137: .03, NOISY: .08} # Level of the noise before some of them: it decides their scores
LAST = 19.4137 # The recording ends 20 ms after it, before there were looks enough


@dataclass(frozen=True)
class Sound:
    "A recording, as a file and as its samples"
    path:Path
    x:np.ndarray # int16 (time, channels)
    rate:int = SR
    @property
    def mono(self): return self.x.mean(1).round().astype("<i2")

def evening():
    "Eight chimes in noise that ends at 4 kHz, so that no resampler takes some of it away; int16"
    x = soxr.resample(np.random.default_rng(0).standard_normal(int((LAST + .34)*SR)//2), SR//2, SR)
    level = np.full(len(x), .001)
    for s, before in BEFORE.items(): level[int((s - .6)*SR):int(s*SR)] = before
    x *= level
    for s in (*CALLS, *DEAF, NOISY, LAST): x[int(s*SR):][:5120] += chime()
    return (x*32768).round().astype(np.int16)


class Hall:
    "A bundle with a second look in a folder of models, and two recordings"
    def __init__(self, root):
        self.root, self.models = root, root/"models"
        self.bundle = toy_bundle(self.models/"kitchen", verify=True, mel=True, refractory_ms=2500., verifier=LOOKS)
        (root/".env").touch()
        x = evening()
        y = soxr.resample(x/32768, SR, 44_100)
        y = (np.stack([y, .5*y], 1)*32768).round().astype(np.int16)
        self.sounds = {"16 kHz WAV": Sound(root/"evening.wav", x[:, None]), "44.1 kHz stereo FLAC": Sound(root/"evening.flac", y, 44_100)}
        for s in self.sounds.values(): soundfile.write(s.path, s.x, s.rate, subtype="PCM_16")

@pytest.fixture(scope="module")
def hall(tmp_path_factory): return Hall(tmp_path_factory.mktemp("hall"))

@pytest.fixture(scope="module")
def address(hall):
    "Of a detection service in a process of its own"
    log = hall.root/"log.txt"
    with open(log, "wb") as f: p = subprocess.Popen([*TYPED, "serve", "detect", "--models", str(hall.models), "--port", "0"], cwd=hall.root, env=child_env(), stdout=f, stderr=f)
    try:
        until = time.monotonic() + 120
        while not (m := re.search(r"http://(\S+)/docs", log.read_text(encoding="utf-8"))):
            assert p.poll() is None and time.monotonic() < until, log.read_text(encoding="utf-8")
            time.sleep(.05)
        yield m[1]
    finally:
        p.terminate()
        p.wait(60)
    assert "Traceback" not in log.read_text(encoding="utf-8")


# ---- who hears it: each function returns dicts with phrase and time_s, and a score where one is told

def lines(done):
    "Events that a program printed, one a line"
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(l) for l in done.stdout.splitlines()]

def notebook_file(hall, sound, ask): return [e.to_dict() for e in Detector(hall.bundle).detect(sound.path)]

def notebook_stream(hall, sound, ask):
    d, x = Detector(hall.bundle), np.concatenate([load_audio(sound.path), QUIET/np.float32(32768)])
    cuts = np.cumsum(np.random.default_rng(1).integers(1, 4000, 200))
    return [e.to_dict() for piece in np.split(x, cuts[cuts < len(x)]) for e in d.process(piece)]

def file_api(hall, sound, ask):
    asked = urllib.request.Request(f"http://{ask('address')}/detect", sound.path.read_bytes(), {"Content-Type": f"audio/{sound.path.suffix[1:]}"})
    with urllib.request.urlopen(asked, timeout=120) as r: return json.load(r)["events"]

def stream_api(hall, sound, ask):
    data = sound.mono.tobytes()
    with connect(f"ws://{ask('address')}/detect/stream?rate={sound.rate}&model=kitchen", open_timeout=60, ping_interval=None) as s:
        for i in range(0, len(data), 2561): s.send(data[i:i + 2561]) # half a sample goes with the next frame
        s.send('{"type": "end"}')
        told = [json.loads(m) for m in s]
    assert [told[0]["type"], told[-1]["type"]] == ["hello", "done"] and told[-1]["events"] == len(told) - 2
    return [m for m in told if m["type"] == "event"]

def wyoming(hall, sound, ask):
    "Its events have a name, which is the model's, and no score"
    heard = []
    async def test(service, port):
        from wyoming.client import AsyncTcpClient
        async with AsyncTcpClient("127.0.0.1", port) as client: heard.extend(await round_of(client, sound.x.astype("<i2").tobytes(), rate=sound.rate, channels=sound.x.shape[1]))
        words = (await HomeAssistant(port).words())[1]
        heard[:] = [dict(phrase=words[d.name][1], time_s=d.timestamp/1000) for d in heard]
    served_by(hall.models, test)
    return heard

def browser(hall, sound, ask):
    "What the page that `wakekit web` makes saves of what it heard"
    page, web = ask("page"), hall.root/"web"
    made = wakekit("web", hall.bundle, web, "--runtime", ask("package"), cwd=hall.root)
    assert made.returncode == 0, made.stderr.decode()
    downloads = hall.root/f"downloads{sound.rate}"
    page("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    with served(web) as at:
        assert page.go(at) == "Ready.", page.problem()
        page.hear(sound.path)
        page.click("save")
        saved = page._until(lambda: (downloads/"events.json").is_file() and (downloads/"events.json").read_text(encoding="utf-8"))
    assert not page.problem()
    return json.loads(saved)["events"]

def command_file(hall, sound, ask):
    done = wakekit("detect", hall.bundle, sound.path, "--json", cwd=hall.root)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)["files"][0]["events"]

def command_stream(hall, sound, ask): return lines(wakekit("detect", hall.bundle, "-", "--json", cwd=hall.root, input=sound.mono.tobytes() + QUIET.tobytes()))

def one_file(hall, sound, ask): return lines(alone(ask("file"), hall.bundle, "--wav", sound.path, "--json"))

def one_file_stream(hall, sound, ask): return lines(alone(ask("file"), hall.bundle, "-", "--json", input=sound.mono.tobytes() + QUIET.tobytes()))


FILES = (file_api, command_file)                           # decode it as Python does: the same to the bit
STREAMS = (notebook_stream, stream_api, wyoming, browser)  # resample it on their own, where it is not at 16 kHz
AT_16_KHZ = (command_stream, one_file, one_file_stream)    # take nothing else
CASES = [(s, "16 kHz WAV") for s in (*FILES, *STREAMS, *AT_16_KHZ)] + [(s, "44.1 kHz stereo FLAC") for s in (*FILES, *STREAMS)]


def agree(found, wanted, step_s=0., score=1e-3):
    "The same calls, at the same time, as sure of them"
    assert len(found) == len(wanted), (found, wanted)
    for a, b in zip(found, wanted):
        assert a["phrase"] == b["phrase"] and abs(a["time_s"] - b["time_s"]) <= step_s + 1e-6, (found, wanted)
        if "score" in a: assert abs(a["score"] - b["score"]) <= score, (found, wanted)

def expected(hall, sound): return notebook_file(hall, sound, None)


def test_the_sound_asks_for_all_that_decides(hall):
    "Without the refractory time, the second look or the quiet after the end it would be other events: who forgets one of them fails"
    for sound in hall.sounds.values():
        events = expected(hall, sound)
        at = [e["time_s"] for e in events]
        assert np.allclose(at, [s + .32 for s in (*CALLS, LAST)], atol=.06) and len({round(e["score"], 2) for e in events}) >= 4, events
        assert all(abs(e["score"] - e["threshold"]) > .1 for e in events) # no rounding decides
        again = np.array([e.time_s for e in Detector(hall.bundle, refractory_ms=1000.).detect(sound.path)])
        assert all((abs(again - s - .32) < .06).any() for s in DEAF) and len(again) == len(at) + len(DEAF)
        assert any(abs(e.time_s - NOISY - .32) < .1 for e in Detector(hall.bundle, verify=False).detect(sound.path))
        assert len(Detector(hall.bundle).process(load_audio(sound.path))) == len(at) - 1
        with pytest.raises(AssertionError): agree(events, [{**e, "time_s": e["time_s"] + 2*STEP_S} for e in events], STEP_S)
        with pytest.raises(AssertionError): agree(events, [{**e, "score": e["score"] - .01} for e in events])

@pytest.mark.parametrize("surface, form", CASES, ids=[f"{s.__name__}-{f}" for s, f in CASES])
def test_everybody_hears_the_same(hall, request, surface, form):
    sound = hall.sounds[form]
    found, wanted = surface(hall, sound, request.getfixturevalue), expected(hall, sound)
    if sound.rate == SR or surface in FILES: agree(found, wanted)
    else: agree(found, wanted, STEP_S, .02) # another resampler: a step at the most, and what else is then in the window of a look

def test_the_format_of_the_sound_changes_nothing(hall):
    a, b = (expected(hall, s) for s in hall.sounds.values())
    agree(a, b, STEP_S, .02)
