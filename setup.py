"Installed from `settings.ini`; the extras are its `*_requirements` keys."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {k.removesuffix("_requirements"): v.split() for k, v in cfg.items() if k.endswith("_requirements")}
for k in ("dashboard", "notebook"): extras[k] += extras["serve"]
extras["all"] = sorted({r for k, v in extras.items() if k != "dev" for r in v})
extras["dev"] += [r for k in ("train", "serve", "postgres", "track", "wyoming", "actions", "dashboard", "tune", "notebook") for r in extras[k]]
readme = here/"README.md"

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "", long_description_content_type="text/markdown",
    author=cfg["author"], author_email=cfg["author_email"], url=cfg["git_url"], keywords=cfg["keywords"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Changelog": cfg["git_url"] + "/blob/main/CHANGELOG.md"},
    license="Apache-2.0", license_files=["LICENSE", "wakekit/data/VOICES_LICENSES.md", "wakekit/ship/web/LICENSES.txt"], python_requires=">=" + cfg["min_python"],
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Developers", "Natural Language :: English", "Operating System :: OS Independent",
                 *(f"Programming Language :: Python :: 3.{n}" for n in range(10, 14)), "Topic :: Multimedia :: Sound/Audio :: Speech"],
    packages=find_packages(include=["wakekit", "wakekit.*"]), package_data={"": ["*.md", "*.txt", "*.npz", "*.pt", "ui/*", "web/*"]}, zip_safe=False,
    install_requires=cfg["requirements"].split(), extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
)
