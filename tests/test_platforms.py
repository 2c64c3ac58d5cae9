"Machines that are not here: pretended ones, their file names, consoles and wheels. For real on Linux: nothing forks, and an NTFS with Windows' names."
import ast, io, json, multiprocessing, ntpath, os, re, shutil, subprocess, sys, tempfile, textwrap, zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
import numpy as np, pytest
import wakekit
from wakekit import colab, env
from wakekit.cli_data import dataset_path
from wakekit.cli_runtime import runtime_source
from wakekit.core import BundleError, SettingsError, WakekitError, command_words, sha256_file, windows_problem
from wakekit.data.audio import load_audio, save_audio
from wakekit.data.interchange import Dataset
from wakekit.env import Settings
from wakekit.host import Probes, detect_host
from wakekit.ship.device import unpack
from wakekit.ship.esphome import ManifestError, read_manifest
from wakekit.ship.stream import Bundle, Detector
from wakekit.terminal import UsageError

ROOT, LOUD, LINUX = Path(__file__).parent.parent, Path(__file__).parent/"data"/"toy_bundle", sys.platform == "linux"
PACKAGE = Path(wakekit.__file__).parent


def child(code, *args, cwd=None, **how):
    "Python code in a process of its own; it has to end well"
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WAKE", "PYTHON", "LC_", "LANG"))}
    p = subprocess.run([sys.executable, "-c", f"exec({ascii(textwrap.dedent(code))})", *map(str, args)], capture_output=True, cwd=cwd, timeout=600, env=own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | how)
    assert p.returncode == 0, p.stderr.decode(errors="replace")[-3000:]
    return p


# ---- machines that are pretended

def torch_of(gpus=0, mps=False, nccl=False, engines=("qnnpack", "onednn", "x86", "fbgemm")):
    "What the flags read of torch"
    yes = lambda value: lambda: value
    return SimpleNamespace(cuda=SimpleNamespace(is_available=yes(gpus > 0), device_count=yes(gpus), get_device_capability=lambda device: (8, 7)),
        distributed=SimpleNamespace(is_available=yes(True), is_nccl_available=yes(nccl), is_gloo_available=yes(True)),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=yes(mps)), quantized=SimpleNamespace(supported_engines=["none", *engines]), xnnpack=SimpleNamespace(enabled=True)))

MEMORY, ARM = {"/proc/meminfo": "MemTotal:        8000000 kB"}, ("qnnpack",)
WINDOWS_TORCH, UNIX = ("onednn", "x86", "fbgemm"), ["fork", "spawn", "forkserver"]
# id: system, machine, release, variables, files; torch (None: not installed), start methods; what it is; what each flag becomes; what is refused
MACHINES = {
    "Linux": (("Linux", "x86_64", "6.8.0-generic", {}, MEMORY), torch_of(), UNIX, {}, "cpu x86 fork off", ["device=cuda", "dist_backend=nccl"]),
    "Linux, two GPUs": (("Linux", "x86_64", "6.8.0-generic", {"WORLD_SIZE": "2"}, MEMORY), torch_of(2, nccl=True), UNIX, {}, "cuda x86 forkserver nccl", ["device=mps", "device=cuda:2"]),
    "WSL": (("Linux", "x86_64", "5.15.153.1-microsoft-standard-WSL2", {"WSL_DISTRO_NAME": "Ubuntu"}, MEMORY), torch_of(1, nccl=True), UNIX, dict(wsl=True), "cuda x86 forkserver off", ["device=mps"]),
    "Windows": (("Windows", "AMD64", "10", {}, {}), torch_of(engines=WINDOWS_TORCH), ["spawn"], dict(machine="x86_64", memory_gb=None), "cpu x86 spawn off", ["mp_start=fork", "mp_start=forkserver", "dist_backend=nccl", "quant_backend=qnnpack"]),
    "Windows, two GPUs": (("Windows", "AMD64", "10", {"WORLD_SIZE": "2"}, {}), torch_of(2, engines=WINDOWS_TORCH), ["spawn"], {}, "cuda x86 spawn gloo", ["dist_backend=nccl"]),
    "Windows on ARM": (("Windows", "ARM64", "11", {}, {}), None, ["spawn"], dict(machine="arm64"), "cpu xnnpack spawn off", ["quant_backend=x86", "compile=on"]),
    "macOS": (("Darwin", "arm64", "24.1.0", {}, {}), torch_of(mps=True, engines=ARM), ["spawn", "fork", "forkserver"], dict(system="macOS"), "mps qnnpack spawn off", ["device=cuda", "dist_backend=nccl", "quant_backend=fbgemm"]),
    "macOS, Intel": (("Darwin", "x86_64", "23.6.0", {}, {}), None, ["spawn", "fork", "forkserver"], dict(machine="x86_64"), "cpu xnnpack spawn off", ["device=mps"]),
    "Jetson": (("Linux", "aarch64", "5.15.148-tegra", {}, MEMORY | {"/etc/nv_tegra_release": "# R36", "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0"}), torch_of(1, engines=ARM), UNIX,
        dict(jetson=True, machine="arm64"), "cuda qnnpack forkserver off", ["dist_backend=nccl", "quant_backend=x86"]),
    "Jetson, in a container": (("Linux", "aarch64", "5.15.148-tegra", {}, MEMORY | {"/.dockerenv": "", "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0"}), torch_of(1, engines=ARM), UNIX,
        dict(jetson=True, container="docker"), "cuda qnnpack forkserver off", []),
    "Raspberry Pi": (("Linux", "aarch64", "6.6.31+rpt-rpi-2712", {}, MEMORY | {"/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}), None, UNIX, dict(board="Raspberry Pi 5 Model B Rev 1.0", jetson=False), "cpu xnnpack fork off", ["device=cuda", "compile=on", "quant_backend=qnnpack"]),
    "Raspberry Pi, 32 bit": (("Linux", "armv7l", "6.6.31-v7+", {}, {}), None, UNIX, dict(machine="armv7l"), "cpu xnnpack fork off", []),
    "Orange Pi": (("Linux", "aarch64", "5.10.160-rockchip-rk3588", {}, MEMORY | {"/proc/device-tree/model": "Orange Pi 5\0"}), torch_of(engines=ARM), UNIX, dict(board="Orange Pi 5"), "cpu qnnpack fork off", ["device=cuda"]),
}

@pytest.mark.parametrize("name", MACHINES)
def test_the_table_of_settings_on_another_machine(monkeypatch, name):
    (system, machine, release, environ, files), torch, methods, what, becomes, refused = MACHINES[name]
    host = detect_host(Probes(system, machine, release, environ, 4, files))
    assert {k: getattr(host, k) for k in what} == what and host.cpus == 4
    monkeypatch.setattr(env, "_torch", lambda: torch)
    monkeypatch.setattr(env, "detect_host", lambda *_: host)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: methods)
    monkeypatch.setattr(env, "_compiler", lambda: None) # of a machine that has just been bought
    monkeypatch.setattr(env.importlib.util, "find_spec", lambda name, *_: None) # neither is there Triton
    for k in ("WORLD_SIZE", *environ): monkeypatch.delenv(k, raising=False)
    for k, v in environ.items(): monkeypatch.setenv(k, v)
    found = Settings.load("", {})
    assert " ".join(found.resolve(k) for k in ("device", "quant_backend", "mp_start", "dist_backend")) == becomes and found.resolve("compile") == "off"
    assert found.resolve("precision") == ("bf16" if becomes.startswith("cuda") else "float32")
    assert all(found.row(k).ok for k in found.hints())
    for wrong in refused:
        flag, _, value = wrong.partition("=")
        with pytest.raises(SettingsError, match=f"{value} is impossible here: .* Possible: "): Settings.load("", {}, **{flag: value}).resolve(flag)

@pytest.mark.parametrize("system, asked", [("nt", "cl"), ("posix", "c++")])
def test_the_compiler_that_is_looked_for(monkeypatch, system, asked):
    seen = []
    monkeypatch.delenv("CXX", raising=False)
    with monkeypatch.context() as m: # Path does not bear another os.name
        m.setattr(env.shutil, "which", lambda name: seen.append(name))
        m.setattr(env.os, "name", system)
        env._compiler()
    assert seen[0] == asked


# ---- nothing that only POSIX has

POSIX_ONLY = {"os": "fork forkpty getuid geteuid getgid getegid getpgid getpgrp killpg setsid setpgid chown lchown getloadavg uname sysconf sched_getaffinity sched_setscheduler SCHED_IDLE nice mkfifo statvfs fchown WNOHANG".split(),
    "signal": "SIGKILL SIGALRM SIGHUP SIGUSR1 SIGUSR2 SIGCHLD SIGSTOP SIGCONT SIGQUIT SIGPIPE alarm setitimer pause pthread_sigmask".split(), "socket": ["AF_UNIX"], "time": ["tzset"]}
POSIX_MODULES = "fcntl resource pwd grp termios tty pty syslog crypt readline posix".split()
GUARD = re.compile(r"os\.name|hasattr\(|AttributeError|sys\.platform|ImportError")

def faults(source):
    "(line, what) that Windows does not bear, or that reads text as the console has it"
    found, tree = [], ast.parse(source)
    for statement in tree.body:
        guarded = bool(GUARD.search(ast.unparse(statement)))
        for n in ast.walk(statement):
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.attr in POSIX_ONLY.get(n.value.id, ()) and not guarded: found.append((n.lineno, f"{n.value.id}.{n.attr} without a guard"))
            if isinstance(n, (ast.Import, ast.ImportFrom)) and not guarded and {getattr(n, "module", None), *(a.name for a in n.names)} & set(POSIX_MODULES): found.append((n.lineno, "a module of POSIX without a guard"))
            if isinstance(n, ast.Call) and (fault := _without_encoding(n)): found.append((n.lineno, fault))
    return found

def _without_encoding(call):
    "Why a call depends on the console's encoding"
    given, name = {k.arg for k in call.keywords}, getattr(call.func, "attr", getattr(call.func, "id", ""))
    of, first = ast.unparse(getattr(call.func, "value", call.func)), ast.unparse(call.args[0]) if call.args else ""
    if name in ("run", "Popen", "check_output") and given & {"text", "universal_newlines"} and not given & {"encoding", "errors"}: return "text of a program without encoding or errors"
    if given & {"encoding"} or None in given: return ""
    if name == "read_text" and not call.args or name == "write_text" and len(call.args) < 2: return f"{name} without encoding"
    plain = name == "open" and isinstance(call.func, ast.Name) or name == "open" and re.search(r"[Pp]ath|tmp|file|/", of) and not re.search(r"^(wave|tarfile)$|urllib|catalog", of)
    mode = next((ast.unparse(a) for a in [*call.args[isinstance(call.func, ast.Name):], *(k.value for k in call.keywords if k.arg == "mode")]), "'r'")
    return f"open in text mode without encoding: {ast.unparse(call)}" if plain and "b" not in mode.strip("'\"") else ""

def test_the_search_for_faults_finds_them():
    bad = "import fcntl", "def f(): os.killpg(1, signal.SIGKILL)", "Path('a').read_text()", "open('a')", "open('a', 'w')", "p.write_text('x')", "subprocess.run(['git'], text=True)", "from resource import getrusage", "path.open()"
    for code in bad: assert faults(code), code
    good = "def f(): os.killpg(1) if os.name != 'nt' else None", "p.read_text(encoding='utf-8')", "open('a', 'rb')", "p.write_text('x', encoding='utf-8')", "path.open('rb')", "subprocess.run(['git'], text=True, errors='replace')"
    for code in good: assert not faults(code), code

def test_no_module_needs_posix_or_the_consoles_encoding():
    found = [f"{p.relative_to(PACKAGE).as_posix()}:{line}: {what}" for p in sorted(PACKAGE.rglob("*.py")) if p.name != "container.py" for line, what in faults(p.read_text(encoding="utf-8"))]
    assert found == [] # container.py is the first thing that runs in the image, which is Linux

WITHOUT_POSIX = f"""
    import os, signal, subprocess, sys # these themselves are made for POSIX here
    import asyncio, multiprocessing.popen_spawn_posix, multiprocessing.util, shutil, tempfile, getpass, filelock, platform
    for name in {POSIX_ONLY['os']!r}:
        if name not in ("uname", "sysconf", "WNOHANG") and hasattr(os, name): delattr(os, name)
    multiprocessing.context._concrete_contexts = {{"spawn": multiprocessing.get_context("spawn")}}
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""

@pytest.mark.skipif(not LINUX, reason="only Linux can be without it")
def test_a_training_where_nothing_can_fork(tmp_path):
    "As on Windows: `os.fork`, `os.killpg` and the like do not exist, workers are spawned. And all that it writes has a name that Windows keeps"
    pytest.importorskip("torch")
    small = "--preset tiny --set epochs=1 --set steps_per_epoch=4 --set batch.batch_size=32 --set warmup_steps=1 --set mine_from=9 --set verifier.steps=0 --set data.synthetic=40 --set data.near_misses=12 --set data.filler=20 --set data.synthetic_rooms=2 --device cpu"
    said = child(WITHOUT_POSIX + """
    from wakekit.env import Settings
    assert not hasattr(os, "fork") and Settings.load().resolve("mp_start") == "spawn" and Settings.load().resolve("num_workers") == 2
    started, start = [], multiprocessing.popen_spawn_posix.Popen.__init__
    def count(self, process): started.append(process), start(self, process)
    multiprocessing.popen_spawn_posix.Popen.__init__ = count
    from wakekit.cli import main
    assert main(sys.argv[1:]) in (0, 1) # 1: after one epoch the gate may well say no
    print("spawned", len(started))
    """, "quickstart", "--phrase", "Con", *small.split(), cwd=tmp_path, WAKEKIT_NUM_WORKERS="2", WAKEKIT_DEBUG="1", USERNAME="eva").stdout.decode()
    assert int(said.rpartition("spawned ")[2]) >= 2 and "the bundle: quickstart/con_/bundle" in said
    assert Bundle.load(tmp_path/"quickstart"/"con_"/"bundle").phrase == "Con"
    check_names(tmp_path)

def check_names(folder):
    "What is in a folder may be copied to Windows"
    found = [p.relative_to(folder) for p in folder.rglob("*")]
    assert found and [(p, why) for p in found if (why := windows_problem(p.name))] == []
    assert max(len(str(p)) for p in found) <= 160 # leaves 100 of Windows' 260 for the folder
    lower = [p.as_posix().lower() for p in found]
    assert len(set(lower)) == len(lower)


# ---- names and paths by Windows' rules

BAD = ["con", "NUL", "aux.wav", "COM1.tar.gz", "lpt9", "com\u00b9", "PRN .txt", "conin$", "kitchen.", "kitchen ", "a:b", "a?", "a*", "<x>", 'a"b', "a|b", "a\\b", "a\x1fb"]
ELSEWHERE = ["..\\evil", "C:evil", "C:\\evil", "\\evil", "\\\\server\\share\\evil", "//server/share/evil", "\\\\?\\C:\\evil", "\\\\.\\COM1", "a/..\\..\\evil", "C:/evil"]

@pytest.mark.parametrize("name", BAD)
def test_what_windows_does_not_keep_is_no_name(name, tmp_path):
    assert windows_problem(name)
    pytest.importorskip("sqlalchemy")
    from wakekit.serve.catalog import name_problem
    assert name_problem(name) and name_problem(name.upper())
    if not re.search(r"[\\/]", name): # that is a path
        with pytest.raises(UsageError, match="no name"): dataset_path(name, tmp_path)

def test_windows_own_rules_say_the_same():
    reserved = getattr(ntpath, "isreserved", lambda name: PureWindowsPath(name).is_reserved() or name[-1:] in (".", " "))
    stems = "con prn aux nul conin$ conout$ com1 com9 lpt1 lpt\u00b3 con\u00e9 conx xcon com10 com lpt kitchen c.on".split()
    names = [s + end for stem in stems for s in (stem, stem.upper(), stem.title()) for end in ("", ".wav", ".tar.gz", " .txt", " ", ".", "x")]
    assert len(names) > 300 and [n for n in names if reserved(n) and not windows_problem(n)] == []
    assert [n for n in names if windows_problem(n) and not reserved(n)] == []

def inside_for_windows(folder):
    "Files in a folder, each of which Windows too would keep there"
    found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    for f in found:
        there = PureWindowsPath(ntpath.normpath(PureWindowsPath("D:/here")/f))
        assert there.is_relative_to("D:/here") and not any(map(windows_problem, PurePosixPath(f).parts)), f
    return found

def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, content in files.items(): z.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()

@pytest.mark.parametrize("name", [*ELSEWHERE, "NUL", "x/aux.onnx", "model.onnx.", "model.onnx ", "a:stream"])
def test_a_bundle_in_an_archive_stays_in_its_folder(name, tmp_path):
    good = {p.name: p.read_bytes() for p in LOUD.iterdir()}
    assert set(inside_for_windows(unpack(zipped(good), tmp_path/"good"))) == set(good)
    with pytest.raises(BundleError, match="would not stay"): unpack(zipped(good | {name: b"x"}), tmp_path/"bad")
    assert not (tmp_path/"bad").exists() and not list(tmp_path.rglob("*evil*"))

@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_archive_of_recordings_stays_in_its_folder(name, tmp_path):
    (tmp_path/"a.zip").write_bytes(zipped({"ok.wav": b"x", name: b"x"}))
    with pytest.raises(colab.ColabError, match="points out of its folder"): colab.unpack(tmp_path/"a.zip", tmp_path/"out")
    assert not (tmp_path/"out").exists()

@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_manifest_names_files_of_its_own_folder(name, tmp_path):
    bundle = shutil.copytree(LOUD, tmp_path/"b")
    m = json.loads((bundle/"manifest.json").read_text(encoding="utf-8"))
    graph = m["graphs"][m["default_graph"]]
    m["files"][name], graph["file"] = m["files"][graph["file"]], name
    (bundle/"manifest.json").write_text(json.dumps(m), encoding="utf-8")
    with pytest.raises(BundleError, match="outside the bundle"): Detector(bundle)
    micro = dict(type="micro", wake_word="Hey", author="a", version=2, model=name + ".tflite", trained_languages=["en"], website="https://a.example",
        micro=dict(probability_cutoff=.9, feature_step_size=10, sliding_window_size=5, tensor_arena_size=20000, minimum_esphome_version="2024.7.0"))
    for model, fine in (name + ".tflite", False), ("ok.tflite", True):
        (tmp_path/"m.json").write_text(json.dumps(micro | dict(model=model)), encoding="utf-8")
        if fine: assert read_manifest(tmp_path/"m.json")["model"] == model
        else:
            with pytest.raises(ManifestError, match="beside the manifest"): read_manifest(tmp_path/"m.json")

def sound(seed): return (.1*np.random.default_rng(seed).standard_normal(8000)).astype(np.float32)

def test_what_people_call_things_never_names_a_file(tmp_path):
    ds = Dataset.create(tmp_path/"ds", "hey jarvis")
    for i, name in enumerate([*BAD, *ELSEWHERE]): ds.add(sound(i), "positive", speaker=name, source=name, original_name=name)
    ds.trash(ds.clips()[0].id)
    ds.export_jsonl(tmp_path/"jsonl")
    ds.export_audiofolder(tmp_path/"hf")
    assert len(inside_for_windows(tmp_path)) > 2*len(BAD)
    check_names(tmp_path)
    assert {c.speaker for c in Dataset.open(tmp_path/"ds").clips()} == {*BAD, *ELSEWHERE} - {BAD[0]}

def test_a_manifest_that_was_written_on_windows(tmp_path):
    for i, where in enumerate(("rec/one.wav", "rec/deep/two.wav", "three.wav")): save_audio(tmp_path/"in"/where, sound(i))
    lines = [dict(audio_filepath=p, label="negative", speaker="p") for p in ("rec\\one.wav", "rec\\deep\\two.wav", ".\\three.wav")]
    (tmp_path/"in"/"manifest.jsonl").write_bytes(("\ufeff" + "\r\n".join(map(json.dumps, lines)) + "\r\n").encode())
    report = Dataset.create(tmp_path/"a", "hey").import_jsonl(tmp_path/"in"/"manifest.jsonl")
    assert len(report.added) == 3 and not report.skipped
    (tmp_path/"in"/"metadata.csv").write_bytes("file_name,label\r\nrec\\one.wav,positive\r\n".encode("utf-8-sig"))
    assert len(Dataset.create(tmp_path/"b", "hey").import_audiofolder(tmp_path/"in").added) == 1

@pytest.mark.parametrize("line, words", [(r"C:\tools\say.exe --loud", [r"C:\tools\say.exe", "--loud"]), (r'"C:\Program Files\say.exe" "a b" c', [r"C:\Program Files\say.exe", "a b", "c"]),
    (r'say --file="C:\a b\c.wav"', ["say", r"--file=C:\a b\c.wav"]), (r"\\server\share\say.exe it's", [r"\\server\share\say.exe", "it's"]), ("say ヘイ", ["say", "ヘイ"])])
def test_a_command_as_one_types_it_on_windows(line, words):
    assert command_words(line, windows=True) == words
    with pytest.raises(ValueError, match="quotation"): command_words(line + ' "', windows=True)

def test_settings_from_a_windows_file_keep_their_backslashes(tmp_path):
    (tmp_path/".env").write_bytes(b"WAKEKIT_DATA_DIR=C:\\Users\\Eva\\new data\r\nWAKE_TRAINING_HOST_DATA_DIR=D:\\wake\\training\r\nWAKEKIT_MODELS_DIR=\\\\server\\share\\models\r\n")
    s = Settings.load(tmp_path/".env", {})
    assert PureWindowsPath(s.data_dir).parts == ("C:\\", "Users", "Eva", "new data") and PureWindowsPath(s.models_dir).drive == "\\\\server\\share" and s.host_data_dir == "D:\\wake\\training"


def test_an_upload_on_python_3_10(tmp_path):
    "There a temporary file of an upload can be sought in, and not be asked whether it can"
    save_audio(tmp_path/"a.wav", sound(1))
    with tempfile.SpooledTemporaryFile() as f:
        f.write((tmp_path/"a.wav").read_bytes())
        old = SimpleNamespace(read=f.read, seek=f.seek, tell=f.tell)
        assert np.array_equal(load_audio(old), load_audio(tmp_path/"a.wav"))


# ---- an NTFS, where Windows' names are enforced by the driver

@pytest.fixture
def ntfs(tmp_path):
    "A new NTFS that takes only Windows' names and does not tell a from A"
    tools = [shutil.which(t) for t in ("mkntfs", "lowntfs-3g", "umount")]
    if not LINUX or os.geteuid() != 0 or not all(tools): pytest.skip("needs root on Linux, and ntfs-3g (Debian: apt install ntfs-3g)")
    image, folder = tmp_path/"disk", tmp_path/"ntfs"
    folder.mkdir()
    with open(image, "wb") as f: f.truncate(64 << 20)
    if subprocess.run([tools[0], "-Q", "-F", image], capture_output=True).returncode or subprocess.run([tools[1], image, folder, "-o", "windows_names,ignore_case"], capture_output=True).returncode: pytest.skip("may not mount here")
    yield folder
    subprocess.run([tools[2], folder], check=True)

def test_a_day_on_ntfs(ntfs):
    with pytest.raises(OSError): (ntfs/"aux.wav").touch() # it is what it is said to be
    with pytest.raises(OSError): (ntfs/"a:b").touch()
    (ntfs/"Case").touch()
    assert (ntfs/"cASE").exists()
    ds = Dataset.create(ntfs/"data"/"datasets"/"Küche 2", "hey jarvis")
    with pytest.raises(WakekitError): Dataset.create(ntfs/"data"/"datasets"/"KÜCHE 2", "hey jarvis")
    clips = [ds.add(sound(i), "positive", speaker=name, original_name=name) for i, name in enumerate(BAD)]
    ds.trash(clips[0].id)
    ds.restore(clips[0].id)
    ds.export_jsonl(ntfs/"out")
    assert len(Dataset.create(ntfs/"again", "hey").import_jsonl(ntfs/"out"/"manifest.jsonl").added) == len(BAD) == len(Dataset.open(ds.path).clips())
    bundle = unpack(zipped({p.name: p.read_bytes() for p in LOUD.iterdir()}), ntfs/"b")
    assert sha256_file(bundle/"manifest.json") == sha256_file(LOUD/"manifest.json") and Bundle.load(bundle).phrase
    check_names(ntfs)

def test_the_service_on_ntfs(ntfs):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient
    from wakekit.serve.training import create_app
    with TestClient(create_app(Settings(data_dir=ntfs/"data", training_dir=ntfs/"training", models_dir=ntfs/"models", device="cpu")), raise_server_exceptions=False) as web:
        assert web.post("/datasets", json=dict(name="kitchen", phrase="hey jarvis")).status_code == 201
        assert web.post("/datasets", json=dict(name="KITCHEN", phrase="hey jarvis")).status_code == 409
        for name in BAD: assert web.post("/datasets", json=dict(name=name, phrase="hey")).status_code == 422
        save_audio(ntfs/"a.wav", sound(0))
        new = web.post("/datasets/kitchen/recordings?label=positive", content=(ntfs/"a.wav").read_bytes(), headers={"Content-Type": "audio/wav", "X-Filename": "C%3A%5Cnul.wav"})
        assert new.status_code == 201 and new.json()["original_name"] == "nul.wav"
        assert web.delete("/datasets/kitchen").status_code < 300 and "kitchen" not in web.get("/datasets").text
    check_names(ntfs)


# ---- consoles that lack letters

CONSOLES = {"cp1252": dict(PYTHONIOENCODING="cp1252", PYTHONUTF8="0"), "LC_ALL=C": dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")}

@pytest.mark.parametrize("console", CONSOLES)
def test_every_command_on_such_a_console(console, tmp_path):
    p = child("""
        import sys
        sys.modules["torch"] = None # the doctor takes its time over it
        from wakekit.cli import main
        from wakekit.cli_data import commands
        from wakekit.core import progress
        main(["--version"])
        assert sys.stdout.encoding.lower() in ("cp1252", "ansi_x3.4-1968", "us-ascii", "ascii"), sys.stdout.encoding
        codes = {name: main([*name.split(), "--help"]) for name in ["data", *commands.all]}
        assert len(codes) > 20 and set(codes.values()) == {0}, codes
        assert main(["data", "create", "kitchen", "ヘイ ジャービス"]) == main(["data", "list"]) == main(["data", "list", "kitchen"]) == main(["data", "list", "--json"]) == 0
        assert main(["data", "list", "ヘイ"]) == 1 and main(["data", "create", "→", "x"]) == 2
        assert main(["doctor"]) in (0, 1) and main(["doctor", "--json"]) in (0, 1)
        for _ in progress(range(3), desc="ヘイ→ 50 % ≥", disable=False): pass
        print("the end")
    """, cwd=tmp_path, **CONSOLES[console])
    assert b"the end" in p.stdout and b"?" in p.stdout and b"Traceback" not in p.stderr

@pytest.mark.parametrize("console", CONSOLES)
def test_the_one_file_runtime_says_a_phrase_that_the_console_lacks(console, tmp_path):
    bundle = shutil.copytree(LOUD, tmp_path/"b")
    m = json.loads((bundle/"manifest.json").read_text(encoding="utf-8"))
    (bundle/"manifest.json").write_text(json.dumps(m | dict(phrase="ヘイ ジャービス")), encoding="utf-8")
    (tmp_path/"wakeword.py").write_text(runtime_source(), encoding="utf-8")
    x = np.zeros(3*16_000, np.float32)
    x[16_000:20_000] = np.random.default_rng(0).uniform(-.3, .3, 4000)
    save_audio(tmp_path/"evening.wav", x)
    p = child("import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')", "wakeword.py", "b", "--wav", "evening.wav", "--stats", cwd=tmp_path, **CONSOLES[console])
    assert b"??" in p.stdout and b"score" in p.stdout

def test_a_repository_whose_file_names_the_console_lacks(tmp_path):
    if not shutil.which("git"): pytest.skip("needs git")
    git = lambda *words: subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@a.example", *words], cwd=tmp_path, check=True, capture_output=True)
    git("init", "-q"), git("config", "core.quotepath", "false")
    (tmp_path/"Ánna.txt").write_text("a", encoding="utf-8") # in UTF-8 its first letter has a byte that cp1252 lacks
    git("add", "."), git("commit", "-q", "-m", "a")
    (tmp_path/"Ánna.txt").write_text("b", encoding="utf-8")
    p = child("from wakekit.learn.track import git_state; print(git_state()['git_dirty'])", cwd=tmp_path, **CONSOLES["LC_ALL=C"])
    assert p.stdout.split() == [b"true"]


# ---- wheels

PLATFORMS = {"aarch64": [f"manylinux_2_{n}_aarch64" for n in (28, 27, 26, 24, 17)] + ["manylinux2014_aarch64"], "Windows": ["win_amd64"],
    "macOS": [f"macosx_{v}_{a}" for v in ("14_0", "13_0", "12_0", "11_0") for a in ("arm64", "universal2")] + ["macosx_10_9_universal2", "macosx_10_13_universal2"]}

def pinned(python="3.11"):
    "What wakekit without extras needs, all the way down: name → version that it is pinned to, empty where pip has the choice"
    from packaging.requirements import Requirement
    lines = [Requirement(l) for l in (ROOT/"constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in l and not l.startswith("#")]
    pins = {r.name: str(r.specifier)[2:] for r in lines if r.marker is None or r.marker.evaluate(dict(python_version=python))}
    found, todo = {}, ["wakekit"]
    while todo:
        name = todo.pop()
        try: needs = [Requirement(r) for r in requires(name) or ()]
        except PackageNotFoundError: continue
        for r in needs:
            key = r.name.lower().replace("_", "-")
            if key not in found and (r.marker is None or r.marker.evaluate(dict(extra=""))):
                found[key] = pins.get(key, "")
                todo.append(r.name)
    return found

def test_the_device_runtime_needs_few_packages():
    pytest.importorskip("packaging")
    found = pinned()
    assert {"numpy", "onnxruntime", "soundfile", "soxr"} < set(found) and len(found) <= 18 # 14 from Python 3.11 on
    if sys.version_info >= (3, 11): assert all(found.values())

@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_there_are_wheels(platform, python, tmp_path):
    "For what a small board, a Mac and Windows install; nothing is compiled there"
    if not os.environ.get("WAKEKIT_WHEELS"): pytest.skip("downloads about 50 MB per case: WAKEKIT_WHEELS=1 runs it")
    pytest.importorskip("packaging")
    pip = lambda wanted, *more: subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", *more, *wanted], capture_output=True, text=True, errors="replace", timeout=580)
    if pip(["tqdm==" + version("tqdm")]).returncode: pytest.skip("no package index can be reached")
    asked = pip([f"{n}=={v}" if v else n for n, v in pinned(python).items()], *(f"--platform={p}" for p in PLATFORMS[platform]), f"--python-version={python}", "--implementation=cp", "--target", str(tmp_path))
    assert asked.returncode == 0, asked.stderr
    newer = pip(["onnxruntime==99"], "--platform=win_amd64", "--python-version=3.11", "--target", str(tmp_path))
    assert newer.returncode # the question can be answered with no
