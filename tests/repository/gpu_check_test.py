#!/usr/bin/env python3
"""scripts/gpu_check.sh, run on the executor, and what it does when programs fail or it is stopped; the README's table.

  gpu_check_test.py BUILD dry-run|faults|pretended|peers|readme      BUILD/bin has the programs; exit 77 if something is not here
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
# One of each family must be among the measured cases.
FAMILIES = ["copy-", "lstm-forward-", "lstm-backward-", "layer-norm-forward-", "layer-norm-backward-",
            "add-layer-norm-forward-", "cross-entropy-", "adamw-", "global-norm-", "attention-forward-s20-f32",
            "attention-backward-s20-f32", "attention-forward-s20-bf16", "attention-backward-s20-bf16",
            "attention-forward-s128", "attention-backward-s128", "embedding-gradient-", "matmul-f32-", "matmul-bf16-",
            "ffn-"]
STEPS = ["reverse-h64-none", "reverse-h64-dot", "lstm-b64-d64", "lstm-encoder-b64-d64"]
KINDS = ["Equals_its_reference_in_f64", "Gradient_equals_finite_differences", "Precision_is_that_of_its_reference",
         "Layout_does_not_change_a_bit", "Replay_equals_the_plain_run", "Runs_and_threads_give_equal_bits",
         "Accumulating_twice_is_exactly_double", "Bad_inputs_throw_their_message", "Step"]


class Case(unittest.TestCase):
    def setUp(self):
        self.out = pathlib.Path(tempfile.mkdtemp(prefix="adjoint_gpu_check_"))
        self.addCleanup(shutil.rmtree, self.out, ignore_errors=True)

    def command(self, *options, build=BUILD, python=None):
        if python is None:
            python = self.out / "python3"  # one that has nothing: the peers must be said to be missing
            python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
            python.chmod(0o755)
        return [str(ROOT / "scripts" / "gpu_check.sh"), "--device", "simt", "--build", str(build), "--out",
                str(self.out / "out"), "--work", str(self.out / "work"), "--python", str(python), *options]

    def check(self, *options, **more):
        done = subprocess.run(self.command(*options, **more), capture_output=True, text=True, timeout=280, check=False)
        return done, self.record()

    def record(self):
        records = list((self.out / "out").glob("dry-run-*.json"))
        self.assertEqual(len(records), 1)
        self.page = records[0].with_suffix(".md").read_text(encoding="utf-8")
        return json.loads(records[0].read_text(encoding="utf-8"))

    def programs_with(self, **scripts):
        """A folder like BUILD with some of its programs replaced by shell scripts."""
        folder = self.out / "build" / "bin"
        folder.mkdir(parents=True)
        for program in (BUILD / "bin").glob("simt_*"):
            (folder / program.name).symlink_to(program)
        for name, text in scripts.items():
            path = folder / f"simt_{name}"
            path.unlink()
            path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
            path.chmod(0o755)
        return folder.parent


def task(record, stage, name):
    found = [t for t in record["tasks"] if (t["stage"], t["name"]) == (stage, name)]
    assert len(found) == 1, f"{len(found)} tasks {stage}: {name}"
    return found[0]


class DryRun(Case):
    def test_runs_every_stage_and_writes_all_of_it(self):
        done, record = self.check()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(record["stages"], ["build", "tests", "sanitizer", "train", "bench"])
        self.assertEqual({t["stage"] for t in record["tasks"]}, set(record["stages"]))
        self.assertEqual((record["schema"], record["device"], record["stopped"]), (1, "simt", False))
        self.assertRegex(record["date"], r"^\d{4}-\d\d-\d\d$")
        self.assertIn("adjoint", record["versions"])
        for t in record["tasks"]:
            self.assertIn(t["result"], ("passed", "not present"), t)
            if t["result"] == "not present":
                self.assertTrue(t["reason"], t)
                self.assertRegex(done.stdout, re.escape(t["reason"]))
        self.assertEqual(task(record, "bench", "PyTorch's kernels")["reason"], "python3 has no PyTorch")
        self.assertIn("python3 has no PyTorch", self.page)

        kinds = task(record, "tests", "engine and models")["kinds"]
        self.assertEqual([kind for kind in KINDS if not kinds.get(kind)], [])
        self.assertEqual(task(record, "tests", "adjoint doctor")["result"], "passed")
        for app in ("reverse_string", "clickbait"):
            for what in ("on the device", "again", "on the CPU"):
                self.assertGreater(task(record, "train", f"{app} {what}")["train"]["first"], 0)
            self.assertEqual(task(record, "train", f"{app}: two runs have equal bits")["result"], "passed")
            self.assertEqual(task(record, "train", f"{app}: first loss as on the CPU")["result"], "passed")

        ours = record["bench"]["ours"]
        names = [line["name"] for line in ours["kernels"]]
        self.assertEqual(names, ours["cases"]["kernels"])
        self.assertEqual([f for f in FAMILIES if not any(n.startswith(f) for n in names)], [])
        self.assertEqual([line["name"] for line in ours["steps"]], STEPS)
        for line in ours["kernels"] + ours["steps"]:
            self.assertGreater(line["us"], 0)
            self.assertIn(f"| {line['name']} |", self.page)
        self.assertIn("roof", ours)
        for line in ours["steps"]:
            self.assertLess(line["last_loss"], line["first_loss"])
        self.assertIn("the times mean nothing", self.page)
        self.assertNotRegex(self.page, r"\b(reached|missed)\b")
        self.assertNotIn(str(ROOT), json.dumps(record), "a machine's path in a record")
        self.assertTrue((self.out / "out" / "logs.tar.gz").exists())


class Faults(Case):
    def test_keeps_what_was_measured_before_a_program_died_and_runs_the_rest(self):
        build = self.programs_with(bench_gpu="""
echo '{"bench": "gpu", "cases": {"kernels": ["a", "b"], "steps": []}}'
echo '{"kernel": {"name": "a", "shape": "", "us": 1, "gb_per_s": 0, "tflop_per_s": 0, "of_floor": 0, "bound": "memory", "in_cache": true}}'
echo '{"kernel": {"na'
echo 'error[E-GPU-003]: lost' >&2
exit 7
""", engine_tests="exit 3\n")
        done, record = self.check("--stages", "tests,bench", build=build)
        self.assertEqual(done.returncode, 1)
        bench = task(record, "bench", "our kernels and steps")
        self.assertEqual(bench["result"], "failed")
        self.assertEqual(bench["reason"], "exit 7: error[E-GPU-003]: lost; 1 kernels without a result: b")
        self.assertEqual([line["name"] for line in record["bench"]["ours"]["kernels"]], ["a"])
        self.assertIn("| a |", self.page)
        self.assertEqual(task(record, "tests", "engine and models")["reason"], "exit 3: no output")
        self.assertEqual(task(record, "tests", "kernels' contracts")["result"], "passed")
        self.assertIn("Gradient_equals_finite_differences", task(record, "tests", "every kind of test ran")["reason"])
        self.assertIn("failed: bench: our kernels and steps: exit 7", done.stdout)

    def test_says_which_case_failed_and_which_programs_are_missing(self):
        build = self.programs_with(bench_gpu="""
echo '{"cases": {"kernels": ["a"], "steps": []}}'
echo '{"kernel": {"name": "a", "failed": "E-GPU-005"}}'
""")
        (build / "bin" / "simt_contract_tests").unlink()
        done, record = self.check("--stages", "build,bench", build=build)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(task(record, "bench", "our kernels and steps")["reason"], "1 cases failed: a")
        self.assertIn("failed: E-GPU-005", self.page)
        self.assertEqual(task(record, "build", "programs brought along")["reason"], "build/bin has no contracts")

    def test_a_run_whose_weights_differ_fails(self):
        # Every run has a seed of its own.
        build = self.programs_with(clickbait=f"""
echo >> {self.out}/runs
exec {BUILD}/bin/simt_clickbait "$@" --seed $(wc -l < {self.out}/runs)
""")
        done, record = self.check("--stages", "train", build=build)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(task(record, "train", "clickbait: two runs have equal bits")["result"], "failed")
        self.assertEqual(task(record, "train", "clickbait: first loss as on the CPU")["result"], "failed")
        self.assertEqual(task(record, "train", "reverse_string: two runs have equal bits")["result"], "passed")

    def test_notes_what_was_done_when_it_is_stopped(self):
        build = self.programs_with(engine_tests="exec sleep 100\n")
        process = subprocess.Popen(self.command("--stages", "build,tests,bench", build=build), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        log = self.out / "work" / "logs" / "tests-engine-and-models.log"
        until = time.monotonic() + 30
        while not log.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)
        self.assertIn("stopped by SIGINT", err)
        record = self.record()
        self.assertTrue(record["stopped"])
        self.assertEqual(task(record, "build", "programs brought along")["result"], "passed")
        self.assertEqual(task(record, "tests", "engine and models")["reason"], "stopped by the user")
        self.assertEqual(task(record, "bench", "all")["reason"], "not started: stopped before")

    def test_stages_one_by_one_make_one_record(self):
        build = self.programs_with(bench_gpu="""
echo '{"cases": {"kernels": [], "steps": ["s"]}}'
echo '{"step": {"name": "s", "us": 5}}'
""")
        self.check("--stages", "bench", build=build)
        _, record = self.check("--stages", "build", build=build)
        self.assertEqual(record["stages"], ["build", "bench"])
        self.assertEqual(task(record, "bench", "our kernels and steps")["result"], "passed")
        self.assertEqual(record["bench"]["ours"]["steps"], [{"name": "s", "us": 5}])
        _, record = self.check("--stages", "bench", build=build)
        task(record, "bench", "our kernels and steps")  # once

    def test_says_what_the_build_lacks(self):
        cmake = self.out / "path" / "cmake"
        cmake.parent.mkdir()
        cmake.write_text("#!/bin/sh\ncat >&2 <<'END'\nCMake Error at cmake/Dependencies.cmake:4 (message):\n"
                         "  fmt not found; install it with: apt-get install libfmt-dev\nCall Stack:\n\n-- Incomplete\nEND\n"
                         "exit 1\n", encoding="utf-8")
        cmake.chmod(0o755)
        command = [*self.command("--stages", "build")]
        at = command.index("--build")
        del command[at:at + 2]
        done = subprocess.run(command, env={**os.environ, "PATH": f"{cmake.parent}:{os.environ['PATH']}"}, timeout=60,
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(task(self.record(), "build", "configure")["reason"],
                         "fmt not found; try: apt-get install libfmt-dev; or bring all libraries along: "
                         "scripts/gpu_bundle.sh, on a machine that has them")

    def test_says_that_there_is_no_gpu(self):
        try:
            import ctypes
            ctypes.CDLL("libcuda.so.1")
            self.skipTest("there is a driver here")
        except OSError:
            pass
        done = subprocess.run([str(ROOT / "scripts" / "gpu_check.sh"), "--work", str(self.out)], capture_output=True,
                              text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 7)
        self.assertEqual(done.stderr, "gpu_check: error[E-GPU-001]: --device cuda: no CUDA device (driver not found: "
                                      "libcuda.so.1); try --device simt for a dry run on the CPU\n")


class Pretended(Case):
    """The way of a GPU through the script, with a driver and tools that only pretend and programs that use the executor."""

    DRIVER = """
int cuInit(unsigned f) { return 0; }
int cuDeviceGetCount(int* n) { *n = 1; return 0; }
int cuDeviceGet(int* d, int i) { *d = i; return 0; }
int cuDeviceGetName(char* s, int n, int d) { __builtin_strcpy(s, "Pretended GPU"); return 0; }
int cuDeviceGetAttribute(int* v, int a, int d) { *v = a == 75 ? 9 : 0; return 0; }
"""
    # Takes the device's name, and for training the length, out of the arguments.
    PROGRAM = """
for a; do
  shift
  case $a in --device=cuda | --copy-gbs*) continue ;; cuda) a=simt ;; 200) a=2 ;; 64) a=8 ;; esac
  set -- "$@" "$a"
done
exec {program} "$@" {options}
"""

    def script(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
        path.chmod(0o755)

    def setUp(self):
        super().setUp()
        tools, programs = self.out / "tools", self.out / "build" / "bin"
        self.script(tools / "nvidia-smi", "echo 'Pretended GPU, 580.1, 81559 MiB, 1980 MHz, 2619 MHz, 1980 MHz, 90 W, "
                                          "700 W, 40, 0x0'\n")
        self.script(tools / "compute-sanitizer", "tool=$1; shift 2\n[ $tool = --tool=racecheck ] && echo "
                    "'========= Error: Race reported between Write access'\n\"$@\" || exit 8\n"
                    "echo '========= ERROR SUMMARY: 0 errors'\n")
        source = self.out / "driver.c"
        source.write_text(self.DRIVER, encoding="utf-8")
        compiler = shutil.which("cc") or shutil.which("c++")
        if compiler is None:
            self.skipTest("no C compiler")
        subprocess.run([compiler, "-x", "c", "-w", "-shared", "-fPIC", "-o", str(tools / "libcuda.so.1"), str(source)],
                       check=True)
        for name, program, options in (
                ("device_tests", "engine_tests", "--gtest_filter='*Sweep.*/gelu:*Sweep.*/layer_norm:*Sweep.*/sum:"
                                                 "Step.*Trains*:-*Planted*'"),
                ("device_contract_tests", "contract_tests", "--gtest_filter='StepAdvance.*:RandomAdvance.*:GlobalNorm.*'"),
                ("adjoint", "adjoint", ""), ("bench_gpu", "bench_gpu", "--tiny"),
                ("reverse_string", "reverse_string", "--hidden 16 --letters abc --min-length 2 --max-length 4 "
                                                     "--train-strings 64 --validation-strings 8"),
                ("clickbait", "clickbait", "--hidden 16 --embedding 8 --heads 2 --intermediate 16 --batch-size 8")):
            self.script(programs / name, self.PROGRAM.format(program=BUILD / "bin" / f"simt_{program}", options=options))
        self.environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(tools)}

    def test_runs_every_stage(self):
        command = self.command(build=self.out / "build")
        command[command.index("simt")] = "cuda"
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=self.environment)
        records = list((self.out / "out").glob("gpu-pretended-gpu-*.json"))
        self.assertEqual(len(records), 1, done.stdout + done.stderr)
        record = json.loads(records[0].read_text(encoding="utf-8"))
        page = records[0].with_suffix(".md").read_text(encoding="utf-8")
        self.assertEqual((record["gpu"], record["compute_capability"]), ("Pretended GPU", 90))
        wrong = [t for t in record["tasks"] if t["result"] == "failed"]
        self.assertEqual([(t["name"], t["reason"]) for t in wrong],
                         [("racecheck", "racecheck reports: Error: Race reported between Write access")])
        self.assertEqual(done.returncode, 1)
        names = [t["name"] for t in record["tasks"]]
        for name in ("engine and models, part 6 of 6", "kernels' contracts, part 4 of 4", "memcheck", "initcheck",
                     "synccheck", "adjoint doctor", "clickbait: two runs have equal bits"):
            self.assertIn(name, names)
        for library in ("cuDNN", "cuDNN's attention"):
            without = task(record, "tests", f"engine with {library}")
            self.assertEqual(without["result"], "not present")
            self.assertIn("no cuDNN", without["reason"])
        self.assertGreater(task(record, "sanitizer", "memcheck")["tests_done"], 10)
        self.assertEqual(record["bench"]["before"]["driver_version"], "580.1")
        self.assertEqual(record["bench"]["after"]["clocks.sm"], "1980 MHz")
        self.assertIn("Measured on Pretended GPU", page)
        self.assertRegex(page, r"\| reverse-h64-none \| .* \| 80 us, missed \|")


class Peers(Case):
    def test_measure_each_of_our_cases(self):
        done, record = self.check("--stages", "bench", python=peers_python())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        bench = record["bench"]
        for kind, key in (("kernels", "peer_kernels"), ("steps", "peer_steps")):
            theirs = {line["name"] for line in bench[key][kind] if line.get("us")}
            self.assertEqual([n for n in bench["ours"]["cases"][kind] if n not in theirs], [])
        self.assertTrue(bench["peer_kernels"]["torch"])
        hashes = {line["name"]: line["batches_hash"] for line in bench["peer_steps"]["steps"]}
        self.assertEqual(hashes, {line["name"]: line["batches_hash"] for line in bench["ours"]["steps"]})


class Readme(Case):
    def report(self, *options):
        return subprocess.run([sys.executable, str(ROOT / "scripts" / "gpu_report.py"), *options], capture_output=True,
                              text=True, timeout=60, check=False)

    def test_says_what_the_results_say(self):
        done = self.report("--readme", "--check")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_is_made_from_the_newest_record_of_a_gpu(self):
        results = self.out / "bench" / "results"
        results.mkdir(parents=True)
        readme = self.out / "README.md"
        text = ROOT.joinpath("README.md").read_text(encoding="utf-8")
        readme.write_text(text, encoding="utf-8")

        def made(check=False):
            done = self.report("--readme", "--root", str(self.out), *(["--check"] if check else []))
            return done.returncode, readme.read_text(encoding="utf-8")

        def record(date, us, device="cuda", graph=200):
            kernel = {"name": "layer-norm-backward-65536x768", "shape": "bf16 65536 x 768", "us": 90, "gb_per_s": 3300,
                      "tflop_per_s": 1, "of_floor": 0.7, "bound": "memory", "in_cache": False}
            bench = {"before": {"driver_version": "580.1", "clocks.sm": "1980 MHz", "clocks.max.sm": "1980 MHz"},
                     "after": {"clocks.sm": "1755 MHz"},
                     "ours": {"kernels": [kernel], "steps": [{"name": "reverse-h64-none", "us": us, "batches_hash": "1"}]},
                     "peer_steps": {"torch": "2.15", "steps": [
                         {"name": "reverse-h64-none", "how": "eager", "us": 1000, "batches_hash": "1"},
                         {"name": "reverse-h64-none", "how": "graph", "us": graph, "batches_hash": "1"}]}}
            (results / f"gpu-{us}-{date}.json").write_text(json.dumps({
                "schema": 1, "date": date, "device": device, "gpu": "A card", "compute_capability": 90, "bench": bench,
                "versions": {"adjoint": "1234", "toolkit": "13.0"}}), encoding="utf-8")

        code, now = made()
        self.assertEqual(code, 0)
        self.assertIn("Not yet measured on a GPU", now)
        record("2027-01-03", 1, device="simt")
        self.assertIn("Not yet measured on a GPU", made()[1])
        record("2027-01-01", 50)
        record("2027-01-02", 75)
        self.assertEqual(made(check=True)[0], 1, "the README does not yet say so")
        code, now = made()
        self.assertEqual(code, 0)
        self.assertNotIn("Not yet measured", now)
        self.assertIn("Measured on 2027-01-02: A card; driver 580.1; multiprocessor clock 1980 MHz before and 1755 MHz after",
                      now)
        self.assertIn("| reverse-h64-none | 75 | 1000 | 200.0 | 13.33 | 2.67 | 80 us, reached; 10x eager, reached; 2x "
                      "graph, reached |", now)
        self.assertIn("| 75% of the floor, missed |", now)
        self.assertEqual(made(check=True)[0], 0)
        readme.write_text(now.replace("| 75 |", "| 57 |"), encoding="utf-8")
        self.assertEqual(made(check=True)[0], 1, "a number was changed by hand")
        record("2027-01-02", 75, graph=100)
        self.assertIn("2x graph, missed", made()[1])
        readme.write_text("no table", encoding="utf-8")
        self.assertEqual(made()[0], 2)


def peers_python():
    venv = os.environ.get("ADJOINT_PEERS_VENV")
    return f"{venv}/bin/python" if venv else None


def main():
    suite = {"dry-run": DryRun, "faults": Faults, "pretended": Pretended, "peers": Peers, "readme": Readme}[sys.argv[2]]
    if suite is Peers and peers_python() is None:
        print("SKIPPED: ADJOINT_PEERS_VENV names no environment with PyTorch")
        return 77
    result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromTestCase(suite))
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
