#!/usr/bin/env python3
"""One training step of string reversal in PyTorch: encoder LSTM, decoder LSTM, optional dot attention, Adam.

Attention is Luong's with dot scores: softmax(s_t . h_s) over the source, then tanh(W_c [c_t ; s_t]).
--form fused runs each LSTM over the whole sequence and attends for all steps at once, the fastest eager form of a
teacher-forced step; --form step unrolls the decoder in Python, the way a practical is written.
--encoder padded skips packing. With unequal lengths that is another function (the decoder starts from a state that has
read padding), given only because it lets PyTorch use its fused oneDNN LSTM; `auto` packs exactly when lengths differ.
"""
import torch
import torch.nn.functional as F
from torch import nn

import batches as synthetic
import harness

IGNORED = -100


class Reverser(nn.Module):
    def __init__(self, vocab, embedding, hidden, attention, one_hot):
        super().__init__()
        self.attention = attention

        def table():
            if one_hot:
                return nn.Embedding.from_pretrained(torch.eye(vocab), freeze=True)
            return nn.Embedding(vocab, embedding)

        self.source_embedding, self.target_embedding = table(), table()
        width = vocab if one_hot else embedding
        self.encoder = nn.LSTM(width, hidden, batch_first=True)
        self.decoder = nn.LSTM(width, hidden, batch_first=True)
        if attention:
            self.combine = nn.Linear(2 * hidden, hidden)
        self.output = nn.Linear(hidden, vocab)

    def encode(self, batch, packed):
        x = self.source_embedding(batch["source"])
        if not packed:
            return self.encoder(x)
        x = nn.utils.rnn.pack_padded_sequence(x, batch["lengths"], batch_first=True, enforce_sorted=False)
        states, last = self.encoder(x)
        return nn.utils.rnn.pad_packed_sequence(states, batch_first=True)[0], last

    def head(self, s, states, hidden_positions):
        if self.attention:
            scores = torch.bmm(s, states.transpose(1, 2))
            if hidden_positions is not None:
                scores = scores.masked_fill(hidden_positions, float("-inf"))
            s = torch.tanh(self.combine(torch.cat([torch.bmm(scores.softmax(-1), states), s], -1)))
        return self.output(s)

    def forward(self, batch, packed, form):
        states, last = self.encode(batch, packed)
        x = self.target_embedding(batch["target_in"])
        if form == "fused":
            return self.head(self.decoder(x, last)[0], states, batch["mask"])
        logits = []
        for t in range(x.size(1)):
            s, last = self.decoder(x[:, t:t + 1], last)
            logits.append(self.head(s, states, batch["mask"]))
        return torch.cat(logits, 1)


def to_tensors(rows, begin, end, marked_source):
    """Pads with 0. The decoder reads <begin> reversed and is asked for reversed <end>."""
    source = [torch.tensor([begin, *row, end] if marked_source else row) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    reversed_rows = [row[::-1] for row in rows]
    lengths = torch.tensor([len(row) for row in source])
    padded = pad(source, batch_first=True)
    ragged = bool(lengths.min() < lengths.max())
    mask = (torch.arange(padded.size(1)) >= lengths[:, None]).unsqueeze(1) if ragged else None
    return {"source": padded, "lengths": lengths, "mask": mask,
            "target_in": pad([torch.tensor([begin, *row]) for row in reversed_rows], batch_first=True),
            "target_out": pad([torch.tensor([*row, end]) for row in reversed_rows], batch_first=True,
                              padding_value=IGNORED)}


def parse():
    parser = harness.parser(__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=["default", "practical10"], default="default",
                        help="practical10: frozen one-hot 6 -> 64, marked source, SGD 0.5, batch 1, lengths 3..14")
    parser.add_argument("--attention", choices=["dot", "none"], default="dot")
    parser.add_argument("--batch", type=int, help="default 64; practical10: 1")
    parser.add_argument("--min-length", type=int, help="default 1, or --max-length for batch 1; practical10: 3")
    parser.add_argument("--max-length", type=int, help="default 20; practical10: 14")
    parser.add_argument("--embedding", type=int, default=64)
    parser.add_argument("--hidden", type=int, help="default 128; practical10: 64")
    parser.add_argument("--form", choices=["fused", "step"], default="fused")
    parser.add_argument("--encoder", choices=["auto", "packed", "padded"], default="auto")
    parser.add_argument("--adam", choices=["fused", "foreach", "loop"], default="fused")
    parser.add_argument("--count", type=int, help="number of batches (default max(8, 64 / batch))")
    parser.add_argument("--batches", metavar="FILE", help="read batches that batches.py wrote")
    parser.add_argument("--parts", action="store_true", help="also time the forward pass, and forward plus backward")
    args = parser.parse_args()
    practical = args.preset == "practical10"
    args.batch = args.batch or (1 if practical else 64)
    args.max_length = args.max_length or (14 if practical else 20)
    args.min_length = args.min_length or (3 if practical else args.max_length if args.batch == 1 else 1)
    args.hidden = args.hidden or (64 if practical else 128)
    return args, practical


def main():
    args, practical = parse()
    harness.setup(args)
    begin, end, first_letter = (0, 1, 2) if practical else (1, 2, 3)
    rows = (synthetic.read(args.batches, "reverse") if args.batches else
            synthetic.reverse_batches(args.batch, args.min_length, args.max_length, first_letter, 4, args.seed,
                                      args.count))
    data = [to_tensors(batch["rows"], begin, end, practical) for batch in rows]
    ragged = any(batch["mask"] is not None for batch in data)
    packed = args.encoder == "packed" or (args.encoder == "auto" and ragged)
    model = Reverser(first_letter + 4, args.embedding, args.hidden, args.attention == "dot", practical)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5) if practical else harness.adam(trained, args.adam)
    turn = 0

    def loss():
        nonlocal turn
        batch = data[turn % len(data)]
        turn += 1
        logits = model(batch, packed, args.form)
        return F.cross_entropy(logits.flatten(0, 1), batch["target_out"].flatten(), ignore_index=IGNORED)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()

    def forward():
        with torch.no_grad():
            loss()

    def forward_backward():
        optimizer.zero_grad(set_to_none=True)
        loss().backward()

    result = harness.measure(step, len(data), args.seconds)
    parts = {}
    if args.parts:
        parts = {"forward": harness.measure(forward, len(data), args.seconds),
                 "forward_backward": harness.measure(forward_backward, len(data), args.seconds)}
    harness.emit("reverse_step", result, preset=args.preset, attention=args.attention, batch=args.batch,
                 lengths=[args.min_length, args.max_length], form=args.form, encoder="packed" if packed else "padded",
                 optimizer="sgd" if practical else f"adam-{args.adam}", parameters=harness.parameter_count(model),
                 tokens_per_step=round(sum(int(b["lengths"].sum()) for b in data) / len(data), 2),
                 batches_hash=synthetic.fingerprint(rows), **({"parts": parts} if parts else {}))


if __name__ == "__main__":
    main()
