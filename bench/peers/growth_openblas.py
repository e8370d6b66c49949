"""Products of growth.py by numpy, whose packages come with OpenBLAS."""
import numpy as np


def versions():
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {"numpy": np.__version__, "blas": f"{blas['name']} {blas['version']}"}


def setup(args):
    if "openblas" not in versions()["blas"]:
        raise SystemExit(f"growth: numpy multiplies with {versions()['blas']}; expected OpenBLAS, as in PyPI's numpy")


def prepare(args):
    random = np.random.default_rng(args.seed)

    def operand(rows, columns, transposed):
        shape = (columns, rows) if transposed else (rows, columns)
        made = random.standard_normal(shape, dtype=np.float32)
        return made.T if transposed else made

    a, b = operand(args.m, args.k, args.layout == "tn"), operand(args.k, args.n, args.layout == "nt")
    result = np.empty((args.m, args.n), dtype=np.float32)
    return lambda: np.matmul(a, b, out=result), {}
