"The runtime in one file: the same scores and events as the library, where nothing else is installed."
import ast, hashlib, importlib.util, json, os, shutil, signal, subprocess, sys, time, wave
from pathlib import Path
import numpy as np
import pytest
from wakekit.cli_runtime import differences, runtime_source
from wakekit.ship import runtime
from wakekit.ship.runtime import CollectError, collect, load_file, write_source
from wakekit.ship.stream import Detector

LOUD = Path(__file__).parent/"data"/"toy_bundle" # wakes for anything loud
VERIFIER = Path(__file__).parent/"data"/"toy_verifier.onnx" # was it quiet before?
REAL = os.environ.get("REAL_BUNDLE") # folder of a trained bundle, to try the same with

def second_look(path):
    "The toy bundle with two graphs and a second look"
    shutil.copytree(LOUD, path)
    shutil.copy(VERIFIER, path/"verifier.onnx")
    m = json.loads((path/"manifest.json").read_text(encoding="utf-8"))
    name = next(iter(m["graphs"].values()))["file"]
    shutil.copy(path/name, path/"other.onnx")
    for f, src in ("verifier.onnx", VERIFIER), ("other.onnx", path/name): m["files"][f] = dict(sha256=hashlib.sha256(src.read_bytes()).hexdigest(), bytes=src.stat().st_size)
    m["graphs"]["int8"] = dict(file="other.onnx", threshold=.7)
    m |= dict(schema_version=2, smooth_ms=20, refractory_ms=300, verifier=dict(file="verifier.onnx", samples=16_000, every_ms=100, smooth_ms=40, open_at=.5, first_weight=.25, looks=2))
    (path/"manifest.json").write_text(json.dumps(m), encoding="utf-8")
    return path

def sound(seconds=20):
    "A recording with several words, as int16"
    rng, x = np.random.default_rng(0), np.zeros(seconds*16_000, "<i2")
    x[:] = rng.integers(-20, 20, len(x))
    for at in (1., 1.6, 3.2, 6.15, 6.7, 11., 11.45, 17.):
        if at + 1 < seconds: x[int(at*16_000):][:4000] = rng.integers(-9000, 9000, 4000)
    return x

def wav(path, x, sr=16_000, channels=1):
    with wave.open(str(path), "wb") as w:
        w.setnchannels(channels), w.setsampwidth(2), w.setframerate(sr)
        w.writeframes(x.tobytes())
    return path

@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("one")/"wakeword.py"
    path.write_text(runtime_source(), encoding="utf-8")
    return path

ALONE = '''import sys
class Only:
    "Nothing but the standard library, numpy and onnxruntime"
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in ("numpy", "onnxruntime", "wakeword"): return None
        raise ModuleNotFoundError(f"No module named {name!r}, as this test wants it", name=top)
sys.meta_path.insert(0, Only())
'''

def alone(code, *args, file, **how):
    "Run code beside the file, where nothing else can be imported"
    return subprocess.run([sys.executable, "-c", ALONE + f"sys.path.insert(0, {str(file.parent)!r})\n" + code, *map(str, args)], capture_output=True, timeout=300, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **how)

def cli(file, *args, **how):
    return alone("import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')", file, *args, file=file, **how)


# ---- what it is made of

def test_size_grammar_and_determinism(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 60_000 and text == runtime_source()
    with pytest.raises(SyntaxError): ast.parse("match 1:\n    case 1: pass", feature_version=(3, 9)) # the check can fail
    tree = ast.parse(text, feature_version=(3, 9))
    tops = {(n.module if isinstance(n, ast.ImportFrom) else a.name).split(".")[0] for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    assert tops - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "sounddevice"}

def test_no_newer_library(file, tmp_path):
    if importlib.util.find_spec("vermin") is None: pytest.skip("needs vermin: pip install vermin")
    newer = tmp_path/"newer.py"
    newer.write_text("for a, b in zip([1], [2], strict=True): pass\n")
    ask = lambda p: subprocess.run([sys.executable, "-c", "from vermin import main; main()", "-t=3.9-", "--no-tips", str(p)], capture_output=True, text=True, timeout=300)
    assert ask(newer).returncode == 1 and "3.10" in ask(newer).stdout # the check can fail
    assert ask(file).returncode == 0, ask(file).stdout

@pytest.mark.parametrize("version", ["3.9", "3.10"])
def test_an_older_python(file, tmp_path, version):
    name = f"PYTHON{version.replace('.', '')}" # PYTHON39: the interpreter, PYTHON39_SITE: folder with numpy and onnxruntime for it
    python = os.environ.get(name) or shutil.which(f"python{version}")
    if not python or subprocess.run([python, "-c", ""], capture_output=True).returncode: pytest.skip(f"no Python {version} here")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PYTHONPATH": os.environ[f"{name}_SITE"]} if os.environ.get(f"{name}_SITE") else {})
    how = dict(capture_output=True, timeout=300, env=env, cwd=tmp_path)
    done = subprocess.run([python, "-c", "import ast, sys; ast.parse(open(sys.argv[1], encoding='utf-8').read())", str(file)], **how)
    assert done.returncode == 0, done.stderr.decode()
    if subprocess.run([python, "-c", "import numpy, onnxruntime"], **how).returncode: pytest.skip(f"the grammar is right; Python {version} here has no numpy and onnxruntime to run it")
    for bundle in (second_look(tmp_path/"b"), LOUD, *([REAL] if REAL else [])):
        p = subprocess.run([python, str(file), str(bundle), "-", "--json"], input=sound().tobytes(), **how)
        assert p.returncode == 0, p.stderr.decode()
        found, expected = [json.loads(l) for l in p.stdout.splitlines()], [e.to_dict() for e in Detector(bundle).listen(np.array_split(sound(), 250))]
        assert [e["time_s"] for e in found] == [e["time_s"] for e in expected] and np.allclose([e["score"] for e in found], [e["score"] for e in expected], atol=1e-4) # another onnxruntime rounds otherwise


# ---- the same detector

COMPARE = '''import json, numpy as np, wakeword
for name in ("wakekit", "soundfile", "torch"):
    try: __import__(name)
    except ModuleNotFoundError: pass
    else: sys.exit(name + " was imported")
bundle, graph, verify, cuts, x = sys.argv[1], sys.argv[2], sys.argv[3] == "True", np.load(sys.argv[4]), np.load(sys.argv[5])
chunks = np.split(x, cuts)
d = wakeword.Detector(bundle, graph, verify=verify)
scores = [d.score(c) for c in chunks]
d.reset()
events = [e.to_dict() for e in d.listen(chunks)]
print(json.dumps([np.concatenate(scores).tobytes().hex(), events, [e.to_dict() for e in d.detect(x)], [e.to_dict() for e in d.detect(sys.argv[6])]]))
'''

@pytest.mark.parametrize("kind", ["one sample to a second", "80 ms", "all at once"])
@pytest.mark.parametrize("which", ["first", "second", "real"])
def test_same_scores_and_events(file, tmp_path, which, kind):
    if which == "real" and not REAL: pytest.skip("REAL_BUNDLE names no trained bundle to try as well")
    bundle = dict(first=lambda: LOUD, second=lambda: second_look(tmp_path/"b"), real=lambda: Path(REAL))[which]()
    x, rng = sound(), np.random.default_rng(1)
    if which == "real" and os.environ.get("REAL_WAV"):
        with wave.open(os.environ["REAL_WAV"]) as w: x = np.frombuffer(w.readframes(w.getnframes()), "<i2")
    if kind == "80 ms": cuts = np.arange(1280, len(x), 1280)
    elif kind == "all at once": cuts = np.zeros(0, int)
    else: cuts = np.cumsum(np.exp(rng.uniform(0, np.log(16_000), 20*len(x)//16_000)).astype(int))
    cuts = cuts[cuts < len(x)]
    np.save(tmp_path/"cuts.npy", cuts), np.save(tmp_path/"x.npy", x), wav(tmp_path/"x.wav", x)
    for graph in Detector(bundle).bundle.graphs:
        for verify in True, False:
            p = alone(COMPARE, bundle, graph, verify, tmp_path/"cuts.npy", tmp_path/"x.npy", tmp_path/"x.wav", file=file)
            assert p.returncode == 0, p.stderr.decode()
            bits, listened, detected, of_file = json.loads(p.stdout)
            d, chunks = Detector(bundle, graph, verify=verify), np.split(x, cuts)
            assert bytes.fromhex(bits) == np.concatenate([d.score(c) for c in chunks]).tobytes()
            d.reset()
            assert listened == [e.to_dict() for e in d.listen(chunks)] and detected == [e.to_dict() for e in d.detect(x)] and of_file == [e.to_dict() for e in d.detect(tmp_path/"x.wav")]
            if which != "real": assert len(listened) >= 3

def test_command_proves_it(file, tmp_path):
    assert differences(file, LOUD, 5) == []
    bent = tmp_path/"bent.py"
    text = file.read_text(encoding="utf-8")
    assert "/32768, 0" in text
    bent.write_text(text.replace("return np.clip(x, -1, 1).astype(np.float32), n_bad", "return np.clip(x, -1, 1).astype(np.float32)*np.float32(1.001), n_bad"), encoding="utf-8")
    assert bent.read_text(encoding="utf-8") != text and differences(bent, LOUD, 5) # the check can fail


# ---- its command line

def test_recordings_pipe_and_stats(file, tmp_path):
    x = sound()
    expected = [e.to_dict() for e in Detector(LOUD).detect(x)]
    p = cli(file, LOUD, "--wav", wav(tmp_path/"a.wav", x), "--json", "--stats")
    assert p.returncode == 0 and [{k: v for k, v in json.loads(l).items() if k != "file"} for l in p.stdout.splitlines()] == expected
    assert b"20.0 s of sound in" in p.stderr
    p = cli(file, LOUD, "-", "--json", input=x.tobytes() + b"\0") # half a sample at the end
    assert [json.loads(l)["time_s"] for l in p.stdout.splitlines()] == [e["time_s"] for e in expected]
    stereo = np.stack([x, x], 1)
    p = cli(file, LOUD, "--wav", wav(tmp_path/"b.wav", stereo, channels=2), "--json")
    assert [json.loads(l)["time_s"] for l in p.stdout.splitlines()] == [e["time_s"] for e in expected]

def damaged(path, how):
    shutil.copytree(LOUD, path)
    m = json.loads((path/"manifest.json").read_text(encoding="utf-8"))
    name = next(iter(m["graphs"].values()))["file"]
    if how == "a bit": (path/name).write_bytes(bytes([(path/name).read_bytes()[0] ^ 1]) + (path/name).read_bytes()[1:])
    elif how == "cut": (path/name).write_bytes((path/name).read_bytes()[:100])
    elif how == "lacks": (path/name).unlink()
    elif how == "manifest": (path/"manifest.json").write_text("{")
    elif how == "no manifest": (path/"manifest.json").unlink()
    elif how == "newer": (path/"manifest.json").write_text(json.dumps({**m, "schema_version": 99}))
    elif how == "outside": (path/"manifest.json").write_text(json.dumps({**m, "files": {**m["files"], "../x": {"sha256": ""}}}))
    elif how == "no graph":
        (path/name).write_bytes(b"not a graph")
        m["files"][name] = dict(sha256=hashlib.sha256(b"not a graph").hexdigest(), bytes=11)
        (path/"manifest.json").write_text(json.dumps(m))
    return path

@pytest.mark.parametrize("how, says", [("a bit", "is damaged"), ("cut", "is damaged"), ("lacks", "lacks"), ("manifest", "is damaged"), ("no manifest", "has no manifest.json"), ("newer", "wakekit runtime FILE"), ("outside", "outside the bundle"), ("no graph", "cannot run graph")])
def test_damaged_bundles(file, tmp_path, how, says):
    p = cli(file, damaged(tmp_path/"b", how), "-", input=b"")
    assert p.returncode == 2 and p.stdout == b"" and says in p.stderr.decode() and "Traceback" not in p.stderr.decode() and p.stderr.decode().count("wakeword.py: error:") == 1

def test_wrong_use(file, tmp_path):
    cd = wav(tmp_path/"cd.wav", sound(2), 44_100)
    (tmp_path/"text.wav").write_text("hello")
    for args, says in (([LOUD], "--wav FILE, --mic, or -"), ([LOUD, "-", "--mic"], "--wav FILE, --mic, or -"), ([LOUD, "--wav", cd], "ffmpeg"), ([LOUD, "--wav", tmp_path/"text.wav"], "ffmpeg"), ([LOUD, "--wav", tmp_path/"none.wav"], "none.wav"),
                       ([LOUD, "-", "--graph", "float64"], "no graph"), ([LOUD, "-", "--threshold", "-1"], "at least 0"), ([LOUD, "-", "--run", "no-such-program-at-all"], "no program"), ([LOUD, "--mic"], "pip install sounddevice"), ([tmp_path/"no", "-"], "does not exist")):
        p = cli(file, *args, input=b"")
        assert p.returncode == 2 and says in p.stderr.decode() and "Traceback" not in p.stderr.decode(), (args, p.stderr.decode())

def test_numpy_missing(file):
    p = subprocess.run([sys.executable, "-c", f"import runpy, sys\nsys.modules['onnxruntime'] = None\nrunpy.run_path({str(file)!r}, run_name='__main__')"], capture_output=True, text=True, timeout=100)
    assert p.returncode == 1 and "pip install numpy onnxruntime" in p.stderr and "Traceback" not in p.stderr

def test_run_gets_the_event(file, tmp_path):
    code = f"import json, os, sys; d = json.load(sys.stdin); open({str(tmp_path/'out')!r}, 'a').write(os.environ['WAKEKIT_TIME_S'] + ' ' + str(d['time_s']) + chr(10))"
    (tmp_path/"note.py").write_text(code)
    p = cli(file, LOUD, "-", "--json", "--run", f"'{sys.executable}' '{tmp_path/'note.py'}'".replace("\\", "/"), input=sound(8).tobytes())
    times = [json.loads(l)["time_s"] for l in p.stdout.splitlines()]
    assert len(times) >= 2 and (tmp_path/"out").read_text().split() == [str(t) for t in times for _ in range(2)]

@pytest.mark.skipif(os.name == "nt", reason="links and SIGTERM are POSIX")
def test_deployed_folder_and_sigterm(file, tmp_path):
    home = tmp_path/"wakekit"
    (home/"releases").mkdir(parents=True)
    shutil.copytree(LOUD, home/"releases"/"one")
    os.symlink("releases/one", home/"current")
    p = subprocess.Popen([sys.executable, str(file), str(home), "-", "--json", "--stats"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    try:
        p.stdin.write(sound(4).tobytes()), p.stdin.flush()
        assert json.loads(p.stdout.readline())["time_s"] > 1
        first = json.loads((home/"status.json").read_text())["version"]
        shutil.copytree(LOUD, home/"releases"/"two")
        m = json.loads((home/"releases"/"two"/"manifest.json").read_text())
        (home/"releases"/"two"/"manifest.json").write_text(json.dumps({**m, "phrase": "the second"}))
        os.symlink("releases/two", home/"new"), os.replace(home/"new", home/"current")
        late = time.monotonic() + 60
        while json.loads((home/"status.json").read_text())["version"] == first and time.monotonic() < late:
            p.stdin.write(bytes(3200)), p.stdin.flush() # the stream goes on
            time.sleep(.05)
        assert json.loads((home/"status.json").read_text())["phrase"] == "the second"
        p.stdin.write(sound(4).tobytes()), p.stdin.flush()
        while json.loads(p.stdout.readline())["phrase"] != "the second": pass
        p.send_signal(signal.SIGTERM)
        out, err = p.communicate(timeout=60)
    finally: p.kill()
    assert p.returncode == 0 and b"Traceback" not in err


# ---- collecting

def modules(monkeypatch, folder, **sources):
    for name, text in sources.items(): (folder/f"{name}.py").write_text(text)
    monkeypatch.setattr(runtime, "module_path", lambda name: folder/f"{name.split('.')[-1]}.py")

def test_collects_patches_imports_and_nothing_else(monkeypatch, tmp_path):
    modules(monkeypatch, tmp_path, a="import urllib.error, urllib.request\nimport numpy as np\nfrom .b import base\nfrom wakekit.b import LIMIT as unused\nclass A(base):\n    def f(self): return helper()\ndef helper(): return urllib.request, np\ndef _more(self): return LATE\nLATE = 1\nA.more = _more\nOTHER = 2\n",
            b="import json, os\nclass base: pass\nLIMIT = os.sep\n")
    found = collect(("wakekit.a", "A"))
    assert sorted(n for p in found.pieces for n in p.names) == ["A", "LATE", "_more", "base", "helper"] and found.modules == ["wakekit.b", "wakekit.a"]
    text = write_source(found, "T")
    assert "import urllib.error\nimport urllib.request" in text and "json" not in text and "OTHER" not in text
    (tmp_path/"out.py").write_text(text)
    assert load_file(tmp_path/"out.py").A().more() == 1

@pytest.mark.parametrize("a, b, says", [
    ("from .b import g\ndef x(): return 1\ndef f(): return x() + g()\n", "def x(): return 2\ndef g(): return x()\n", "means different things"),
    ("from .b import g\nimport json\ndef f(): return json, g()\n", "from simplejson import json\ndef g(): return json\n", "is imported as"),
    ("from .b import g\nimport json\ndef f(): return json, g()\n", "json = 1\ndef g(): return json\n", "defined besides"),
    ("from . import b\ndef f(): return b.g()\n", "", "has no|as a whole"), ("from .b import g as h\ndef f(): return h()\n", "def g(): pass\n", "another name"),
    ("def f():\n    import wakekit.b\n", "", "import names"), ("from .b import g\ndef f(): return g\n", "", "has no 'g'"), ("", "", "has no 'f'")])
def test_what_cannot_go_into_one_file(monkeypatch, tmp_path, a, b, says):
    modules(monkeypatch, tmp_path, a=a, b=b, wakekit="")
    with pytest.raises(CollectError, match=says): collect(("wakekit.a", "f"))
