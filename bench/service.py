"A service of wakekit in a process of its own, and what it costs: for the measurements beside this file."
import http.client, json, os, shutil, socket, subprocess, sys, time
from pathlib import Path
import psutil


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def on_core(core):
    "What goes before a command that is to have one core only"
    return ["taskset", "-c", str(core)] if core is not None and shutil.which("taskset") else []


def leave_core(core):
    "Let this program have all cores but one, if there is another one"
    if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, set(os.sched_getaffinity(0)) - {core} or {core})


def launch(root, *command, env=None, core=None, apart=False):
    "A command in a process of its own; what it says is added to log.txt. `apart`: Ctrl-C here does not reach it"
    with open(Path(root)/"log.txt", "ab") as log: return subprocess.Popen([*on_core(core), *command], cwd=root, env=env, stdout=log, stderr=log, start_new_session=apart)


def wakekit(root, *words, **how):
    "`wakekit …` in a process of its own, without the settings of this folder"
    (Path(root)/".env").touch()
    return launch(root, sys.executable, "-c", "import sys; from wakekit.cli import main; sys.exit(main())", *words, "--env-file", str(Path(root)/".env"), **how)


class Process:
    "A process, and what it costs; `process` is a Popen, `root` the folder of its log"
    def log(self): return (self.root/"log.txt").read_text(errors="replace")
    def cpu_s(self): return sum(psutil.Process(self.process.pid).cpu_times()[:2])
    def rss(self): return psutil.Process(self.process.pid).memory_info().rss
    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Service(Process):
    "A service that answers over HTTP"
    def __init__(self, root, *words, ready="/health", core=None, apart=False, **env):
        self.root, self.words, self.port, self.ready, self.how = Path(root).resolve(), words, free_port(), ready, dict(env={**os.environ, **env}, core=core, apart=apart)
    def run(self, *words): return wakekit(self.root, *words, **self.how)
    def start(self):
        "Start it, and wait until it is ready; how long that took, s"
        begun = time.perf_counter()
        self.process = self.run(*self.words, "--port", str(self.port))
        while True:
            try:
                if self.get(self.ready)[0] == 200: return time.perf_counter() - begun
            except OSError: time.sleep(.02)
            if self.process.poll() is not None: sys.exit(f"the service did not start: {self.log()[-2000:]}")
    def get(self, path, method="GET", body=None, headers={}):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            c.request(method, path, body, headers)
            r = c.getresponse()
            return r.status, r.read()
        finally: c.close()
    def post(self, path, what): return self.get(path, "POST", json.dumps(what), {"Content-Type": "application/json"})
