#!/usr/bin/env python3
"""How time grows with size: products, LSTM layers and encoder steps, ours beside PyTorch and other engines.

  bench/growth.py                               every case, 1 and 2 threads, both levels: about three hours
  bench/growth.py --quick                       five cases, one round, level v3: about three minutes
  bench/growth.py --cases lstm,product-512 --threads 1 --level v3 --rounds 5

For each level it writes bench/results/growth-LEVEL-DATE (growth-part-… for some of the cases): a record (.json, after
every round), the table that it also prints (.md), and a plot of time per token against size (.svg). Every side of a
case runs once a round, one after the other, in an order that reverses from round to round; pinning, malloc and levels
are those of bench/ab.py. Times are the least, ratios of equal numbers of threads, round by round, and their median. A
peer that is not installed or fails is named. The floor is a case's arithmetic at the best rate of any product of any
side in the run, and for an encoder's step one pass of Adam at measured bandwidth.

The peers (bench/peers/growth.py) come with  scripts/setup_peers.sh -r bench/peers/requirements-growth.txt
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import ab
import growth_plot
import growth_report
from growth_cases import CASES, FOR_FLOORS, QUICK

PEERS = {"product": ["torch", "onednn", "openblas", "jax"], "lstm": ["torch", "torch-compile", "jax"],
         "encoder": ["torch", "torch-compile", "jax"]}
ENGINES = ["torch", "torch-compile", "onednn", "openblas", "jax"]


def probe(engine, args):
    """{"versions": …} of an engine, or {"absent": why}."""
    command = [args.python, str(ab.ROOT / "bench" / "peers" / "growth.py"), "--engine", engine, "--probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return {"absent": f"{args.python}: {error.strerror}; expected an interpreter (scripts/setup_peers.sh)"}
    if done.returncode != 0:
        why = (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1]
        return {"absent": why.removeprefix(f"growth: {engine}: ")}
    found = json.loads(done.stdout.splitlines()[-1])
    return {"versions": {key: found[key] for key in ("torch", "numpy", "blas", "jax", "python") if key in found}}


def sides_of(case, threads, engines, args):
    """Ours and the installed peers, as bench/ab.py runs them."""
    seconds = f" --seconds {args.seconds:g}"
    templates = {"ours": (ab.OURS, f"bench_growth {case.options}{seconds}")}
    for engine in PEERS[case.kind]:
        if "versions" in engines.get(engine, {}):
            templates[engine] = (ab.PEER, f"growth.py --engine {engine} {case.options}{seconds}")
    return [{"side": name, "ours": name == "ours", "threads": threads, "plain": False,
             "command": ab.command_of(template, options, threads, args)}
            for name, (template, options) in templates.items()]


def measure(case, threads, level, i, record, args):
    """One round of one case: each side's result, and what it says about the case."""
    results = {}
    sides = sides_of(case, threads, record["peers"], args)
    for side in sides if i % 2 == 0 else sides[::-1]:
        key = f"{case.name} {threads}t {side['side']}"
        if key in record["failures"]:
            continue
        try:
            result = ab.run(side, level, args.timeout)
        except ab.SideFailed as error:
            if side["ours"]:
                ab.fail(str(error))
            record["failures"][key] = ab.portable(str(error), args)
            print(f"{key}: failed: {error}", file=sys.stderr)
            continue
        results[side["side"]] = [result["min_ms"], result["median_ms"]]
        record["commands"][f"{side['side']} {case.kind}"] = ab.portable(shlex.join(side["command"]), args)
        if "path" in result:
            record["paths"][f"{side['side']} {case.kind}"] = result["path"]
        if side["ours"]:
            work = {"kind": case.kind, "tokens": result["tokens"], "gflop": result["gflop"]}
            known = record["work"].setdefault(case.name, {**work, "optimizer_pass_ms": {}})["optimizer_pass_ms"]
            if "optimizer_pass_ms" in result:
                known[str(threads)] = min(result["optimizer_pass_ms"], known.get(str(threads), float("inf")))
    return results


def write(record, args):
    """The record, its table and its plot; a list of plain values stays on one line."""
    record["table"] = growth_report.summarise(record)
    if not args.out:
        return
    path = pathlib.Path(args.out) / f"{record['name']}-{record['level']}-{record['date']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(record, indent=1))
    path.write_text(text + "\n", encoding="utf-8")
    plot = growth_plot.svg(record)
    if plot:
        path.with_suffix(".svg").write_text(plot, encoding="utf-8")
    path.with_suffix(".md").write_text(growth_report.markdown(record, path.with_suffix(".svg").name if plot else ""),
                                       encoding="utf-8")


def run_level(level, cases, engines, args):
    record = {"name": "growth" if len(cases) == len(CASES) else "growth-part",
              "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"), "level": level,
              "machine": ab.processor(), "versions": {"adjoint": ab.revision()}, "peers": engines,
              "environment": ab.LEVELS[level], "seconds": args.seconds, "threads": args.threads,
              "cases": [case.name for case in cases], "failures": {}, "paths": {}, "commands": {}, "work": {},
              "rounds": []}
    begin = time.monotonic()
    for i in range(args.rounds):
        results = {}
        for threads in args.threads:
            for case in cases:
                measured = measure(case, threads, level, i, record, args)
                results.setdefault(case.name, {})[str(threads)] = measured
                print(f"{level} round {i + 1}/{args.rounds}, {(time.monotonic() - begin) / 60:.0f} min: {case.name} "
                      f"{threads}t: " + "  ".join(f"{name} {ms[0]:.4g}" for name, ms in measured.items()),
                      file=sys.stderr)
        record["rounds"].append({"load": round(os.getloadavg()[0], 2), "results": results})
        write(record, args)
    print(growth_report.markdown(record, ""), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.split("\n", 2)[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", metavar="NAME,…", help="names or beginnings of several, e.g. lstm; see --list")
    parser.add_argument("--list", action="store_true", help="print the cases")
    parser.add_argument("--quick", action="store_true", help="few cases, --rounds 1, --seconds 0.3, --level v3")
    parser.add_argument("--threads", type=ab.thread_list, metavar="N,…", help="default: 1 and 2, where usable")
    parser.add_argument("--level", metavar="LEVEL,…", help="v3, best; default: both where they differ")
    parser.add_argument("--peers", default=",".join(ENGINES), metavar="NAME,…", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--seconds", type=float, help="time of one measurement (default: 1); long calls run few times")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one command, compiling included")
    parser.add_argument("--bin", default=str(ab.ROOT / "build" / "release" / "bin"), help="folder of our programs")
    parser.add_argument("--python", default=ab.PYTHON, help="interpreter with the peers")
    parser.add_argument("--out", default=str(ab.ROOT / "bench" / "results"), help="folder for the results; '' for none")
    args = parser.parse_args()
    args.threads = args.threads or [1, 2][:len(os.sched_getaffinity(0))]
    args.rounds = args.rounds if args.rounds is not None else 1 if args.quick else 3
    args.seconds = args.seconds or (0.3 if args.quick else 1.0)
    args.peers = [name for name in args.peers.split(",") if name]
    for name in args.peers:
        if name not in ENGINES:
            parser.error(f"--peers {name}: unknown; expected some of {','.join(ENGINES)}")
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected at least 1")
    return args, levels_of(args, parser), cases_of(args, parser)


def levels_of(args, parser):
    if args.level:
        levels = args.level.split(",")
        for level in levels:
            if level not in ab.LEVELS:
                parser.error(f"--level {level}: unknown; expected some of {','.join(ab.LEVELS)}")
        return levels
    isa = ab.processor()["isa"]
    if args.quick or "avx512f" not in isa:
        return ["v3"] if "avx2" in isa else ["best"]
    return ["v3", "best"]


def cases_of(args, parser):
    names = {case.name for case in CASES}
    chosen = set(FOR_FLOORS)
    for name in args.cases.split(",") if args.cases else QUICK if args.quick else [""]:
        found = {name} & names or {each for each in names if each.startswith(name)}
        if not found:
            parser.error(f"--cases {name}: no case begins so; see --list")
        chosen |= found
    return [case for case in CASES if case.name in chosen]


def main():
    args, levels, cases = parse()
    if args.list:
        for case in cases:
            print(f"{case.name:<28}{case.options}")
        return
    program = pathlib.Path(args.bin) / "bench_growth"
    if not os.access(program, os.X_OK):
        ab.fail(f"{program} is not there; expected a program (cmake --workflow --preset release)", 2)
    engines = {engine: probe(engine, args) for engine in args.peers}
    for engine, found in engines.items():
        if "absent" in found:
            print(f"{engine}: not measured: {found['absent']}", file=sys.stderr)
    if os.getloadavg()[0] > 0.7:
        print(f"load {os.getloadavg()[0]:.2f} at the start; expected an idle machine: beside others, libraries whose "
              "threads spin while they wait become up to a hundred times slower", file=sys.stderr)
    print(f"{len(cases)} cases of {program}, threads {args.threads}, levels {levels}, {args.rounds} rounds",
          file=sys.stderr)
    for level in levels:
        run_level(level, cases, engines, args)


if __name__ == "__main__":
    main()
