"""The sizes that bench/growth.py measures, and the series of them that its plot draws."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    kind: str
    options: str  # of bench_growth and bench/peers/growth.py


def product(m, n, k, layout="nn"):
    name = f"product-{m}" if m == n == k else f"product-{m}x{n}x{k}-{layout}"
    return Case(name, "product", f"--case product --m {m} --n {n} --k {k} --layout {layout}")


def products_of(tokens, given, made):
    """Those of a linear layer: its result, the gradient of its input, that of its weight [made, given]."""
    return [product(tokens, made, given, "nt"), product(tokens, given, made, "nn"), product(made, given, tokens, "tn")]


def lstm(batch, time, hidden, given=None):
    given = given or hidden
    return Case(f"lstm-b{batch}-t{time}-i{given}-h{hidden}", "lstm",
                f"--case lstm --batch {batch} --time {time} --input {given} --hidden {hidden}")


def encoder(width, time, blocks, batch=16):
    return Case(f"encoder-b{batch}-t{time}-d{width}-n{blocks}", "encoder",
                f"--case encoder --batch {batch} --time {time} --width {width} --blocks {blocks}")


@dataclasses.dataclass(frozen=True)
class Series:
    title: str
    axis: str
    points: dict  # size: case


SERIES = [
    Series("product, n cubed, a row", "n", {n: product(n, n, n) for n in (64, 128, 256, 512, 1024, 2048)}),
    Series("LSTM, B 64, T 50", "H", {h: lstm(64, 50, h) for h in (64, 128, 256, 512, 1024)}),
    Series("LSTM, T 20, H 128", "B", {b: lstm(b, 20, 128) for b in (1, 4, 16, 64, 256)}),
    Series("LSTM, T 50, H 512", "B", {b: lstm(b, 50, 512) for b in (1, 16, 64, 256)}),
    Series("encoder, T 128, 2 blocks", "D", {d: encoder(d, 128, 2) for d in (128, 256, 512, 768)}),
    Series("encoder, D 256, 2 blocks", "T", {t: encoder(256, t, 2) for t in (20, 64, 128, 256, 512)}),
    Series("encoder, D 256, T 128", "blocks", {n: encoder(256, 128, n) for n in (1, 2, 4)}),
]

LAYERS = [
    *products_of(64, 128, 512),      # an LSTM's time step, H 128
    *products_of(1280, 128, 512),    # its input, 20 time steps; a feed-forward layer, D 128
    *products_of(64, 512, 2048),     # a time step, H 512
    *products_of(2048, 512, 512),    # a projection, D 512
    *products_of(1024, 768, 3072),   # a feed-forward layer, D 768
    product(1280, 7, 128, "nt"),     # logits of letters
    product(1, 512, 128, "nt"),      # a time step of one sequence
]

CASES = list({case.name: case for case in [
    *SERIES[0].points.values(), *LAYERS, lstm(64, 20, 128, 64), lstm(64, 20, 256), lstm(64, 20, 512),
    *(case for series in SERIES[1:] for case in series.points.values())]}.values())

# Measured in every run: a step's floor is its arithmetic at the best rate of these and any other product measured.
FOR_FLOORS = {product(512, 512, 512).name, product(1280, 512, 128, "nt").name}
QUICK = {product(512, 512, 512).name, product(1280, 512, 128, "nt").name, lstm(64, 20, 128, 64).name,
         lstm(64, 20, 256).name, encoder(128, 128, 2).name}
