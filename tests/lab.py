"JupyterLab in a real browser, for tests and pictures."
import contextlib, json, os, socket, subprocess, sys, time, urllib.request
from browser import MICROPHONE, PATIENCE_S, Page

NOTEBOOK = "[...window.jupyterapp.shell.widgets('main')].find(w => w.sessionContext)"
CELLS = """
from wakekit.data.dataset import Dataset
from wakekit.serve.widgets import *
ds = Dataset.open("bell")
recorder = Recorder(ds); recorder
---
reviewer = ClipReviewer(ds); reviewer
---
preview = AugmentationPreview(ds, n=2); preview
---
training = TrainingPanel(ds, preset="tiny", overrides=SHORT); training
---
explorer = ThresholdExplorer(ds); explorer
---
live = LiveDetector("toy"); live
""".split("---") # each widget once: after a cell that says what SHORT is


def until(what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < end, found
        time.sleep(.1)
    return found


def notebook(*cells):
    "A notebook of code cells"
    return json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")),
        cells=[dict(cell_type="code", id=f"cell-{k}", metadata={}, source=c.strip(), outputs=[], execution_count=None) for k, c in enumerate(cells)]))


@contextlib.contextmanager
def jupyter(folder):
    "JupyterLab over a folder: its address"
    with socket.create_server(("127.0.0.1", 0)) as s: port = s.getsockname()[1]
    log = folder/"lab.log"
    for name, said in {"notebook-extension/tracker": '{"windowingMode": "none"}', "apputils-extension/notification": '{"fetchNews": "false"}'}.items(): # cells that are scrolled away stay in the page; nobody is asked about news
        look = folder/"settings"/"@jupyterlab"/f"{name}.jupyterlab-settings"
        look.parent.mkdir(parents=True)
        look.write_text(said)
    env = {**os.environ, "WAKEKIT_MODELS_DIR": str(folder/"models"), "WAKEKIT_DATA_DIR": str(folder/"data"), "JUPYTER_CONFIG_DIR": str(folder/"config"), "JUPYTERLAB_SETTINGS_DIR": str(folder/"settings"), "JUPYTER_RUNTIME_DIR": str(folder/"runtime"), "IPYTHONDIR": str(folder/"ipython"), "PYTHONPATH": os.pathsep.join([str(folder/"packages"), *sys.path])}
    with log.open("w") as f:
        process = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=secret", f"--ServerApp.root_dir={folder}",
            "--LabApp.expose_app_in_browser=True", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"], env=env, stdout=f, stderr=f, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        def there():
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api/status?token=secret", timeout=5) as r: return r.status == 200
        until(there)
        yield url
    finally:
        process.terminate()
        try: process.wait(30)
        except subprocess.TimeoutExpired: process.kill()


class Lab(Page):
    "A notebook in JupyterLab"
    def __init__(self, lab, folder, cells, flags=None, width=1200, dark=False):
        super().__init__(folder, MICROPHONE + [f"--use-file-for-fake-audio-capture={lab['folder']/'microphone.wav'}"] if flags is None else flags, width, dark)
        self.name = f"{folder.name}.ipynb"
        (lab["folder"]/self.name).write_text(notebook(*cells))
        self.open(f"{lab['url']}/lab/tree/{self.name}?token=secret&reset", "!!window.jupyterapp && !!document.querySelector('.jp-Notebook .jp-CodeCell')")
        self.until(f"!!{NOTEBOOK}?.sessionContext?.session?.kernel?.info")
    def command(self, name, args=None): return self.run(f"window.jupyterapp.commands.execute({json.dumps(name)}, {json.dumps(args or {})}).then(() => true)")
    def run_all(self): self("Runtime.evaluate", expression="void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    def cell(self, k): return f"document.querySelectorAll('.jp-Notebook .jp-CodeCell')[{k}]"
    def shown(self, k, code="true"):
        "The widget of a cell is there, and something holds in it (`el`)"
        return self.until(f"(() => {{ const el = {self.cell(k)}?.querySelector('.jp-OutputArea .wk')?.parentElement; if (el) el.scrollIntoView(); return !!(el && ({code})) }})()")
    def press(self, k, text): self.shown(k, f"(() => {{ const b = [...el.querySelectorAll('button')].find(b => b.offsetParent && b.textContent.trim() === {json.dumps(text)} && !b.disabled); b?.click(); return !!b }})()")
    def python(self, code):
        "The value of an expression in the kernel, while its cells are idle"
        return json.loads(self.run(f"""(async () => {{
            const kernel = {NOTEBOOK}.sessionContext.session.kernel
            const r = await kernel.requestExecute({{code: '', silent: true, store_history: false, user_expressions: {{v: {json.dumps(f"__import__('json').dumps({code})")}}}}}).done
            const v = r.content.user_expressions.v
            if (v.status !== 'ok') throw new Error(v.evalue)
            return (0, eval)(v.data['text/plain'])
        }})()"""))
