"""How the peers are timed, whatever their engine, and their common options.

Batches differ in length and the machine may be shared, so each batch is timed on its own in every pass. min_ms is the
mean over batches of that batch's best pass, median_ms the mean of the medians: a disturbance spoils one sample, not a
pass, and short batches do not pass for fast ones. Work without batches is timed in blocks of at least 2 ms.
"""
import argparse
import statistics
import time

BLOCK_SECONDS = 2e-3
MIN_PASSES = 5
WARMUP_PASSES = 2
OVERRUN = 5  # times --seconds; on an overcommitted machine OpenMP's spinning makes a step a hundred times slower


def parser(description):
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--threads", type=int, default=1, help="intra-op threads; pin with taskset yourself")
    result.add_argument("--seed", type=int, default=0, help="seeds the weights and the batches")
    result.add_argument("--seconds", type=float, default=3.0, help="time to spend on each measured part")
    result.add_argument("--json", action="store_true", help="no effect: output is always JSON, as ours is with it")
    return result


def measure(call, batches=1, seconds=3.0):
    """Times `call`, which takes the next of `batches` batches each time, and returns milliseconds per call."""
    begin = time.perf_counter()
    for _ in range(WARMUP_PASSES):
        start = time.perf_counter()
        for _ in range(batches):
            call()
        one_pass = time.perf_counter() - start
        if time.perf_counter() - begin > seconds:
            break
    repeats = max(1, round(BLOCK_SECONDS / one_pass)) if batches == 1 else 1
    samples = [[] for _ in range(batches)]
    begin = time.perf_counter()
    passes, elapsed = 0, 0.0
    while elapsed < seconds or (passes < MIN_PASSES and elapsed < OVERRUN * seconds):
        for sample in samples:
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            sample.append((time.perf_counter() - start) / repeats * 1e3)
        passes += 1
        elapsed = time.perf_counter() - begin

    def mean(figure):
        return round(statistics.fmean(figure(sample) for sample in samples), 6)

    return {"min_ms": mean(min), "median_ms": mean(statistics.median), "passes": passes, "repeats": repeats}
