#!/usr/bin/env python3
"""Cost of one eager op in PyTorch, in ns: chains of 20 links, forward without and with recording, and backward.

mul_add counts as two ops a link (y * w, then + b). With --op the chain's forward plus backward is the main figure, as
milliseconds per op, so that bench/ab.py can set it against ours.
"""
import torch

import harness

LINKS = 20
OPS_PER_LINK = {"add": 1, "tanh": 1, "mul_add": 2, "addmm": 1}


def chain(op, x, w, b):
    y = x
    for _ in range(LINKS):
        if op == "mul_add":
            y = y * w + b
        elif op == "tanh":
            y = torch.tanh(y)
        elif op == "add":
            y = y + b
        else:
            y = torch.addmm(b, y, w)
    return y


def run(op, rows, columns, seconds):
    x = torch.randn(rows, columns, requires_grad=True)
    matrix = op == "addmm"
    # Weights that keep a chain of 20 products near 1, and its gradients: subnormals or infinities would time something
    # else.
    w = torch.randn(columns, columns) / columns ** 0.5 if matrix else 1 + torch.randn(rows, columns) * 0.05
    w.requires_grad_()
    b = torch.randn((columns,) if matrix else (rows, columns), requires_grad=True)
    cotangent = torch.ones(rows, columns)

    def forward():
        with torch.no_grad():
            chain(op, x, w, b)

    def recording():
        chain(op, x, w, b)

    def forward_backward():
        x.grad = w.grad = b.grad = None
        chain(op, x, w, b).backward(cotangent)

    ops = LINKS * OPS_PER_LINK[op]
    calls = {"forward": forward, "recording": recording, "total": forward_backward}
    timed = {name: harness.measure(call, seconds=seconds) for name, call in calls.items()}

    def ns(name):
        return round(timed[name]["min_ms"] * 1e6 / ops, 1)

    line = {"op": op, "shape": [rows, columns], "forward_ns": ns("forward"), "recording_ns": ns("recording"),
            "backward_ns": round(ns("total") - ns("recording"), 1), "total_ns": ns("total")}
    return line, {key: round(value / ops, 9) for key, value in timed["total"].items() if key.endswith("_ms")}


def main():
    parser = harness.parser(__doc__.split("\n")[0])
    parser.set_defaults(seconds=0.5)
    parser.add_argument("--op", choices=list(OPS_PER_LINK), help="one chain only (default: all, at 1x1 and 32x64)")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--columns", type=int, default=1)
    args = parser.parse_args()
    harness.setup(args)
    if args.op:
        line, per_op = run(args.op, args.rows, args.columns, args.seconds)
        harness.emit("op_overhead", per_op, ops=[line])
        return
    lines = [run(op, *shape, args.seconds)[0] for shape in ((1, 1), (32, 64)) for op in OPS_PER_LINK]
    harness.emit("op_overhead", {}, ops=lines)


if __name__ == "__main__":
    main()
