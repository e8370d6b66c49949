#!/usr/bin/env python3
"""What a start from a language model gives an LSTM classifier: test F1 with and without it, over several seeds.

For each seed a language model (`clickbait train --objective lm`) learns the training part of that seed's split and
nothing else; then two classifiers train on the same part, one from its LSTM and word vectors (`--init-from`), one
fresh. Prints mean ± sd, and the mean gain with the sd of the differences seed by seed.

  bench/pretrained.py DATA                       training parts of 80 % and 10 %, seeds 1..5
  bench/pretrained.py DATA --test 0.1 --seeds 3
"""
import argparse
import os
import statistics
import sys
import tempfile
import time

import headlines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__.split("\n", 2)[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or table, as for clickbait train --data")
    parser.add_argument("--test", type=float, nargs="+", default=[0.1, 0.8],
                        help="shares of the test part; the validation part is 10 %%, the rest trains")
    parser.add_argument("--epochs", type=int, default=4, help="of the language model")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bin", default=str(headlines.ROOT / "build" / "release" / "bin"))
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds {args.seeds}: expected at least 2, for a standard deviation")

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for share in args.test:
            fresh, started, perplexity, seconds = [], [], [], []
            for seed in range(1, args.seeds + 1):
                def train(name, *options):
                    return headlines.run([f"{args.bin}/clickbait", "train", "--data", args.data, "--seed", str(seed),
                                          "--test", str(share), "--threads", str(args.threads), "--json", "--quiet",
                                          "--out", f"{folder}/{share}-{seed}-{name}", *options])
                model = train("lm", "--objective", "lm", "--epochs", str(args.epochs), "--early-stop", "0")
                fresh.append(train("fresh")["test"]["f1"])
                started.append(train("started", "--init-from", f"{folder}/{share}-{seed}-lm")["test"]["f1"])
                perplexity.append(model["test"]["perplexity"])
                seconds.append(model["train_s"])
                print(f"test {share}, seed {seed}: perplexity {perplexity[-1]:.0f} after {seconds[-1]:.0f} s, F1 fresh "
                      f"{fresh[-1]:.4f}, from it {started[-1]:.4f}", file=sys.stderr)
            rows.append((share, fresh, started, perplexity, seconds))

    print(f"{time.strftime('%Y-%m-%d')}, {headlines.cpu()}, {len(os.sched_getaffinity(0))} CPUs, {args.threads} "
          f"thread(s), {args.seeds} seeds, {args.epochs} epochs of the language model; test F1, mean ± sd")
    print("| trained on | fresh | from the language model | gain, seed by seed | its perplexity | its seconds |")
    print("|---|---|---|---|---|---|")
    for share, fresh, started, perplexity, seconds in rows:
        gain = [b - a for a, b in zip(fresh, started)]
        print(f"| {0.9 - share:.0%} | {headlines.shown(fresh)} | {headlines.shown(started)} | "
              f"{statistics.fmean(gain):+.4f} ± {statistics.stdev(gain):.4f} | {headlines.shown(perplexity, 0)} | "
              f"{headlines.shown(seconds, 0)} |")


if __name__ == "__main__":
    main()
