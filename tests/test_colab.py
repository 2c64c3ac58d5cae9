"The Colab notebook from top to bottom beside a stand-in for Google's package; what it leans on, in bad weather."
import base64, contextlib, errno, hashlib, http.server, io, json, os, re, shutil, signal, stat, subprocess, sys, tarfile, textwrap, threading, time, types, zipfile
from configparser import ConfigParser
from pathlib import Path
import numpy as np, pytest
from wakekit import colab
from wakekit.colab import ColabError, Keeper, bring_back, fetch, mount_drive, save_back, unpack
from wakekit.serve import beside
from wakekit.ship.stream import Bundle

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT/"colab"/"wakekit_colab.ipynb"
PATIENCE_S = 600 # for a cell on a busy machine

def cells(): return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
def code(): return ["".join(c["source"]) for c in cells() if c["cell_type"] == "code"]

def filled(source, form):
    "A cell with other values in its form, as Colab writes them when somebody fills it in"
    for name, value in form.items():
        if re.search(rf"^{name} = .*#@param", source, re.M): source = re.sub(rf"^{name} = .*?(\s+#@param)", lambda m: f"{name} = {value!r}{m[1]}", source, flags=re.M)
    return source


# --- the notebook as a file

def test_it_opens_in_colab_from_the_repository_and_carries_no_outputs():
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT/"settings.ini", encoding="utf-8")
    address = f"https://colab.research.google.com/github/{cfg['DEFAULT']['user']}/{cfg['DEFAULT']['repo']}/blob/{cfg['DEFAULT']['branch']}/colab/{NOTEBOOK.name}"
    assert f"]({address})" in "".join(cells()[0]["source"])
    assert not any(c.get("outputs") or c.get("execution_count") for c in cells())
    assert len({c["id"] for c in cells()}) == len(cells())


def test_every_field_of_the_form_is_explained_and_used():
    whole, text = "\n".join(code()), "\n".join("".join(c["source"]) for c in cells() if c["cell_type"] == "markdown")
    fields = re.findall(r"^([A-Z_0-9]+) = .*#@param", whole, re.M)
    assert len(fields) >= 8
    for name in fields: assert len(re.findall(rf"\b{name}\b", whole)) >= 2 and (name in text or name in ("DOCTOR", "MICROPHONE")), name


# --- Drive says no

REFUSALS = {"must not already contain files": "rename that folder", "Mountpoint must not contain a space.": "without a space", "mount failed": "Disconnect and delete runtime",
            "mount failed: timeout during initial read of root folder": "thousands of files", "The domain policy has disabled Drive File Stream: https://support": "another account",
            "Error: credential propagation was unsuccessful": "pop-ups", "something new": "run this cell again"}

class Drive:
    "As `google.colab.drive`: refuses, or shows a folder"
    def __init__(self, *refusals): self.refusals, self.asked = list(refusals), []
    def mount(self, at, force_remount=False):
        self.asked.append(force_remount)
        if self.refusals: raise self.refusals.pop(0)
        os.makedirs(f"{at}/MyDrive")


@pytest.mark.parametrize("said", REFUSALS)
def test_each_way_in_which_drive_refuses(said, tmp_path, capsys):
    drive = Drive(ValueError(said), ValueError(said))
    assert mount_drive(tmp_path/"drive", drive) is None and drive.asked == [False, True]
    told = capsys.readouterr().out
    assert said in told and REFUSALS[said] in told and "files.upload()" in told
    assert mount_drive(tmp_path/"drive", Drive(ValueError(said))) == tmp_path/"drive"/"MyDrive"  # and the second try may do


def test_colab_enterprise_is_asked_once(tmp_path, capsys):
    drive = Drive(NotImplementedError("no"))
    assert mount_drive(tmp_path/"drive", drive) is None and drive.asked == [False]
    assert "cannot be mounted in this kind" in capsys.readouterr().out


def test_where_there_is_no_drive_nobody_is_asked(tmp_path, capsys):
    for environ, files, said in (({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, ["/var/colab/hostname"], "Kaggle"), ({}, [], "This machine"), ({"VERTEX_PRODUCT": "COLAB_ENTERPRISE"}, [], "Colab Enterprise")):
        probes = colab.Probes(system="Linux", environ=environ, files=dict.fromkeys(files, "x"))
        assert mount_drive(tmp_path/"drive", probes=probes) is None
        assert capsys.readouterr().out.startswith(f"{said} has no Drive")


# --- a runtime with everything but wakekit

@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "wakekit as a wheel, made from a copy of this clone"
    if os.name == "nt": pytest.skip("Colab is a Linux machine")
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT/"wakekit", copy/"wakekit", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("setup.py", "settings.ini", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md"): shutil.copy(ROOT/name, copy)
    made = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", copy/"dist", copy], capture_output=True, text=True, timeout=PATIENCE_S)
    assert made.returncode == 0, made.stderr[-2000:]
    return next((copy/"dist").glob("wakekit-*.whl"))


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    "A Python that has the packages of this one, except wakekit"
    if os.name == "nt": pytest.skip("Colab is a Linux machine")
    home = tmp_path_factory.mktemp("runtime")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home/"venv"], check=True, timeout=PATIENCE_S)
    (home/"there").mkdir()
    for site in dict.fromkeys(p for p in sys.path if p.endswith("-packages") and os.path.isdir(p)):
        for p in Path(site).iterdir():
            if "wakekit" not in p.name and not (home/"there"/p.name).exists(): (home/"there"/p.name).symlink_to(p)
    next((home/"venv"/"lib").glob("python*/site-packages")).joinpath("there.pth").write_text(str(home/"there"))
    return home/"venv"/"bin"/"python"


def tiny_wheel(folder, name, version, requires="", content="x = 1"):
    "A wheel of one module"
    def checksum(c): return base64.urlsafe_b64encode(hashlib.sha256(c.encode()).digest()).decode().rstrip("=")
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {f"{name}.py": content, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {requires}\n" if requires else ""),
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files[f"{info}/RECORD"] = "".join(f"{n},sha256={checksum(c)},{len(c)}\n" for n, c in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder/f"{name}-{version}-py3-none-any.whl", "w") as z:
        for n, c in files.items(): z.writestr(n, c)
    return folder/f"{name}-{version}-py3-none-any.whl"


def test_an_installation_never_replaces_what_is_loaded(python, wheel, tmp_path):
    wheels, pip = tmp_path/"wheels", {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    one = tiny_wheel(wheels, "heldfast", "1.0")
    tiny_wheel(wheels, "heldfast", "2.0")
    tiny_wheel(wheels, "wantsnew", "1.0", "heldfast>=2")
    tiny_wheel(wheels, "modest", "1.0", "heldfast")
    again = tiny_wheel(tmp_path/"other", "heldfast", "1.0", content="x = 2")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel, one], env=pip, check=True, timeout=PATIENCE_S)
    script = f"""
        import heldfast, sys
        from importlib import metadata
        from wakekit.colab import ColabError, install
        def said(*what):
            try: install(*what)
            except ColabError as e: return str(e)
            return ""
        refused = said("--find-links", {str(wheels)!r}, "wantsnew")
        assert "wantsnew cannot be installed" in refused and "Runtime version" in refused and "heldfast==1.0" in refused, refused
        assert metadata.version("heldfast") == "1.0"
        assert said("--find-links", {str(wheels)!r}, "modest") == "" and metadata.version("modest") == "1.0"
        behind = said("--force-reinstall", {str(again)!r})
        assert "replaced what this Python has loaded: heldfast 1.0 → 1.0" in behind and "Restart session" in behind, behind
    """
    done = subprocess.run([python, "-c", textwrap.dedent(script)], env=pip, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-3000:]


# --- Colab, as far as the notebook can see

GOOGLE = {"google/colab/__init__.py": "", "sitecustomize.py": """
    import os
    exists = os.path.exists
    os.path.exists = lambda path: True if path == "/var/colab/hostname" else exists(path)
""", "google/colab/drive.py": """
    import os
    class MessageError(Exception): "As google.colab's"
    def mount(mountpoint, force_remount=False, timeout_ms=60000):
        if " " in mountpoint: raise ValueError("Mountpoint must not contain a space.")
        if os.path.isdir(f"{mountpoint}/My Drive") and not force_remount: return print("Drive already mounted")
        if not os.environ["STAND_IN_DRIVE"]: raise MessageError("Error: credential propagation was unsuccessful")
        if os.path.isdir(mountpoint) and os.listdir(mountpoint): raise ValueError("Mountpoint must not already contain files")
        os.makedirs(mountpoint, exist_ok=True)
        for name in ("MyDrive", "My Drive"): os.symlink(os.environ["STAND_IN_DRIVE"], f"{mountpoint}/{name}")
        print("Mounted at", mountpoint)
""", "google/colab/output.py": """
    import base64, os
    def eval_js(script, ignore_result=False, timeout_sec=None):
        assert "getUserMedia" in script and "16000" in script
        return base64.b64encode(open(os.environ["STAND_IN_MICROPHONE"], "rb").read()).decode()
    def enable_custom_widget_manager(): _widgets._installed_url = "https://ssl.gstatic.com/colaboratory-static/widgets"
    class _widgets: _installed_url = None
""", "google/colab/files.py": "def upload(): return {}\n"}


class Runtime:
    "A kernel of Python, as Colab starts one"
    def __init__(self, python, content, env):
        from jupyter_client import BlockingKernelClient
        from jupyter_client.connect import write_connection_file
        content.mkdir(exist_ok=True)
        self.out, file = [], content.parent/"connection.json"
        file.unlink(missing_ok=True)
        write_connection_file(str(file))
        with open(content.parent/"kernel.log", "ab") as log:
            self.process = subprocess.Popen([python, "-m", "ipykernel_launcher", "-f", file], cwd=content, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.client = BlockingKernelClient(connection_file=str(file))
        self.client.load_connection_file()
        self.client.start_channels(hb=False) # a busy machine is not a dead one
        try: self.client.wait_for_ready(timeout=PATIENCE_S)
        except BaseException:
            self.kill()
            raise
    def hear(self, message):
        content = message["content"]
        if message["msg_type"] == "stream" and content["name"] == "stdout": self.out.append(content["text"])
        if message["msg_type"] in ("execute_result", "display_data"): self.out.append(content["data"].get("text/markdown", content["data"].get("text/plain", "")))
    def run(self, source):
        reply = self.client.execute_interactive(source, timeout=PATIENCE_S, output_hook=self.hear, allow_stdin=False)["content"]
        assert reply["status"] == "ok", f"{source}\n{reply.get('evalue')}\n" + re.sub(r"\x1b\[[\d;]*m", "", "\n".join(reply.get("traceback", [])))[-3000:]
    @property
    def text(self): return "".join(self.out)
    def kill(self):
        with contextlib.suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.client.stop_channels()


@pytest.fixture
def machine(python, tmp_path):
    "Starts runtimes whose local disk is new and whose Drive is the same"
    (tmp_path/"cloud").mkdir()
    for name, text in GOOGLE.items():
        (tmp_path/"google_stand_in"/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/"google_stand_in"/name).write_text(textwrap.dedent(text))
    (tmp_path/"microphone.pcm").write_bytes((3000*np.sin(np.arange(16_000)/20)).astype("<i2").tobytes())
    started = []
    def start(drive=True):
        for r in started: r.kill()
        shutil.rmtree(tmp_path/"content", ignore_errors=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("WAKE", "PIP_", "MLFLOW", "KAGGLE", "VERTEX", "PYTEST"))}
        env |= {"PYTHONPATH": str(tmp_path/"google_stand_in"), "STAND_IN_DRIVE": str(tmp_path/"cloud") if drive else "", "STAND_IN_MICROPHONE": str(tmp_path/"microphone.pcm"), "PIP_NO_INDEX": "1",
                "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "WAKEKIT_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "IPYTHONDIR": str(tmp_path/"ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        started.append(Runtime(python, tmp_path/"content", env))
        return started[-1]
    yield start
    for r in started: r.kill()
    for root in (tmp_path/"content").glob("wakekit_runs/*/mine/.wakekit"): beside.stop(root)


def test_a_disconnect_in_the_middle_costs_nothing_that_had_reached_drive(machine, wheel, tmp_path):
    cloud, form = tmp_path/"cloud", dict(PHRASE="hey jarvis", MINUTES=.3, INSTALL_FROM=str(tmp_path/"content"/"drive"/"MyDrive"/wheel.name), DOCTOR=False)
    shutil.copy(wheel, cloud)
    training = next(k for k, source in enumerate(code()) if re.search(r"= train\(", source))
    first = machine()
    for source in code()[:training]: first.run(filled(source, form))
    assert "This is Colab" in first.text and f"Kept in {tmp_path}/content/drive/MyDrive/wakekit/hey_jarvis" in first.text
    first.client.execute(filled(code()[training], form))
    until = time.monotonic() + PATIENCE_S
    while not (found := list((cloud/"wakekit").rglob("events.jsonl"))): # the second of the two files that an epoch leaves
        assert time.monotonic() < until and first.process.poll() is None, first.text
        time.sleep(.05)
    first.kill()

    second = machine()
    for source in code(): second.run(filled(source, form | dict(DOCTOR=True)))
    assert re.search(r"Going on after epoch [12] of 2\n", second.text) and "Epoch 1 of 2" not in second.text and "files of an earlier training came back" in second.text
    assert "| device=cpu | ok |" in second.text # the doctor
    assert all(f"{panel}: " in second.text for panel in ("LiveDetector", "Recorder", "TrainingPanel"))
    assert re.search(r"\d of 3 calls heard", second.text) and "did not record" not in second.text
    events = [json.loads(line) for line in (found[0].parent/"events.jsonl").read_text().splitlines()]
    kinds = [e["kind"] for e in events]
    assert kinds[0] == "start" and kinds.count("start") == 1 and "resume" in kinds and kinds[-1] == "done"
    assert [e["epoch"] for e in events if e["kind"] == "epoch"] == [1, 2]
    kept = cloud/"wakekit"/"hey_jarvis"
    assert Bundle.load(kept/"bundle").phrase == "hey jarvis" and (found[0].parent/"checkpoint.pt").exists()
    assert not [p for p in kept.rglob("*") if p.name.endswith((".part", ".old")) or p.name.startswith(".")]
    second.run("import wakekit; print('from', wakekit.__file__)")
    assert f"from {sys.prefix}" not in second.text and str(ROOT) not in second.text.split("from ")[-1]


def test_with_drive_refused_it_reaches_the_end(machine, wheel, tmp_path):
    runtime, data = machine(drive=False), tmp_path/"content"/"family.zip"
    shutil.copy(wheel, tmp_path/"content")
    with zipfile.ZipFile(data, "w") as z:
        for k in range(3):
            f = io.BytesIO()
            colab_wav(f, seconds=6, seed=k)
            z.writestr(f"family/negative/kitchen_{k}.wav", f.getvalue())
    form = dict(MINUTES=.01, DOCTOR=False, MICROPHONE=False, INSTALL_FROM=str(tmp_path/"content"/wheel.name), DATA=str(data), DATA_SHA256=hashlib.sha256(data.read_bytes()).hexdigest())
    for source in code(): runtime.run(filled(source, form))
    assert "credential propagation was unsuccessful" in runtime.text and "Going on without Drive" in runtime.text
    assert "0 recordings of the phrase, 3 of other talk, 0 of noise" in runtime.text and "Only on this runtime" in runtime.text
    assert Bundle.load(tmp_path/"content"/"wakekit_runs"/"hey_jarvis"/"bundle").phrase == "hey jarvis"


def colab_wav(f, seconds, seed):
    "Rustling as a WAV"
    import soundfile
    soundfile.write(f, np.random.default_rng(seed).normal(size=int(seconds*16_000))*.05, 16_000, format="WAV")


def bootstrap(tmp_path, monkeypatch, done=None, drive=None, loaded=()):
    "The function of the first cell that installs, on its own"
    scope, asked = {}, []
    source = next(s for s in code() if "def bootstrap" in s)
    exec(source[:source.rindex("\nbootstrap(INSTALL_FROM)")], scope)
    def run(args, **_):
        asked.append(args)
        return types.SimpleNamespace(returncode=0 if done is None else 1, stdout=done)
    names = {n: m for n, m in sys.modules.items() if n.partition(".")[0] != "wakekit"}
    scope["sys"], scope["subprocess"] = types.SimpleNamespace(modules={**names, **dict.fromkeys(loaded)}, executable="python"), types.SimpleNamespace(run=run, PIPE=-1, STDOUT=-2, DEVNULL=-3)
    google = types.ModuleType("google.colab")
    google.drive = drive
    monkeypatch.setitem(sys.modules, "google.colab", google)
    return scope["bootstrap"], asked


def test_the_bootstrap_installs_wakekit_alone(tmp_path, monkeypatch, capsys):
    install, asked = bootstrap(tmp_path, monkeypatch)
    install("git+https://github.com/wakekit/wakekit")
    assert asked[0][1:4] == ["-m", "pip", "install"] and "--no-deps" in asked[0] and asked[0][-1].startswith("git+")
    drive = Drive()
    install, asked = bootstrap(tmp_path, monkeypatch, drive=drive)
    install(f"{tmp_path}/drive/MyDrive/wakekit.whl")
    assert drive.asked == [False] and (tmp_path/"drive"/"MyDrive").is_dir()
    install, asked = bootstrap(tmp_path, monkeypatch, loaded=["wakekit"])
    install("wakekit")
    assert not asked and "Restart session" in capsys.readouterr().out


def test_the_bootstrap_says_what_to_do_when_it_cannot(tmp_path, monkeypatch):
    install, asked = bootstrap(tmp_path, monkeypatch, drive=Drive(ValueError("mount failed")))
    with pytest.raises(RuntimeError, match="Upload the wheel"): install("/content/drive/MyDrive/wakekit.whl")
    assert not asked
    install, _ = bootstrap(tmp_path, monkeypatch, done=b"ERROR: No matching distribution found for wakekit")
    with pytest.raises(RuntimeError, match="choose another INSTALL_FROM(.|\n)*No matching distribution"): install("wakekit")


# --- data come in

def tarred(path, *members):
    with tarfile.open(path, "w:gz") as t:
        for name, kind, content in members:
            m = tarfile.TarInfo(name)
            m.type, m.linkname, m.size, m.mtime = kind, "/etc/passwd", len(content) if kind == tarfile.REGTYPE else 0, 1_700_000_000
            t.addfile(m, io.BytesIO(content))
    return path

def zipped(path, **files):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in files.items(): z.writestr(name, content)
    return path


def test_archives_that_mean_harm_leave_nothing(tmp_path):
    link = zipfile.ZipInfo("positive/a.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path/"link.zip", "w") as z: z.writestr(link, "/etc/passwd")
    bad = [tmp_path/"link.zip", zipped(tmp_path/"up.zip", **{"ok.wav": b"x", "../up.wav": b"x"}), zipped(tmp_path/"drive.zip", **{"C:/up.wav": b"x"}),
           *(tarred(tmp_path/f"{k}.tgz", ("ok.wav", tarfile.REGTYPE, b"x"), m) for k, m in enumerate([("../up.wav", tarfile.REGTYPE, b"x"), ("/up.wav", tarfile.REGTYPE, b"x"),
             ("a.wav", tarfile.SYMTYPE, b""), ("a.wav", tarfile.LNKTYPE, b""), ("a.wav", tarfile.FIFOTYPE, b"")]))]
    for archive in bad:
        with pytest.raises(ColabError, match="not safe"): fetch(archive, tmp_path/"to"/"data")
    assert not [p for p in (tmp_path/"to").rglob("*") if not p.name.endswith(".archive")] and not (tmp_path/"up.wav").exists()


def test_an_archive_larger_than_the_disk_is_refused_before_the_first_byte(tmp_path, monkeypatch):
    archive = zipped(tmp_path/"a.zip", **{"a.wav": b"x"*1000})
    monkeypatch.setattr(colab.shutil, "disk_usage", lambda p: types.SimpleNamespace(free=999))
    with pytest.raises(ColabError, match="GB are free"): unpack(archive, tmp_path/"data")
    assert not (tmp_path/"data").exists()


def test_damaged_archives_and_pages_instead_of_archives(tmp_path):
    whole = zipped(tmp_path/"whole.zip", **{"a.wav": np.random.default_rng(0).bytes(20_000)}).read_bytes()
    torn = whole[:200] + bytes(100) + whole[300:]
    for content, said in ((torn, "make it again"), (b"<html>Google Drive can't scan this file for viruses", "web page"), (b"", "web page"), (whole[:5000], "web page")):
        (tmp_path/"b.zip").write_bytes(content)
        with pytest.raises(ColabError, match=said): fetch(tmp_path/"b.zip", tmp_path/"data")
        assert not (tmp_path/"data").exists()
    tar = tarred(tmp_path/"c.tgz", ("a.wav", tarfile.REGTYPE, np.random.default_rng(0).bytes(200_000)))
    tar.write_bytes(tar.read_bytes()[:100_000])
    with pytest.raises(ColabError, match="make it again"): fetch(tar, tmp_path/"data")
    with pytest.raises(ColabError, match="there is no /content/nothing.zip"): fetch("/content/nothing.zip", tmp_path/"data")


def test_the_same_archive_on_a_fresh_machine_is_the_same_data(tmp_path):
    for k, archive in enumerate((tarred(tmp_path/"a.tgz", ("positive/anna.wav", tarfile.REGTYPE, b"anna")), zipped(tmp_path/"a.zip", **{"positive/anna.wav": b"anna"}))):
        times = [(fetch(archive, tmp_path/f"{k}{day}")/"positive"/"anna.wav").stat().st_mtime_ns for day in "ab"]
        assert times[0] == times[1] and times[0] % 1_000_000_000 == 0


def test_another_archive_takes_the_place_of_the_old_one_but_never_of_other_files(tmp_path):
    data = fetch(zipped(tmp_path/"a.zip", **{"a.wav": b"a"}), tmp_path/"data")
    fetch(zipped(tmp_path/"b.zip", **{"b.wav": b"b"}), data)
    assert sorted(p.name for p in data.iterdir()) == [".fetched.json", "b.wav"]
    fetch(zipped(tmp_path/"b.zip", **{"c.wav": b"cc"}), data)  # the same name, another content
    assert (data/"c.wav").exists() and not (data/"b.wav").exists()
    (tmp_path/"mine").mkdir()
    (tmp_path/"mine"/"diary.txt").write_text("mine")
    with pytest.raises(ColabError, match="holds other files"): fetch(tmp_path/"a.zip", tmp_path/"mine")
    assert (tmp_path/"mine"/"diary.txt").read_text() == "mine"
    (tmp_path/"folder").mkdir()
    (tmp_path/"folder"/"d.wav").write_bytes(b"d")
    assert (fetch(tmp_path/"folder", data)/"d.wav").exists()


@pytest.fixture
def web():
    "Serves one archive: whole at /whole.zip, broken off at /half.zip; counts"
    box = types.SimpleNamespace(content=b"", asked=[])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            box.asked.append(self.path)
            if "gone" in self.path: return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(box.content)))
            self.end_headers()
            self.wfile.write(box.content[:len(box.content)//2 if "half" in self.path else None])
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    box.at = f"http://127.0.0.1:{server.server_port}"
    yield box
    server.shutdown()
    server.server_close()


def test_downloads_that_break_off_look_like_nothing(tmp_path, web):
    web.content = zipped(tmp_path/"a.zip", **{"a.wav": bytes(100_000)}).read_bytes()
    for path, said in (("half.zip", "broke off"), ("gone.zip", "404")):
        with pytest.raises(ColabError, match=said): fetch(f"{web.at}/{path}", tmp_path/"data")
        assert not (tmp_path/"data").exists()
    with pytest.raises(ColabError, match="SHA-256"): fetch(f"{web.at}/whole.zip", tmp_path/"data", "0"*64)
    assert (fetch(f"{web.at}/whole.zip", tmp_path/"data", hashlib.sha256(web.content).hexdigest())/"a.wav").stat().st_size == 100_000
    n = len(web.asked)
    fetch(f"{web.at}/whole.zip", tmp_path/"data", hashlib.sha256(web.content).hexdigest())
    assert len(web.asked) == n


def test_unpacking_that_was_interrupted_goes_on_without_a_new_download(tmp_path, web, monkeypatch):
    web.content = zipped(tmp_path/"a.zip", **{"a.wav": bytes(1000), "b.wav": bytes(1000)}).read_bytes()
    def stopped(archive, folder):
        Path(folder).mkdir()
        (Path(folder)/"a.wav").write_bytes(b"half")
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(colab, "unpack", stopped)
        with pytest.raises(KeyboardInterrupt): fetch(f"{web.at}/a.zip", tmp_path/"data")
    assert not (tmp_path/"data").exists()
    fetch(f"{web.at}/a.zip", tmp_path/"data")
    assert web.asked == ["/a.zip"] and (tmp_path/"data"/"b.wav").stat().st_size == 1000
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_gdown_is_asked_by_id_and_believed_only_with_a_file(tmp_path, monkeypatch):
    asked, archive = [], zipped(tmp_path/"a.zip", **{"a.wav": b"a"}).read_bytes()
    class Refused(Exception): "As gdown's"
    answers = {"A"*33: archive, "B"*33: None, "C"*33: Refused("Too many users have viewed or downloaded this file recently"), "D"*33: b"<html>quota"}
    def download(*, id, output):  # 6.x has no `fuzzy`; `id` and `output` are what both have
        asked.append(id)
        if isinstance(answers[id], Exception): raise answers[id]
        if answers[id] is None: return None
        Path(output).write_bytes(answers[id])
        return output
    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    assert (fetch("A"*33, tmp_path/"a")/"a.wav").exists() and (fetch(f"https://drive.google.com/file/d/{'A'*33}/view?usp=sharing", tmp_path/"b")/"a.wav").exists()
    assert (fetch(f"https://drive.google.com/open?id={'A'*33}", tmp_path/"c")/"a.wav").exists() and asked == ["A"*33]*3
    for key, said in (("B", "anyone who has the link"), ("C", "Too many users(.|\n)*own Drive"), ("D", "web page")):
        with pytest.raises(ColabError, match=said): fetch(key*33, tmp_path/"d")
        assert not (tmp_path/"d").exists()
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(colab.WakekitError, match=r"wakekit\[notebook\]"): fetch("E"*33, tmp_path/"d")


# --- results get out

def test_a_full_disk_keeps_what_was_there_and_the_local_copy(tmp_path):
    if os.name == "nt": pytest.skip("limits of a process are another matter there")
    (tmp_path/"big.pt").write_bytes(bytes(200_000))
    (tmp_path/"bundle").mkdir()
    (tmp_path/"bundle"/"model.onnx").write_bytes(bytes(200_000))
    (tmp_path/"drive").mkdir()
    (tmp_path/"drive"/"big.pt").write_bytes(b"yesterday")
    script = f"""
        import resource, signal
        from pathlib import Path
        from wakekit.colab import ColabError, save_back
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        home = Path({str(tmp_path)!r})
        for name in ("big.pt", "bundle"):
            try: save_back(home/name, home/"drive"/name)
            except ColabError as e: assert "Drive is full" in str(e) or name == "bundle", e
            else: assert False
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path/"drive").iterdir()] == ["big.pt"] and (tmp_path/"drive"/"big.pt").read_bytes() == b"yesterday"
    assert (tmp_path/"big.pt").stat().st_size == 200_000


def test_whoever_looks_sees_the_old_one_or_the_new_one(tmp_path):
    seen, stop = set(), threading.Event()
    (tmp_path/"to.pt").write_bytes(b"0"*300_000)
    def look():
        while not stop.is_set(): seen.add(frozenset((tmp_path/"to.pt").read_bytes()) if (tmp_path/"to.pt").stat().st_size == 300_000 else "half")
    if os.name == "nt": pytest.skip("who reads a file there keeps it from being replaced")
    t = threading.Thread(target=look)
    t.start()
    for k in b"123456789"*5:
        (tmp_path/"from.pt").write_bytes(bytes([k])*300_000)
        save_back(tmp_path/"from.pt", tmp_path/"to.pt")
    stop.set()
    t.join()
    assert "half" not in seen and all(len(s) == 1 for s in seen) and len(seen) > 1


def test_a_keeper_says_once_that_drive_is_full_and_tries_again(tmp_path, monkeypatch):
    run, said, full = tmp_path/"work"/"run-1", [], True
    run.mkdir(parents=True)
    keeper, copy = Keeper(tmp_path/"work", tmp_path/"drive", every_s=0, say=said.append), colab._copy
    def limited(source, to):
        if full:
            Path(to).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, to)
    monkeypatch.setattr(colab, "_copy", limited)
    for epoch in (1, 2):
        (run/"checkpoint.pt").write_bytes(b"x"*epoch)
        keeper(dict(kind="epoch", epoch=epoch))
    assert len(said) == 1 and "Drive is full" in said[0] and "empty its bin" in said[0] and "training goes on" in said[0]
    assert not [p for p in (tmp_path/"drive").rglob("*") if p.is_file()]
    full = False
    keeper(dict(kind="done", epoch=2))
    assert (tmp_path/"drive"/"run-1"/"checkpoint.pt").read_bytes() == b"xx" and not keeper.trouble


def test_a_keeper_copies_only_what_changed_and_not_too_often(tmp_path, monkeypatch):
    run, copied = tmp_path/"work"/"run-1", []
    run.mkdir(parents=True)
    (run/"checkpoint.pt").write_bytes(b"1")
    (run/"events.jsonl").write_bytes(b"1")
    (run/".checkpoint.pt.tmp").write_bytes(b"half")
    (tmp_path/"work"/"data").mkdir()
    (tmp_path/"work"/"data"/"pcm.i16").write_bytes(b"much")
    save = colab.save_back
    monkeypatch.setattr(colab, "save_back", lambda source, to: (copied.append(source.name), save(source, to)))
    keeper = Keeper(tmp_path/"work", tmp_path/"drive", every_s=3600)
    keeper(dict(kind="epoch"))
    assert copied == ["checkpoint.pt", "events.jsonl"]
    (run/"events.jsonl").write_bytes(b"22")
    keeper(dict(kind="epoch"))
    assert len(copied) == 2  # within the hour
    keeper(dict(kind="verifier"))
    assert copied[2:] == ["events.jsonl"]
    assert Keeper(tmp_path/"work", None).keep() is False


def test_what_comes_back_never_takes_the_place_of_what_is_here(tmp_path):
    drive = tmp_path/"drive"/"run-1"
    drive.mkdir(parents=True)
    for name, content in (("checkpoint.pt", b"old"), ("verifier.pt", b""), (".events.jsonl.1234.part", b"half"), ("events.jsonl", b"log")): (drive/name).write_bytes(content)
    (tmp_path/"work"/"run-1").mkdir(parents=True)
    (tmp_path/"work"/"run-1"/"checkpoint.pt").write_bytes(b"newer")
    assert [p.name for p in bring_back(tmp_path/"drive", tmp_path/"work")] == ["events.jsonl"]
    assert (tmp_path/"work"/"run-1"/"checkpoint.pt").read_bytes() == b"newer" and bring_back(tmp_path/"nowhere", tmp_path/"work") == []


# --- the microphone

def test_the_recorder_records_in_a_real_browser(tmp_path):
    browser = pytest.importorskip("browser")
    if browser.CHROMIUM is None: pytest.skip("no Chromium here")
    import soundfile
    soundfile.write(tmp_path/"mic.wav", .5*np.sin(2*np.pi*440*np.arange(48_000*4)/48_000), 48_000)
    (tmp_path/"site").mkdir()
    (tmp_path/"site"/"index.html").write_text("<!doctype html><title>x</title><body></body>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=str(tmp_path/"site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.Page(tmp_path, [*browser.MICROPHONE, f"--use-file-for-fake-audio-capture={tmp_path}/mic.wav"])
    try:
        page("Page.navigate", url=f"http://localhost:{server.server_port}/index.html")
        page.until("location.pathname == '/index.html' && document.readyState === 'complete'")
        x = colab.record(2, types.SimpleNamespace(eval_js=lambda js, timeout_sec: page.run(js)))
    finally:
        page.close()
        server.shutdown()
        server.server_close()
    assert 1.2*16_000 < len(x) < 4*16_000 and np.abs(x).max() > .2
    middle = x[len(x)//4:3*len(x)//4]
    peak = np.abs(np.fft.rfft(middle*np.hanning(len(middle)))).argmax()*16_000/len(middle)
    assert abs(peak - 440) < 10
