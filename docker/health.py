"""Is the service in this container well? Exit code 0 or 1, and a line that `docker inspect` shows. Standard library only: it runs every few seconds.

    python3 -I health.py http://127.0.0.1:8080/health
"""
import http.client, sys
from urllib.parse import urlsplit


def check(url):
    u = urlsplit(url)
    c = http.client.HTTPConnection(u.hostname, u.port, timeout=8)
    try:
        c.request("GET", u.path or "/")
        r = c.getresponse()
        said = r.read(300).decode(errors="replace")
    except OSError as e: return False, f"nobody answers at {url}: {e}"
    finally: c.close()
    return r.status == 200, f"{url} answers {r.status}: {said}" # one that is degraded says so here, and lives: starting it again would not help


if __name__ == "__main__":
    well, said = check(sys.argv[1])
    print(said)
    sys.exit(not well)
