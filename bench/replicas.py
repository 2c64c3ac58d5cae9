"""What nginx costs in front of detection services: the parts `files` and `live` of bench/streams.py with and without it, in turns. Prints its figures as JSON; exit code 1 when an event or an answer differs.

    python bench/replicas.py --bundle kitchen.wake --calls calls/

The service has the first core; nginx (deploy/nginx.conf, one worker) and this program share the others. Without --bundle, the toy detector of the tests and its chime.
"""
import argparse, contextlib, functools, json, os, re, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path
import psutil
import streams
from service import free_port

CONF, CHANGES = Path(__file__).parent.parent/"deploy"/"nginx.conf", {"worker_processes 2": "worker_processes 1", "access_log /dev/stdout replica": "access_log off"}
plain_serving = streams.serving


class Nginx:
    "deploy/nginx.conf before services of this machine"
    def __init__(self, root, ports):
        self.port, binary = free_port(), shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or sys.exit("needs nginx (Debian: apt install nginx)")
        text, n = re.subn(r"server inference:8000 resolve(.*);", lambda m: "\n".join(f"server 127.0.0.1:{p}{m[1]};" for p in ports), CONF.read_text(), count=1)
        for old, new in {**CHANGES, "/tmp/wakekit-nginx": f"{root}/nginx", "listen 8000;": f"listen 127.0.0.1:{self.port};"}.items():
            assert old in text, old
            text = text.replace(old, new)
        conf = Path(root)/"nginx.conf"
        conf.write_text(("user root;\n" if os.geteuid() == 0 else "") + text)
        self.process = subprocess.Popen([binary, "-c", str(conf), "-p", str(root), "-g", "daemon off;"], stderr=subprocess.DEVNULL)
        while not (Path(root)/"nginx.pid").exists() or not psutil.Process(self.process.pid).children():
            if self.process.poll() is not None: sys.exit("nginx did not start")
            time.sleep(.02)
    def all(self): return [p := psutil.Process(self.process.pid), *p.children()]
    def cpu_s(self): return sum(sum(p.cpu_times()[:2]) for p in self.all())
    def rss(self): return sum(p.memory_info().rss for p in self.all())
    def stop(self):
        self.process.terminate()
        self.process.wait(30)


@contextlib.contextmanager
def serving(nginx, cost, root, bundle=None, **how):
    "As `streams.serving`, perhaps with nginx in front of it; `cost` is told what each took"
    with plain_serving(root, bundle, **how) as s:
        front, own, used = Nginx(root, [s.port]) if nginx else None, s.port, s.cpu_s()
        if front: s.port = front.port
        try: yield s
        finally:
            cost.update(service_cpu_s=round(s.cpu_s() - used, 2))
            if front:
                cost.update(nginx_cpu_s=round(front.cpu_s(), 2), nginx_mb=round(front.rss()/1e6, 1))
                front.stop()
            s.port = own


def turn(part, a, bundle, calls, nginx):
    cost = {}
    streams.serving = functools.partial(serving, nginx, cost)
    with tempfile.TemporaryDirectory(prefix="wakekit-replicas-", ignore_cleanup_errors=True) as root:
        (Path(root)/"models").mkdir()
        found, _ = dict(live=streams.live, files=streams.files)[part](root, a, bundle, calls)
    wrong = found["wrong"] if part == "files" else found["streams_with_other_events"] + found["streams"] - found["finished"]
    return dict(wrong=wrong, **{k: found[k] for k in ("requests", "events", "expected", "p50_ms", "p99_ms") if k in found}, **cost)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", help="of a trained detector; default: the toy")
    p.add_argument("--calls", help="folder of recordings of its phrase")
    p.add_argument("--streams", type=int, default=100)
    p.add_argument("--rate", type=float, default=25., help="recordings of 3 s per second")
    p.add_argument("--seconds", type=float, default=30.)
    p.add_argument("--every", type=float, default=10., help="seconds from one call to the next in a stream")
    p.add_argument("--share", type=float, default=.1, help="share of the recordings with a call in them")
    p.add_argument("--turns", type=int, default=2)
    p.add_argument("--out", help="write the JSON there, too")
    a = p.parse_args()
    from wakekit.ship.stream import Bundle
    from wakekit.ship.toy import toy_bundle
    with tempfile.TemporaryDirectory(prefix="wakekit-toy-", ignore_cleanup_errors=True) as root:
        bundle, calls, found = Bundle.load(a.bundle or toy_bundle(Path(root)/"toy")), streams.load_calls(a.calls), {}
        for part in ("files", "live"):
            turns = [{how: turn(part, a, bundle, calls, how == "nginx") for how in ("direct", "nginx")} for _ in range(a.turns)]
            found[part] = {how: {k: statistics.median(t[how][k] for t in turns) for k in turns[0][how]} for how in turns[0]} | dict(wrong=sum(t[how]["wrong"] for t in turns for how in t))
    n, s = found["files"], found["live"]
    text = json.dumps(dict(bundle=Path(a.bundle).name if a.bundle else "toy", streams=a.streams, rate=a.rate, seconds=a.seconds, turns=a.turns, **found, nginx_ms_per_request=round(1000*n["nginx"]["nginx_cpu_s"]/n["nginx"]["requests"], 2),
                           nginx_cpu_percent_per_100_streams=round(100*s["nginx"]["nginx_cpu_s"]/a.seconds/a.streams*100, 1)))
    if a.out: Path(a.out).write_text(text + "\n")
    print(text)
    sys.exit(bool(n["wrong"] + s["wrong"]))


if __name__ == "__main__": main()
