"""`make storm`: kills at random moments, over chains of reruns of the same command; each chain ends as the unbroken run.

`python -m storm --kills 50 --chain 5 --seed 0`, with `src` and `tests` on the path. Each kill falls into the first half of
what an unbroken run takes. The last command of a chain is left alone, and every file of the directory is then compared.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from forked import configured, copy, differing, instar, start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--chain", type=int, default=5, help="kills of one directory")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        config, unbroken = configured(Path(folder)), Path(folder) / "unbroken"
        began = time.monotonic()
        instar("run", config, "--out", unbroken)
        whole = time.monotonic() - began
        print(f"an unbroken run takes {whole:.0f} s", flush=True)
        for first in range(0, options.kills, options.chain):
            out = Path(folder) / f"out-{first}"
            for number in range(first, min(first + options.chain, options.kills)):
                _killed(config, out, rng.uniform(0, whole / 2), number)
            instar("run", config, "--out", out)
            if wrong := differing(out, unbroken):
                kept = copy(out, Path(tempfile.mkdtemp()) / "out")
                print(f"differ: {', '.join(wrong)}; kept in {kept}", flush=True)
                return 1
            print("  ends equal, every file", flush=True)
    print(f"{options.kills} kills, all chains end as the unbroken run")
    return 0


def _killed(config: Path, out: Path, seconds: float, number: int) -> None:
    running = start("run", config, "--out", out)
    end = time.monotonic() + seconds
    while time.monotonic() < end and running.poll() is None:
        time.sleep(0.001)
    ended = running.poll() is not None
    running.kill()
    there = sum(path.is_file() for path in out.rglob("*")) if out.exists() else 0
    print(f"kill {number + 1} after {seconds:.2f} s: {'had ended' if ended else f'{there} files'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
