#!/usr/bin/env python3
"""The cases of bench_gpu in PyTorch, under the same names, each the fastest way that PyTorch has for its users.

nn.LSTM is timed as it comes (TF32 as cuDNN's default allows), in full f32, and with lengths as PackedSequence. Backward
passes are timed alone, over a graph that is retained. The backend that SDPA chose is reported for each of its cases.
"""
import math
import sys

import torch
import torch.nn.functional as F
from torch import nn

import gpu_harness as harness

F32, BF16 = torch.float32, torch.bfloat16


class Cases:
    def __init__(self, args):
        self.args = args
        self.lines = []

    def run(self, name, bytes_per_set, prepare, notes=dict, **fields):
        """prepare() makes one set and returns what to call for it; notes() is what it found out for the line."""
        if self.args.only not in name:
            return
        sets = harness.sets_for(self.args, bytes_per_set)
        try:
            calls = [prepare() for _ in range(sets)]
            line = {"name": name, **harness.time_kernel(self.args, lambda i: calls[i](), sets), **fields, **notes()}
        except (RuntimeError, torch.OutOfMemoryError) as error:
            line = {"name": name, "failed": str(error).splitlines()[0][:200]}
            if self.args.on_gpu:
                torch.cuda.empty_cache()
        self.lines.append(line)
        harness.emit(kernel=line)
        print(f"{name:<44}{line.get('us', 'failed'):>12}", file=sys.stderr)


def backward_of(outputs, inputs):
    """Gradients of `inputs`, over and over."""
    cotangents = [torch.randn_like(y) for y in outputs]
    return lambda: torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True)


def lengths_of(batch, longest):
    n = torch.randint(1, longest + 1, (batch,))
    n[0] = longest
    return n


def lstm(cases, batch, time, width, hidden, packed):
    name = f"b{batch}-h{hidden}" + ("-lengths" if packed else "")
    size = batch * time * hidden * 32

    def make():
        layer = nn.LSTM(width, hidden, batch_first=True)
        x = torch.randn(batch, time, width, requires_grad=True)
        given = x
        if packed:
            n = lengths_of(batch, time).cpu()
            given = nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        return layer, x, given

    def forward():
        layer, _, given = make()

        def call():
            y = layer(given)[0]
            return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0] if packed else y
        return call

    def backward():
        layer, x, given = make()
        y = layer(given)[0]
        return backward_of([y.data if packed else y], [x, *layer.parameters()])

    for tf32 in (True, False):
        torch.backends.cudnn.allow_tf32 = tf32
        tail = "" if tf32 else "-f32"
        cases.run(f"lstm-forward-{name}{tail}", size, forward, tf32=tf32)
        cases.run(f"lstm-backward-{name}{tail}", size, backward, tf32=tf32)
    torch.backends.cudnn.allow_tf32 = True


def layer_norm(cases, dtype, rows, width):
    size = 2 * rows * width * dtype.itemsize

    def make():
        x = torch.randn(rows, width, dtype=dtype, requires_grad=True)
        return x, torch.randn(width, dtype=dtype, requires_grad=True), torch.randn(width, dtype=dtype, requires_grad=True)

    def forward():
        x, gamma, beta = (t.detach() for t in make())
        return lambda: F.layer_norm(x, (width,), gamma, beta)

    def with_sum():
        x, gamma, beta = (t.detach() for t in make())
        residual = torch.randn_like(x)

        def call():
            total = x + residual
            return total, F.layer_norm(total, (width,), gamma, beta)
        return call

    def backward():
        x, gamma, beta = make()
        return backward_of([F.layer_norm(x, (width,), gamma, beta)], [x, gamma, beta])

    tail = f"-{rows}x{width}"
    cases.run("layer-norm-forward" + tail, size, forward)
    cases.run("add-layer-norm-forward" + tail, 2 * size, with_sum)
    cases.run("layer-norm-backward" + tail, 1.5 * size, backward)


def cross_entropy(cases, dtype, rows, classes):
    def prepare():
        x = torch.randn(rows, classes, dtype=dtype, requires_grad=True)
        targets = torch.randint(classes, (rows,))
        return lambda: torch.autograd.grad(F.cross_entropy(x, targets), x)

    cases.run(f"cross-entropy-{rows}x{classes}", 2 * rows * classes * dtype.itemsize, prepare)


def adamw(cases, count):
    def prepare(**kind):
        p = nn.Parameter(torch.randn(count))
        p.grad = torch.randn(count)
        step = torch.optim.AdamW([p], lr=1e-3, **kind)
        step.step()
        return step.step

    on_gpu = cases.args.on_gpu
    cases.run(f"adamw-{count}", 28 * count, lambda: prepare(fused=True, **({"capturable": True} if on_gpu else {})))
    cases.run(f"adamw-{count}-foreach", 28 * count,
              lambda: prepare(foreach=True, **({"capturable": True} if on_gpu else {})))
    cases.run(f"global-norm-{count}", 4 * count, lambda: (lambda g=torch.randn(count): torch.linalg.vector_norm(g)))


def chosen_backend(q, k, v, mask, causal):
    """Which kernel SDPA takes, by PyTorch's own order and checks."""
    if not q.is_cuda:
        return "cpu"
    try:
        return torch.nn.attention.SDPBackend(torch._fused_sdp_choice(q, k, v, mask, 0.0, causal)).name
    except (AttributeError, RuntimeError, ValueError) as error:
        return f"unknown: {error}"


def attention(cases, label, dtype, batch, heads, length, width, causal=False, lengths=False):
    size = 4 * batch * heads * length * width * dtype.itemsize
    backend = []

    def make(gradient):
        q, k, v = (torch.randn(batch, heads, length, width, dtype=dtype, requires_grad=gradient) for _ in range(3))
        mask = None
        if lengths:
            mask = (torch.arange(length) < lengths_of(batch, length)[:, None])[:, None, None, :]
            mask = mask.expand(batch, 1, length, length).contiguous()
        backend[:] = [chosen_backend(q, k, v, mask, causal)]
        return q, k, v, mask

    def forward():
        q, k, v, mask = make(False)
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

    def backward():
        q, k, v, mask = make(True)
        return backward_of([F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)], [q, k, v])

    for name, prepare in (("forward", forward), ("backward", backward)):
        cases.run(f"attention-{name}-{label}", size, prepare, lambda: {"sdpa": backend[0]})


def embedding_gradient(cases, dtype, tokens, rows, width):
    def prepare():
        ids, gradient = torch.randint(rows, (tokens,)), torch.randn(tokens, width, dtype=dtype)
        return lambda: torch.ops.aten.embedding_dense_backward(gradient, ids, rows, -1, False)

    cases.run(f"embedding-gradient-{tokens}x{width}-v{rows}", (tokens + rows) * width * dtype.itemsize, prepare)


def name_of(dtype):
    return "f32" if dtype == F32 else "bf16"


def matmul(cases, dtype, m, n, k):
    def prepare():
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        return lambda: a @ b.T

    for tf32 in ([False, True] if dtype == F32 else [False]):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        cases.run(f"matmul-{name_of(dtype)}-{m}x{n}x{k}" + ("-tf32" if tf32 else ""), (m * k + k * n + m * n) * dtype.itemsize,
                  prepare, tf32=tf32)
    torch.backends.cuda.matmul.allow_tf32 = False


def feed_forward(cases, dtype, rows, width, inner):
    def prepare():
        up, down = nn.Linear(width, inner, dtype=dtype), nn.Linear(inner, width, dtype=dtype)
        x, dy = torch.randn(rows, width, dtype=dtype, requires_grad=True), torch.randn(rows, width, dtype=dtype)
        wanted = [x, *up.parameters(), *down.parameters()]
        return lambda: torch.autograd.grad(down(F.gelu(up(x))), wanted, dy)

    cases.run(f"ffn-{name_of(dtype)}-{rows}x{width}x{inner}", rows * (4 * width + 4 * inner) * dtype.itemsize, prepare)


def copy(cases, count):
    def prepare():
        source, target = torch.randn(count), torch.empty(count)
        return lambda: target.copy_(source)

    cases.run(f"copy-{count}", 8 * count, prepare)


def all_cases(cases, tiny):
    if tiny:
        copy(cases, 5000)
        for hidden, batch, time, packed in ((64, 4, 3, False), (64, 4, 3, True), (128, 2, 2, False)):
            lstm(cases, batch, time, 8, hidden, packed)
        layer_norm(cases, BF16, 8, 64)
        cross_entropy(cases, BF16, 8, 100)
        adamw(cases, 2000)
        attention(cases, "s20-f32", F32, 2, 2, 20, 32, lengths=True)
        attention(cases, "s20-bf16", BF16, 2, 2, 20, 32, lengths=True)
        attention(cases, "s128", BF16, 1, 1, 128, 64)
        embedding_gradient(cases, F32, 40, 7, 16)
        embedding_gradient(cases, F32, 40, 300, 16)
        matmul(cases, F32, 64, 64, 32)
        matmul(cases, BF16, 64, 64, 32)
        feed_forward(cases, BF16, 16, 32, 64)
        return
    copy(cases, 1 << 28)
    for hidden in (64, 128):
        for batch in (64, 512):
            lstm(cases, batch, 20, hidden, hidden, False)
            lstm(cases, batch, 20, hidden, hidden, True)
    layer_norm(cases, F32, 10240, 128)
    layer_norm(cases, BF16, 65536, 768)
    cross_entropy(cases, F32, 1280, 7)
    cross_entropy(cases, BF16, 16384, 30522)
    adamw(cases, 200000)
    adamw(cases, 110000000)
    attention(cases, "s20-f32", F32, 512, 4, 20, 32, lengths=True)
    attention(cases, "s20-bf16", BF16, 512, 4, 20, 32, lengths=True)
    attention(cases, "s128", BF16, 64, 12, 128, 64)
    attention(cases, "s512", BF16, 32, 12, 512, 64)
    attention(cases, "s512-f32", F32, 32, 12, 512, 64)
    attention(cases, "s4096", BF16, 4, 12, 4096, 64)
    attention(cases, "s4096-causal", BF16, 4, 12, 4096, 64, causal=True)
    attention(cases, "s8192-d128", BF16, 2, 16, 8192, 128)
    embedding_gradient(cases, F32, 1280, 7, 64)
    embedding_gradient(cases, F32, 1280, 20000, 100)
    embedding_gradient(cases, BF16, 16384, 30522, 768)
    matmul(cases, F32, 1280, 256, 64)
    matmul(cases, F32, 10240, 512, 128)
    matmul(cases, BF16, 16384, 3072, 768)
    feed_forward(cases, F32, 1280, 128, 512)
    feed_forward(cases, BF16, 16384, 768, 3072)


def main():
    args = harness.parser(__doc__.split("\n", maxsplit=1)[0]).parse_args()
    harness.setup(args)
    cases = Cases(args)
    harness.begin("gpu_kernels", args)
    all_cases(cases, args.tiny)
    by_name = {line["name"]: line for line in cases.lines}
    copied = by_name.get("copy-268435456", {}).get("least_us")
    if copied:
        harness.emit(copy_gb_per_s=round(8 * 268435456 / copied / 1e3, 1))
    if not cases.lines or any(not math.isfinite(line.get("us", 0)) for line in cases.lines):
        raise SystemExit("no case, or a time that is not finite")


if __name__ == "__main__":
    main()
