#!/usr/bin/env python3
"""One training step of a headline classifier in PyTorch: embedding 100, LSTM 128, perhaps an encoder block.

lstm takes the last real state; lstm-encoder adds one pre-norm block (4 heads, feed-forward 512, erf GELU) over every
state and averages the real positions. The LSTM runs padded: it is causal, so states at real positions are exact, and
PyTorch is fastest so. --embedding-gradient sparse gives the embedding a sparse gradient and SparseAdam, the rest Adam.
"""
import torch
import torch.nn.functional as F
from torch import nn

import batches as synthetic
import harness


class Classifier(nn.Module):
    def __init__(self, vocab, embedding, hidden, encoder, sparse):
        super().__init__()
        self.embedding = nn.Embedding(vocab, embedding, sparse=sparse)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.block = nn.TransformerEncoderLayer(hidden, 4, 512, dropout=0.0, activation="gelu", batch_first=True,
                                                norm_first=True) if encoder else None
        self.output = nn.Linear(hidden, 2)

    def forward(self, batch):
        states, _ = self.lstm(self.embedding(batch["ids"]))
        if self.block is None:
            return self.output(states[batch["row"], batch["last"]])
        states = self.block(states, src_key_padding_mask=batch["padding"])
        return self.output((states * batch["weight"]).sum(1))


def to_tensors(batch):
    rows = batch["rows"]
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    padding = torch.arange(ids.size(1)) >= lengths[:, None]
    return {"ids": ids, "row": torch.arange(len(rows)), "last": lengths - 1, "padding": padding,
            "weight": ((~padding) / lengths[:, None]).unsqueeze(-1), "labels": torch.tensor(batch["labels"])}


def main():
    parser = harness.parser(__doc__.split("\n")[0])
    parser.add_argument("--model", choices=["lstm", "lstm-encoder"], default="lstm")
    parser.add_argument("--embedding-gradient", choices=["dense", "sparse"], default="dense")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=20, help="longest headline; lengths are 5..LENGTH")
    parser.add_argument("--vocab", type=int, default=20000)
    parser.add_argument("--embedding", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--adam", choices=["fused", "foreach", "loop"], default="fused")
    parser.add_argument("--count", type=int, help="number of batches (default max(8, 64 / batch))")
    parser.add_argument("--batches", metavar="FILE", help="read batches that batches.py wrote")
    parser.add_argument("--parts", action="store_true", help="also time forward, and forward plus backward")
    args = parser.parse_args()
    harness.setup(args)
    rows = (synthetic.read(args.batches, "headline") if args.batches else
            synthetic.headline_batches(args.batch, args.length, args.vocab, args.seed, args.count))
    data = [to_tensors(batch) for batch in rows]
    sparse = args.embedding_gradient == "sparse"
    model = Classifier(args.vocab, args.embedding, args.hidden, args.model == "lstm-encoder", sparse)
    model.train()
    if sparse:
        rest = [p for name, p in model.named_parameters() if not name.startswith("embedding.")]
        table = list(model.embedding.parameters())
        optimizers = [torch.optim.SparseAdam(table, lr=1e-3), harness.adam(rest, args.adam)]
    else:
        optimizers = [harness.adam(model.parameters(), args.adam)]
    turn = 0

    def loss():
        nonlocal turn
        batch = data[turn % len(data)]
        turn += 1
        return F.cross_entropy(model(batch), batch["labels"])

    def step():
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss().backward()
        for optimizer in optimizers:
            optimizer.step()

    def forward():
        with torch.no_grad():
            loss()

    def forward_backward():
        model.zero_grad(set_to_none=True)
        loss().backward()

    result = harness.measure(step, len(data), args.seconds)
    parts = {}
    if args.parts:
        parts = {"forward": harness.measure(forward, len(data), args.seconds),
                 "forward_backward": harness.measure(forward_backward, len(data), args.seconds)}
    harness.emit("headline_step", result, model=args.model, embedding_gradient=args.embedding_gradient,
                 batch=args.batch, length=args.length, vocab=args.vocab, optimizer=f"adam-{args.adam}",
                 parameters=harness.parameter_count(model),
                 tokens_per_step=round(sum(len(row) for b in rows for row in b["rows"]) / len(rows), 2),
                 batches_hash=synthetic.fingerprint(rows), **({"parts": parts} if parts else {}))


if __name__ == "__main__":
    main()
