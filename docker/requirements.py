"""Installs what extras of settings.ini name, for the Dockerfile: packages change seldom, wakekit often, so they are layers of their own.

    python3 requirements.py core serve wyoming
    python3 requirements.py --torch https://download.pytorch.org/whl/cpu train

A torch that the base image brings is kept, with its torchaudio; `--constraints ""` takes the newest that the ranges allow.
"""
import argparse, importlib.util, re, subprocess, sys, tempfile
from configparser import ConfigParser
from pathlib import Path

TORCH = ("torch", "torchaudio")


def name(line): return re.split(r"[\s<>=!~\[;]", line.strip(), maxsplit=1)[0].lower()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("extras", nargs="+", help="keys of settings.ini without _requirements; core is what every installation has")
    p.add_argument("--settings", default=Path(__file__).with_name("settings.ini"))
    p.add_argument("--constraints", default="", help="file with the tested versions; empty: none")
    p.add_argument("--torch", default="", metavar="URL", help="index with torch's builds; empty: only PyPI")
    a = p.parse_args()
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(a.settings, encoding="utf-8")
    wanted = [r for e in a.extras for r in cfg["DEFAULT"]["requirements" if e == "core" else f"{e}_requirements"].split()]
    limits = Path(a.constraints).read_text(encoding="utf-8").splitlines() if a.constraints else []
    own = {n for n in TORCH if importlib.util.find_spec(n) is not None} if importlib.util.find_spec("torch") is not None else set()
    if own: # already there: neither replaced nor held to the tested version, and its torchaudio has to fit to it
        wanted, limits = [line for line in wanted if name(line) not in own], [line for line in limits if name(line) not in TORCH]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as f:
        f.write("\n".join(limits) + "\n")
        f.flush()
        pip = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "-c", f.name]
        if not own and (torch := [r for r in wanted if name(r) in TORCH]): subprocess.run([*pip, *(["--extra-index-url", a.torch] if a.torch else []), *torch], check=True)
        subprocess.run([*pip, *wanted], check=True)


if __name__ == "__main__": main()
