"""A picture of the Grafana dashboard in `monitoring/`, without Grafana: its own expressions, asked of a Prometheus that watches a running service.

    prometheus --config.file=monitoring/prometheus.yml
    python bench/dashboard.py --hours 1 --out dashboard.png

A panel whose expression Prometheus does not understand ends it with exit code 1; one that has no data says so."""
import argparse, json, sys, time, urllib.error, urllib.parse, urllib.request
from pathlib import Path
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DASHBOARD = Path(__file__).parent.parent/"monitoring"/"grafana"/"dashboards"


def ask(prometheus, path, **query):
    "An answer of Prometheus"
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as r: return json.load(r)["data"]["result"]
    except urllib.error.HTTPError as e: sys.exit(f"{query['query']}: {e.read(1000).decode(errors='replace')}")
    except OSError as e: sys.exit(f"no Prometheus at {prometheus} ({e}): prometheus --config.file=monitoring/prometheus.yml starts one")


def filled(expr):
    "With what Grafana puts in the place of its variables"
    return expr.replace("$instance", ".*").replace("$model", ".*").replace("$__rate_interval", "5m").replace("$__range", "1h")


def label(target, metric):
    "What a line is called"
    text = target.get("legendFormat") or ""
    for k, v in metric.items(): text = text.replace("{{" + k + "}}", v).replace("{{ " + k + " }}", v)
    return text or ", ".join(v for k, v in metric.items() if k not in ("__name__", "instance", "job"))


def stat(ax, panel, args):
    "One number, or some"
    rows = ask(args.prometheus, "query", query=filled(panel["targets"][0]["expr"]))
    text = "\n".join(f"{float(r['value'][1]):g}" + (f"  {label(panel['targets'][0], r['metric'])}" if len(rows) > 1 else "") for r in rows[:3]) or "no data"
    ax.text(.5, .45, text, ha="center", va="center", fontsize=20 if len(rows) == 1 else 11, color="C0" if rows else ".6")
    ax.set_axis_off()


def curves(ax, panel, args):
    "How it went"
    end = time.time()
    for target in panel["targets"]:
        for r in ask(args.prometheus, "query_range", query=filled(target["expr"]), start=end - 3600*args.hours, end=end, step=max(5, 3600*args.hours/240)):
            t, v = np.array(r["values"], float).T
            ax.plot((t - end)/60, v, lw=1, label=label(target, r["metric"])[:40])
    if not ax.lines: ax.text(.5, .5, "no data yet", ha="center", va="center", color=".6", transform=ax.transAxes)
    elif len(ax.lines) <= 8: ax.legend(fontsize=5, loc="best", frameon=False)
    ax.set_xlim(-60*args.hours, 0)
    ax.tick_params(labelsize=6)
    ax.grid(alpha=.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog=__doc__.partition("\n")[2], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--hours", type=float, default=1., help="how far back (1)")
    parser.add_argument("--out", type=Path, default=Path("dashboard.png"))
    args = parser.parse_args()
    panels = [p for p in json.loads(next(DASHBOARD.glob("*.json")).read_text())["panels"] if p["type"] != "row"]
    stats, others = [p for p in panels if p["type"] == "stat"], [p for p in panels if p["type"] != "stat"]
    rows = -(-len(others)//3)
    fig = plt.figure(figsize=(11, 1 + 1.9*rows), layout="constrained")
    grid = fig.add_gridspec(rows + 1, 3*len(stats), height_ratios=[.55] + [1]*rows)
    for i, p in enumerate(stats):
        stat(ax := fig.add_subplot(grid[0, 3*i:3*i + 3]), p, args)
        ax.set_title(p["title"], fontsize=8)
    for i, p in enumerate(others):
        row, k = divmod(i, 3)
        curves(ax := fig.add_subplot(grid[row + 1, k*len(stats):(k + 1)*len(stats)]), p, args)
        ax.set_title(p["title"], fontsize=8)
    fig.savefig(args.out, dpi=80)
    print(f"{args.out}: {len(panels)} panels of the last {60*args.hours:g} minutes")


if __name__ == "__main__": main()
