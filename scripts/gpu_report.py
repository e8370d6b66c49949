#!/usr/bin/env python3
"""Tables of what scripts/gpu_check.sh measured.

  scripts/gpu_report.py FILE.json            the whole page
  scripts/gpu_report.py --readme             writes the README's table from the newest bench/results/gpu-*.json
  scripts/gpu_report.py --readme --check     exit 1 if the README says anything else; nothing is written
"""
import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- gpu table: scripts/gpu_report.py --readme -->", "<!-- end of gpu table -->"
NOT_YET = "**Not yet measured on a GPU:** no kernel has run on one yet."

# What is asked for: of steps microseconds and how much faster than PyTorch's graph (and all of them than eager PyTorch);
# of kernels the share of the floor, microseconds for each step of a recurrence, or TFLOP/s.
STEP_TARGETS = {"reverse-h64-none": (80, 2), "reverse-h128-none": (120, 3), "lstm-b64-d64": (110, 2),
                "lstm-encoder-b64-d64": (110, 2)}
EAGER_TARGET = 10
FLOOR_TARGETS = {"layer-norm-forward-65536x768": 0.85, "layer-norm-backward-65536x768": 0.75,
                 "cross-entropy-16384x30522": 0.80, "adamw-110000000": 0.85}
STEP_TIME_TARGETS = {"lstm-forward-b64-h64": 0.35, "lstm-backward-b64-h64": 0.7, "lstm-forward-b64-h128": 0.7,
                     "lstm-backward-b64-h128": 1.4}
RATE_TARGETS = {"attention-forward-s4096": 330, "attention-backward-s4096": 260}


def row(*cells):
    return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |"


def number(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def ratio(peer, ours):
    return f"{peer / ours:.2f}" if peer and ours else "-"


def times(lines, how=None):
    return {line["name"]: line["us"] for line in lines if "us" in line and (how is None or line["how"] == how)}


def mark(reached):
    return "reached" if reached else "missed"


def summary(record):
    """One line a stage."""
    lines = []
    for stage in record["stages"]:
        tasks = [task for task in record["tasks"] if task["stage"] == stage]
        count = {result: sum(task["result"] == result for task in tasks) for result in ("passed", "failed", "not present")}
        state = "failed" if count["failed"] else "passed" if count["passed"] else "not present"
        lines.append(f"{stage:<10}{state:<12}" + ", ".join(f"{n} {what}" for what, n in count.items() if n))
    return "\n".join(lines)


def is_dry(record):
    """Of the executor: its times mean nothing."""
    return record["device"] == "simt"


def step_rows(record):
    bench = record["bench"]
    ours = bench.get("ours", {}).get("steps", [])
    peers = bench.get("peer_steps", {}).get("steps", [])
    eager, graph = times(peers, "eager"), times(peers, "graph")
    hashes = {line["name"]: line.get("batches_hash") for line in peers}
    rows = []
    for line in ours:
        if "failed" in line:
            rows.append(row(line["name"], f"failed: {line['failed']}", "", "", "", "", ""))
            continue
        name, us = line["name"], line["us"]
        if hashes.get(name, line.get("batches_hash")) != line.get("batches_hash"):
            rows.append(row(name, "the sides ran on other batches", "", "", "", "", ""))
            continue
        target = ""
        if name in STEP_TARGETS and not is_dry(record):
            most, times_graph = STEP_TARGETS[name]
            goals = [(f"{most} us", us <= most)]
            for peer, factor, what in ((eager, EAGER_TARGET, "eager"), (graph, times_graph, "graph")):
                goals += [(f"{factor}x {what}", peer[name] >= factor * us)] if name in peer else []
            target = "; ".join(f"{goal}, {mark(reached)}" for goal, reached in goals)
        rows.append(row(name, number(us), number(eager.get(name)), number(graph.get(name)), ratio(eager.get(name), us),
                        ratio(graph.get(name), us), target))
    return rows


def kernel_rows(record):
    bench = record["bench"]
    peers = times(bench.get("peer_kernels", {}).get("kernels", []))
    rows = []
    for line in bench.get("ours", {}).get("kernels", []):
        name, target = line["name"], ""
        if "failed" in line:
            rows.append(row(name, "", "", "", "", "", number(peers.get(name)), "", f"failed: {line['failed']}"))
            continue
        if is_dry(record):
            pass
        elif name in FLOOR_TARGETS:
            target = f"{FLOOR_TARGETS[name]:.0%} of the floor, {mark(line['of_floor'] >= FLOOR_TARGETS[name])}"
        elif name in STEP_TIME_TARGETS:
            target = f"{STEP_TIME_TARGETS[name]} us a step, {mark(line['us_per_step'] <= STEP_TIME_TARGETS[name])}"
        elif name in RATE_TARGETS:
            target = f"{RATE_TARGETS[name]} TFLOP/s, {mark(line['tflop_per_s'] >= RATE_TARGETS[name])}"
        rows.append(row(name, line["shape"], number(line["us"]), number(line["gb_per_s"]), number(line["tflop_per_s"]),
                        f"{line['of_floor']:.0%} ({line['bound']}{', in cache' if line['in_cache'] else ''})",
                        number(peers.get(name)), ratio(peers.get(name), line["us"]),
                        line.get("impossible", target)))
    return rows


STEP_HEAD = [row("step", "Adjoint, us", "PyTorch eager", "PyTorch, one graph", "eager / ours", "graph / ours", "target"),
             "|---|--:|--:|--:|--:|--:|---|"]
KERNEL_HEAD = [row("kernel", "shape", "us", "GB/s", "TFLOP/s", "of its floor", "PyTorch, us", "PyTorch / ours", "target"),
               "|---|---|--:|--:|--:|--:|--:|--:|---|"]


def versions(record):
    bench, card = record["bench"], record["bench"].get("before") or {}
    peers = bench.get("peer_kernels") or bench.get("peer_steps") or {}
    flags = peers.get("allow_tf32", {})
    clock = {key: f"{(bench.get(key) or {}).get('clocks.sm', '?')} {what}" for key, what in
             (("before", "before"), ("after", "after"))}
    parts = [record["gpu"], f"driver {card.get('driver_version', '-')}",
             f"multiprocessor clock {clock['before']} and {clock['after']}, at most {card.get('clocks.max.sm', '?')}",
             f"CUDA toolkit {record['versions']['toolkit'] or '-'}", f"Adjoint {record['versions']['adjoint']}",
             f"PyTorch {peers.get('torch', '-')}, its CUDA {peers.get('cuda', '-')}, cuDNN {peers.get('cudnn', '-')}",
             f"TF32 by default in products {flags.get('matmul', '-')}, in cuDNN {flags.get('cudnn', '-')}"]
    return "; ".join(parts)


def page(record):
    """The whole Markdown page of a run."""
    dry = is_dry(record)
    lines = [f"# {'Dry run of the GPU check' if dry else 'Measured on ' + record['gpu']}, {record['date']}", "",
             "`scripts/gpu_check.sh`, " + f"{record['seconds']:.0f} s. " + versions(record) + ".", ""]
    if dry:
        lines += ["Everything ran in the executor, and PyTorch on its CPU backend, with tiny shapes: the times mean nothing.", ""]
    lines += [row("stage", "task", "result", "seconds", "limit", "reason", "log"), "|---|---|---|--:|--:|---|---|"]
    lines += [row(t["stage"], t["name"], t["result"], t["seconds"], t["limit_s"] or "", t["reason"].replace("|", "/"), t["log"])
              for t in record["tasks"]]
    kinds = {}
    for task in record["tasks"]:
        for kind, n in task.get("kinds", {}).items():
            kinds[kind] = kinds.get(kind, 0) + n
    if kinds:
        lines += ["", row("tests that ran", "number"), "|---|--:|"] + [row(k.replace("_", " "), n) for k, n in sorted(kinds.items())]
    steps, kernels = step_rows(record), kernel_rows(record)
    if steps:
        lines += ["", "## Training steps", "", *STEP_HEAD, *steps]
    if kernels:
        roof = record["bench"]["ours"].get("roof")
        lines += ["", "## Kernels", "", "The benchmark was cut short." if roof is None else
                  f"Floors: {number(roof['gb_per_s'])} GB/s as copied on this card, and peaks of "
                  f"{number(roof['f32_tflop_per_s'])} (f32), {number(roof['tf32_tflop_per_s'])} (TF32) and "
                  f"{number(roof['bf16_tflop_per_s'])} TFLOP/s (bf16) at its highest clock.", "", *KERNEL_HEAD, *kernels]
    peers = record["bench"].get("peer_kernels", {}).get("kernels", [])
    if peers:
        lines += ["", "PyTorch's kernels, all variants:", "", row("kernel", "us", "how", "notes"), "|---|--:|---|---|"]
        for line in peers:
            notes = [f"{key} {line[key]}" for key in ("tf32", "sdpa", "failed") if key in line]
            lines.append(row(line["name"], number(line.get("us")), line.get("how", ""), ", ".join(notes)))
    return "\n".join(lines) + "\n"


def newest(folder):
    """The newest record of a GPU, or None. Dry runs have other names, and do not count under this one either."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("gpu-*.json"))]
    records = [record for record in records if not is_dry(record) and record["bench"].get("ours")]
    return max(records, key=lambda record: record["date"], default=None)


def readme_table(record):
    if record is None:
        return NOT_YET
    return "\n".join([f"Measured on {record['date']}: {versions(record)} (`scripts/gpu_check.sh`).", "", *STEP_HEAD,
                      *step_rows(record), "", *KERNEL_HEAD, *kernel_rows(record)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file", nargs="?", help="a record")
    parser.add_argument("--readme", action="store_true", help="make the README's table")
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--root", default=str(ROOT), help="of the repository")
    args = parser.parse_args()
    if not args.readme:
        if not args.file:
            parser.error("a FILE.json or --readme is missing")
        print(page(json.loads(pathlib.Path(args.file).read_text(encoding="utf-8"))), end="")
        return 0
    root = pathlib.Path(args.root)
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        print(f"gpu_report: {path}: expected one line {BEGIN} and after it one line {END}", file=sys.stderr)
        return 2
    head, rest = text.split(BEGIN)
    made = head + BEGIN + "\n" + readme_table(newest(root / "bench" / "results")) + "\n" + END + rest.split(END)[1]
    if args.check:
        if made != text:
            print("gpu_report: the README's GPU table is not what bench/results says; run scripts/gpu_report.py --readme",
                  file=sys.stderr)
        return 0 if made == text else 1
    path.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
