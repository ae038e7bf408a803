"""Requests per second and latency of ``arcface-pl serve``, next to the same pictures in one process.

    python scripts/benchmarks/serve.py best --clients 1 8 32 --seconds 5

Starts the service on a free port of 127.0.0.1 and asks ``/predict`` for one PNG per request, each client over one
connection and its next request after the answer: the load is bounded by the number of clients. The in-process figure is
``Recognizer.classify`` with the same bytes, one picture per call. The first second of each is left out.
"""

import argparse
import http.client
import io
import json
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from PIL import Image

from arcface_pl import Recognizer
from arcface_pl.cli.inputs import open_model

WARM = 1.0


def picture() -> bytes:
    """A digit of 140 x 140 pixels, dark on light."""
    pixels = np.full((140, 140), 255, np.uint8)
    pixels[20:120, 60:80] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def load(address: str, clients: int, seconds: float) -> list[float]:
    """Return the latency of each request that was answered after the warm-up, in seconds."""
    content, begun = picture(), time.perf_counter()
    latencies: list[list[float]] = [[] for _ in range(clients)]

    def ask(mine: list[float]) -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        while (start := time.perf_counter()) < begun + WARM + seconds:
            connection.request("POST", "/predict", body=content)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"status {response.status}")
            if start > begun + WARM:
                mine.append(time.perf_counter() - start)
        connection.close()

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in latencies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for mine in latencies for each in mine]


def in_process(model: str, seconds: float) -> list[float]:
    """Return the time of each call in this process."""
    recognizer, content, begun = Recognizer(open_model(model)), picture(), time.perf_counter()
    found = []
    while (start := time.perf_counter()) < begun + WARM + seconds:
        recognizer.classify(content)
        if start > begun + WARM:
            found.append(time.perf_counter() - start)
    return found


def row(name: str, latencies: list[float], seconds: float) -> dict[str, Any]:
    """Summarize latencies."""
    p50, p99 = (1000 * float(np.percentile(latencies, share)) for share in (50, 99))
    return {"": name, "requests/s": len(latencies) / seconds, "p50 ms": p50, "p99 ms": p99}


def cell(value: str | float) -> str:
    """Write a number with a decimal below 100."""
    return value if isinstance(value, str) else f"{value:,.{1 if value < 100 else 0}f}"


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row("in this process", in_process(options.model, options.seconds), options.seconds)]
    code = "from arcface_pl.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", options.model, "--port", "0", "--accelerator", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0].removeprefix("http://").removesuffix("/openapi.json")
            for clients in options.clients:
                name = f"{clients} client{'s' if clients > 1 else ''}"
                rows.append(row(name, load(address, clients, options.seconds), options.seconds))
        finally:
            process.terminate()
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|---|" + "--:|" * (len(rows[0]) - 1))
    for each in rows:
        print(
            "| "
            + " | ".join(
                value if isinstance(value, str) else f"{value:,.{1 if value < 100 else 0}f}" for value in each.values()
            )
            + " |"
        )


if __name__ == "__main__":
    main()
