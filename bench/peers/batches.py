#!/usr/bin/env python3
"""The token batches that every step benchmark runs on, ours and the peers'.

Both sides must train on the same strings, or the comparison measures luck with lengths. So the batches come from a
generator small enough to be written twice, here and in C++. All arithmetic is modulo 2^64.

  splitmix64   state starts at the seed. next():  state += 0x9E3779B97F4A7C15;  z = state
               z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9; z = (z ^ (z >> 27)) * 0x94D049BB133111EB; return z ^ (z >> 31)
  below(n)     ((next() >> 32) * n) >> 32                         for n < 2^32; a value in 0 .. n-1

One generator makes all batches of a run, in order, each row before the next:

  reverse      for each batch, for each row:  length = min_length + below(max_length - min_length + 1)
                                              then `length` times:  token = first_letter + below(letters)
  headline     for each batch, for each row:  length = 5 + below(T - 4), replaced by T in row 0 (the draw is still made)
                                              then `length` times:  token = 1 + below(vocab - 1)
                                              then  label = below(2)

Defaults: seed 0; reverse: 4 letters from id 3 (0 pad, 1 begin, 2 end), lengths 1..20, for batch 1 always 20; preset
practical10: letters from id 2 (0 begin, 1 end, no pad), lengths 3..14; headline: T 20, vocab 20000 (0 pad). A run has
max(8, 64 / batch) batches. Rows hold letters only; begin and end marks are added by the model's own batching.

  hash         h = 0xCBF29CE484222325; for every value in the order above (length, tokens, label):
               h = (h ^ value) * 0x100000001B3.  Every benchmark prints it as "batches_hash", 16 hex digits, so that a
               mismatch between two sides is seen.

Known answers, seed 0: next() is E220A8397B1DCDAF, 6E789E6AA1B965F4, 06C45D188009454F; hashes for the defaults:
  reverse batch 64  eb7152644e5bb35f         reverse batch 1    ffd05dc49b5d482b
  practical10       1010a262d6851f9c         headline batch 64  52b6a6a3df0a3924

Run as a program it writes the batches as JSON (labels: headline only), for the benchmarks' --batches FILE:
  {"kind": "reverse", "seed": 0, "batches": [{"rows": [[3, 5, 4], ...], "labels": [0, 1, ...]}, ...]}
"""
import argparse
import json

MASK = (1 << 64) - 1
HEADLINE_MIN_LENGTH = 5


class SplitMix64:
    def __init__(self, seed):
        self.state = seed & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return ((self.next() >> 32) * n) >> 32


def default_count(batch):
    return max(8, 64 // batch)


def reverse_batches(batch, min_length, max_length, first_letter=3, letters=4, seed=0, count=None):
    rng = SplitMix64(seed)

    def row():
        length = min_length + rng.below(max_length - min_length + 1)
        return [first_letter + rng.below(letters) for _ in range(length)]

    return [{"rows": [row() for _ in range(batch)]} for _ in range(count or default_count(batch))]


def headline_batches(batch, length, vocab, seed=0, count=None):
    rng = SplitMix64(seed)
    batches = []
    for _ in range(count or default_count(batch)):
        rows, labels = [], []
        for i in range(batch):
            drawn = HEADLINE_MIN_LENGTH + rng.below(length - HEADLINE_MIN_LENGTH + 1)
            rows.append([1 + rng.below(vocab - 1) for _ in range(length if i == 0 else drawn)])
            labels.append(rng.below(2))
        batches.append({"rows": rows, "labels": labels})
    return batches


def fingerprint(batches):
    h = 0xCBF29CE484222325
    for batch in batches:
        labels = batch.get("labels")
        for i, row in enumerate(batch["rows"]):
            for value in [len(row), *row] + ([labels[i]] if labels else []):
                h = ((h ^ value) * 0x100000001B3) & MASK
    return f"{h:016x}"


def read(path, kind):
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if content.get("kind") != kind:
        raise SystemExit(f"{path}: holds batches of kind {content.get('kind')!r}; expected {kind!r}")
    return content["batches"]


def main():
    parser = argparse.ArgumentParser(description="Write the benchmark batches as JSON.")
    parser.add_argument("--kind", choices=["reverse", "practical10", "headline"], default="reverse")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="number of batches (default max(8, 64 / batch))")
    parser.add_argument("--out", help="file to write; without it only the hash is printed")
    args = parser.parse_args()
    if args.kind == "headline":
        batches = headline_batches(args.batch, 20, 20000, args.seed, args.count)
    elif args.kind == "practical10":
        batches = reverse_batches(args.batch, 3, 14, 2, 4, args.seed, args.count)
    else:
        batches = reverse_batches(args.batch, 20 if args.batch == 1 else 1, 20, 3, 4, args.seed, args.count)
    if args.out:
        kind = "headline" if args.kind == "headline" else "reverse"
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"kind": kind, "seed": args.seed, "batches": batches}, file)
    tokens = sum(len(row) for batch in batches for row in batch["rows"])
    print(json.dumps({"kind": args.kind, "batches": len(batches), "tokens": tokens,
                      "batches_hash": fingerprint(batches)}))


if __name__ == "__main__":
    main()
