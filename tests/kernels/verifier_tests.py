"""verifier.py finds what costs more: a report of its own making is right, and wrong after each change."""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest
from unittest import mock

import verifier

COSTS = {"on_exec": 196, "on_sys_exit": 60_000}


def report(costs, flavour="typed", transport="ring", release="6.12.1"):
    """What a doctor says where `syscalls` works and `socket` does not."""
    programs = [{"name": name, "state": "attached", "verified": {"instructions": cost, "microseconds": 7}} for name, cost in costs.items()]
    programs.append({"name": "on_fork", "state": "unsupported"})
    families = [
        {"name": "socket", "usable": False, "why": ["the tracepoint"], "programs": []},
        {"name": "syscalls", "usable": True, "why": [], "flavour": flavour, "transport": transport, "programs": programs},
    ]
    return {"families": families, "features": {"kernel": release}}


class Verifier(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.document = self.folder / "kernels.md"
        self.document.write_text("before\n" + "".join(verifier.MARKERS) + "after\n")
        self.enterContext(mock.patch.object(verifier, "BASELINE", self.folder / "verifier.json"))
        self.enterContext(mock.patch.object(verifier, "DOCUMENT", self.document))
        self.assertEqual(self.run_it("write", self.doctor(COSTS)), (0, ""))

    def doctor(self, costs, name="6.12.doctor.json", **options):
        path = self.folder / name
        path.write_text(json.dumps(report(costs, **options)))
        return path

    def run_it(self, *arguments):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = verifier.main([str(argument) for argument in arguments])
        return code, said.getvalue()

    def assert_wrong(self, words, *paths):
        code, said = self.run_it("check", *paths)
        self.assertEqual(code, 1, said)
        self.assertIn(words, said)

    def assert_right(self, *paths, words="0 wrong"):
        code, said = self.run_it("check", *paths)
        self.assertEqual(code, 0, said)
        self.assertIn(words, said)

    def test_the_same_is_right(self):
        words = "2 programs of 1 loads; the dearest is on_sys_exit of 6.12, syscalls (typed, ring): 60,000; 0 wrong"
        self.assert_right(self.doctor(COSTS), words=words)

    def test_more_than_a_quarter_and_two_thousand_more_is_wrong(self):
        self.assert_right(self.doctor(COSTS | {"on_sys_exit": 75_000}))
        words = "on_sys_exit: 75,001 instructions, there were 60,000 on 6.12.1; this is 6.12.2"
        self.assert_wrong(words, self.doctor(COSTS | {"on_sys_exit": 75_001}, release="6.12.2"))
        # of small ones a quarter is nothing
        self.assert_right(self.doctor(COSTS | {"on_exec": 2_196}))
        self.assert_wrong("on_exec: 2,197", self.doctor(COSTS | {"on_exec": 2_197}))

    def test_what_is_near_to_the_limit_is_wrong_everywhere(self):
        for name in ("6.12.doctor.json", "host.doctor.json", "7.9.doctor.perf.json"):
            self.assert_wrong("on_sys_exit: 400,001 instructions, more than 400,000", self.doctor({"on_sys_exit": 400_001}, name))
        self.assert_right(self.doctor({"on_sys_exit": 400_000}, "host.doctor.json"))

    def test_much_less_is_told(self):
        words = "there were 60,000 on 6.12.1; this is 6.12.1: renew the baseline"
        self.assert_right(self.doctor(COSTS | {"on_sys_exit": 40_000}), words=words)
        self.assertNotIn("renew", self.run_it("check", self.doctor(COSTS | {"on_sys_exit": 45_000}))[1])

    def test_what_is_new_is_told(self):
        self.assert_right(self.doctor(COSTS | {"on_exit": 90}), words="on_exit: 90 instructions, not in the baseline")
        self.assert_right(self.doctor(COSTS, "6.1.doctor.json"), words="6.1, syscalls (typed, ring): not in the baseline")
        self.assertNotIn("baseline", self.run_it("check", self.doctor(COSTS, "host.doctor.json"))[1])

    def test_what_is_gone_is_wrong(self):
        self.assert_wrong("on_exec is in the baseline, and was not loaded", self.doctor({"on_sys_exit": 60_000}))
        words = "6.12, syscalls (typed, ring): is in the baseline, and was not loaded"
        self.assert_wrong(words, self.doctor(COSTS, flavour="plain"))
        # of kernels that were not tried nothing is said
        self.assert_right(self.doctor(COSTS, "host.doctor.json"))

    def test_what_is_refused_is_wrong(self):
        for name in ("6.12.doctor.json", "host.doctor.json"):
            path = self.doctor(COSTS, name)
            path.write_text(path.read_text().replace('"unsupported"', '"failed", "why": "-EACCES"'))
            self.assert_wrong("syscalls (typed, ring): on_fork was refused: -EACCES", path)

    def test_a_doctor_that_measured_nothing_or_cannot_be_read_is_wrong(self):
        self.assert_wrong("6.12: the doctor has measured no program", self.doctor({}))
        path = self.doctor(COSTS)
        path.write_text("{")
        self.assert_wrong("6.12.doctor.json: JSONDecodeError", path)
        self.assert_wrong("FileNotFoundError", self.folder / "6.1.doctor.json")
        self.assert_wrong("not KERNEL.doctor.json", self.folder / "verifier.json")
        path.write_text('{"families": [{"name": "socket"}]}')
        self.assert_wrong("KeyError", path)

    def test_writing_keeps_other_kernels_and_what_is_the_same(self):
        perf = self.doctor({"on_sys_exit": 200_000}, "6.12.doctor.perf.json", flavour="plain", transport="perf")
        other = self.doctor({"on_exec": 200}, "5.10.doctor.json")
        first = self.doctor(COSTS)
        self.run_it("write", first, perf)
        self.run_it("write", other)
        before = verifier.BASELINE.read_text()
        self.assertEqual(len(json.loads(before)), 3)
        first.write_text(first.read_text().replace('"microseconds": 7', '"microseconds": 8'))
        self.run_it("write", first, perf)
        self.assertEqual(verifier.BASELINE.read_text(), before)
        self.run_it("write", self.doctor(COSTS | {"on_exec": 197}))
        self.assertEqual([row["kernel"] for row in json.loads(verifier.BASELINE.read_text())], ["5.10", "6.12"])
        self.run_it("write", self.doctor(COSTS, "host.doctor.json"))
        self.assertNotIn("host", verifier.BASELINE.read_text())

    def test_the_document_has_the_table_of_the_baseline(self):
        table = "| kernel | programs | `syscalls` |\n|---|---|---|\n| 6.12 | typed, ring | `on_sys_exit` 60,000; 0 ms |\n"
        self.assertEqual(self.document.read_text(), f"before\n{verifier.MARKERS[0]}{table}{verifier.MARKERS[1]}after\n")
        self.assertEqual(self.run_it("markdown"), (0, table))
        self.document.write_text(self.document.read_text().replace("60,000", "60,001"))
        self.assert_wrong("kernels.md has another table than verifier.json", self.doctor(COSTS))
        self.document.write_text("before\n")
        self.assert_wrong("no <!-- verifier -->", self.doctor(COSTS))

    def test_kernels_stand_by_age(self):
        names = ["newest", "6.12", "5.10-without-btf", "6.1-rt", "5.10", "6.1"]
        self.assertEqual(sorted(names, key=verifier.order), ["5.10", "5.10-without-btf", "6.1", "6.1-rt", "6.12", "newest"])


if __name__ == "__main__":
    unittest.main()
