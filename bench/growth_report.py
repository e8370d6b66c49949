"""What bench/growth.py's rounds come to: ratios, floors, and a table in Markdown that a terminal shows as well."""
import statistics

PYTORCH = ("torch", "torch-compile")


def best_rates(record):
    """Threads: the best GFLOP/s of any product of any side."""
    rates = {}
    for r in record["rounds"]:
        for name, by_threads in r["results"].items():
            work = record["work"][name]
            if work["kind"] == "product":
                for threads, results in by_threads.items():
                    each = [work["gflop"] / ms[0] * 1e3 for ms in results.values()]
                    rates[threads] = max([rates.get(threads, 0.0), *each])
    return rates


def ratio(rounds, peers):
    """The median over rounds of how many times as fast as the best of `peers` we are; None without a peer."""
    each = []
    for results in rounds:
        times = [results[peer][0] for peer in peers if peer in results]
        if times:
            each.append(min(times) / results["ours"][0])
    return round(statistics.median(each), 3) if each else None


def summarise(record):
    """Threads: case: least times, ratios, the fastest peer and the floor."""
    rates = best_rates(record)
    table = {}
    for threads in map(str, record["threads"]):
        for name in record["cases"]:
            rounds = [r["results"][name][threads] for r in record["rounds"]]
            sides = list(dict.fromkeys(side for results in rounds for side in results))
            least = {side: min(results[side][0] for results in rounds if side in results) for side in sides}
            peers = [side for side in sides if side != "ours"]
            work = record["work"][name]
            floor = work["gflop"] / rates[threads] * 1e3 + work["optimizer_pass_ms"].get(threads, 0.0)
            table.setdefault(threads, {})[name] = {
                "min_ms": least, "gflops": round(work["gflop"] / least["ours"] * 1e3, 1),
                "against_pytorch": ratio(rounds, PYTORCH), "against_best": ratio(rounds, peers),
                "best": min(peers, key=least.get, default=None), "floor_ms": round(floor, 6),
                "times_floor": round(least["ours"] / floor, 3)}
    return table


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in
                               enumerate(zip(row, widths))) + " |" for row in rows]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return [lines[0], rule, *lines[1:]]


def figure(value, digits=".4g"):
    return "-" if value is None else f"{value:{digits}}"


def cell(record, name, threads, engine):
    if "absent" in record["peers"][engine]:
        return "absent"
    if f"{name} {threads}t {engine}" in record["failures"]:
        return "failed"
    return figure(record["table"][threads][name]["min_ms"].get(engine))


def rows_of(record, threads):
    engines = record["peers"]
    rows = [["ms", "ours", *engines, "PyTorch / ours", "best / ours", "best", "GFLOP/s", "x floor"]]
    for name, line in record["table"][threads].items():
        rows.append([name, figure(line["min_ms"]["ours"]), *(cell(record, name, threads, each) for each in engines),
                     figure(line["against_pytorch"], ".2f"), figure(line["against_best"], ".2f"), line["best"] or "-",
                     figure(line["gflops"], ".1f"), figure(line["times_floor"], ".2f")])
    return rows


def markdown(record, plot):
    machine = record["machine"]
    versions = {"Adjoint": record["versions"]["adjoint"]}
    for found in record["peers"].values():
        versions |= found.get("versions", {})
    lines = [f"# Growth, level {record['level']}, {record['date']}", "",
             f"{machine['cpu']}, {machine['cpus']} CPUs, {' '.join(machine['isa'])}; "
             f"{', '.join(f'{key} {value}' for key, value in versions.items())}; {len(record['rounds'])} rounds, load "
             f"after each {', '.join(str(r['load']) for r in record['rounds'])}. Least times in ms; "
             "ratios are medians over rounds, at equal numbers of threads, the larger the better for us; - where an "
             "engine has no such case.", ""]
    lines += [f"* {engine} was not measured: {found['absent']}" for engine, found in record["peers"].items()
              if "absent" in found]
    lines += [f"* {key} failed: {why.splitlines()[-1]}" for key, why in record["failures"].items()]
    lines += [f"* {key}: {path}" for key, path in record["paths"].items()]
    if plot:
        lines += ["", f"![Time per token against size]({plot})"]
    rates = best_rates(record)
    for threads in record["table"]:
        lines += ["", f"## {threads} thread{'s' if threads != '1' else ''}", "",
                  f"Best product: {rates[threads]:.1f} GFLOP/s.", "", *aligned(rows_of(record, threads))]
    return "\n".join(lines) + "\n"
