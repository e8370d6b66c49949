#!/usr/bin/env python3
"""Trains the reference set-up of string reversal over several seeds and holds the means against what must come out.

Each run is `reverse_string train --preset practical10`; its --json result gives val.token_accuracy (teacher-forced,
with the end mark) and val.exact_match (greedy). Prints mean ± sd per model, and exits 8 if a mean leaves its range.

  bench/practical10.py                             three models, seeds 0..9, two runs at a time
  bench/practical10.py --rows dot --seeds 3
  bench/practical10.py --row-options "dot-bidirectional=--attention dot --encoder bidirectional"
"""
import argparse
import concurrent.futures
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = "{bin}/reverse_string train --preset practical10 {options} --seed {seed} --threads 1 --out {out} --json"

# options, accepted token accuracy, accepted greedy exact match (both at epoch 30, mean over seeds)
ROWS = {
    "none": ("--attention none", (0.79, 0.90), (0.33, 0.54)),
    "dot": ("--attention dot", (0.99, 1.0), (0.97, 1.0)),
    "dot-bidirectional": ("--attention dot --bidirectional", (0.99, 1.0), (0.98, 1.0)),
}


def fail(text, status=1):
    print(f"practical10: {text}", file=sys.stderr)
    sys.exit(status)


def run(command, timeout):
    """Returns the validation figures, or a string that says what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except OSError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"no result within {timeout:g} s"
    if done.returncode != 0:
        return f"exit {done.returncode}: {done.stderr.strip()[-500:]}"
    # A pretty-printed result spans lines; earlier lines, if any, are events of one object each.
    text = done.stdout.strip()
    for candidate in (text.splitlines()[-1] if text else "", text):
        try:
            val = json.loads(candidate)["val"]
            return {key: float(val[key]) for key in ("token_accuracy", "exact_match", "loss")}
        except (ValueError, KeyError, TypeError):
            continue
    return f"no JSON result with val.token_accuracy, val.exact_match and val.loss: {text[-200:]!r}"


def mean_sd(values):
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.split("\n", 2)[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="models to run")
    parser.add_argument("--row-options", action="append", default=[], metavar="ROW=TEXT",
                        help="replaces a row's options")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one run")
    parser.add_argument("--bin", default=str(ROOT / "build" / "release" / "bin"), help="folder of our programs")
    parser.add_argument("--command", default=COMMAND, metavar="TEMPLATE", help=f"default: {COMMAND}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    options = {name: row[0] for name, row in ROWS.items()}
    for item in args.row_options:
        name, found, text = item.partition("=")
        if not found or name not in ROWS:
            parser.error(f"--row-options {item}: expected ROW=TEXT with ROW one of {', '.join(ROWS)}")
        options[name] = text
    if args.seeds < 1 or args.jobs < 1:
        parser.error(f"--seeds {args.seeds} --jobs {args.jobs}: expected at least 1 of each")
    return args, options


def main():
    args, options = parse()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    results = {row: {} for row in args.rows}
    with tempfile.TemporaryDirectory() as out, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = {}
        for row in args.rows:
            for seed in seeds:
                command = args.command.format(bin=args.bin, options=options[row], seed=seed, out=f"{out}/{row}-{seed}")
                jobs[pool.submit(run, shlex.split(command), args.timeout)] = (row, seed, command)
        for job in concurrent.futures.as_completed(jobs):
            row, seed, command = jobs[job]
            result = job.result()
            if isinstance(result, str):
                pool.shutdown(cancel_futures=True)
                fail(f"{row}, seed {seed}: {result}\n  {command}")
            results[row][seed] = result
            print(f"{row}, seed {seed}: token accuracy {result['token_accuracy']:.4f}, "
                  f"exact match {result['exact_match']:.3f}, loss {result['loss']:.4f}", file=sys.stderr)

    missed, report = [], {}
    for row in args.rows:
        report[row] = {"seeds": [results[row][seed] for seed in seeds]}
        for figure, (low, high) in zip(("token_accuracy", "exact_match"), ROWS[row][1:]):
            mean, sd = mean_sd([results[row][seed][figure] for seed in seeds])
            report[row][figure] = {"mean": mean, "sd": sd, "accepted": [low, high]}
            if not low <= mean <= high:
                missed.append(f"{row} {figure} {mean:.4f} (accepted {low} to {high})")
    if args.json:
        print(json.dumps({"rows": report, "missed": missed}))
    else:
        print(f"{args.seeds} seeds")
        print(f"{'model':<20}{'token accuracy':>20}{'accepted':>14}{'exact match':>20}{'accepted':>14}")
        for row, figures in report.items():
            cells = "".join(f"{f['mean']:>11.4f} ± {f['sd']:.4f}{f['accepted'][0]:>7.2f} – {f['accepted'][1]:.2f}"
                            for f in (figures["token_accuracy"], figures["exact_match"]))
            print(f"{row:<20}  {cells}")
    if missed:
        fail("; ".join(missed), 8)


if __name__ == "__main__":
    main()
