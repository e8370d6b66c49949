#!/usr/bin/env python3
"""A whole default training run of string reversal beside `import torch`: wall time of each process, alternately.

  bench/against_import.py                 seven rounds; table, and bench/results/cpu-against-import-DATE.json

Both start from files that the system holds in memory: a first round, not counted, reads them. The record keeps every
time, the accuracy that each run reached, and the commands.
"""
import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import ab


def seconds(command):
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        ab.fail(f"{command[0]}: {error.strerror}; expected a program (ours: cmake --workflow --preset release; PyTorch: "
                "scripts/setup_peers.sh)", 2)
    elapsed = time.perf_counter() - start
    if done.returncode != 0:
        ab.fail(f"exit {done.returncode}: {' '.join(command)}\n{done.stderr[-2000:].strip()}")
    return elapsed, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bin", default=str(ab.ROOT / "build" / "release" / "bin"), help="folder of our programs")
    parser.add_argument("--python", default=ab.PYTHON, help="interpreter with PyTorch (scripts/setup_peers.sh)")
    parser.add_argument("--out", default=str(ab.ROOT / "bench" / "results"), help="folder for the record; '' for none")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected at least 1")
    imports = [args.python, "-c", "import torch; print(torch.__version__)"]
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.rounds + 1):
            train = [args.bin + "/reverse_string", "train", "--seed", str(i), "--json", "--progress", "none", "--out",
                     f"{folder}/{i}"]
            trained, report = seconds(train)
            imported, version = seconds(imports)
            if i > 0:
                rounds.append({"train_s": round(trained, 3), "import_s": round(imported, 3), "seed": i,
                               "exact_match": json.loads(report)["val"]["exact_match"]})
    ratio = statistics.median(r["import_s"] / r["train_s"] for r in rounds)
    record = {"name": "against-import", "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
              "machine": ab.processor(), "versions": {"adjoint": ab.revision(), "torch": version.strip()},
              "ratio": {"median": round(ratio, 3)}, "rounds": rounds,
              "commands": {"train": "reverse_string train --seed SEED --json --progress none --out RUN",
                           "import": "python -c 'import torch; print(torch.__version__)'"}}
    for r in rounds:
        print(f"seed {r['seed']}: train {r['train_s']:.2f} s, exact match {r['exact_match']:.4f}; "
              f"import torch {r['import_s']:.2f} s")
    print(f"import torch / train, median: {ratio:.2f}")
    if args.out:
        path = pathlib.Path(args.out) / f"cpu-against-import-{record['date']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
