"Deployment against a real sshd on loopback, with damage, refusals, kills and two at once; pulling; swapping a model under a stream."
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from wakekit.core import BundleError, ConfigError, LockError
from wakekit.ship import targets
from wakekit.ship.deploy import DeployError, RolledBackError, bundle_version, deploy, releases, rollback
from wakekit.ship.device import BundleWatch, HotDetector, pull, pull_forever, unpack
from wakekit.ship.stream import Bundle, Detector
from wakekit.ship.targets import DeviceLock, Shell, Target, Targets, add_target, fetch, read_targets
from wakekit.ship.toy import chime, toy_bundle

pytestmark = pytest.mark.skipif(os.name == "nt" or not shutil.which("sh"), reason="a target needs a POSIX shell")
SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(p).exists()), None)
OBEYS = """printf '{"version": "%s"}' "$(basename "$(readlink current)")" > status.json""" # a device that runs whatever is current
TOOLS = "sh ls mkdir mv ln rm cat tr tar sha256sum touch tail basename readlink sleep".split() # all that a bare device has


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "Locks that notice sooner"
    monkeypatch.setattr(targets, "BEAT_S", .1)
    monkeypatch.setattr(targets, "STALE_S", 1.)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [toy_bundle(folder/f"v{i}.wake", threshold=t) for i, t in enumerate((.5, .55, .6, .65, .7))]


class Sshd:
    "A server of this test alone, with its own keys"
    def __init__(self, folder, **more):
        self.folder, self.config = folder, folder/"config"
        for name in "host", "user", "stranger": subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder/name], check=True)
        shutil.copy(folder/"user.pub", folder/"authorized_keys")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        options = dict(Port=self.port, ListenAddress="127.0.0.1", HostKey=folder/"host", AuthorizedKeysFile=folder/"authorized_keys", PidFile="none", StrictModes="no", UsePAM="no",
                       PasswordAuthentication="no", KbdInteractiveAuthentication="no", PermitRootLogin="prohibit-password", MaxStartups="100", LogLevel="ERROR", **more)
        self.config.write_text("".join(f"{k} {v}\n" for k, v in options.items()))
        if os.geteuid() == 0: Path("/run/sshd").mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.config], stderr=open(folder/"log", "w"), start_new_session=True)
        for _ in range(100):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0: break
            if self.process.poll() is not None: pytest.skip(f"sshd does not start here: {(folder/'log').read_text()[-300:]}")
            time.sleep(.05)
        self.knows(folder/"known_hosts", "host")

    def knows(self, file, key):
        file.write_text(f"[127.0.0.1]:{self.port} {' '.join((self.folder/f'{key}.pub').read_text().split()[:2])}\n")
        return str(file)

    def target(self, folder, **changes):
        import getpass
        usual = dict(name="device", folder=str(folder), host=f"{getpass.getuser()}@127.0.0.1", port=self.port, identity=str(self.folder/"user"), known_hosts=str(self.folder/"known_hosts"),
                     refresh_command=OBEYS, status_file="status.json", timeout_s=10)
        return Target(**{**usual, **changes})


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    if not SSHD or not shutil.which("ssh"): pytest.skip("there is no OpenSSH server here: apt install openssh-server")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    "A device with nothing but a shell and what deploying asks for"
    if not SSHD or not shutil.which("ssh"): pytest.skip("there is no OpenSSH server here: apt install openssh-server")
    tools = tmp_path_factory.mktemp("tools")
    for t in TOOLS: (tools/t).symlink_to(shutil.which(t))
    server = Sshd(tmp_path_factory.mktemp("bare"), SetEnv=f"PATH={tools}")
    yield server
    server.process.kill()
    server.process.wait()


def local(folder, **changes): return Target(**{**dict(name="device", folder=str(folder), refresh_command=OBEYS, status_file="status.json", timeout_s=5), **changes})


def current(folder):
    "Version of the bundle that `current` points to, which is whole"
    Bundle.load(Path(folder)/"current")
    v = bundle_version(Path(folder)/"current")
    assert os.readlink(Path(folder)/"current") == f"releases/{v}"
    return v


def shim(folder, name, script, monkeypatch):
    "Put a program of ours before the real one, which is $REAL"
    folder.mkdir(exist_ok=True)
    (folder/name).write_text(f"#!/bin/sh\nREAL={shutil.which(name)}\n{script}\n")
    (folder/name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# ---------------------------------------------------------------- a target and its file

@pytest.mark.parametrize("wrong", [dict(host="-oProxyCommand=x"), dict(host="a b"), dict(host="a;b"), dict(host="a$(b)"), dict(folder=""), dict(folder="/"), dict(folder="~bob/x"), dict(folder="a\nb"),
                                   dict(folder=".."), dict(name="a/b"), dict(name=""), dict(port=0), dict(keep=1), dict(timeout_s=0), dict(timeout_s=float("nan")), dict(refresh_url="file:///etc/passwd"),
                                   dict(refresh_url="http://u:p@h/"), dict(status_url="http://h/\r\nX: y"), dict(token_env="A=B"), dict(known_hosts='a"b'), dict(status_url="http://h", status_file="s")])
def test_a_target_is_checked(wrong):
    with pytest.raises(ConfigError, match="target"): Target(**{**dict(name="n", folder="f"), **wrong})


def test_file_of_targets(tmp_path):
    file = tmp_path/"devices.json"
    assert read_targets(file) == {}
    add_target(file, Target("kitchen", "wakekit", "pi@kitchen", keep=4))
    assert json.loads(file.read_text()) == {"kitchen": {"folder": "wakekit", "host": "pi@kitchen", "keep": 4}}
    with pytest.raises(ConfigError, match="already"): add_target(file, Target("kitchen", "x"))
    with pytest.raises(ConfigError, match="did you mean kitchen"): read_targets(file)["kichen"]
    file.write_text('{"kitchen": {"folder": "x", "hots": "y"}}')
    with pytest.raises(ConfigError, match="did you mean host"): read_targets(file)
    file.write_text('{"kitchen": {"folder": "x", "token": "s3cret"}}')
    with pytest.raises(ConfigError, match="token_env or token_file") as e: read_targets(file)
    assert "s3cret" not in str(e.value)
    for text in "[]", '{"a": 1}', "{": 
        file.write_text(text)
        with pytest.raises(ConfigError, match="devices.json"): read_targets(file)
    assert isinstance(Targets(), dict)


# ---------------------------------------------------------------- by ssh

def test_first_second_and_back(sshd, tmp_path, bundles):
    t, seen = sshd.target(tmp_path/"device"), []
    d = deploy(bundles[0], t, on_event=lambda stage, text: seen.append(stage))
    assert (d.version, d.previous, d.changed, d.reported) == (bundle_version(bundles[0]), "", True, True)
    assert seen == "check upload verify switch refresh wait done".split() and not any("rsync failed" in text for _, text in d.steps)
    again = deploy(bundles[0], t)
    assert not again.changed and [s for s, _ in again.steps] == ["check", "done"]
    d = deploy(bundles[1], t)
    assert d.previous == bundle_version(bundles[0]) and d.version == current(tmp_path/"device") and "runs" in d._repr_markdown_()
    assert stat.S_IMODE((tmp_path/"device"/"current"/"model.onnx").stat().st_mode) == 0o644
    assert sorted(p.name for p in (tmp_path/"device").iterdir()) == [".refresh.log", "current", "previous", "releases", "status.json"]
    back = rollback(t)
    assert (back.version, back.previous) == (bundle_version(bundles[0]), d.version) and current(tmp_path/"device") == back.version


def test_three_stay_and_never_without_the_previous(tmp_path, bundles):
    t = local(tmp_path/"device")
    for b in bundles: d = deploy(b, t)
    assert d.previous == bundle_version(bundles[3])
    found = releases(t)
    assert [r.version for r in found] == [bundle_version(b) for b in bundles[:1:-1]] and found[0].current and found[1].previous
    rollback(t, bundle_version(bundles[2])[:6])
    assert rollback(t).version == d.version and rollback(t).version == bundle_version(bundles[2])
    deploy(bundles[0], t.replace(keep=2))
    assert {r.version for r in releases(t)} == {bundle_version(bundles[0]), bundle_version(bundles[2])}
    assert deploy(bundles[0], t, force=True).changed and len(releases(t.replace(keep=2))) == 2
    (tmp_path/"device"/"releases"/"notes").mkdir() # a stranger's folder is neither shown nor removed
    deploy(bundles[1], t.replace(keep=2))
    assert (tmp_path/"device"/"releases"/"notes").is_dir() and len(releases(t)) == 2


def test_bare_device_without_rsync_and_with_an_odd_folder(bare, tmp_path, bundles):
    folder = tmp_path/"it's \"a\" $(touch injected) `touch injected` & b"
    t = bare.target(folder)
    d = deploy(bundles[0], t)
    assert current(folder) == d.version and rollback(t, d.version).version == d.version
    assert not list(tmp_path.rglob("injected")) and not (Path.home()/"injected").exists()


def test_odd_folder_by_rsync(sshd, tmp_path, bundles):
    folder = tmp_path/"it's \"a\" $(touch injected) *"
    (tmp_path/"keys's 100% here").mkdir()
    t = sshd.target(folder, known_hosts=sshd.knows(tmp_path/"keys's 100% here"/"known", "host"))
    d = deploy(bundles[0], t)
    assert current(folder) == d.version and not any("rsync failed" in text for _, text in d.steps)
    assert not list(tmp_path.rglob("injected")) and not (Path.home()/"injected").exists()


def test_rsync_missing_here(sshd, tmp_path, bundles, monkeypatch):
    for t in ("ssh", "sh"): (tmp_path/t).symlink_to(shutil.which(t))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert deploy(bundles[0], sshd.target(tmp_path/"device")).changed
    assert current(tmp_path/"device") == bundle_version(bundles[0])
    (tmp_path/"ssh").unlink()
    with pytest.raises(DeployError, match="apt install openssh-client"): deploy(bundles[1], sshd.target(tmp_path/"device"))


@pytest.mark.parametrize("how", ["rsync", "tar"])
def test_damage_on_the_way(sshd, tmp_path, bundles, monkeypatch, how):
    t, here, steps = sshd.target(tmp_path/"device"), local(tmp_path/"device"), []
    deploy(bundles[0], here)
    with monkeypatch.context() as m:
        if how == "rsync": shim(tmp_path/"bin", "rsync", f'"$REAL" "$@" && printf X | dd of="$(ls -d {tmp_path}/device/releases/*.part)/model.onnx" bs=1 seek=5000 conv=notrunc 2>/dev/null', m)
        else: # a rsync that does not work here, and one bit of the tar stream
            shim(tmp_path/"bin", "rsync", "echo 'rsync: unknown option' >&2; exit 1", m)
            m.setattr("wakekit.ship.deploy._tarred", lambda ship, real=sys.modules["wakekit.ship.deploy"]._tarred: (lambda b: b[:70_000] + bytes([b[70_000] ^ 1]) + b[70_001:])(real(ship)))
        with pytest.raises(DeployError, match=r"model.onnx did not arrive whole.*Nothing was switched"): deploy(bundles[1], t, on_event=lambda *step: steps.append(step))
    assert any("by tar instead" in text for _, text in steps) == (how == "tar")
    assert current(tmp_path/"device") == bundle_version(bundles[0]) and len(releases(here)) == 1
    assert deploy(bundles[1], here).changed and not list((tmp_path/"device"/"releases").glob("*.part"))


def test_damaged_on_the_devices_disk_is_sent_again(tmp_path, bundles):
    t = local(tmp_path/"device")
    deploy(bundles[0], t), deploy(bundles[1], t)
    (tmp_path/"device"/"previous"/"model.onnx").write_bytes(b"?")
    with pytest.raises(DeployError, match="is damaged on the device"): rollback(t)
    assert current(tmp_path/"device") == bundle_version(bundles[1])
    deploy(bundles[0], t)
    assert current(tmp_path/"device") == bundle_version(bundles[0])


def test_who_the_device_is(sshd, tmp_path, bundles):
    empty, wrong = tmp_path/"empty", sshd.knows(tmp_path/"wrong", "stranger")
    empty.write_text("")
    with pytest.raises(DeployError, match=rf"not known here: ssh-keyscan -p {sshd.port} 127.0.0.1 >> \S*empty"): deploy(bundles[0], sshd.target(tmp_path/"d", known_hosts=str(empty)))
    with pytest.raises(DeployError, match="somebody may sit in between.*ssh-keygen -f .* -R"): deploy(bundles[0], sshd.target(tmp_path/"d", known_hosts=wrong))
    with pytest.raises(DeployError, match=rf"ssh-copy-id -p {sshd.port} -i "): deploy(bundles[0], sshd.target(tmp_path/"d", identity=str(sshd.folder/"stranger")))
    with pytest.raises(DeployError, match="switch it on, check host and port"): deploy(bundles[0], sshd.target(tmp_path/"d", port=1))
    assert not (tmp_path/"d").exists() and empty.read_text() == ""


def test_host_keys_are_checked_whatever_the_users_config_says(sshd):
    words = targets.ssh_command(sshd.target("x"))
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(words) and not any(w in " ".join(words) for w in ("StrictHostKeyChecking=no", "accept-new", "/dev/null"))


# ---------------------------------------------------------------- going back

@pytest.mark.parametrize("why, changes, match", [
    ("command fails", lambda v: dict(refresh_command=f"[ $(basename $(readlink current)) = {v} ] && {{ echo 'no such unit' >&2; exit 5; }}; {OBEYS}"), "refresh command failed.*no such unit.*exit code 5.*runs again"),
    ("silent", lambda v: dict(refresh_command=f"[ $(basename $(readlink current)) = {v} ] || {OBEYS}", timeout_s=2), "did not report.*within 2 s.*runs again"),
    ("refuses", lambda v: dict(refresh_command=f"""if [ $(basename $(readlink current)) = {v} ]; then echo '{{"version": "x", "refused": "{v}", "error": "no such operator"}}' > status.json; else {OBEYS}; fi"""), "refuses.*no such operator.*runs again"),
    ("hangs", lambda v: dict(refresh_command=f"[ $(basename $(readlink current)) = {v} ] && sleep 9; {OBEYS}", timeout_s=2), "took longer than 2 s.*runs again"),
    ("nobody to tell", lambda v: dict(refresh_command="", refresh_url="http://127.0.0.1:1/refresh", status_file=""), "is it running.*is current again")])
def test_goes_back(tmp_path, bundles, why, changes, match):
    good = local(tmp_path/"device")
    deploy(bundles[0], good), deploy(bundles[1], good)
    with pytest.raises(DeployError, match=match): deploy(bundles[2], good.replace(**changes(bundle_version(bundles[2]))))
    assert current(tmp_path/"device") == bundle_version(bundles[1]) and not (tmp_path/"device"/".pending").exists()
    assert [r.version for r in releases(good) if r.previous] == [bundle_version(bundles[0])]
    assert not (tmp_path/"device"/".deploying").exists() and deploy(bundles[2], good).previous == bundle_version(bundles[1])


def test_an_old_refusal_does_not_count(tmp_path, bundles):
    t, v = local(tmp_path/"device"), bundle_version(bundles[1])
    deploy(bundles[0], t)
    (tmp_path/"device"/"status.json").write_text(json.dumps({"version": bundle_version(bundles[0]), "refused": v, "error": "yesterday"}))
    assert deploy(bundles[1], t.replace(refresh_command=f"(sleep .3; {OBEYS}) &")).version == v


def test_goes_back_by_ssh_and_a_daemon_in_the_refresh_does_not_hold_it(sshd, tmp_path, bundles):
    t = local(tmp_path/"device", refresh_command=f"{OBEYS}; sleep 20 &")
    deploy(bundles[0], t)
    t = sshd.target(tmp_path/"device", refresh_command=t.refresh_command)
    with pytest.raises(DeployError, match="refresh command failed.*runs again"): deploy(bundles[1], t.replace(refresh_command=f"{OBEYS}; [ $(basename $(readlink current)) = {bundle_version(bundles[0])} ]"))
    assert current(tmp_path/"device") == bundle_version(bundles[0])


def test_first_deployment_that_fails_leaves_nothing_current(tmp_path, bundles):
    with pytest.raises(DeployError, match="nothing ran before"): deploy(bundles[0], local(tmp_path/"device", refresh_command="false"))
    assert not os.path.lexists(tmp_path/"device"/"current")
    assert deploy(bundles[0], local(tmp_path/"device")).changed


def test_ctrl_c_goes_back_too(tmp_path, bundles):
    t = local(tmp_path/"device")
    deploy(bundles[0], t)
    def stop(stage, text):
        if stage == "wait": raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): deploy(bundles[1], t, on_event=lambda s, x: stop(s, x) if bundle_version(bundles[1]) in x else None)
    assert current(tmp_path/"device") == bundle_version(bundles[0]) and json.loads((tmp_path/"device"/"status.json").read_text())["version"] == bundle_version(bundles[0])


def test_what_is_in_the_way(tmp_path, bundles):
    (tmp_path/"device"/"current").mkdir(parents=True)
    (tmp_path/"device"/"current"/"keep").write_text("mine")
    with pytest.raises(DeployError, match="current is no link: move it"): deploy(bundles[0], local(tmp_path/"device"))
    assert (tmp_path/"device"/"current"/"keep").read_text() == "mine"
    (tmp_path/"file").write_text("")
    with pytest.raises(DeployError, match="file"): deploy(bundles[0], local(tmp_path/"file"))


@pytest.mark.parametrize("knows", ["h", "nothing"])
def test_mv_without_T(tmp_path, bundles, monkeypatch, knows):
    bsd = 'case "$1" in *T*) echo "mv: illegal option" >&2; exit 64;; *h*) ' + ('shift; exec "$REAL" -fT "$@"' if knows == "h" else "exit 64") + ';; esac; exec "$REAL" "$@"'
    shim(tmp_path/"bin", "mv", bsd, monkeypatch)
    t = local(tmp_path/"device")
    for b in bundles[:3]: assert deploy(b, t).version == current(tmp_path/"device")
    assert rollback(t).version == current(tmp_path/"device") == bundle_version(bundles[1])


# ---------------------------------------------------------------- one at a time, and killed

def test_two_at_once(sshd, tmp_path, bundles):
    order, done = [], []
    here, there = local(tmp_path/"device", timeout_s=20), sshd.target(tmp_path/"device", timeout_s=20)
    def go(i): done.append(deploy(bundles[i], (here, there)[i%2], on_event=lambda stage, text: order.append((i, stage))))
    threads = [threading.Thread(target=go, args=(i,)) for i in range(3)]
    for th in threads: th.start()
    for th in threads: th.join()
    assert len(done) == 3 and current(tmp_path/"device") == done[2].version and done[2].previous == done[1].version
    inside = [i for i, stage in order if stage in ("upload", "verify", "switch", "refresh", "wait", "done")]
    assert inside == sorted(inside, key=lambda i: inside.index(i)) # one after the other


def test_lock_held_lost_and_left_behind(tmp_path, bundles, monkeypatch):
    t = local(tmp_path/"device", timeout_s=2)
    with DeviceLock(Shell(t), 1) as lock:
        with pytest.raises(LockError, match="is deploying there"): deploy(bundles[0], t)
        (tmp_path/"device"/".deploying"/"owner").write_text("somebody else\n")
        with pytest.raises(DeployError, match="the lock is gone"): Shell(t).run(targets.OWNED, str(tmp_path/"device"), lock.owner)
    assert (tmp_path/"device"/".deploying").exists() # not ours any more, so not ours to remove
    deploy(bundles[0], t) # its beat stands still
    assert current(tmp_path/"device") == bundle_version(bundles[0]) and not list((tmp_path/"device").glob(".deploying*"))


def test_a_deployment_that_changes_nothing_sweeps_what_others_left(tmp_path, bundles):
    folder = tmp_path/"device"
    for b in bundles[:5]: deploy(b, local(folder, keep=9))
    assert len(releases(local(folder))) == 5
    again = deploy(bundles[4], t := local(folder))
    kept = releases(t)
    assert not again.changed and len(kept) == 3 and {r.version for r in kept if r.current or r.previous} == {bundle_version(b) for b in bundles[3:5]}


def killed_after(seconds, bundle, target):
    "Deploy in a process of its own, and kill that; True when it was faster"
    pid = os.fork()
    if pid == 0:
        try: deploy(bundle, target)
        finally: os._exit(0)
    time.sleep(seconds)
    done = os.waitpid(pid, os.WNOHANG)[0] == pid
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return done


@pytest.mark.parametrize("by", ["ssh", "folder"])
def test_killed_at_any_moment(sshd, tmp_path, bundles, by):
    folder, rng, trouble, over = tmp_path/"device", random.Random(5), [], threading.Event()
    t = sshd.target(folder) if by == "ssh" else local(folder)
    began = time.monotonic()
    deploy(bundles[0], t)
    usual = time.monotonic() - began
    def watch(): # whoever opens `current` at any moment gets a whole bundle
        while not over.wait(.01):
            try: current_is_whole(folder)
            except Exception as e: trouble.append(e)
    def current_is_whole(folder): Bundle.load((folder/"current").resolve())
    watcher = threading.Thread(target=watch)
    watcher.start()
    for k in range(3 if by == "ssh" else 12):
        b = bundles[1 + k%4]
        killed_after(usual*rng.uniform(.2, 1.), b, t)
        current(folder)
        if by == "folder": assert deploy(b, t).version == current(folder) == bundle_version(b)
    over.set()
    watcher.join()
    assert not trouble, trouble[:3]
    deploy(bundles[0], t)
    assert current(folder) == bundle_version(bundles[0]) and not (folder/".pending").exists() and not (folder/".deploying").exists()
    assert len(releases(t)) <= 3
    for _ in range(20): # an rsync that outlived its parent may leave its side folder, until a later deployment sweeps it away
        if not list((folder/"releases").glob("*.part")): break
        time.sleep(.1)
        deploy(bundles[0], local(folder), force=True), deploy(bundles[1], local(folder))
    assert not list((folder/"releases").glob("*.part"))


def test_killed_between_switch_and_report(tmp_path, bundles):
    t = local(tmp_path/"device")
    deploy(bundles[0], t)
    def die(stage, text):
        if stage == "wait": os.kill(os.getpid(), signal.SIGKILL)
    pid = os.fork()
    if pid == 0:
        try: deploy(bundles[1], t, on_event=die)
        finally: os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert current(tmp_path/"device") == bundle_version(bundles[1])
    assert [r.version for r in releases(t) if r.previous] == [bundle_version(bundles[0])]
    with pytest.raises(DeployError, match=f"{bundle_version(bundles[0])} runs again"): # not the one that nobody has reported
        deploy(bundles[2], t.replace(refresh_command=f"[ $(basename $(readlink current)) != {bundle_version(bundles[2])} ] && {OBEYS}"))
    assert current(tmp_path/"device") == bundle_version(bundles[0])


# ---------------------------------------------------------------- http: refresh, status, pull

class Server:
    "Answers what it is told, and remembers what it was asked"
    def __init__(self):
        self.answer, self.asked = (lambda method, path, headers, body: (404, {}, b"")), []
        outer = self
        class Handler(BaseHTTPRequestHandler):
            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, self.path, dict(self.headers), body))
                code, headers, content = outer.answer(self.command, self.path, self.headers, body)
                self.send_response(code)
                for k, v in ({"Content-Length": str(len(content))} | headers).items(): self.send_header(k, v)
                self.end_headers()
                self.wfile.write(content)
            do_GET = do_POST = do
            def log_message(self, *args): pass
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    s = Server()
    yield s
    s.server.shutdown()
    s.server.server_close()


def zipped(files, **how):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items(): z.writestr(name, content)
    return out.getvalue()


def files_of(bundle): return {p.name: p.read_bytes() for p in Path(bundle).iterdir()}


def serving(bundle, change=lambda b: b, etag=None, **headers):
    tag = etag or '"' + hashlib.sha256((Path(bundle)/"manifest.json").read_bytes()).hexdigest() + '"'
    def answer(method, path, asked, body):
        if asked.get("If-None-Match") == tag: return 304, {"ETag": tag}, b""
        return 200, {"ETag": tag, **headers}, change(zipped(files_of(bundle)))
    return answer


def test_refresh_and_status_by_http(tmp_path, bundles, server, monkeypatch):
    hot = {}
    def answer(method, path, headers, body):
        if headers.get("Authorization") != "Bearer s3cret": return 401, {}, b""
        if method == "POST": hot.update(json.loads(body))
        return 200, {}, json.dumps(hot).encode()
    server.answer = answer
    t = Target("device", str(tmp_path/"device"), refresh_url=server.url + "/refresh", status_url=server.url + "/status", token_env="DEVICE_TOKEN", timeout_s=2)
    with pytest.raises(DeployError, match="export DEVICE_TOKEN="): deploy(bundles[0], t)
    monkeypatch.setenv("DEVICE_TOKEN", "s3cret\n")
    assert deploy(bundles[0], t).reported and hot == {"version": bundle_version(bundles[0])}
    (tmp_path/"token").write_text("wrong")
    with pytest.raises(DeployError, match="401: the token is missing or wrong"): deploy(bundles[1], t.replace(token_env="", token_file=str(tmp_path/"token"), timeout_s=.2))
    assert "s3cret" not in json.dumps(t.to_dict())


def test_a_token_does_not_follow_a_redirect(server):
    other = Server()
    server.answer = lambda *_: (302, {"Location": other.url + "/catch"}, b"")
    with pytest.raises(DeployError, match="302.*give that address"): fetch(server.url + "/x", token="s3cret")
    assert not other.asked
    other.server.shutdown(), other.server.server_close()


def test_pull(tmp_path, bundles, server):
    folder, url = tmp_path/"device", server.url + "/models/kitchen/bundle"
    server.answer = serving(bundles[0])
    assert pull(url, folder, token="t").version == bundle_version(bundles[0]) == current(folder)
    assert server.asked[-1][2]["Authorization"] == "Bearer t" and "If-None-Match" not in server.asked[-1][2]
    assert pull(url, folder) is None and server.asked[-1][2]["If-None-Match"].strip('"').startswith(current(folder))
    (folder/".pulled").unlink() # what is there can be computed
    assert pull(url, folder) is None
    for b in bundles[1:]:
        server.answer = serving(b)
        assert pull(url, folder).version == current(folder)
    assert len(releases(local(folder))) == 3 and not list(folder.glob(".pull-*"))
    assert rollback(local(folder, refresh_command="", status_file="")).version == bundle_version(bundles[3])
    assert pull(url, folder) is None # it does not come back by itself


def test_pull_of_what_is_no_good(tmp_path, bundles, server, monkeypatch):
    folder, url = tmp_path/"device", server.url + "/b"
    server.answer = serving(bundles[0])
    pull(url, folder)
    good = files_of(bundles[1])
    cases = [(lambda b: b[:-400], "damaged"), (lambda b: b"<html>", "damaged"), (lambda b: b[:len(b)//2] + b"\0\1\2\3" + b[len(b)//2 + 4:], "damaged"),
             (lambda b: zipped(good | {"../evil": b"x"}), "would not stay"), (lambda b: zipped(good | {"/evil": b"x"}), "would not stay"), (lambda b: zipped(good | {"a/../../evil": b"x"}), "would not stay"),
             (lambda b: zipped(good | {"..\\evil": b"x"}), "would not stay"), (lambda b: zipped(good | {"C:evil": b"x"}), "would not stay"), (lambda b: zipped({"b/" + n: c for n, c in good.items()}), "no manifest.json"),
             (lambda b: zipped(good | {"model.onnx": b"other"}), "damaged"), (lambda b: zipped({k: v for k, v in good.items() if k != "model.onnx"}), "lacks model.onnx")]
    for i, (change, match) in enumerate(cases):
        server.answer = serving(bundles[1], change, etag=f'"{i}"')
        for _ in range(2): # what was damaged on the way is asked for again
            with pytest.raises(BundleError, match=match): pull(url, folder)
    server.answer = serving(bundles[1], etag='"short"', **{"Content-Length": "999999"})
    with pytest.raises(DeployError, match="ended after|does not answer"): pull(url, folder)
    for code, match in (401, "token"), (404, "nothing at this address"), (500, "answers 500"):
        server.answer = lambda *_: (code, {}, b"")
        with pytest.raises(DeployError, match=match): pull(url, folder)
    monkeypatch.setattr("wakekit.ship.device.MAX_ZIP", 1000)
    server.answer = serving(bundles[1], etag='"big"')
    with pytest.raises(DeployError, match="more than 1,000 bytes"): pull(url, folder)
    assert current(folder) == bundle_version(bundles[0]) and not list(tmp_path.rglob("evil")) and not list(folder.glob(".pull-*"))


def test_a_pulled_bundle_that_does_not_run_is_not_tried_again_and_again(tmp_path, bundles, server):
    folder, how = tmp_path/"device", dict(status_file="status.json", refresh_command=f"[ $(basename $(readlink current)) = {bundle_version(bundles[1])} ] || {OBEYS}", timeout_s=2)
    server.answer = serving(bundles[0])
    assert pull(server.url, folder, **how).reported
    server.answer = serving(bundles[1])
    with pytest.raises(RolledBackError, match="runs again"): pull(server.url, folder, **how)
    assert pull(server.url, folder, **how) is None and current(folder) == bundle_version(bundles[0])
    server.answer = serving(bundles[2])
    assert pull(server.url, folder, **how).version == current(folder)
    with pytest.raises(ConfigError): pull_forever("htp://nowhere", folder, sleep=lambda s: None)


def test_bombs_and_links_in_an_archive(tmp_path, monkeypatch):
    monkeypatch.setattr("wakekit.ship.device.MAX_BUNDLE", 100_000)
    with pytest.raises(BundleError, match="no bundle"): unpack(zipped({"manifest.json": b"0"*200_000}), tmp_path/"a")
    lying = zipped({"manifest.json": b"0"*200_000}).replace((200_000).to_bytes(4, "little"), (10).to_bytes(4, "little")) # says 10 bytes
    with pytest.raises(BundleError, match="damaged|no bundle"): unpack(lying, tmp_path/"b")
    assert sum(p.stat().st_size for p in (tmp_path/"b").rglob("*") if p.is_file()) <= 100_000 if (tmp_path/"b").exists() else True
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        link = zipfile.ZipInfo("manifest.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(link, "/etc/passwd")
    with pytest.raises(BundleError, match="would not stay"): unpack(out.getvalue(), tmp_path/"c")
    with pytest.raises(BundleError, match="files"): unpack(zipped({str(i): b"" for i in range(1000)}), tmp_path/"d")


def test_pull_forever_comes_back(tmp_path, bundles, server):
    answers = iter([(lambda *_: (503, {}, b""))]*3 + [serving(bundles[0])]*2 + [serving(bundles[1])])
    pauses, told, left = [], [], iter([False]*6 + [True])
    def stop():
        if (end := next(left)): return True
        server.answer = next(answers)
        return end
    assert pull_forever(server.url + "/b", tmp_path/"device", every_s=10, sleep=pauses.append, stop=stop, rng=random.Random(1), on_event=lambda s, t: told.append(s)) == 2
    assert all(lo <= p <= hi for p, (lo, hi) in zip(pauses, [(16, 24), (32, 48), (64, 96)] + [(8, 12)]*3)) and told.count("failed") == 3
    assert len(set(pauses)) == len(pauses) and current(tmp_path/"device") == bundle_version(bundles[1])


# ---------------------------------------------------------------- under a stream

STEP = 1280 # 80 ms


def room(chimes_s, seconds, seed=0):
    x = (.001*np.random.default_rng(seed).standard_normal(int(seconds*16_000))).astype(np.float32)
    for s in chimes_s: x[int(s*16_000):][:5120] += chime()
    return x


def play(hot, x, swap_at=None, bundle=None, chunk=STEP):
    "Events of a stream in which the bundle changes before a chunk"
    events = []
    for i, at in enumerate(range(0, len(x), chunk)):
        if i == swap_at: hot.watch.bundle = bundle # as if it had just been loaded
        events += hot.process(x[at:at + chunk])
    return events


@pytest.fixture
def still(tmp_path, bundles):
    "A watch that only changes when the test says so"
    return lambda b: BundleWatch(b, clock=lambda: 0.)


@pytest.mark.parametrize("smooth_ms", [(40, 40), (160, 20), (20, 160), (40, 0)])
def test_each_chime_once_wherever_the_swap_lies(tmp_path, still, smooth_ms):
    old, new = (toy_bundle(tmp_path/f"{i}.wake", threshold=.4, smooth_ms=ms) for i, ms in enumerate(smooth_ms))
    x, b = room((.5, 2.1, 3.7), 4.5), Bundle.load(new)
    assert len(Detector(old).detect(x)) == len(Detector(new).detect(x)) == 3
    for chunk in 640, 1280, 1000:
        for swap_at in range(int(1.9*16_000)//chunk, int(2.8*16_000)//chunk):
            events = play(HotDetector(still(old)), x, swap_at, b, chunk)
            assert [round(e.time_s) for e in events] == [1, 2, 4], (chunk, swap_at, events)
            assert all(e.time_s <= at + .7 for e, at in zip(events, (.5, 2.1, 3.7)))


def test_a_quicker_detector_does_not_lose_what_the_slower_one_had_yet_to_say(tmp_path, still):
    slow, quick = toy_bundle(tmp_path/"slow.wake", threshold=.585, smooth_ms=160), toy_bundle(tmp_path/"quick.wake", threshold=.99, smooth_ms=0) # the quick one is sure for a single step, 60 ms before the slow one
    x, b = room((.5,), 1.5), Bundle.load(quick)
    times = [Detector(d).detect(x)[0].time_s for d in (quick, slow)]
    assert .04 < times[1] - times[0] < .1
    for swap_at in range(75):
        events = play(HotDetector(still(slow)), x, swap_at, b, 320)
        assert len(events) == 1 and events[0].time_s in times, (swap_at, events)


def test_no_sample_is_lost(tmp_path, still):
    old, new = toy_bundle(tmp_path/"old.wake", threshold=.4), toy_bundle(tmp_path/"new.wake", threshold=.5)
    x, straight = room((1, 2.5, 4), 12), Detector(new).score(room((1, 2.5, 4), 12))
    rng = np.random.default_rng(1)
    for k in range(6): # chunks of any length, one swap anywhere, scores as if there had been none
        hot, at, scores, swap_at = HotDetector(still(old)), 0, [], rng.uniform(0, 10)*16_000
        b = Bundle.load(new)
        while at < len(x):
            n = int(rng.choice([1, 160, 319, 1280, 4000, 120_000], p=[.1, .2, .2, .3, .15, .05]))
            if at >= swap_at: hot.watch.bundle = b
            scores.append(hot.score(x[at:at + n]))
            at += n
        assert np.abs(np.concatenate(scores) - straight).max() < 1e-5 and hot.swaps == 1


def test_refractory_time_across_the_swap(tmp_path, still):
    old, new = toy_bundle(tmp_path/"old.wake", refractory_ms=1000.), toy_bundle(tmp_path/"new.wake", threshold=.55, refractory_ms=2000.)
    x, b = room((1, 2.4), 4), Bundle.load(new) # the second chime lies in the new detector's refractory time, not in the old one's
    assert len(play(HotDetector(still(old)), x)) == 2
    assert len(play(HotDetector(still(old)), x, 20, b)) == 1
    assert len(play(HotDetector(still(new)), x, 20, Bundle.load(old))) == 1 # and the old one's deafness is kept


def test_other_steps_and_a_second_look(tmp_path, still):
    old, new = toy_bundle(tmp_path/"old.wake"), toy_bundle(tmp_path/"new.wake", verify=True)
    x, b = room((1.3, 3, 4.7), 6), Bundle.load(new)
    assert len(Detector(new).detect(x)) == 3
    for swap_at in range(35, 50): assert len(play(HotDetector(still(old)), x, swap_at, b)) == 3, swap_at
    for swap_at in range(35, 50): assert len(play(HotDetector(still(new)), x, swap_at, Bundle.load(old))) == 3, swap_at


def test_int16_bad_samples_empty_chunks_and_reset(tmp_path, bundles, still):
    hot, x = HotDetector(still(bundles[0])), room((1,), 2)
    x[100] = np.nan
    with pytest.raises(ValueError): HotDetector(hot.watch, threshold=.1)
    assert hot.process(np.zeros(0)) == [] and len(play(hot, x)) == 1 and hot.n_bad == 1
    hot.reset()
    assert [e.phrase for e in hot.listen([(32767*np.nan_to_num(x)).astype(np.int16)])] == ["ding dong"]
    assert hot.phrase == "ding dong" and hot.threshold == .5 and hot.gate_score is None


class Playing:
    "A device: a stream that is never interrupted, in a thread"
    def __init__(self, folder, **how):
        self.hot, self.events, self.n, self.x, self.over = HotDetector(folder, status_file=Path(folder)/"status.json", check_every_s=0, **how), [], 0, room((.5,), 1.6), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
    def run(self):
        while not self.over.is_set():
            at = self.n%(len(self.x)//STEP)*STEP
            self.events += self.hot.process(self.x[at:at + STEP])
            self.n += 1
            time.sleep(.002)
    def stop(self):
        self.over.set()
        self.thread.join()


def test_deployed_over_ssh_under_a_stream(sshd, tmp_path, bundles):
    folder, t = tmp_path/"device", sshd.target(tmp_path/"device", refresh_command="")
    here = local(folder, refresh_command="", timeout_s=10)
    deploy(bundles[0], here.replace(status_file=""))
    device = Playing(folder)
    try:
        for b, target in zip(bundles[1:3], (here, t)): assert deploy(b, target).reported
        bad = toy_bundle(tmp_path/"bad.wake", threshold=.45) # its checksums are right, but it does not run
        (bad/"model.onnx").write_bytes(b"no graph")
        manifest = json.loads((bad/"manifest.json").read_text())
        manifest["files"]["model.onnx"]["sha256"] = hashlib.sha256(b"no graph").hexdigest()
        (bad/"manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DeployError, match=f"refuses {bundle_version(bad)}: .*onnxruntime.*{bundle_version(bundles[2])} runs again"): deploy(bad, t)
        assert rollback(here).reported and device.hot.status()["version"] == bundle_version(bundles[1])
        told = [e.threshold for e in device.events]
        while len(device.events) < len(told) + 3: time.sleep(.01)
    finally: device.stop()
    each = len(device.x)//STEP*STEP/16_000
    calls = [int(e.time_s/each) for e in device.events]
    assert calls == list(range(len(calls))) and abs(device.n*STEP/16_000/each - len(calls)) < 1.5 # each chime, once
    assert device.hot.swaps == 3 and set(told) <= {.5, .55, .6}


def test_damaged_bundle_is_refused_and_the_old_one_goes_on(tmp_path, bundles, caplog):
    folder, t = tmp_path/"device", local(tmp_path/"device", refresh_command="", status_file="")
    deploy(bundles[0], t)
    hot = HotDetector(folder, status_file=tmp_path/"status.json", check_every_s=0)
    def link(to):
        os.symlink(to, folder/"new")
        os.replace(folder/"new", folder/"current")
    shutil.copytree(bundles[1], folder/"releases"/"damaged")
    (folder/"releases"/"damaged"/"model.onnx").write_bytes(b"?")
    link("releases/damaged")
    s = hot.watch.refresh()
    assert s["version"] == bundle_version(bundles[0]) and s["refused"] == bundle_version(bundles[1]) and "is damaged" in s["error"] and "is refused" in caplog.text
    assert json.loads((tmp_path/"status.json").read_text())["error"] == s["error"] and len(play(hot, room((1,), 2))) == 1 and hot.swaps == 0
    (folder/"current").unlink() # gone for a moment
    assert hot.watch.refresh()["version"] == bundle_version(bundles[0])
    link(f"releases/{bundle_version(bundles[0])}")
    assert hot.watch.refresh()["error"] == ""
    with pytest.raises(BundleError, match="no graph 'int8'"): HotDetector(folder, graph="int8")
    deploy(bundles[1], t)
    (folder/"current"/"model.onnx").write_bytes(b"?") # the power was cut, and the program starts again
    again = HotDetector(folder)
    assert again.status()["version"] == bundle_version(bundles[0]) and again.status()["refused"] == bundle_version(bundles[1])
    with pytest.raises(BundleError, match="deploy one there first"): HotDetector(tmp_path/"nothing")


# ---------------------------------------------------------------- the command line

def cli(*args, cwd, **how):
    code = "import sys; from wakekit.cli_deploy import commands; sys.exit(commands.run())"
    env = {k: v for k, v in os.environ.items() if not k.startswith("WAKE")} | {"WAKEKIT_DATA_DIR": str(cwd/"data"), "PYTHONUTF8": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def test_listen_while_deploying_from_the_command_line(tmp_path, bundles):
    x = (32767*room((.5,), 1)).astype("<i2").tobytes()
    listening = cli("listen", "device", "-", "--json", cwd=tmp_path)
    assert b"waiting for wakekit deploy" in listening.stderr.readline()
    added = cli("device", "add", "kitchen", "./device", "--timeout-s", "20", cwd=tmp_path)
    assert b"next: wakekit deploy BUNDLE kitchen" in added.communicate()[0] and added.returncode == 0
    for b in bundles[:2]:
        deploying = cli("deploy", b, "kitchen", "--json", cwd=tmp_path)
        while deploying.poll() is None: # the room goes on
            listening.stdin.write(x), listening.stdin.flush()
            time.sleep(.05)
        out, err = deploying.communicate()
        assert deploying.returncode == 0 and json.loads(out)["version"] == bundle_version(b) and json.loads(out)["reported"], err
    for _ in range(3): listening.stdin.write(x)
    out, err = listening.communicate()
    events = [json.loads(l) for l in out.splitlines()]
    assert listening.returncode == 0 and {e["threshold"] for e in events} == {.5, .55}, err
    assert [int(e["time_s"]) for e in events] == list(range(len(events))) # one a second, each once
    missing = cli("deploy", bundles[0], "kichen", cwd=tmp_path)
    assert b"did you mean kitchen" in missing.communicate()[1] and missing.returncode == 1


def test_nothing_here_needs_torch():
    heavy = ("torch", "torchaudio", "librosa", "onnx", "scipy", "matplotlib", "fastapi")
    code = f"import sys\nfor m in {heavy!r}: sys.modules[m] = None\nimport wakekit.ship.targets, wakekit.ship.deploy, wakekit.ship.device, wakekit.cli_deploy"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
