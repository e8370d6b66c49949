#!/usr/bin/env python3
"""Trains headline classifiers over several seeds and prints their test F1 beside the naive-Bayes floor of each split.

Each run is `clickbait train --data DATA --seed N` with the program's defaults; a seed decides the split, the weights and
the order of batches. Prints mean ± sd per row, and exits 8 if a mean is below the floor's, or a seed below --least.

  bench/headlines.py DATA                                     lstm and lstm-encoder, seeds 1..5
  bench/headlines.py DATA --rows lstm-encoder no-residual --threads 2
  bench/headlines.py reviews.tsv --rows ffnn attention --metric accuracy --options "--columns id,label,text"
"""
import argparse
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What a row's name adds to the command; any other name is a --model.
ROWS = {
    "no-residual": "--model lstm-encoder --residual off",
    "lstm-last": "--model lstm --pooling last",
    "lstm-mean": "--model lstm --pooling mean",
    "lstm-encoder-mean": "--model lstm-encoder --pooling mean",
}


def fail(text, status=1):
    print(f"headlines: {text}", file=sys.stderr)
    sys.exit(status)


def run(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        fail(f"{error}: {shlex.join(command)}")
    if done.returncode != 0:
        fail(f"exit {done.returncode}: {shlex.join(command)}\n{done.stderr[-500:].strip()}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        fail(f"no JSON result: {shlex.join(command)}\n{done.stdout[-300:]!r}")


def shown(values, digits=4):
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.split("\n", 2)[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or table, as for clickbait train --data")
    parser.add_argument("--rows", nargs="+", default=["lstm", "lstm-encoder"], metavar="ROW",
                        help=f"models, or {', '.join(ROWS)}")
    parser.add_argument("--options", default="", metavar="TEXT", help="further options of every run")
    parser.add_argument("--metric", default="f1", help="of the test part: f1 or accuracy")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.0, help="what each seed must reach")
    parser.add_argument("--no-floor", action="store_true", help="do not ask a mean to reach the floor's")
    parser.add_argument("--bin", default=str(ROOT / "build" / "release" / "bin"), help="folder of our programs")
    parser.add_argument("--json", metavar="FILE", help="write every run's report there")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: expected at least 1")

    results, missed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for row in args.rows:
            results[row] = []
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                command = [f"{args.bin}/clickbait", "train", "--data", args.data, "--seed", str(seed), "--threads",
                           str(args.threads), "--json", "--quiet", "--out", f"{folder}/{row}-{seed}",
                           *shlex.split(ROWS.get(row, f"--model {row}")), *shlex.split(args.options)]
                report = run(command)
                results[row].append(report)
                print(f"{row}, seed {seed}: {args.metric} {report['test'][args.metric]:.4f} (floor "
                      f"{report['floor'][args.metric]:.4f}), {report['train_s']:.0f} s", file=sys.stderr)

    print(f"{time.strftime('%Y-%m-%d')}, {cpu()}, {len(os.sched_getaffinity(0))} CPUs, {args.threads} thread(s), "
          f"{args.seeds} seeds; test {args.metric}, mean ± sd")
    print("| model | test | lowest | naive Bayes | validation | parameters | seconds a run |")
    print("|---|---|---|---|---|---|---|")
    for row, reports in results.items():
        test = [r["test"][args.metric] for r in reports]
        floor = [r["floor"][args.metric] for r in reports]
        val = [r["val"][args.metric] for r in reports if r["val"]]
        print(f"| {row} | {shown(test)} | {min(test):.4f} | {shown(floor)} | {shown(val) if val else '–'} | "
              f"{reports[0]['parameters']:,} | {shown([r['train_s'] for r in reports], 1)} |")
        if not args.no_floor and statistics.fmean(test) < statistics.fmean(floor):
            missed.append(f"{row}: mean {statistics.fmean(test):.4f} is below the floor's {statistics.fmean(floor):.4f}")
        if min(test) < args.least:
            missed.append(f"{row}: a seed reached {min(test):.4f}, less than {args.least}")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if missed:
        fail("; ".join(missed), 8)


if __name__ == "__main__":
    main()
