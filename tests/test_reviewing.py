"The inbox and the map in the output of a cell: what the kernel's side says, and both in a real JupyterLab."
import types
import numpy as np
import pytest
pytest.importorskip("anywidget", reason="pip install wakekit[notebook]")
pytest.importorskip("fastapi")
from browser import CHROMIUM
from wakekit import Dataset
from wakekit.core import SAMPLE_RATE
from wakekit.serve.reviewing import ClipExplorer, InboxReviewer
from wakekit.ship.toy import chime

HOSTILE = "<img src=x onerror='document.title=\"got in\"'>"


def rung(seed=0, s=.6):
    rng = np.random.default_rng(seed)
    return (np.r_[np.zeros(3000), chime(), np.zeros(int(s*SAMPLE_RATE))]*.5 + .003*rng.standard_normal(3000 + len(chime()) + int(s*SAMPLE_RATE))).astype(np.float32)


# ---- without a browser

class Answers:
    "A client that knows so many sounds"
    def __init__(self, n): self.n, self.asked = n, []
    def get(self, path, offset=0, limit=100):
        self.asked.append((path, offset, limit))
        return dict(total=self.n, waiting=self.n, sounds=[dict(id=f"{k:016x}") for k in range(offset, min(self.n, offset + limit))])

@pytest.mark.parametrize("n", [0, 1, 1000, 2500])
def test_all_that_waits_page_by_page(n):
    one = types.SimpleNamespace(client=Answers(n), name="a kitchen/é")
    one._page = lambda **params: InboxReviewer._page(one, **params)
    assert [s["id"] for s in InboxReviewer.sounds.fget(one)] == [f"{k:016x}" for k in range(n)]
    assert {p for p, *_ in one.client.asked} == {"/datasets/a%20kitchen%2F%C3%A9/inbox"} and len(one.client.asked) == max(1, -(-n//1000))

def test_sounds_that_go_while_they_are_counted_do_not_keep_anybody_waiting():
    one = types.SimpleNamespace(_page=lambda offset, limit: dict(total=5000, waiting=5000, sounds=[dict(id="a")] if offset == 0 else []))
    assert InboxReviewer.sounds.fget(one) == [dict(id="a")]

def test_nothing_to_show_is_no_picture():
    from wakekit.serve.client import ServiceError
    def refuse(code):
        def get(path, **params): raise ServiceError(404, dict(code=code, detail="?"))
        return types.SimpleNamespace(client=types.SimpleNamespace(get=get), name="kitchen")
    assert InboxReviewer.picture(types.SimpleNamespace(_page=lambda limit: dict(total=0, waiting=0, sounds=[]))) is None
    assert ClipExplorer.map.fget(refuse("no_look")) is None
    with pytest.raises(ServiceError): ClipExplorer.map.fget(refuse("not_found"))

def test_the_module_for_the_browser_has_both():
    text = InboxReviewer._esm if isinstance(InboxReviewer._esm, str) else str(InboxReviewer._esm)
    assert all(f"{name}:" in text for name in (*InboxReviewer.names, *ClipExplorer.names)) and "import {" not in text


# ---- in JupyterLab

@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab over a folder with a dataset of 40 clips and an inbox of 5 sounds"
    pytest.importorskip("jupyterlab", reason="pip install wakekit[notebook]")
    if CHROMIUM is None: pytest.skip("no Chromium here")
    from lab import jupyter
    from wakekit.serve import beside
    folder = tmp_path_factory.mktemp("lab")
    ds, rng = Dataset.create(folder/"bell", "hey jarvis"), np.random.default_rng(0)
    for k in range(20): ds.add(rung(k), "positive", speaker=f"person {k%5}")
    for k in range(20): ds.add((.03*rng.standard_normal(20_000)).astype(np.float32), "noise", source="room")
    for k in range(5): ds.inbox.put(rung(100 + k), "trigger", origin=HOSTILE if k == 4 else f"device {k}", score=.5 + k/10, predictions=[dict(by="other model", label="negative", score=.3)])
    try:
        with jupyter(folder) as url: yield dict(folder=folder, url=url, dataset=ds)
    finally: beside.stop(beside.root_of(ds)[0])

@pytest.fixture
def page(lab, tmp_path):
    from lab import Lab
    pages = []
    def make(*cells): return pages.append(Lab(lab, tmp_path, cells, flags=())) or pages[-1]
    yield make
    for p in pages: p.close()

START = "from wakekit import Dataset\nfrom wakekit.serve.reviewing import *\nds = Dataset.open('bell')"
CLICK = "(() => {{ const b = el.querySelector({}); if (!b || !b.offsetParent) return false; b.click(); return true }})()"

def press(p, key):
    code = f"Digit{key}" if key.isdigit() else f"Key{key.upper()}"
    for kind in ("keyDown", "keyUp"): p("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=ord(key.upper()), **(dict(text=key) if kind == "keyDown" else {}))

def test_an_inbox_is_gone_through_with_the_keyboard(lab, page, tmp_path):
    from lab import NOTEBOOK, until
    ds = lab["dataset"]
    order = [f.id for f in sorted(ds.inbox.found(), key=lambda f: f.created, reverse=True)]
    outcome = lambda k: ds.inbox[order[k]].outcome
    p = page(START, "reviewer = InboxReviewer(ds); reviewer")
    p.run_all()
    p.shown(1, "el.innerText.includes('5 sounds wait') && el.querySelectorAll('.wk-found').length === 5")
    p.shown(1, "el.innerText.includes('other model') && el.innerText.includes('predictions, not labels')")
    assert p.run("document.title") != "got in" and HOSTILE in p.run(f"{p.cell(1)}.innerText")
    p.shown(1, "(() => { el.querySelector('.wk-stage').focus(); return document.activeElement.classList.contains('wk-stage') })()")
    cells = p.run(f"{NOTEBOOK}.content.widgets.length")
    press(p, "1")
    until(lambda: outcome(0) == "positive")
    p.shown(1, "el.innerText.includes('4 sounds wait') && !el.querySelector('.wk-stage').hasAttribute('aria-busy')")
    press(p, "x") # in JupyterLab, this key would cut the cell
    until(lambda: outcome(1) == "rejected")
    p.shown(1, "el.innerText.includes('3 sounds wait') && !el.querySelector('.wk-stage').hasAttribute('aria-busy')")
    press(p, "u")
    until(lambda: outcome(1) == "open")
    p.shown(1, "el.innerText.includes('4 sounds wait')")
    assert p.run(f"{NOTEBOOK}.content.widgets.length") == cells
    assert sorted(p.python("[s['id'] for s in reviewer.sounds]")) == sorted(order[1:]) and p.python("ds.refresh() or len(ds.clips('positive'))") in (20, 21)
    ds.inbox.accept(order[2], "noise", by="somebody else") # outside: it goes from the list
    p.shown(1, "el.innerText.includes('3 sounds wait')")
    p.shown(1, "el.innerText.includes('What machines are worth') && /People held 1 of \\d sounds for the phrase/.test(el.innerText) && el.innerText.includes('There are not two models of this phrase yet')")
    assert "other model" in p.run(f"[...{p.cell(1)}.querySelectorAll('table')].map(t => t.innerText).join()")
    p.picture(tmp_path/"inbox.png")

def test_clips_are_chosen_on_the_map_and_set_right_at_once(lab, page, tmp_path):
    pytest.importorskip("torch", reason="somebody has to listen")
    from lab import until
    ds = lab["dataset"]
    p = page(START, "explorer = ClipExplorer(ds); explorer")
    p.run_all()
    p.press(1, "Listen to all clips")
    until(lambda: p.python("explorer.map is not None"), 200)
    p.shown(1, "(() => { const c = el.querySelector('.wk-map'); return c && c.offsetParent && [...el.querySelectorAll('.wk-map-key span')].length >= 2 })()")
    noise = [c.id for c in ds.clips("noise")]
    p.shown(1, "(() => { const s = el.querySelector('select[aria-label=Label]'); s.value = 'noise'; s.dispatchEvent(new Event('change')); return true })()")
    p.shown(1, "[...el.querySelectorAll('.wk-map-key span')].length === 1")
    p.run(f"{p.cell(1)}.querySelector('.wk-map').scrollIntoView({{block: 'center'}})")
    x, y, w, h = p.run(f"(() => {{ const b = {p.cell(1)}.querySelector('.wk-map').getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()")
    for kind, px, py in (("mousePressed", x + 2, y + 2), ("mouseMoved", x + w/2, y + h/2), ("mouseMoved", x + w - 2, y + h - 2), ("mouseReleased", x + w - 2, y + h - 2)): p("Input.dispatchMouseEvent", type=kind, x=px, y=py, button="left", buttons=1, clickCount=1)
    until(lambda: sorted(p.python("explorer.picked")) == sorted(noise))
    assert p.python("ds.relabel(explorer.picked[:3], notes='heard', by='me').state") == "done"
    p.press(1, "All negative")
    until(lambda: {c.label for i in noise for c in [ds[i]]} == {"negative"})
    p.press(1, "Undo")
    until(lambda: {c.label for i in noise for c in [ds[i]]} == {"noise"})
    p.picture(tmp_path/"map.png")
