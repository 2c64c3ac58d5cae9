"What a release stands on: pinned actions, versions that agree, all files in the wheel, each extra tried. Building one is bench/release.py."
import importlib.util, json, re, shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT/".github"/"workflows").glob("*.yml"))
spec = importlib.util.spec_from_file_location("release", ROOT/"bench"/"release.py")
sys.modules["release"] = release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)
USES = re.compile(r"^\s*(?:- )?uses:\s*(.*?)\s*$", re.M)
PINNED = re.compile(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40}) # (v\d+(?:\.\d+)*)")


def uses(text):
    "(action, commit, version) of each step that uses one; what is not pinned is None"
    return [(m[1], m[2], m[3]) if (m := PINNED.fullmatch(u)) else None for u in USES.findall(text) if not u.startswith("./")]


# --- workflows

def test_what_counts_as_pinned():
    sha = "0123456789abcdef"*2 + "01234567"
    assert uses(f"      - uses: a/b@{sha} # v1.2.3\n        uses: a/b/c@{sha} # v2\n  - uses: ./here\n") == [("a/b", sha, "v1.2.3"), ("a/b/c", sha, "v2")]
    for bad in ("a/b@v4", f"a/b@{sha}", f"a/b@{sha[:-1]} # v1", f"a/b@{sha} # main", "docker://python:3.11", f"a/b@{sha.upper()} # v1"): assert uses(f"- uses: {bad}") == [None], bad


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_every_action_is_pinned_to_a_commit_with_its_version(path):
    found = uses(text := path.read_text(encoding="utf-8"))
    assert found and None not in found and len(found) == text.count("uses:")


def test_one_action_is_one_commit_everywhere():
    found = {use for p in WORKFLOWS for use in uses(p.read_text(encoding="utf-8"))}
    assert len({action for action, _, _ in found}) == len(found), sorted(found)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_jobs_may_do_no_more_than_they_have_to(path):
    yaml = pytest.importorskip("yaml")
    flow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(flow["permissions"].values()) <= {"read"}, "rights to write belong to a job"
    may = {name: {k for k, v in job.get("permissions", {}).items() if v == "write"} for name, job in flow["jobs"].items()}
    assert {n: p for n, p in may.items() if p} == {"docs.yml": {"deploy": {"pages", "id-token"}}, "test.yml": {},
        "release.yml": {"attest": {"id-token", "attestations"}, "pypi": {"id-token"}, "github": {"contents"}}}.get(path.name, {})
    for name, job in flow["jobs"].items():
        assert job["timeout-minutes"] if "steps" in job and name != "deploy" else True
        for step in job["steps"]:
            assert not re.search(r"\$\{\{", step.get("run", "")), f"{name}: what others wrote goes into a shell by env, not by its text"
            if step.get("uses", "").startswith("actions/checkout@"): assert step["with"]["persist-credentials"] is False
            if may[name]: assert not step.get("uses", "").startswith(("actions/checkout@", "actions/setup-python@")), f"{name} has rights, and runs nothing of the repository"


def test_a_release_is_tried_before_it_is_published():
    jobs = pytest.importorskip("yaml").safe_load((ROOT/".github"/"workflows"/"release.yml").read_text(encoding="utf-8"))["jobs"]
    def before(name):
        needs = jobs[name].get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        return {*needs, *(b for n in needs for b in before(n))}
    assert before("github") == {"build", "elsewhere", "attest", "pypi"} and before("pypi") == {"build", "elsewhere", "attest"} and jobs["attest"]["if"] == "github.ref_type == 'tag'"
    commands = "\n".join(s.get("run", "") for s in jobs["build"]["steps"] + jobs["elsewhere"]["steps"])
    for line in re.findall(r"bench/release\.py (.*)", commands): # options that are gone would be noticed on the day of the release
        p = subprocess.run([sys.executable, ROOT/"bench"/"release.py", *line.replace('"$TAG"', "v1").split(), "--help"], capture_output=True, text=True)
        assert p.returncode == 0, p.stderr
        assert set(re.findall(r"--[\w-]+", line)) <= set(re.findall(r"--[\w-]+", p.stdout))


# --- versions

def test_the_version_is_the_same_everywhere():
    found = release.versions(ROOT)
    assert len(found) == 3 and None not in found.values() and len(set(found.values())) == 1, found
    assert importlib.import_module("wakekit").__version__ in found.values()


@pytest.fixture
def called(tmp_path):
    "A folder with the three files, of a version"
    def make(version="1.2.3", heading=None, changelog="1.2.3"):
        (tmp_path/"wakekit").mkdir(exist_ok=True)
        (tmp_path/"settings.ini").write_text(f"[DEFAULT]\nversion = {version}\nmin_python = 3.10\n")
        (tmp_path/"wakekit"/"__init__.py").write_text('__version__ = "1.2.3"\n')
        (tmp_path/"CHANGELOG.md").write_text(f"# Changelog\n\nWhat changed.\n\n## {changelog}, {heading or '2026-12-24'}\n\n### Added\n- All.\n\n## 1.2.2, 2026-01-01\n- Old.\n")
        return tmp_path
    return make

def test_a_tag_is_the_version_and_its_changes_have_a_date(called):
    release.check_tag(called(), "v1.2.3")
    assert release.changes(called()) == ("2026-12-24", "### Added\n- All.")
    for why, other in (("settings.ini says 1.2.4", dict(version="1.2.4")), ("CHANGELOG.md says 1.2.2", dict(changelog="1.2.2")), ("a release has a date", dict(heading="not released yet"))):
        with pytest.raises(release.Failed, match=why): release.check_tag(called(**other), "v1.2.3")
    with pytest.raises(release.Failed, match="the tag is 1.2.3"): release.check_tag(called(), "1.2.3")


# --- files and extras

def extras():
    "Names of the extras in settings.ini that users install"
    return set(re.findall(r"^(\w+)_requirements", (ROOT/"settings.ini").read_text(encoding="utf-8"), re.M)) - {"dev"}

def test_each_extra_is_tried_and_known_to_the_doctor():
    from wakekit.doctor import PACKAGES
    assert set(release.TRIALS) - {"", "all"} == extras() == set(PACKAGES) - {""}
    assert list(release.TRIALS)[-2:] == ["train", "all"], "they share an environment"


def test_every_file_of_the_package_is_in_a_build(tmp_path):
    pytest.importorskip("setuptools")
    copy = tmp_path/"copy"
    copy.mkdir()
    for name in ("setup.py", "settings.ini", "MANIFEST.in", "README.md"): shutil.copy(ROOT/name, copy)
    for p in (ROOT/"wakekit").rglob("*"): # empty files are enough, and quicker
        if not p.is_file() or "__pycache__" in p.parts or ".ipynb_checkpoints" in p.parts: continue
        (to := copy/p.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        to.touch()
    run = subprocess.run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"], cwd=copy, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    files = lambda folder: {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files(copy/"built"/"wakekit") == files(copy/"wakekit"), "package_data of setup.py and MANIFEST.in name the kinds of files"


def test_a_wheel_that_lacks_a_file_is_not_released(tmp_path):
    source = tmp_path/"source"
    (source/"wakekit").mkdir(parents=True)
    for name in ("__init__.py", "weights.pt"): (source/"wakekit"/name).touch()
    with zipfile.ZipFile(tmp_path/"w.whl", "w") as z: z.writestr("wakekit/__init__.py", "")
    with pytest.raises(release.Failed, match=r"lacks \['wakekit/weights.pt'\]"): release.check_files(None, source, tmp_path/"w.whl", None)


def test_the_licence_chain_is_there():
    for name in release.LICENCES: assert (ROOT/name).stat().st_size > 1000


def test_checksums_are_those_of_sha256sum(tmp_path):
    (tmp_path/"a.whl").write_bytes(b"abc")
    (tmp_path/"SHA256SUMS").write_text("old")
    release.checksums(tmp_path)
    assert (tmp_path/"SHA256SUMS").read_bytes() == b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.whl\n"
    if shutil.which("sha256sum"): assert subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True).returncode == 0


def test_a_step_that_fails_is_a_line_of_the_table(capsys):
    def broken(): raise release.Failed("it did not wake\nthe end of its log")
    row = release.attempt(release.Row("wheel", "serve"), broken)
    assert not row.ok and "FAIL  wheel    serve" in capsys.readouterr().out and json.dumps(row.__dict__)
    with pytest.raises(release.Failed, match="exit code 3"): release.run(sys.executable, "-c", "import sys; sys.exit(3)")


# --- what is said to contributors

@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_pages_name_files_that_exist(page):
    text = (ROOT/page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]*\.(?:py|md|yml|yaml|ini|txt|ipynb))`", text)) - {"x.py"}
    there = {p.name for folder in (".", "wakekit/data", ".github/workflows") for p in (ROOT/folder).iterdir()}
    assert named and all((ROOT/n).exists() or n in there or n == "LICENSES.md" for n in named), named


def test_hooks_bring_nothing_but_packages_of_known_versions():
    hooks = pytest.importorskip("yaml").safe_load((ROOT/".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert {r["repo"] for r in hooks} == {"local"}
    named = [d for r in hooks for h in r["hooks"] for d in h.get("additional_dependencies", [])]
    assert named and all(re.fullmatch(r"[\w-]+==[\d.]+", d) for d in named)
    assert f"ruff=={re.search(r'^ruff==(.*)$', (ROOT/'constraints.txt').read_text(encoding='utf-8'), re.M)[1]}" in named
