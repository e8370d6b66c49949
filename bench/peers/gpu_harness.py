"""What the GPU peers share: options, timing by graphs, and the description of what PyTorch chose.

Kernels are timed as bench_gpu times ours: a CUDA graph of many calls on operands that take turns, replayed; a call that
cannot be captured is timed eagerly and says so. Steps are timed by wall clock over a hundred and more, with one wait at
the end. On the CPU (--device cpu, for dry runs) everything is timed eagerly.
"""
import argparse
import json
import math
import time

import torch

LARGE_BYTES = 126e6


def parser(description):
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a dry run")
    result.add_argument("--tiny", action="store_true", help="small shapes, each run a few times: times nothing")
    result.add_argument("--seconds", type=float, default=0.25, help="time to spend on each case")
    result.add_argument("--only", default="", help="cases whose name has this in it")
    result.add_argument("--seed", type=int, default=0)
    return result


def setup(args):
    torch.manual_seed(args.seed)
    args.on_gpu = args.device.startswith("cuda")
    if args.on_gpu:
        if not torch.cuda.is_available():
            raise SystemExit(f"--device {args.device}: this PyTorch sees no GPU; try --device cpu for a dry run")
        torch.cuda.set_device(torch.device(args.device))
    else:
        torch.set_num_threads(1)  # OpenMP's spinning would take minutes on a busy machine, and nothing is timed
    torch.set_default_device(args.device)


def wait(args):
    if args.on_gpu:
        torch.cuda.synchronize()


def sample(args, block, each, seconds):
    """Seconds of one of `each`, over at least five blocks with one wait each."""
    wait(args)
    taken = []
    begin = time.perf_counter()
    while len(taken) < 5 or (time.perf_counter() - begin < seconds and len(taken) < 1000):
        start = time.perf_counter()
        block()
        wait(args)
        taken.append((time.perf_counter() - start) / each)
    taken.sort()

    def at(share):
        return round(taken[int(share * (len(taken) - 1) + 0.5)] * 1e6, 4)

    return {"us": at(0.5), "least_us": at(0), "p90_us": at(0.9), "blocks": len(taken), "repeats": each}


def time_kernel(args, call, sets):
    """call(i) runs the case on the i-th set of operands."""
    call(0)
    wait(args)
    start = time.perf_counter()
    call(sets - 1)
    wait(args)
    once = time.perf_counter() - start
    turns = 1 if args.tiny else min(max(int(2e-3 / once / sets), 1), max(1, 100 // sets))
    copies = turns * sets

    def eager():
        for i in range(copies):
            call(i % sets)

    replay, how = eager, "eager"
    if args.on_gpu:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(3):
                call(i % sets)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                eager()
            replay, how = graph.replay, "graph"
        except RuntimeError as error:
            how = f"eager: {str(error).splitlines()[0][:80]}"
            torch.cuda.synchronize()
    replays = 1 if args.tiny else min(max(int(0.02 / once / copies), 1), 50)

    def block():
        for _ in range(replays):
            replay()

    return {**sample(args, block, copies * replays, 0 if args.tiny else args.seconds), "how": how}


def sets_for(args, byte_count):
    return min(max(math.ceil(LARGE_BYTES / byte_count), 1), 2 if args.tiny else 32)


def description(args):
    """Versions and the switches that decide what is compared with what."""
    result = {"torch": torch.__version__, "device": "cpu", "cudnn": torch.backends.cudnn.version(),
              "allow_tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32,
                             "cudnn": torch.backends.cudnn.allow_tf32}}
    if args.on_gpu:
        result |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return result


def emit(**fields):
    """A line of JSON now: what was measured stays if the rest is cut short."""
    print(json.dumps(fields), flush=True)


def begin(bench, args):
    emit(bench=bench, engine="pytorch", tiny=args.tiny, **description(args))
