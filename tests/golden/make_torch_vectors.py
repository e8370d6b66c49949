#!/usr/bin/env python3
"""Records what PyTorch computes for our ops, so that tests can compare without PyTorch.

Writes torch_ops.safetensors and its index torch_ops.json beside this file. A tensor is CASE/ROLE/NAME, ROLE one of
  in          an argument                          out    a result
  cotangent   dL/d(result), random                 grad   dL/d(argument) for L = sum over results of <cotangent, result>
The index lists, per case, the op, its attributes and the names under each role. Floating tensors are f64; ids, targets
and lengths are I32; masks are U8 with 1 = may be attended to, and a row without any 1 gives zeros. Sequences are
batch-first. LSTM gates are in the order i, f, g, o; a second direction or layer has its own tensors (_reverse, _l1).

  make_torch_vectors.py           write both files
  make_torch_vectors.py --check   compute again and compare with the files (relative difference at most 1e-12)
"""
import argparse
import json
import pathlib
import sys

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
SIZE_LIMIT = 300_000


class Recorder:
    def __init__(self):
        self.tensors = {}
        self.cases = []
        self.generator = torch.Generator()

    def random(self, *shape, scale=1.0):
        return scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)

    def case(self, name, op, inputs, function, differentiate=(), **attributes):
        """`inputs` and the dictionary that `function(**inputs)` returns map names to tensors."""
        leaves = {key: value.clone().requires_grad_(key in differentiate) for key, value in inputs.items()}
        outputs = function(**leaves)
        cotangents, grads = {}, {}
        if differentiate:
            cotangents = {key: self.random(*value.shape) for key, value in outputs.items() if value.requires_grad}
            found = torch.autograd.grad([outputs[key] for key in cotangents], [leaves[key] for key in differentiate],
                                        list(cotangents.values()))
            grads = dict(zip(differentiate, found))
        roles = {"in": inputs, "out": outputs, "cotangent": cotangents, "grad": grads}
        for role, named in roles.items():
            for key, value in named.items():
                self.store(f"{name}/{role}/{key}", value.detach())
        self.cases.append({"name": name, "op": op, "attributes": attributes,
                           **{role: list(named) for role, named in roles.items()}})

    def store(self, name, value):
        if value.dtype == torch.bool:
            value = value.to(torch.uint8)
        elif value.dtype == torch.int64:
            value = value.to(torch.int32)
        elif value.dtype != torch.float64 or not torch.isfinite(value).all():
            raise SystemExit(f"{name}: {value.dtype}, finite: {bool(torch.isfinite(value).all())}; expected finite f64")
        if name in self.tensors:
            raise SystemExit(f"{name}: recorded twice")
        self.tensors[name] = value.contiguous().clone()


def pointwise(r):
    wide = torch.tensor([-40.0, -8.0, -3.0, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 3.0, 8.0, 40.0], dtype=torch.float64)
    for name, function in (("gelu_erf", lambda x: F.gelu(x)), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
                           ("tanh", torch.tanh), ("sigmoid", torch.sigmoid), ("relu", F.relu)):
        op, attributes = (name.split("_") + [None])[0], {}
        if op == "gelu":
            attributes["form"] = name.split("_")[1]
        x = wide + 0.25 if name == "relu" else wide  # keeps relu away from its kink, where any subgradient is right
        r.case(name, op, {"x": torch.stack([x, r.random(12)])}, lambda x, f=function: {"y": f(x)}, ["x"], **attributes)
    r.case("add_broadcast", "add", {"a": r.random(3, 1, 4), "b": r.random(5, 1)}, lambda a, b: {"y": a + b}, ["a", "b"])
    r.case("mul_broadcast", "mul", {"a": r.random(2, 3, 4), "b": r.random(3, 1)}, lambda a, b: {"y": a * b}, ["a", "b"])


def products(r):
    def matmul(name, a, b, **attributes):
        left, right = attributes.get("transpose_a", False), attributes.get("transpose_b", False)
        r.case(name, "matmul", {"a": r.random(*a), "b": r.random(*b)},
               lambda a, b: {"y": (a.mT if left else a) @ (b.mT if right else b)}, ["a", "b"], **attributes)

    matmul("matmul_2d", (5, 7), (7, 3))
    matmul("matmul_inner_33", (3, 33), (33, 2))
    matmul("matmul_inner_1", (4, 1), (1, 3))
    matmul("matmul_batched", (2, 3, 4, 5), (2, 3, 5, 2))
    matmul("matmul_batch_broadcast", (2, 1, 3, 4), (3, 4, 2))
    matmul("matmul_transpose_a", (7, 5), (7, 3), transpose_a=True)
    matmul("matmul_transpose_b", (5, 7), (3, 7), transpose_b=True)
    inputs = {"x": r.random(2, 3, 5), "weight": r.random(4, 5), "bias": r.random(4)}
    r.case("linear", "linear", inputs, lambda x, weight, bias: {"y": F.linear(x, weight, bias)},
           ["x", "weight", "bias"])
    r.case("linear_no_bias", "linear", {"x": r.random(3, 5), "weight": r.random(4, 5)},
           lambda x, weight: {"y": F.linear(x, weight)}, ["x", "weight"])


def normalisations(r):
    for op, function in (("softmax", torch.softmax), ("log_softmax", torch.log_softmax)):
        x = r.random(3, 4, 5)
        r.case(op, op, {"x": x}, lambda x: {"y": function(x, -1)}, ["x"], axis=-1)
        r.case(f"{op}_axis_1", op, {"x": x}, lambda x: {"y": function(x, 1)}, ["x"], axis=1)
        large = r.random(4, 6, scale=300.0)
        r.case(f"{op}_large", op, {"x": large}, lambda x: {"y": function(x, -1)}, ["x"], axis=-1)
        r.case(f"{op}_one", op, {"x": r.random(3, 1)}, lambda x: {"y": function(x, -1)}, ["x"], axis=-1)

    def layer_norm(name, x, eps=1e-5):
        width = x.shape[-1]
        r.case(name, "layer_norm", {"x": x, "gamma": r.random(width), "beta": r.random(width)},
               lambda x, gamma, beta: {"y": F.layer_norm(x, (width,), gamma, beta, eps)}, ["x", "gamma", "beta"],
               eps=eps)

    layer_norm("layer_norm", r.random(4, 6))
    layer_norm("layer_norm_3d_33", r.random(2, 3, 33))
    layer_norm("layer_norm_large_eps", r.random(3, 5), eps=0.1)
    layer_norm("layer_norm_offset", r.random(3, 8) + 1e4)
    layer_norm("layer_norm_constant_rows", torch.full((2, 4), 3.0, dtype=torch.float64))
    r.case("layer_norm_plain", "layer_norm", {"x": r.random(3, 7)},
           lambda x: {"y": F.layer_norm(x, (7,), eps=1e-12)}, ["x"], eps=1e-12)


def embedding_and_loss(r):
    def embedding(name, ids, padding_id=None):
        attributes = {} if padding_id is None else {"padding_id": padding_id}
        r.case(name, "embedding", {"ids": ids, "table": r.random(6, 4)},
               lambda ids, table: {"y": F.embedding(ids, table, padding_idx=padding_id)}, ["table"], **attributes)

    embedding("embedding", torch.tensor([[0, 3, 3], [5, 3, 1]]))
    embedding("embedding_padding_id", torch.tensor([[0, 2, 0], [4, 0, 2]]), padding_id=0)

    def cross_entropy(name, logits, targets, **attributes):
        keywords = {"ignore_index": attributes.get("ignore_id", -100), "reduction": attributes.get("reduction", "mean"),
                    "label_smoothing": attributes.get("label_smoothing", 0.0)}
        r.case(name, "cross_entropy", {"logits": logits, "targets": targets},
               lambda logits, targets: {"loss": F.cross_entropy(logits, targets, **keywords)}, ["logits"], **attributes)

    targets = torch.tensor([0, 4, 2, 2, 1, 0])
    cross_entropy("cross_entropy", r.random(6, 5), targets)
    cross_entropy("cross_entropy_sum", r.random(6, 5), targets, reduction="sum")
    cross_entropy("cross_entropy_none", r.random(6, 5), targets, reduction="none")
    cross_entropy("cross_entropy_ignore", r.random(6, 5), targets, ignore_id=2)
    cross_entropy("cross_entropy_ignore_sum", r.random(6, 5), targets, ignore_id=0, reduction="sum")
    cross_entropy("cross_entropy_smoothing", r.random(6, 5), targets, label_smoothing=0.1)
    cross_entropy("cross_entropy_smoothing_ignore", r.random(6, 5), targets, label_smoothing=0.1, ignore_id=2)
    cross_entropy("cross_entropy_large", r.random(4, 7, scale=300.0), torch.tensor([6, 0, 3, 3]))


def attention(r):
    def record(name, queries, keys, width, value_width=None, heads=(2, 3), mask=None, bias=None, **attributes):
        inputs = {"q": r.random(*heads, queries, width), "k": r.random(*heads, keys, width),
                  "v": r.random(*heads, keys, value_width or width)}
        if mask is not None:
            inputs["mask"] = mask
        if bias is not None:
            inputs["bias"] = bias
        allowed = mask
        if attributes.get("causal"):
            lower = torch.ones(queries, keys, dtype=torch.bool).tril()
            allowed = lower if mask is None else lower & mask

        def run(q, k, v, mask=None, bias=None):
            return {"y": F.scaled_dot_product_attention(q, k, v, allowed if bias is None else bias,
                                                        scale=attributes.get("scale"))}

        r.case(name, "attention", inputs, run, ["q", "k", "v"] + (["bias"] if bias is not None else []), **attributes)

    lengths = torch.tensor([5, 2])
    padding = (torch.arange(5) < lengths[:, None])[:, None, None, :]
    record("attention", 4, 4, 3)
    record("attention_cross", 3, 6, 4)
    record("attention_one_head", 4, 5, 8, heads=(2, 1))
    record("attention_value_width", 4, 5, 3, value_width=6)
    record("attention_scale_1", 4, 4, 3, scale=1.0)
    record("attention_causal", 5, 5, 4, causal=True)
    record("attention_causal_33", 33, 33, 4, heads=(1, 1), causal=True)
    record("attention_key_padding", 5, 5, 4, mask=padding, lengths=lengths.tolist())
    record("attention_key_padding_causal", 5, 5, 4, mask=padding, lengths=lengths.tolist(), causal=True)
    record("attention_mask", 3, 6, 4, mask=r.integers(0, 2, 3, 6).bool() | (torch.arange(6) == 1))
    record("attention_bias", 4, 5, 3, bias=r.random(2, 3, 4, 5))
    blocked = torch.ones(4, 5, dtype=torch.bool)
    blocked[2] = False
    record("attention_blocked_row", 4, 5, 3, mask=blocked)

    def dot_head(s, states, mask, weight, bias):
        scores = torch.bmm(s, states.mT).masked_fill(~mask[:, None, :], float("-inf"))
        weights = scores.softmax(-1)
        return {"y": torch.tanh(F.linear(torch.cat([weights @ states, s], -1), weight, bias)), "weights": weights}

    r.case("dot_attention_head", "dot_attention_head",
           {"s": r.random(2, 4, 3), "states": r.random(2, 5, 3), "mask": padding[:, 0, 0],
            "weight": r.random(3, 6), "bias": r.random(3)},
           dot_head, ["s", "states", "weight", "bias"], order="context, state", scale=1.0)


def lstm(r):
    def record(name, batch, time, width, hidden, lengths=None, bidirectional=False, layers=1, bias=True, initial=False):
        module = nn.LSTM(width, hidden, layers, bias=bias, batch_first=True, bidirectional=bidirectional).double()
        names = [key for key, _ in module.named_parameters()]
        inputs = {"x": r.random(batch, time, width)}
        inputs.update({key: r.random(*value.shape, scale=0.5) for key, value in module.named_parameters()})
        directions = layers * (2 if bidirectional else 1)
        if initial:
            inputs.update({key: r.random(directions, batch, hidden) for key in ("h0", "c0")})
        differentiate = list(inputs)
        if lengths is not None:
            inputs["lengths"] = torch.tensor(lengths)

        def run(x, h0=None, c0=None, lengths=None, **weights):
            state = (h0, c0) if initial else None
            if lengths is None:
                y, (hn, cn) = torch.func.functional_call(module, weights, (x, state))
            else:
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
                y, (hn, cn) = torch.func.functional_call(module, weights, (packed, state))
                y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=time)
            return {"y": y, "hn": hn, "cn": cn}

        r.case(name, "lstm", inputs, run, differentiate, bidirectional=bidirectional, layers=layers, bias=bias,
               parameters=names)

    record("lstm", 2, 4, 3, 5)
    record("lstm_one_step", 1, 1, 3, 4)
    record("lstm_initial_state", 2, 3, 3, 4, initial=True)
    record("lstm_no_bias", 2, 3, 3, 4, bias=False)
    record("lstm_hidden_17", 2, 3, 2, 17, bias=False)
    record("lstm_lengths", 4, 5, 3, 4, lengths=[2, 5, 1, 4])
    record("lstm_lengths_initial_state", 3, 5, 3, 4, lengths=[5, 3, 3], initial=True)
    record("lstm_lengths_short", 2, 5, 3, 4, lengths=[3, 2])
    record("lstm_bidirectional", 2, 4, 3, 4, bidirectional=True)
    record("lstm_bidirectional_lengths", 4, 5, 3, 4, lengths=[2, 5, 1, 4], bidirectional=True)
    record("lstm_bidirectional_lengths_state", 3, 4, 2, 3, lengths=[1, 4, 2], bidirectional=True, initial=True)
    record("lstm_two_layers", 2, 4, 3, 3, layers=2)


def blocks(r):
    def record(name, norm_first, activation):
        module = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation=activation, batch_first=True,
                                            norm_first=norm_first).double().train()
        inputs = {"x": r.random(2, 4, 8)}
        inputs.update({key: r.random(*value.shape, scale=0.5) for key, value in module.named_parameters()})
        inputs["mask"] = torch.arange(4) < torch.tensor([4, 2])[:, None]

        def run(x, mask, **weights):
            y = torch.func.functional_call(module, weights, (x,), {"src_key_padding_mask": ~mask})
            return {"y": y}

        r.case(name, "encoder_layer", inputs, run, [key for key in inputs if key != "mask"], heads=2, eps=1e-5,
               norm="pre" if norm_first else "post", activation=activation, note="in_proj_weight stacks W_Q, W_K, W_V")

    record("encoder_layer_pre_norm", True, "gelu")
    record("encoder_layer_post_norm", False, "relu")


def optimizers(r):
    steps = 3

    def record(name, op, factory, attributes, state):
        inputs = {"p": r.random(3, 2)}
        inputs.update({f"g{i}": r.random(3, 2) for i in range(1, steps + 1)})

        def run(p, **gradients):
            parameter = nn.Parameter(p.detach().clone())
            optimizer = factory([parameter], **attributes)
            outputs = {}
            for i in range(1, steps + 1):
                parameter.grad = gradients[f"g{i}"].clone()
                optimizer.step()
                outputs[f"p{i}"] = parameter.detach().clone()
            outputs.update({key: optimizer.state[parameter][key].clone() for key in state})
            return outputs

        r.case(name, op, inputs, run, steps=steps, **attributes)

    sgd, moments = torch.optim.SGD, ["exp_avg", "exp_avg_sq"]
    record("sgd", "sgd", sgd, {"lr": 0.1}, [])
    record("sgd_weight_decay", "sgd", sgd, {"lr": 0.1, "weight_decay": 0.05}, [])
    record("sgd_momentum", "sgd", sgd, {"lr": 0.1, "momentum": 0.9}, ["momentum_buffer"])
    record("sgd_momentum_weight_decay", "sgd", sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05},
           ["momentum_buffer"])
    record("sgd_nesterov", "sgd", sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, ["momentum_buffer"])
    common = {"lr": 0.01, "betas": [0.9, 0.98], "eps": 1e-8}
    record("adam", "adam", torch.optim.Adam, common, moments)
    record("adam_weight_decay", "adam", torch.optim.Adam, {**common, "weight_decay": 0.05}, moments)
    record("adamw", "adamw", torch.optim.AdamW, {**common, "weight_decay": 0.0}, moments)
    record("adamw_weight_decay", "adamw", torch.optim.AdamW, {**common, "weight_decay": 0.05}, moments)
    record("adamw_large_eps", "adamw", torch.optim.AdamW, {**common, "eps": 0.1, "weight_decay": 0.01}, moments)

    def clip(name, scale, max_norm):
        def run(g0, g1):
            parameters = [nn.Parameter(torch.zeros_like(g)) for g in (g0, g1)]
            for parameter, g in zip(parameters, (g0, g1)):
                parameter.grad = g.clone()
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            return {"norm": norm, "g0": parameters[0].grad, "g1": parameters[1].grad}

        r.case(name, "clip_grad_norm", {"g0": r.random(3, 4, scale=scale), "g1": r.random(5, scale=scale)}, run,
               max_norm=max_norm, note="factor = min(1, max_norm / (norm + 1e-6))")

    clip("clip_grad_norm_above", 2.0, 1.0)
    clip("clip_grad_norm_below", 0.01, 1.0)
    clip("clip_grad_norm_zero", 0.0, 1.0)


def build():
    r = Recorder()
    for group in (pointwise, products, normalisations, embedding_and_loss, attention, lstm, blocks, optimizers):
        r.generator.manual_seed(20)  # per group, so that a case added to one group leaves the others' numbers alone
        group(r)
    return r


def check(r, index, tensors_path, index_path):
    if json.loads(index_path.read_text(encoding="utf-8"))["cases"] != json.loads(json.dumps(index["cases"])):
        sys.exit(f"{index_path.name}: lists other cases; run this script without --check")
    recorded = safetensors.torch.load_file(tensors_path)
    if recorded.keys() != r.tensors.keys():
        sys.exit(f"{tensors_path.name}: holds other tensors: {sorted(recorded.keys() ^ r.tensors.keys())[:5]}")
    worst = 0.0
    for name, value in r.tensors.items():
        difference = (recorded[name].double() - value.double()).abs()
        scale = value.double().abs().max().clamp_min(1.0) if value.numel() else torch.tensor(1.0)
        relative = float((difference / scale).max()) if value.numel() else 0.0
        if not relative <= 1e-12:
            sys.exit(f"{name}: differs by {relative:.2e} from the recorded values; expected at most 1e-12")
        worst = max(worst, relative)
    print(f"{len(r.cases)} cases agree with the recorded ones; largest relative difference {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the recorded files instead of writing them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    r = build()
    version = torch.__version__.split("+")[0]
    index = {"format": 1, "torch": version, "tensors": "torch_ops.safetensors", "cases": r.cases}
    tensors_path, index_path = HERE / "torch_ops.safetensors", HERE / "torch_ops.json"
    if args.check:
        check(r, index, tensors_path, index_path)
        return
    safetensors.torch.save_file(r.tensors, tensors_path, metadata={"torch": version})
    lines = ",\n".join("  " + json.dumps(case) for case in r.cases)
    head = json.dumps({key: value for key, value in index.items() if key != "cases"})
    index_path.write_text(head[:-1] + ', "cases": [\n' + lines + "\n]}\n", encoding="utf-8")
    size = tensors_path.stat().st_size
    if size > SIZE_LIMIT:
        sys.exit(f"{tensors_path.name}: {size} bytes; expected at most {SIZE_LIMIT}")
    print(f"{len(r.cases)} cases, {len(r.tensors)} tensors, {size} bytes")


if __name__ == "__main__":
    main()
