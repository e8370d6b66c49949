#!/usr/bin/env python3
"""One case of bench_growth in another engine: a product, an LSTM layer or an encoder step of a given size, in f32.

  torch          PyTorch eager: torch.mm, nn.LSTM (time-major, its faster form), blocks with one product for q, k and v
                 and SDPA (faster than nn.TransformerEncoderLayer), fused Adam
  torch-compile  the same under torch.compile, which leaves nn.LSTM and Adam as they are
  onednn         products only: oneDNN through PyTorch's operator for linear layers
  openblas       products only: numpy's
  jax            jax.jit; lax.scan over the cell, einsum attention, Adam in the same compiled step

Every engine does the same work on random normal operands: see "timed" in the result. --probe only says whether the
engine is there and ends with 3 if it is not.
"""
import argparse
import importlib
import json
import os
import platform
import sys

import timing

MODULES = {"torch": "growth_torch", "torch-compile": "growth_torch", "onednn": "growth_torch",
           "openblas": "growth_openblas", "jax": "growth_jax"}
PRODUCTS_ONLY = ("onednn", "openblas")
SIZES = {"product": ("m", "n", "k", "layout"), "lstm": ("batch", "time", "input", "hidden"),
         "encoder": ("batch", "time", "width", "blocks")}
TIMED = {"product": "one product", "lstm": "forward and backward, gradients of input and weights",
         "encoder": "forward, backward with the input's gradient, Adam"}


def work(args):
    """Tokens (of a product: rows of its result) and arithmetic of one call, as bench/growth.cpp counts them."""
    if args.case == "product":
        return args.m, 2 * args.m * args.n * args.k
    tokens = args.batch * args.time
    if args.case == "lstm":
        return tokens, tokens * 24 * args.hidden * (args.input + args.hidden)
    return tokens, tokens * args.blocks * (72 * args.width ** 2 + 12 * args.time * args.width)


def parse():
    parser = timing.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(seconds=1.0)
    parser.add_argument("--engine", choices=list(MODULES), default="torch")
    parser.add_argument("--probe", action="store_true", help="print the engine's versions and end")
    parser.add_argument("--case", choices=list(SIZES), default="product")
    parser.add_argument("--layout", choices=["nn", "nt", "tn"], default="nn", help="t: that operand lies transposed")
    for name, value in (("m", 512), ("n", 512), ("k", 512), ("batch", 64), ("time", 20), ("input", 128),
                        ("hidden", 128), ("width", 256), ("blocks", 2)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    args = parser.parse_args()
    if args.engine in PRODUCTS_ONLY and args.case != "product":
        parser.error(f"--case {args.case}: expected product, all that --engine {args.engine} has")
    return args


def main():
    args = parse()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(args.threads))
    try:
        engine = importlib.import_module(MODULES[args.engine])
    except ModuleNotFoundError as error:
        if error.name in MODULES.values():
            raise
        print(f"growth: {args.engine}: {error}; expected what scripts/setup_peers.sh -r "
              "bench/peers/requirements-growth.txt installs", file=sys.stderr)
        sys.exit(3)
    line = {"bench": "growth", "engine": args.engine, "python": platform.python_version(), **engine.versions()}
    if not args.probe:
        engine.setup(args)
        call, notes = engine.prepare(args)
        for _ in range(2):
            call()  # compiles
        result = timing.measure(call, seconds=args.seconds)
        tokens, flop = work(args)
        line |= {"case": args.case, "threads": args.threads, **{key: getattr(args, key) for key in SIZES[args.case]},
                 "timed": TIMED[args.case], **result, "tokens": tokens, "gflop": flop * 1e-9,
                 "gflops": round(flop * 1e-6 / result["min_ms"], 1), **notes}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
