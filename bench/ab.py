#!/usr/bin/env python3
"""Compares our CPU benchmarks with PyTorch's by running both sides alternately, and records the result.

  bench/ab.py reverse-b64-dot                       five rounds; table, and bench/results/cpu-reverse-b64-dot-DATE.json
  bench/ab.py all --rounds 3 --our-threads 1,2
  bench/ab.py reverse-b1-dot --require 4            exit 8 unless we are at least four times as fast
  bench/ab.py lstm-h512 --level v3                  both sides without AVX-512

A round runs every side once, in an order that reverses from round to round, so that a slow spell of the machine meets
all of them. Only ratios within a round are safe on a shared machine. Each of our sides is set against the best PyTorch
side of the same round with as many threads, and, beside that, against the best of any number. N threads are pinned to
the last N CPUs. PyTorch runs with malloc told not to return memory to the system, which helps it. Variables that choose
instructions, ours and the libraries', are removed (OPENBLAS_CORETYPE, where wrong, costs OpenBLAS half its speed);
--level v3 sets them all to AVX2 and FMA.

A side is any command that prints a JSON object with min_ms and median_ms on its last line; batches_hash, where both
sides give one, must agree. A command template may use {bin} {peers} {python} {threads} {options}.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = "{bin}/{options} --json --threads {threads}"
PEER = "{python} {peers}/{options} --threads {threads}"
PEER_MALLOC = ("glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=1073741824:"
               "glibc.malloc.top_pad=67108864")


def step(ours, peer):
    return f"bench_step --model {ours}", peer


def growth(options):
    return f"bench_growth {options}", f"growth.py {options}"


# name: (our program and its options, the peer's script and its options)
COMPARISONS = {
    "reverse-b64-dot": step("reverse --batch 64 --attention dot", "reverse_step.py --batch 64 --attention dot"),
    "reverse-b64-none": step("reverse --batch 64 --attention none", "reverse_step.py --batch 64 --attention none"),
    "reverse-b1-dot": step("reverse --batch 1 --attention dot", "reverse_step.py --batch 1 --attention dot"),
    # What PyTorch does unless told otherwise: Adam in a loop, its own malloc; and lengths, which ours takes too.
    "reverse-b1-dot-defaults": step("reverse --batch 1 --attention dot",
                                    "reverse_step.py --batch 1 --attention dot --encoder packed --adam loop"),
    "reverse-b1-none": step("reverse --batch 1 --attention none", "reverse_step.py --batch 1 --attention none"),
    "practical10-dot": step("practical10 --attention dot", "reverse_step.py --preset practical10 --attention dot"),
    "practical10-none": step("practical10 --attention none", "reverse_step.py --preset practical10 --attention none"),
    "headline-lstm": step("lstm", "headline_step.py --model lstm"),
    "headline-lstm-sparse": step("lstm --embedding-gradient sparse",
                                 "headline_step.py --model lstm --embedding-gradient sparse"),
    "headline-lstm-encoder": step("lstm-encoder", "headline_step.py --model lstm-encoder"),
    "headline-lstm-encoder-sparse": step("lstm-encoder --embedding-gradient sparse",
                                         "headline_step.py --model lstm-encoder --embedding-gradient sparse"),
    "lstm-layer": step("lstm-layer", "lstm_layer.py"),
    "lstm-h512": growth("--case lstm --batch 64 --time 50 --input 512 --hidden 512"),
    "encoder-d512": growth("--case encoder --batch 16 --time 128 --width 512 --blocks 2"),
    **{f"product-{n}": growth(f"--case product --m {n} --n {n} --k {n}") for n in (256, 512, 1024)},
    "op-overhead": step("op-overhead", "op_overhead.py --op mul_add"),
}
# What holds a program to the instructions of a level, ours and the libraries'; at "best" none of these is set.
LEVELS = {
    "best": {},
    "v3": {"ADJOINT_CPU_LEVEL": "x86-64-v3", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
           "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell", "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
           "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3"},
}
# Comparisons with a PyTorch that is left as it comes, as --plain-peer leaves it in all.
PLAIN_PEERS = {"reverse-b1-dot-defaults"}
PYTHON = os.environ.get("ADJOINT_PEERS_VENV", str(ROOT / "build" / "peers-venv")) + "/bin/python"


def fail(text, status=1):
    print(f"{pathlib.Path(sys.argv[0]).stem}: {text}", file=sys.stderr)
    sys.exit(status)


def thread_list(text):
    counts = [int(part) for part in text.split(",")]
    available = len(os.sched_getaffinity(0))
    for count in counts:
        if not 1 <= count <= available:
            raise argparse.ArgumentTypeError(f"{count} threads; expected 1 to {available}, the usable CPUs")
    return counts


def command_of(template, options, threads, args):
    return shlex.split(template.format(bin=args.bin, peers=ROOT / "bench" / "peers", python=args.python,
                                       threads=threads, options=options))


def portable(text, args):
    """A command as it can be repeated elsewhere: paths relative to the repository, the interpreter by its name."""
    return text.replace(args.python, "python").replace(str(ROOT) + "/", "")


def is_plain(name, args):
    return args.plain_peer or name in PLAIN_PEERS


def make_sides(name, args):
    ours, peer = COMPARISONS[name]
    sides = []
    if args.only != "peers":
        sides += [{"side": f"ours {n}t", "ours": True, "threads": n,
                   "command": command_of(args.ours, ours, n, args) + args.our_options} for n in args.our_threads]
    if args.only != "ours":
        sides += [{"side": f"pytorch {n}t", "ours": False, "threads": n, "plain": is_plain(name, args),
                   "command": command_of(args.peer, peer, n, args) + args.peer_options} for n in args.peer_threads]
    return sides


class SideFailed(Exception):
    """A side that gave no result; the text says why."""


def environment_of(side, level):
    chosen = {key for variables in LEVELS.values() for key in variables}
    environment = {key: value for key, value in os.environ.items() if key not in chosen}
    threads = str(side["threads"])
    environment.update({key: threads for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    if not side["ours"] and not side["plain"]:
        environment["GLIBC_TUNABLES"] = PEER_MALLOC
    return {**environment, **LEVELS[level]}


def run(side, level, timeout):
    """The JSON object that a side's command prints, with min_ms and median_ms. Throws SideFailed."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[-side["threads"]:]))
    try:
        done = subprocess.run(["taskset", "-c", cpus, *side["command"]], env=environment_of(side, level),
                              capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise SideFailed(f"{side['side']}: no result within {timeout} s: {shlex.join(side['command'])}") from error
    if done.returncode != 0:
        raise SideFailed(f"{side['side']}: exit {done.returncode}: {shlex.join(side['command'])}\n"
                         f"{done.stderr[-2000:].strip()}")
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
        result["min_ms"], result["median_ms"] = float(result["min_ms"]), float(result["median_ms"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise SideFailed(f"{side['side']}: last line is no JSON object with min_ms and median_ms: "
                         f"{done.stdout[-300:].strip()!r}") from error
    return result


def check_batches(results, args):
    hashes = {side: result["batches_hash"] for side, result in results.items() if "batches_hash" in result}
    if len(set(hashes.values())) > 1 and not args.allow_different_batches:
        fail(f"the sides ran on different batches: {hashes}; expected equal batches_hash (see bench/peers/batches.py)")


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {"cpu": fields.get("model name", platform.machine()), "family": fields.get("cpu family"),
            "model": fields.get("model"), "cpus": len(os.sched_getaffinity(0)),
            "isa": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
            "system": platform.system() + " " + platform.release()}


def revision():
    done = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() or "unknown"


def compare(name, args):
    sides = make_sides(name, args)
    rounds = []
    for i in range(args.rounds):
        order = sides if i % 2 == 0 else sides[::-1]
        results = {side["side"]: run(side, args.level, args.timeout) for side in order}
        check_batches(results, args)
        rounds.append({"load": round(os.getloadavg()[0], 2), "results": results})
        print(f"{name}: round {i + 1}/{args.rounds}: " +
              "  ".join(f"{side['side']} {results[side['side']]['min_ms']:.4g}" for side in sides), file=sys.stderr)
    return sides, rounds


def ratio(side, peers, rounds, table):
    """How many times as fast as the best of `peers` a side is, round by round."""
    each = [min(r["results"][peer]["min_ms"] for peer in peers) / r["results"][side]["min_ms"] for r in rounds]
    return {"per_round": [round(value, 3) for value in each], "median": round(statistics.median(each), 3),
            "min_over_min": round(min(table[peer]["min_ms"] for peer in peers) / table[side]["min_ms"], 3)}


def summarise(sides, rounds):
    """Per side, best minimum and middle median over rounds; per side of ours, ratios to each round's best peer side of
    as many threads (of any number, where there is none) and to the best of any number."""
    table = {}
    for side in sides:
        results = [r["results"][side["side"]] for r in rounds]
        table[side["side"]] = {"min_ms": min(r["min_ms"] for r in results),
                               "median_ms": statistics.median(r["median_ms"] for r in results)}
    peers = {side["side"]: side["threads"] for side in sides if not side["ours"]}
    equal, best = {}, {}
    for side in (side for side in sides if side["ours"] and peers):
        name, threads = side["side"], side["threads"]
        same = [peer for peer in peers if peers[peer] == threads]
        equal[name] = {"peer_threads": threads if same else "any", **ratio(name, same or list(peers), rounds, table)}
        best[name] = {"peer_threads": "any", **ratio(name, list(peers), rounds, table)}
    return table, equal, best


def show(name, record):
    machine = record["machine"]
    print(f"\n{name}   {record['date']}   {machine['cpu']}, {machine['cpus']} CPUs, {' '.join(machine['isa'])}; "
          f"level {record['level']}")
    print(f"adjoint {record['versions']['adjoint']}, torch {record['versions'].get('torch', '-')}; "
          f"load {', '.join(str(r['load']) for r in record['rounds'])}")
    print(f"{'side':<14}{'min ms':>12}{'median ms':>12}")
    for side, figures in record["summary"].items():
        print(f"{side:<14}{figures['min_ms']:>12.5g}{figures['median_ms']:>12.5g}")
    for ratios in (record["ratios"], record["ratios_any_threads"]):
        for side, each in ratios.items():
            print(f"best pytorch, {each['peer_threads']} threads / {side}: per round "
                  f"{' '.join(f'{v:.2f}' for v in each['per_round'])}; median {each['median']:.2f}, "
                  f"min over min {each['min_over_min']:.2f}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.split("\n", 2)[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons to run, or all; see --list")
    parser.add_argument("--list", action="store_true", help="print the comparisons and their commands")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--our-threads", type=thread_list, default=[1], metavar="N,…", help="a side of ours for each")
    parser.add_argument("--peer-threads", type=thread_list, metavar="N,…", help="default: 1 and all CPUs")
    parser.add_argument("--level", choices=list(LEVELS), default="best", help="instructions of both sides")
    parser.add_argument("--only", choices=["ours", "peers"], help="run one half")
    parser.add_argument("--bin", default=str(ROOT / "build" / "release" / "bin"), help="folder of our programs")
    parser.add_argument("--python", default=PYTHON, help="interpreter with PyTorch (scripts/setup_peers.sh)")
    parser.add_argument("--ours", default=OURS, metavar="TEMPLATE", help=f"default: {OURS}")
    parser.add_argument("--peer", default=PEER, metavar="TEMPLATE", help=f"default: {PEER}")
    parser.add_argument("--our-options", type=shlex.split, default=[], metavar="TEXT", help="appended to our command")
    parser.add_argument("--peer-options", type=shlex.split, default=[], metavar="TEXT", help="appended to PyTorch's")
    parser.add_argument("--plain-peer", action="store_true", help="leave PyTorch's malloc as it is")
    parser.add_argument("--allow-different-batches", action="store_true")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one command")
    parser.add_argument("--require", type=float, metavar="RATIO",
                        help="exit 8 if a median ratio, at equal threads, is lower")
    parser.add_argument("--out", default=str(ROOT / "bench" / "results"), help="folder for the records; '' for none")
    args = parser.parse_args()
    if args.peer_threads is None:
        args.peer_threads = sorted({1, len(os.sched_getaffinity(0))})
    names = list(COMPARISONS) if "all" in args.names else args.names
    for name in names:
        if name not in COMPARISONS:
            parser.error(f"{name}: unknown comparison; expected one of {', '.join(COMPARISONS)} or all")
    if not names and not args.list:
        parser.error("no comparison named; see --list")
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected at least 1")
    if args.require is not None and args.only:
        parser.error("--require needs both sides; drop --only")
    return args, names


def main():
    args, names = parse()
    if args.list:
        for name in names or COMPARISONS:
            for side in make_sides(name, args):
                print(f"{name:<24}{side['side']:<14}{shlex.join(side['command'])}")
        return
    for name in names:
        for side in make_sides(name, args):
            if "/" in side["command"][0] and not os.access(side["command"][0], os.X_OK):
                fail(f"{side['side']}: {side['command'][0]} is not there; expected a program "
                     "(ours: cmake --workflow --preset release; PyTorch: scripts/setup_peers.sh)", 2)
    missed = []
    for name in names:
        try:
            sides, rounds = compare(name, args)
        except SideFailed as error:
            fail(str(error))
        summary, ratios, ratios_any_threads = summarise(sides, rounds)
        peers = [result for result in rounds[0]["results"].values() if "torch" in result]
        versions = {"adjoint": revision(), **{key: peers[0][key] for key in ("torch", "python") if peers}}
        now = datetime.datetime.now(datetime.timezone.utc)
        record = {"name": name, "date": now.strftime("%Y-%m-%d"), "level": args.level, "machine": processor(),
                  "versions": versions, "peer_malloc_tuned": not is_plain(name, args), "summary": summary,
                  "ratios": ratios, "ratios_any_threads": ratios_any_threads,
                  "commands": {side["side"]: portable(shlex.join(side["command"]), args) for side in sides},
                  "rounds": rounds}
        show(name, record)
        if args.out:
            level = "" if args.level == "best" else f"-{args.level}"
            path = pathlib.Path(args.out) / f"cpu-{name}{level}-{record['date']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        missed += [f"{name}, {side}: {each['median']:.2f}" for side, each in ratios.items()
                   if args.require is not None and each["median"] < args.require]
    if missed:
        fail(f"below the required ratio {args.require:g}: {'; '.join(missed)}", 8)


if __name__ == "__main__":
    main()
