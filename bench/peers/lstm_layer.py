#!/usr/bin/env python3
"""One nn.LSTM layer in PyTorch, time-major, without padding: forward plus backward (main figure) and forward alone."""
import torch
from torch import nn

import harness


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--time", type=int, default=20)
    parser.add_argument("--input", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--bidirectional", action="store_true")
    args = parser.parse_args()
    harness.setup(args)
    layer = nn.LSTM(args.input, args.hidden, bidirectional=args.bidirectional)
    directions = 2 if args.bidirectional else 1
    x = torch.randn(args.time, args.batch, args.input, requires_grad=True)
    cotangent = torch.randn(args.time, args.batch, directions * args.hidden)

    def forward():
        with torch.no_grad():
            layer(x)

    def forward_backward():
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x)[0].backward(cotangent)

    result = harness.measure(forward_backward, seconds=args.seconds)
    gflop = 3 * 2e-9 * args.time * args.batch * (args.input + args.hidden) * 4 * args.hidden * directions
    harness.emit("lstm_layer", result, batch=args.batch, time=args.time, input=args.input, hidden=args.hidden,
                 bidirectional=args.bidirectional, gflops=round(gflop / result["min_ms"] * 1e3, 1),
                 parts={"forward": harness.measure(forward, seconds=args.seconds)})


if __name__ == "__main__":
    main()
