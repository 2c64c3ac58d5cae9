"The docs: made from the notebooks and the program as they are now, with every link, picture and address looked at. Quarto is not needed."
import importlib, json, re, shutil, subprocess, sys
from pathlib import Path
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("nbdev")
yaml = pytest.importorskip("yaml")
from wakekit.docs import docs_notebooks, make_site, sidebar
from wakekit.reference import commands_of, operations_of, service_openapi, SERVICES, whole_parser
from wakekit.sitecheck import read_markdown, read_site, site_faults

ROOT = Path(__file__).parents[1]
SITE = "https://wakekit.github.io/wakekit/"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "(folder for Quarto, faults) of the whole site"
    out = tmp_path_factory.mktemp("docs")/"site"
    return out, make_site(ROOT, out)

@pytest.fixture
def copy(made, tmp_path):
    "The site, to be damaged"
    shutil.copytree(made[0], tmp_path/"site")
    return tmp_path/"site"

def text(folder, name): return (folder/"reference"/name).read_text(encoding="utf-8")

def change(folder, name, old, new):
    path = folder/name
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")


def test_links_pictures_and_hosts_of_the_whole_site(made):
    out, faults = made
    assert not faults, "\n".join(faults)
    assert len(read_site(out)) == len(docs_notebooks(ROOT)) + len(list((out/"reference").glob("*.qmd")))


def test_each_notebook_and_each_page_is_in_the_sidebar_once(made):
    out, hrefs = made[0], []
    def walk(items):
        for i in items:
            hrefs.extend([i["href"]] if "href" in i else [])
            walk(i.get("contents", ()))
    walk(yaml.safe_load((out/"sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"])
    assert sorted(hrefs) == sorted(read_site(out))
    assert (out/"sidebar.yml").read_text(encoding="utf-8") == sidebar(ROOT)


def test_the_program_and_its_pages_agree(made):
    out = made[0]
    for name in SERVICES:
        page = text(out, f"api_{name}.qmd")
        for method, path, op in (o for ops in operations_of(service_openapi(name)).values() for o in ops):
            assert f"### `{method.upper()} {path}` {{#" in page
            assert all(f"| `{p['name']}` | {p['in']} |" in page for p in op.get("parameters", ()))
    page = text(out, "cli.qmd")
    for name, p in commands_of(whole_parser()).items():
        section = page.split(f"\n## wakekit {name} {{#")[1].split("\n## ")[0]
        assert all(f"`{o}" in section for a in p._actions for o in a.option_strings if o not in ("-h", "--help")), name
        assert f"wakekit {name}" in section.split("```sh\n")[1].split("```")[0] or "=" in section, name # an example
    for line in (ROOT/".env.example").read_text(encoding="utf-8").splitlines():
        if m := re.fullmatch(r"(?:# )?([A-Z_]+)=.*", line):
            assert "__" in m[1] or f"[`{m[1]}`]" in text(out, "settings.qmd"), m[1]
    figures = text(out, "figures.qmd")
    for path in (ROOT/"bench").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert all(one["command"] in figures for one in found.get("figures", {"": found}).values()), path


def test_every_command_that_the_docs_name_exists(made):
    known = commands_of(whole_parser())
    words, groups, wrong = {name.split()[0] for name in known}, {name.split()[0] for name in known if " " in name}, []
    for path in [ROOT/"README.md", *docs_notebooks(ROOT)]:
        whole = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb": whole = "\n\n".join("".join(c["source"]) for c in json.loads(whole)["cells"] if c["cell_type"] == "markdown")
        for one, two in re.findall(r"(?:`|^\$? *|&& |exec )wakekit ([a-z]+)(?: ([a-z]+))?(?=[^`\n]*`| --| [\w./\"]+ |$)", "\n".join(re.findall(r"`[^`\n]+`|```sh\n(?s:.*?)```", whole)), re.M):
            if one not in words or (one in groups and two and f"{one} {two}" not in known): wrong.append(f"{path.name}: wakekit {one} {two}".strip())
    assert not wrong, "\n".join(wrong)


def test_links_to_the_source_lead_to_what_stands_below_them(made):
    files, n = {}, 0
    for names in importlib.import_module("wakekit._modidx").d["syms"].values():
        for url, file in names.values(): files.setdefault(url.split("#")[0], set()).add(file)
    for name, (where, _) in read_site(made[0]).items():
        if not name.endswith(".ipynb"): continue
        for c in json.loads((made[0]/name).read_text(encoding="utf-8"))["cells"]:
            for o in c.get("outputs", ()):
                m = re.search(r"\[source\]\(https://github.com/wakekit/wakekit/blob/main/([^)#]+)#L(\d+)\).*?^### (\S+)", "".join(o.get("data", {}).get("text/markdown", "")), re.S | re.M)
                if not m: continue
                line = (ROOT/m[1]).read_text(encoding="utf-8").splitlines()[int(m[2]) - 1]
                assert m[1] in files[where] and (m[3].split(".")[-1] in line or line.startswith("@")), f"{name}: {m[0]}"
                n += 1
    assert n > 500


def test_links_from_the_readme_into_the_docs(made):
    pages = {where: page for where, page in read_site(made[0]).values()}
    links = [l.removeprefix(SITE).split("#") for l in read_markdown((ROOT/"README.md").read_text(encoding="utf-8")).links if l.startswith(SITE)]
    assert len(links) > 20
    wrong = ["#".join(l) for l in links if l[0] and (l[0] not in pages or (l[1:] and l[1] not in pages[l[0]].ids))]
    assert not wrong, "\n".join(wrong)


def test_what_breaks_is_found_and_named(copy):
    before = site_faults(copy, ROOT)
    change(copy, "reference/api_training.qmd", "{#post-datasets-name-recordings}", "{#renamed}")
    change(copy, "reference/cli.qmd", "(../59_cli.ipynb)", "(../60_cli.ipynb)")
    change(copy, "styles.css", ":root {", "@import url(https://fonts.example/a.css);\n:root {")
    (copy/"ship"/"web.png").unlink()
    name = "learn/23_metrics.ipynb"
    nb = json.loads((copy/name).read_text(encoding="utf-8"))
    for c in nb["cells"]: c["source"] = re.sub(r"^#\| fig-alt:.*\n", "", "".join(c["source"]), count=1, flags=re.M)
    nb["cells"][1] = {**nb["cells"][1], "cell_type": "markdown", "source": "<script src='https://cdn.example/plotly.js'></script> [gone](https://github.com/wakekit/wakekit/blob/main/gone.py)"}
    (copy/name).write_text(json.dumps(nb), encoding="utf-8")
    found = "\n".join(f for f in site_faults(copy, ROOT) if f not in before)
    for said in ("there is no #post-datasets-name-recordings", "reference/cli.qmd: ../60_cli.ipynb leads nowhere", "styles.css: https://fonts.example/a.css would be loaded from another host",
                 "ship/37_web.ipynb: web.png leads nowhere", f"{name}: a picture has no alternative text", f"{name}: https://cdn.example/plotly.js would be loaded", "gone.py is not in the repository"): assert said in found, said


RENDERED = """<!DOCTYPE html><html><head><link href="site_libs/bootstrap/bootstrap.min.css" rel="stylesheet" class="quarto-color-scheme"><link rel="canonical" href="https://elsewhere.example/">
<meta property="og:image" content="https://wakekit.github.io/wakekit/a.png"><script src="site_libs/quarto-nav/quarto-nav.js"></script>%s</head>
<body class="nav-fixed quarto-light"><a class="navbar-brand" href="./index.html">wakekit</a><a href="" class="quarto-color-scheme-toggle"></a><a href="https://github.com/wakekit/wakekit" rel="">GitHub</a>
<section id="scores" class="level2"><h2 class="anchored" data-anchor-id="scores">Scores</h2><p><a href="./ship/stream.html#scores">there</a></p>
<figure class="figure"><p><img src="a.png" class="img-fluid figure-img" alt="It rises"></p></figure><audio controls><source src="data:audio/wav;base64,UklGRg=="></audio>%s</section></body></html>"""

def rendered(folder, head="", body=""):
    "A folder as Quarto leaves it"
    for name, content in {"index.html": RENDERED % (head, body), "ship/stream.html": '<section id="scores"></section><a href="../index.html#scores">back</a>', "a.png": "",
                          "site_libs/quarto-nav/quarto-nav.js": "", "site_libs/bootstrap/bootstrap-icons.woff": "",
                          "site_libs/bootstrap/bootstrap.min.css": "@font-face{src:url(\"./bootstrap-icons.woff?2ab2\")}a{background:url(\"data:image/svg+xml,%3csvg xmlns='http://www.w3.org/2000/svg'%3e\")}"}.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(content, encoding="utf-8")
    return folder

def test_rendered_pages_in_order(tmp_path):
    assert site_faults(rendered(tmp_path), ROOT) == []

@pytest.mark.parametrize("head, body, said", [
    ('<script src="https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js"></script>', "", "require.min.js would be loaded from another host"),
    ('<link rel="preconnect" href="https://fonts.googleapis.com">', "", "fonts.googleapis.com would be loaded"),
    ("<style>@import\"//fonts.googleapis.com/css2?family=Lato\";</style>", "", "family=Lato would be loaded"),
    ('<script src="site_libs/gone.js"></script>', "", "site_libs/gone.js leads nowhere"),
    ("", '<img src="a.png">', "a.png has no alternative text"),
    ("", '<img src="a.png" alt="">', "a.png has no alternative text"),
    ("", '<img src="b.png" alt="B">', "b.png leads nowhere"),
    ("", '<img srcset="https://x.example/a.png 2x" src="a.png" alt="A">', "x.example/a.png would be loaded"),
    ("", '<a href="ship/gone.html">x</a>', "ship/gone.html leads nowhere"),
    ("", '<a href="ship/stream.html#gone">x</a>', "there is no #gone on that page"),
    ("", '<a href="#gone">x</a>', "there is no #gone on that page"),
    ("", '<a href="https://wakekit.github.io/wakekit/gone.html">x</a>', "gone.html leads nowhere"),
    ("", '<a href="../../etc/passwd">x</a>', "etc/passwd leads nowhere"),
    ("", '<iframe src="https://x.example/"></iframe><video poster="gone.png"></video>', "gone.png leads nowhere"),
])
def test_faults_of_rendered_pages(tmp_path, head, body, said):
    assert any(said in f and f.startswith("index.html: ") for f in site_faults(rendered(tmp_path, head, body), ROOT))

def test_a_picture_that_only_decorates_may_say_so(tmp_path):
    assert site_faults(rendered(tmp_path, body='<img src="a.png" alt="" role="presentation">'), ROOT) == []


def test_quarto_is_told_to_load_nothing_from_elsewhere():
    q = yaml.safe_load((ROOT/"nbs"/"_quarto.yml").read_text(encoding="utf-8"))
    html = q["format"]["html"]
    assert html["html-math-method"] == "mathml" and set(html["theme"]) == {"light", "dark"} and list(html["theme"])[0] == "light"
    for theme in html["theme"].values(): # fonts of Bootswatch come from Google unless the last file says otherwise
        assert "$web-font-path: false;" in (ROOT/"nbs"/theme[-1]).read_text(encoding="utf-8").split("/*-- scss:rules --*/")[0]
    assert not {"google-analytics", "comments", "cookie-consent"} & set(q["website"]) and "algolia" not in q["website"]["search"]


def make(folder, *arguments): return subprocess.run([sys.executable, "-m", "wakekit.docs", *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)

def test_exit_codes_of_the_command(tmp_path):
    site = rendered(tmp_path/"site")
    done = make(ROOT, "check", str(site))
    assert done.returncode == 0 and "2 pages, all links and pictures are well" in done.stdout, done.stderr
    (site/"a.png").unlink()
    done = make(ROOT, "check", str(site))
    assert done.returncode == 1 and "index.html: a.png leads nowhere" in done.stdout
    (tmp_path/"nothing").mkdir()
    done = make(ROOT, "check", str(tmp_path/"nothing"))
    assert done.returncode == 2 and "there are no pages" in done.stderr
    done = make(tmp_path, "make", str(tmp_path/"out"))
    assert done.returncode == 2 and "in a clone of wakekit" in done.stderr and not (tmp_path/"out").exists()


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path):
    (tmp_path/"thesis.txt").write_text("ten years")
    with pytest.raises(SystemExit, match="no earlier site"): make_site(ROOT, tmp_path)
    assert (tmp_path/"thesis.txt").read_text() == "ten years"


def test_a_notebook_that_cannot_be_processed_is_named(tmp_path):
    cell = lambda source, kind: dict(cell_type=kind, source=source, metadata={}, **(dict(outputs=[], execution_count=None) if kind == "code" else {}))
    for name, cells in {"index.ipynb": [cell("# Well\n> It is.", "markdown")], "01_wrong.ipynb": [cell("#| default_exp wrong", "code"), cell("# Wrong", "markdown"), cell("#| export\nfrom wakekit.nowhere import this\ndef f(): 'F'", "code")]}.items():
        (tmp_path/"nbs").mkdir(exist_ok=True)
        (tmp_path/"nbs"/name).write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    shutil.copy(ROOT/"settings.ini", tmp_path)
    (tmp_path/"bench").mkdir()
    faults = make_site(tmp_path, tmp_path/"out", 1)
    assert any(f.startswith("01_wrong.ipynb: ") and "wakekit.nowhere" in f for f in faults), faults
