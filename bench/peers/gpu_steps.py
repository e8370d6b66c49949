#!/usr/bin/env python3
"""The training steps of bench_gpu in PyTorch, on the same batches: eager, and the whole step captured in a CUDA graph.

The graph holds forward, backward and Adam (fused and capturable) and reads its batch from fixed tensors, into which
each step copies, as ours does. Strings of unequal lengths are packed when eager, which a graph cannot be: there they
run padded, another function of the same cost or less. torch.compile is left out: it breaks graphs at nn.LSTM.
"""
import math
import sys

import torch
import torch.nn.functional as F

import batches as synthetic
import gpu_harness as harness
import headline_step
import reverse_step


def moved(batch, device):
    """A copy on the device; lengths stay on the CPU too, where packing wants them."""
    result = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
    if "lengths" in batch:
        result["lengths"] = batch["lengths"]
    return result


class Step:
    """One training step on the next of its batches; `graphed` replays a captured one."""

    def __init__(self, args, model, loss, data, graphed):
        self.args, self.model, self.loss, self.data, self.turn = args, model, loss, data, 0
        kind = {"fused": True, "capturable": True} if args.on_gpu else {"fused": True}
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, **kind)
        self.graph = None
        if graphed:
            self.capture()

    def plain(self, batch):
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss(batch)
        value.backward()
        self.optimizer.step()
        return value.detach()

    def capture(self):
        self.fixed = {key: value.clone() if torch.is_tensor(value) else value for key, value in self.data[0].items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.plain(self.fixed)
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.value = self.plain(self.fixed)

    def __call__(self):
        batch = self.data[self.turn % len(self.data)]
        self.turn += 1
        if self.graph is None:
            return self.plain(batch)
        for key, value in self.fixed.items():
            if torch.is_tensor(value) and value.device.type == "cuda":
                value.copy_(batch[key])
        self.graph.replay()
        return self.value


def run(args, name, make, data, lines, how, **fields):
    try:
        step = make(data, how == "graph")
        first = float(step())
        for _ in range(2 if args.tiny else 2 * len(data)):
            step()
        replays = 3 if args.tiny else 104

        def block():
            for _ in range(replays):
                step()

        line = {"name": name, "how": how, **harness.sample(args, block, replays, 0 if args.tiny else 2 * args.seconds),
                "parameters": sum(p.numel() for p in step.model.parameters()), "first_loss": round(first, 6),
                "last_loss": round(float(step()), 6), **fields}
        if not math.isfinite(line["last_loss"]):
            line["failed"] = "the loss is not finite"
    except RuntimeError as error:
        line = {"name": name, "how": how, "failed": str(error).splitlines()[0][:200]}
        if args.on_gpu:
            torch.cuda.synchronize()
    lines.append(line)
    harness.emit(step=line)
    print(f"{name + ' ' + how:<44}{line.get('us', 'failed'):>12}", file=sys.stderr)


def reverse(args, lines, hows, hidden, attention, ragged):
    name = f"reverse-h{hidden}-{attention}" + ("-ragged" if ragged else "")
    if args.only not in name:
        return
    longest = 4 if args.tiny else 20
    rows = synthetic.reverse_batches(4 if args.tiny else 64, 1 if ragged else longest, longest, 3, 4, args.seed)
    with torch.device("cpu"):
        made = [reverse_step.to_tensors(batch["rows"], 1, 2, False) for batch in rows]
    # All batches as wide as the longest string could be, as ours are, so that one graph fits all.
    data = [moved({key: F.pad(value, (0, (longest + (key != "source")) - value.size(1)),
                              value=reverse_step.IGNORED if key == "target_out" else 0)
                   if key in ("source", "target_in", "target_out") else value for key, value in batch.items()},
                  args.device) for batch in made]
    if ragged:
        for batch in data:
            batch["mask"] = (torch.arange(longest) >= batch["lengths"].to(args.device)[:, None]).unsqueeze(1)

    def make(batches, graphed):
        torch.manual_seed(args.seed)
        model = reverse_step.Reverser(7, 64, hidden, attention == "dot", False)
        packed = ragged and not graphed

        def loss(batch):
            logits = model({**batch, "mask": batch["mask"][:, :, :max(batch["lengths"])]} if packed else batch, packed,
                           "fused")
            return F.cross_entropy(logits.flatten(0, 1), batch["target_out"].flatten(), ignore_index=reverse_step.IGNORED)
        return Step(args, model, loss, batches, graphed)

    for how in hows:
        encoder = "packed" if ragged and how == "eager" else "padded"
        run(args, name, make, data, lines, how, encoder=encoder, batches_hash=synthetic.fingerprint(rows))


def headline(args, lines, hows, name, encoder, batch, width):
    if args.only not in name:
        return
    longest, vocab = (6, 200) if args.tiny else (20, 20000)
    rows = synthetic.headline_batches(4 if args.tiny else batch, longest, vocab, args.seed)
    with torch.device("cpu"):
        made = [headline_step.to_tensors(b) for b in rows]
    data = [{key: value.to(args.device) for key, value in b.items()} for b in made]

    def make(batches, graphed):
        torch.manual_seed(args.seed)
        model = headline_step.Classifier(vocab, width, width, encoder, False)
        model.train()
        return Step(args, model, lambda b: F.cross_entropy(model(b), b["labels"]), batches, graphed)

    for how in hows:
        run(args, name, make, data, lines, how, batches_hash=synthetic.fingerprint(rows))


def main():
    args = harness.parser(__doc__.split("\n", maxsplit=1)[0]).parse_args()
    harness.setup(args)
    hows = ["eager", "graph"] if args.on_gpu else ["eager"]
    lines = []
    harness.begin("gpu_steps", args)
    for ragged in (False, True):
        for hidden in (64, 128):
            for attention in ("none", "dot"):
                if not args.tiny or (hidden == 64 and not ragged):
                    reverse(args, lines, hows, hidden, attention, ragged)
    headline(args, lines, hows, "lstm-b64-d64", False, 64, 64)
    headline(args, lines, hows, "lstm-encoder-b64-d64", True, 64, 64)
    if not args.tiny:
        headline(args, lines, hows, "lstm-encoder-b512-d128", True, 512, 128)
    if not lines:
        raise SystemExit(f"--only {args.only}: no step has that in its name")


if __name__ == "__main__":
    main()
