"""What the PyTorch benchmarks share: options and timing (timing.py), set-up, and the one JSON line they print."""
import json
import os
import platform

import torch

import timing

parser, measure = timing.parser, timing.measure


def setup(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)


def adam(parameters, kind, lr=1e-3):
    """PyTorch's Adam in one of its three implementations; all three compute the same update."""
    return torch.optim.Adam(parameters, lr=lr, fused=kind == "fused", foreach=kind == "foreach")


def parameter_count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def emit(bench, main, **fields):
    """One line: the main measurement's figures on the top level, then whatever describes the run."""
    environment = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads(),
                   "isa": torch.backends.cpu.get_cpu_capability(), "cpus": sorted(os.sched_getaffinity(0))}
    print(json.dumps({"bench": bench, "engine": "pytorch", **main, **fields, **environment}), flush=True)
