"""The cases of growth.py in PyTorch, eager and compiled, and its oneDNN."""
import torch
import torch.nn.functional as F
from torch import nn

import harness

HEAD = 64


def versions():
    return {"torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability(),
            "mkldnn": torch.backends.mkldnn.is_available(), "mkl": torch.backends.mkl.is_available()}


def setup(args):
    harness.setup(args)


def prepare(args):
    return {"product": product, "lstm": lstm, "encoder": encoder}[args.case](args)


def product(args):
    def operand(rows, columns, transposed):
        return torch.randn(columns, rows).t() if transposed else torch.randn(rows, columns)

    a, b = operand(args.m, args.k, args.layout == "tn"), operand(args.k, args.n, args.layout == "nt")
    if args.engine == "onednn":
        weight = b.t()

        def call():
            return torch.ops.mkldnn._linear_pointwise(a, weight, None, "none", [], "")
        torch.testing.assert_close(call(), a @ b, rtol=1e-4, atol=1e-3)
        return call, {"path": "mkldnn::_linear_pointwise"}
    if args.engine == "torch-compile":
        compiled = torch.compile(torch.mm)
        return lambda: compiled(a, b), {}
    result = torch.empty(args.m, args.n)
    return lambda: torch.mm(a, b, out=result), {}


def path_of(call):
    """Which implementation nn.LSTM took: oneDNN's, or PyTorch's own product and pointwise calls of each time step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    names = {event.key for event in profile.key_averages()}
    return "aten::mkldnn_rnn_layer" if "aten::mkldnn_rnn_layer" in names else "aten::lstm"


def lstm(args):
    layer = nn.LSTM(args.input, args.hidden)
    x = torch.randn(args.time, args.batch, args.input, requires_grad=True)
    dy = torch.randn(args.time, args.batch, args.hidden)
    run = torch.compile(layer) if args.engine == "torch-compile" else layer

    def call():
        layer.zero_grad(set_to_none=True)
        x.grad = None
        run(x)[0].backward(dy)

    return call, {"path": path_of(call)}


class Block(nn.Module):
    """nn.TransformerEncoderLayer with norm_first, GELU and no dropout, but without its copies of q, k and v."""

    def __init__(self, width):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear_1, self.linear_2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(batch, time, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, time, width)
        x = x + self.output(y)
        return x + self.linear_2(F.gelu(self.linear_1(self.norm_2(x))))


def encoder(args):
    model = nn.Sequential(*(Block(args.width) for _ in range(args.blocks)))
    x = torch.randn(args.batch, args.time, args.width, requires_grad=True)
    dy = torch.randn(args.batch, args.time, args.width)
    optimizer = harness.adam(model.parameters(), "fused")
    run = torch.compile(model) if args.engine == "torch-compile" else model

    def call():
        optimizer.zero_grad(set_to_none=True)
        x.grad = None
        run(x).backward(dy)
        optimizer.step()

    return call, {"parameters": harness.parameter_count(model)}
