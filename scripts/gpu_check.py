"""The stages of scripts/gpu_check.sh, which says what this is for.

Each task has a time limit and ends as passed, failed, or not present (with the reason). The record is written after every
task, so that what is done stays done: when the machine is taken away, on Ctrl-C (which ends the programs that run and
notes what did not), and when stages are run one by one: a record of the same day, GPU and version keeps its other stages.
Tasks of a stage that do not measure run side by side.
"""
import argparse
import concurrent.futures
import ctypes
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

import gpu_report

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = ["build", "tests", "sanitizer", "train", "bench"]
SANITIZER = ["memcheck", "racecheck", "initcheck", "synccheck"]
# One sample set of every family of kernels, forward and backward, in the dtypes that training uses.
SANITIZED = ":".join(f"*Sweep.Precision_is_that_of_its_reference/{op}" for op in (
    "attention", "lstm", "layer_norm", "add_layer_norm", "cross_entropy", "embedding", "matmul", "linear", "softmax",
    "sum", "concat", "dropout", "gelu", "mul"))
# What must have run, whatever else did: none of these may be missing unnoticed.
KINDS = ["Equals_its_reference_in_f64", "Gradient_equals_finite_differences", "Precision_is_that_of_its_reference",
         "Layout_does_not_change_a_bit", "Replay_equals_the_plain_run", "Runs_and_threads_give_equal_bits",
         "Accumulating_twice_is_exactly_double", "Bad_inputs_throw_their_message", "Step"]
# NVIDIA's libraries in place of our own kernels: the option, and the tests of what they do.
LIBRARIES = {"cuBLASLt": ("--gemm-backend=cublaslt", "*Sweep.*/matmul:*Sweep.*/linear*:Golden.*:Seq2Seq.*:Step.*:-*Planted*"),
             "cuDNN": ("--lstm-backend=cudnn", "*Sweep.*/lstm*:Golden.*:Lstm.*:Seq2Seq.*:Step.*:-*Planted*"),
             "cuDNN's attention": ("--attention-backend=cudnn", "*Sweep.*/attention:AttentionByHand.*:Encoder.*:"
                                   "*Classifiers.*:Golden.*:Seq2Seq.*:Step.*:-*Planted*")}
# What the executor runs within the dry run's minute and a half: each kind of test once.
TINY_ENGINE = "*Sweep.*/layer_norm:*Sweep.*/matmul:Step.Trains_bit_for_bit_like_the_plain_loop:-*Planted_faults*"
TINY_CONTRACTS = "StepAdvance.*:RandomAdvance.*:GlobalNorm.Does_not_overflow_on_the_squares"


# Seconds for each task. On 16 cores all stages together take less than ten minutes.
LIMITS = {"configure": 60, "compile": 300, "tests": 150, "sanitizer": 90, "train": 60, "bench": 150}


class DeviceMissing(Exception):
    pass


def find_gpu(index):
    """Name and compute capability, from the driver itself. Raises DeviceMissing with the reason."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise DeviceMissing("driver not found: libcuda.so.1") from None
    status = driver.cuInit(0)
    if status != 0:
        raise DeviceMissing(f"the driver found none: status {status}")
    count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if index >= count.value:
        raise DeviceMissing(f"the machine has {count.value}, numbered from 0")
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, 256, device)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return name.value.decode(), 10 * capability[0] + capability[1]


def output_of(command):
    """What a command prints, or None if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def smi(index):
    fields = ["name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw",
              "power.limit", "temperature.gpu", "clocks_event_reasons.active"]
    text = output_of(["nvidia-smi", f"--id={index}", "--query-gpu=" + ",".join(fields), "--format=csv,noheader"])
    values = [value.strip() for value in text.split(",")] if text else []
    return dict(zip(fields, values)) if len(values) == len(fields) else {}


class Check:
    def __init__(self, args):
        self.args = args
        self.on_gpu = args.device != "simt"
        self.begin = time.monotonic()
        self.tasks = []
        self.running = {}  # programs, by process id
        self.stopped = False
        self.lock = threading.RLock()
        self.work = pathlib.Path(args.work).resolve()
        self.logs = self.work / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.build = pathlib.Path(args.build).resolve() if args.build else ROOT / "build" / (
            "gpu" if self.on_gpu else "release")
        self.bench = {}
        if self.on_gpu:
            self.index = int(args.device[5:] or 0) if args.device.startswith("cuda:") else 0
            self.name, self.capability = find_gpu(self.index)
        else:
            self.index, self.name, self.capability = 0, "SIMT executor", 0
        nvcc = output_of(["nvcc", "--version"]) or output_of(["/usr/local/cuda/bin/nvcc", "--version"]) or ""
        toolkit = re.search(r"release [^,]*, V([\d.]+)", nvcc)
        version = output_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
        brought = pathlib.Path(args.deps) / "version"
        if version is None and brought.exists():
            version = brought.read_text(encoding="utf-8").strip()
        self.record_of = {"schema": 1, "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
                          "device": args.device, "gpu": self.name, "compute_capability": self.capability,
                          "quick": args.quick,
                          "versions": {"adjoint": version or "unknown", "toolkit": toolkit[1] if toolkit else None}}
        folder = pathlib.Path(args.out) if args.out else ROOT / "bench" / "results"
        folder.mkdir(parents=True, exist_ok=True)
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        self.path = folder / f"{'gpu' if self.on_gpu else 'dry-run'}-{slug}-{self.record_of['date']}.json"
        self.kept = self.other_stages()

    def other_stages(self):
        """Of a record that is there already: the stages that this run leaves alone, if all else is the same."""
        try:
            old = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"stages": [], "tasks": [], "bench": {}, "seconds": 0}
        if any(old.get(key) != value for key, value in self.record_of.items()):
            return {"stages": [], "tasks": [], "bench": {}, "seconds": 0}
        stages = [stage for stage in old["stages"] if stage not in self.args.stages]
        return {"stages": stages, "tasks": [task for task in old["tasks"] if task["stage"] in stages],
                "bench": old["bench"] if "bench" in stages else {}, "seconds": old["seconds"]}

    def program(self, name):
        """A program for this device; the executor's have a prefix. None if it is not there."""
        names = {"tests": "device_tests", "contracts": "device_contract_tests"} if self.on_gpu else {
            "tests": "simt_engine_tests", "contracts": "simt_contract_tests"}
        path = self.build / "bin" / names.get(name, name if self.on_gpu else f"simt_{name}")
        return str(path) if os.access(path, os.X_OK) else None

    # ---- Tasks ----

    def record(self, stage, name, result, seconds=0.0, limit=0, reason="", log="", **more):
        task = {"stage": stage, "name": name, "result": result, "seconds": round(seconds, 1), "limit_s": limit,
                "reason": reason, "log": log, **more}
        with self.lock:
            self.tasks.append(task)
            self.save()
        print(f"{result:<12}{task['seconds']:>7.1f} s  {stage}: {name}{': ' + reason if reason else ''}", flush=True)
        return task

    def absent(self, stage, name, reason):
        return self.record(stage, name, "not present", reason=reason)

    def run(self, stage, name, command, limit, environment=None, judge=None, stdout=None):
        """Runs a command in a process group of its own, with its output in a log. judge(returncode, log's text) gives
        the reason of a failure, or None; without it the exit code decides."""
        if self.stopped:
            return self.record(stage, name, "failed", reason="not started: stopped before")
        log = self.logs / (re.sub(r"[^a-z0-9]+", "-", f"{stage} {name}".lower()) + ".log")
        start = time.monotonic()
        late = False
        with open(log, "w", encoding="utf-8") as file:
            print("+", " ".join(map(str, command)), file=file, flush=True)
            out = open(stdout, "w", encoding="utf-8") if stdout else file
            try:
                process = subprocess.Popen(command, stdout=out, stderr=file, stdin=subprocess.DEVNULL, cwd=ROOT,
                                           env={**os.environ, **(environment or {})}, start_new_session=True)
                with self.lock:
                    self.running[process.pid] = process
                if self.stopped:
                    self.end_programs()
                try:
                    code = process.wait(timeout=limit)
                except subprocess.TimeoutExpired:
                    late = True
                    os.killpg(process.pid, signal.SIGKILL)
                    code = process.wait()
            except OSError as error:
                return self.record(stage, name, "failed", reason=f"{command[0]}: {error.strerror}", limit=limit,
                                   log=f"logs/{log.name}")
            finally:
                if stdout:
                    out.close()
            with self.lock:
                del self.running[process.pid]
        text = log.read_text(encoding="utf-8", errors="replace")
        if self.stopped:
            reason = "stopped by the user"
        elif judge:
            reason = judge(None if late else code, text)
        elif late:
            reason = f"not done after {limit} s"
        else:
            reason = None if code == 0 else f"exit {code}: {last_line(text)}"
        more = {} if reason is None else {"tail": text[-2000:]}
        return self.record(stage, name, "passed" if reason is None else "failed", time.monotonic() - start, limit,
                           reason or "", f"logs/{log.name}", **more)

    def end_programs(self):
        with self.lock:
            for pid in self.running:
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def stop(self, number, _frame):
        """The handler of SIGINT and SIGTERM: what runs ends, is noted as such, and the record is complete."""
        self.stopped = True
        print(f"gpu_check: stopped by {signal.Signals(number).name}; noting what was not done", file=sys.stderr)
        self.end_programs()

    def together(self, jobs):
        """All jobs, on fewer cores some after others."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
            return [future.result() for future in [pool.submit(job) for job in jobs]]

    # ---- Stages ----

    def stage_build(self):
        programs = ["tests", "contracts", "adjoint", "reverse_string", "clickbait", "bench_gpu"]
        if self.args.build:
            missing = [name for name in programs if self.program(name) is None]
            reason = f"{self.build.name}/bin has no {', '.join(missing)}" if missing else ""
            self.record("build", "programs brought along", "failed" if missing else "passed", reason=reason)
            return
        targets = (["device_tests", "device_contract_tests"] if self.on_gpu else
                   ["simt_engine_tests", "simt_contract_tests"])
        targets += [name if self.on_gpu else f"simt_{name}" for name in programs[3:]]
        targets += ["adjoint_program" if self.on_gpu else "simt_adjoint"]  # the program's name is the library's
        options = ["-DCMAKE_BUILD_TYPE=Release"]
        if self.on_gpu:
            options += ["-DADJOINT_CUDA=ON", f"-DADJOINT_CUDA_ARCHITECTURES={self.capability}-real"]
        prefix = pathlib.Path(self.args.deps).resolve()
        if prefix.is_dir():
            options += [f"-DCMAKE_PREFIX_PATH={prefix}"]
        def judge(code, text):
            missing = re.search(r"(\S+)\s+not\s+found;\s+install it with:\s+(apt-get install [\w .+-]+)", text)
            if missing:
                return (f"{missing[1]} not found; try: {missing[2].strip()}; or bring all libraries along: "
                        "scripts/gpu_bundle.sh, on a machine that has them")
            error = re.search(r"CMake Error[^\n]*\n+((?:  .+\n|\n)+)", text)
            return None if code == 0 else f"exit {code}: {' '.join(error[1].split())[:300] if error else last_line(text)}"

        done = self.run("build", "configure", ["cmake", "-S", str(ROOT), "-B", str(self.build), "-G", "Ninja", *options],
                        LIMITS["configure"], judge=judge)
        if done["result"] == "passed":
            self.run("build", "compile", ["cmake", "--build", str(self.build), f"-j{self.args.jobs}", "--target",
                                          *targets], LIMITS["compile"] if self.on_gpu else 1800, judge=compile_error)

    def gtest(self, stage, name, program, options, shards, limit):
        path = self.program(program)
        if path is None:
            return [self.absent(stage, name, f"no program of it in {self.build.name}/bin")]
        device = [f"--device={self.args.device}"] if program == "tests" else []

        def shard(i):
            report = self.logs / (re.sub(r"[^a-z0-9]+", "-", f"{name} {i}".lower()) + ".json")

            def judge(code, text):
                try:
                    content = json.loads(report.read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    return f"not done after {limit} s" if code is None else f"exit {code}: {last_line(text)}"
                if content["tests"] == 0:
                    return "no test ran"
                late = f"not done after {limit} s" if code is None else None
                failed = [f"{suite['name']}.{test['name']}" for suite in content["testsuites"]
                          for test in suite["testsuite"] if test.get("failures")]
                if failed:
                    return f"{len(failed)} failed: {', '.join(failed[:5])}"
                return late or (None if code == 0 else f"exit {code}: {last_line(text)}")

            task = self.run(stage, f"{name}, part {i + 1} of {shards}" if shards > 1 else name,
                            [path, *device, f"--gtest_output=json:{report}", *options], limit,
                            {"GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(i)}, judge)
            task["kinds"] = kinds_of(report)
            return task

        return self.together([lambda i=i: shard(i) for i in range(shards)])

    def stage_tests(self):
        doctor = self.program("adjoint")
        if doctor is None:
            self.absent("tests", "adjoint doctor", f"no program of it in {self.build.name}/bin")
        else:
            self.run("tests", "adjoint doctor", [doctor, "doctor"], 60)
        if self.on_gpu:
            self.together([lambda: self.gtest("tests", "engine and models", "tests", [], 6, LIMITS["tests"]),
                           lambda: self.gtest("tests", "kernels' contracts", "contracts", [], 4, LIMITS["tests"])])
        else:
            self.gtest("tests", "engine and models", "tests", [f"--gtest_filter={TINY_ENGINE}"], 1, 60)
            self.gtest("tests", "kernels' contracts", "contracts", [f"--gtest_filter={TINY_CONTRACTS}"], 1, 60)
        for library, (option, tests) in LIBRARIES.items() if self.on_gpu and self.program("tests") else ():
            name = f"engine with {library}"
            probe = subprocess.run([self.program("tests"), f"--device={self.args.device}", option, "--gtest_list_tests"],
                                   capture_output=True, text=True, timeout=60, check=False)
            if probe.returncode == 7:
                self.absent("tests", name, last_line(probe.stderr))
            else:
                self.gtest("tests", name, "tests", [option, f"--gtest_filter={tests}"], 4, LIMITS["tests"])
        ran = {kind for task in self.tasks for kind in task.get("kinds", {})}
        missing = [kind for kind in KINDS if kind not in ran]
        self.record("tests", "every kind of test ran", "failed" if missing else "passed",
                    reason=f"not one of {', '.join(missing)}" if missing else "")

    def stage_sanitizer(self):
        tool = shutil.which("compute-sanitizer") or next(
            (path for path in ("/usr/local/cuda/bin/compute-sanitizer",) if os.access(path, os.X_OK)), None)
        program = self.program("tests")
        if not self.on_gpu:
            return self.absent("sanitizer", "compute-sanitizer", "the executor has a checker of its own: ctest -L simt")
        if tool is None or program is None:
            return self.absent("sanitizer", "compute-sanitizer", "not installed" if tool is None else "no tests built")
        limit = 30 if self.args.quick else LIMITS["sanitizer"]

        def judge_of(name):
            def judge(code, text):
                if "Device not supported" in text:
                    return None
                found = re.search(r"ERROR SUMMARY: (\d+) error", text)
                if found and int(found[1]) > 0 or re.search(r"^=+ (Invalid|Error|Race|Uninitialized|Barrier)", text, re.M):
                    return f"{name} reports: {next(iter(re.findall(r'^=+ ((?:Invalid|Error|Race|Uninit|Barrier).*)', text, re.M)), found and found[0])}"
                if code is None:
                    return None if "[       OK ]" in text else f"no test done after {limit} s"
                return None if code == 0 else f"exit {code}: {last_line(text)}"
            return judge

        def one(name):
            task = self.run("sanitizer", name, [tool, f"--tool={name}", "--error-exitcode=9", program,
                                                f"--device={self.args.device}", f"--gtest_filter={SANITIZED}"],
                            limit, judge=judge_of(name))
            log = self.logs / f"sanitizer-{name}.log"
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            task["tests_done"] = text.count("[       OK ]")
            if "Device not supported" in text:
                task["result"], task["reason"] = "not present", "compute-sanitizer: Device not supported here"
            elif task["result"] == "passed" and task["seconds"] >= limit:
                task["reason"] = f"stopped after {limit} s without a report, {task['tests_done']} tests done"

        return self.together([lambda name=name: one(name) for name in SANITIZER])

    def stage_train(self):
        tiny = not self.on_gpu
        reverse = ["train", "--progress", "none", "--json", "--max-steps", "3" if tiny else "200"]
        clickbait = [*reverse, "--model", "lstm-encoder"]
        reverse += (["--hidden", "16", "--letters", "abc", "--min-length", "2", "--max-length", "4", "--train-strings",
                     "64", "--validation-strings", "8", "--batch-size", "8"] if tiny else ["--batch-size", "64"])
        if tiny:
            clickbait += ["--hidden", "16", "--embedding", "8", "--heads", "2", "--intermediate", "16", "--batch-size", "8"]
        # Dropout draws the same numbers on every device, so losses agree until rounding tells.
        jobs = {"reverse_string": (reverse, 1e-3), "clickbait": (clickbait, 1e-2)}

        def one(app):
            options, tolerance = jobs[app]
            path = self.program(app)
            if path is None:
                return self.absent("train", app, f"no program of it in {self.build.name}/bin")
            losses = {}
            for label, device in (("on the device", self.args.device), ("again", self.args.device), ("on the CPU", "cpu")):
                run = self.work / "runs" / f"{app}-{label.replace(' ', '-')}"
                shutil.rmtree(run, ignore_errors=True)
                out = self.logs / f"train-{app}-{label.replace(' ', '-')}.json"
                task = self.run("train", f"{app} {label}", [path, *options, "--device", device, "--out", str(run)], LIMITS["train"],
                                stdout=out)
                if task["result"] != "passed":
                    return None
                losses[label] = losses_of(run, out)
                task["train"] = {key: losses[label][key] for key in ("first", "last", "steps_per_s")}
            same = weights_of(self.work / "runs" / f"{app}-on-the-device") == weights_of(self.work / "runs" / f"{app}-again")
            self.record("train", f"{app}: two runs have equal bits", "passed" if same else "failed",
                        reason="" if same else "model.safetensors differs")
            a, b = losses["on the device"]["first"], losses["on the CPU"]["first"]
            agree = a is not None and b is not None and abs(a - b) <= tolerance * max(abs(b), 1e-6)
            return self.record("train", f"{app}: first loss as on the CPU", "passed" if agree else "failed",
                               reason=f"{a} and {b}")

        return self.together([lambda app=app: one(app) for app in jobs])

    def lines_task(self, name, command, key):
        """A program that prints a line of JSON for each case; what it printed before it was cut short counts too."""
        out = self.logs / f"{key}.jsonl"
        out.unlink(missing_ok=True)
        task = self.run("bench", name, command, LIMITS["bench"], stdout=out)
        found = {"kernels": [], "steps": []}
        for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
            try:
                content = json.loads(line)
            except ValueError:
                continue  # cut short
            if "kernel" in content or "step" in content:
                kind = "kernel" if "kernel" in content else "step"
                found[kind + "s"].append(content[kind])
            else:
                found |= content
        self.bench[key] = found
        problems = [task["reason"]] if task["reason"] else []
        for kind, names in found.get("cases", {}).items():
            missing = [wanted for wanted in names if wanted not in [line["name"] for line in found[kind]]]
            problems += [f"{len(missing)} {kind} without a result: {', '.join(missing[:5])}"] if missing else []
        failed = [line["name"] for line in found["kernels"] + found["steps"] if "failed" in line]
        problems += [f"{len(failed)} cases failed: {', '.join(failed[:5])}"] if failed else []
        if not found["kernels"] + found["steps"]:
            problems.append("no case was measured")
        if problems:
            task["result"], task["reason"] = "failed", "; ".join(problems)
        self.save()
        return task

    def stage_bench(self):
        """One after the other: what is measured must have the card for itself."""
        self.bench["before"] = smi(self.index) if self.on_gpu else {}
        peers = ROOT / "bench" / "peers"
        seconds = ["--seconds", "0.05" if self.args.quick else "0.2"]
        tiny = [] if self.on_gpu else ["--tiny"]
        device = ["--device", self.args.device if self.on_gpu else "cpu", *seconds, *tiny]
        python = self.args.python
        torch = output_of([python, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"])
        why_not = None if torch else f"{os.path.basename(python)} has no PyTorch"
        if torch and self.on_gpu and not torch.endswith("True"):
            why_not = f"PyTorch {torch.split()[0]} of {os.path.basename(python)} sees no GPU"
        if why_not:
            self.absent("bench", "PyTorch's kernels", why_not)
        else:
            self.lines_task("PyTorch's kernels", [python, str(peers / "gpu_kernels.py"), *device], "peer_kernels")
        program = self.program("bench_gpu")
        if program is None:
            self.absent("bench", "our kernels and steps", f"no bench_gpu in {self.build.name}/bin")
        else:
            copied = self.bench.get("peer_kernels", {}).get("copy_gb_per_s")
            roof = ["--copy-gbs", str(copied)] if copied else []
            self.lines_task("our kernels and steps", [program, "--device", self.args.device, *seconds, *tiny, *roof], "ours")
        if why_not:
            self.absent("bench", "PyTorch's steps", why_not)
        else:
            self.lines_task("PyTorch's steps", [python, str(peers / "gpu_steps.py"), *device], "peer_steps")
        self.bench["after"] = smi(self.index) if self.on_gpu else {}

    # ---- The result ----

    def save(self):
        """Writes the record as it is now, and its page; whoever reads meanwhile sees the last one whole."""
        with self.lock:
            stages = [stage for stage in STAGES if stage in self.args.stages + self.kept["stages"]]
            record = {**self.record_of, "stages": stages, "stopped": self.stopped,
                      "seconds": round(self.kept["seconds"] + time.monotonic() - self.begin, 1),
                      "tasks": sorted(self.kept["tasks"] + self.tasks, key=lambda task: STAGES.index(task["stage"])),
                      "bench": self.bench or self.kept["bench"]}
            for path, text in ((self.path, json.dumps(record, indent=1) + "\n"),
                               (self.path.with_suffix(".md"), gpu_report.page(record))):
                part = path.with_name(path.name + ".part")
                part.write_text(text, encoding="utf-8")
                part.replace(path)
            return record

    def finish(self):
        record = self.save()
        if self.args.out:
            with tarfile.open(self.path.parent / "logs.tar.gz", "w:gz") as tar:
                tar.add(self.logs, "logs")
        return record


def kinds_of(report):
    """How many tests of each kind ran: of the sweep by what they show, else by suite."""
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    kinds = {}
    for suite in content["testsuites"]:
        for test in suite["testsuite"]:
            if test.get("result") != "COMPLETED":
                continue
            kind = test["name"].split("/")[0] if suite["name"].endswith("/Sweep") else suite["name"].split("/")[-1]
            kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def compile_error(code, text):
    """The first error of a build, rather than its last line."""
    if code == 0:
        return None
    error = re.search(r"^.*(?:error: |FAILED: ).*$", text, re.M)
    return f"{'not done in time' if code is None else f'exit {code}'}: {error[0][:300] if error else last_line(text)}"


def last_line(text):
    lines = [line for line in text.strip().splitlines() if not line.startswith("+ ")]
    return lines[-1][:200] if lines else "no output"


def losses_of(run, out):
    """First and last loss of a run, from its report or else its metrics."""
    report = json.loads(out.read_text(encoding="utf-8").strip().splitlines()[-1])
    losses = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        loss = json.loads(line).get("loss")
        losses += [loss] if loss is not None else []
    return {"first": report.get("first_loss", losses[0] if losses else None),
            "last": report.get("last_loss", losses[-1] if losses else None), "steps_per_s": report.get("steps_per_s")}


def weights_of(run):
    """The weights' bytes; the header before them names the run's options."""
    content = (run / "model.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little"):]


def parse():
    venv = os.environ.get("ADJOINT_PEERS_VENV")
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or simt: a dry run on the CPU")
    parser.add_argument("--build", metavar="DIR", help="take the programs in DIR/bin and build nothing")
    parser.add_argument("--deps", metavar="DIR", default=str(ROOT / "build" / "gpu_bundle"),
                        help="libraries for the build that were brought along (scripts/gpu_bundle.sh)")
    parser.add_argument("--quick", action="store_true", help="less time for each measurement")
    parser.add_argument("--out", metavar="DIR", help="folder of the record, and of logs.tar.gz (default bench/results)")
    parser.add_argument("--work", metavar="DIR", default=str(ROOT / "build" / "gpu_check"), help="folder of logs and runs")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"of {','.join(STAGES)}")
    parser.add_argument("--python", default=f"{venv}/bin/python" if venv else sys.executable,
                        help="interpreter with PyTorch (default: of $ADJOINT_PEERS_VENV, else this one)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at once")
    args = parser.parse_args()
    args.quick = args.quick or args.device == "simt"
    if args.device != "simt" and not re.fullmatch(r"cuda(:\d)?", args.device):
        parser.error(f"--device {args.device}: expected cuda, cuda:N or simt")
    args.stages = args.stages.split(",")
    for stage in args.stages:
        if stage not in STAGES:
            parser.error(f"--stages: {stage}: expected some of {','.join(STAGES)}")
    return args


def main():
    args = parse()
    try:
        check = Check(args)
    except DeviceMissing as why:
        print(f"gpu_check: error[E-GPU-001]: --device {args.device}: no CUDA device ({why}); try --device simt for a "
              "dry run on the CPU", file=sys.stderr)
        return 7
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, check.stop)
    for stage in STAGES:
        if stage not in args.stages:
            continue
        if check.stopped:
            check.record(stage, "all", "failed", reason="not started: stopped before")
            continue
        try:
            getattr(check, f"stage_{stage}")()
        except Exception as error:  # pylint: disable=broad-except; the other stages still say what they can
            check.record(stage, "gpu_check itself", "failed", reason=f"{type(error).__name__}: {error}")
    record = check.finish()
    failed = [task for task in record["tasks"] if task["result"] == "failed"]
    print("\n" + gpu_report.summary(record))
    for task in failed:
        print(f"failed: {task['stage']}: {task['name']}: {task['reason']}; log: {task['log']}")
    print(f"{check.path} and .md")
    return 130 if check.stopped else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
