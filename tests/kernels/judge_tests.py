"""judge.py finds what is wrong: a report of its own making is right, and wrong after each change."""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import judge

PLAN = {
    "HOOKS": "socket packet", "TRANSPORTS": "ring", "REQUESTS": "3", "CLOSED": "2", "LOOKUPS": "1", "MEANS": "call uring", "ASKED": "2",
    "BODY_BYTES": "5000", "REFUSED": "2",
}
PROGRAMS = ["nginx", "curl", "unbound"]
LACKS = "lacks the tracepoint sock_send_length"


class Report:
    """What a guest sends where the family `socket` works and `packet` does not."""

    def __init__(self):
        self.doctor = {
            "can_capture": True, "hooks": "socket", "reason": "socket is the cheapest",
            "findings": [
                {"topic": "Hooks", "name": "socket", "state": "chosen", "found": "has all it needs"},
                {"topic": "Hooks", "name": "packet", "state": "missing", "found": LACKS},
                {"topic": "Kernel", "name": "sys_exit", "state": "missing", "found": "not there"},
            ],
        }
        self.files = {
            "release": "6.1.0\n", "kernel": 'PROGRAMS="nginx curl unbound"\n', "seconds": "30.1\n", "dmesg": "Linux version\n",
            "doctor.status": "0\n", "auto.any.status": "0\n", "socket.ring.status": "0\n", "packet.ring.status": "3\n",
            "auto.any.jsonl": '{"type":"ready","hooks":"socket"}\n', "packet.ring.jsonl": "",
            "socket.ring.log": "remora: hooks socket, typed programs, records by ring\n",
            "packet.ring.log": "remora: the hooks packet cannot work on this host: the tracepoint sock_send_length\n",
        }
        self.lines = [{"type": "ready", "hooks": "socket"}]
        for number, call in enumerate(judge.expected_calls("socket", PLAN, PROGRAMS).elements()):
            for side in ("client", "server"):
                ids = (2 * number, 2 * number + 1)[:: 1 if side == "client" else -1]
                self.lines.append({
                    "type": "exchange", "start_unix_nano": number, "protocol": call.protocol, "side": side, "tls": None, "error": False,
                    "client": {"address": call.address, "port": 40000 + number, "name": call.client},
                    "server": {"address": call.address, "port": call.port, "name": call.server},
                    "process": {"comm": getattr(call, side)}, "operation": call.operation, "resource": call.resource,
                    "status": call.status, "connection_id": ids[0], "peer_connection_id": ids[1], "flags": [],
                })
        for connection in judge.expected_connections("socket", PLAN, PROGRAMS).elements():
            self.lines.append({
                "type": "connection", "role": connection.role, "error": connection.error, "process": {"comm": connection.comm},
                "client": {"address": connection.address, "port": 40000},
                "server": {"address": connection.address, "port": connection.port},
                "bytes_sent": connection.sent, "bytes_received": connection.received,
            })
        exchanges = sum(line["type"] == "exchange" for line in self.lines)
        self.lines.append({"type": "summary", "exchanges": exchanges, "lost": {"ring_full": 0}, "elapsed_ns": 1})

    def exchange(self, side="client"):
        return next(line for line in self.lines if line.get("side") == side)

    def failure(self):
        return next(line for line in self.lines if line.get("error"))

    def rows(self, families=("socket",)):
        with tempfile.TemporaryDirectory() as directory:
            report = pathlib.Path(directory)
            files = self.files | {"doctor.json": json.dumps(self.doctor)}
            files.setdefault("socket.ring.jsonl", "".join(json.dumps(line) + "\n" for line in self.lines))
            for name, text in files.items():
                (report / name).write_text(text)
            return list(judge.judge_kernel("6.1", report, PLAN, list(families)))


class Judge(unittest.TestCase):
    def assert_fails(self, report, hooks, words, **options):
        failed = [row for row in report.rows(**options) if row.result == "FAILED"]
        self.assertEqual([row.hooks for row in failed], [hooks], failed)
        self.assertIn(words, failed[0].seen)

    def test_what_is_right_passes(self):
        self.assertEqual([row.result for row in Report().rows()], ["agrees", "exact", "refused"])

    def test_a_call_that_is_missing_or_seen_twice_fails(self):
        report = Report()
        report.lines.remove(report.exchange())
        self.assert_fails(report, "socket", "side client: missing 1")
        report = Report()
        report.lines.insert(1, report.exchange("server"))
        self.assert_fails(report, "socket", "side server: too many 1")

    def test_another_process_or_status_fails(self):
        server = {"address": "::2", "port": 1, "name": ""}
        for change in ({"process": {"comm": "other"}}, {"process": None}, {"status": "404"}, {"server": server}):
            report = Report()
            report.exchange().update(change)
            self.assert_fails(report, "socket", "side client: missing 1")

    def test_ends_that_do_not_meet_and_wrong_peers_fail(self):
        report = Report()
        line = report.exchange()
        line["client"] = line["client"] | {"port": 1}
        self.assert_fails(report, "socket", "the client's side has")
        report = Report()
        report.exchange()["peer_connection_id"] = 999
        self.assert_fails(report, "socket", "as their peers")

    def test_flags_losses_and_a_wrong_sum_fail(self):
        report = Report()
        report.exchange()["flags"] = ["gap"]
        self.assert_fails(report, "socket", "not plain")
        report = Report()
        report.lines[-1]["lost"]["ring_full"] = 1
        self.assert_fails(report, "socket", "lost {'ring_full': 1}")
        report = Report()
        report.lines[-1]["exchanges"] += 1
        self.assert_fails(report, "socket", "the summary has")

    def test_connections_are_counted_with_their_bytes_and_errors(self):
        for change in ({"error": "ETIMEDOUT"}, {"error": None}, {"bytes_sent": 1}, {"process": None}, {"role": "server"}):
            report = Report()
            report.failure().update(change)
            self.assert_fails(report, "socket", "connections: missing 1: 1 × 127.0.0.1 9 client ECONNREFUSED pair 0 0; too many 1")
        report = Report()
        report.lines.remove(report.failure())
        self.assert_fails(report, "socket", "connections: missing 1")

    def test_io_uring_is_counted_where_its_bytes_cannot_be_read(self):
        plan = PLAN | {"MEANS": "call uring uring-fixed"}
        families = ("socket", "syscalls", "kprobe", "packet")
        ports = {hooks: {call.port for call in judge.expected_calls(hooks, plan, [])} for hooks in families}
        self.assertEqual(ports, {"socket": {9001}, "syscalls": {9001}, "kprobe": {9001, 9002}, "packet": {9001, 9002, 9003}})
        sent = {hooks: {connection.sent for connection in judge.expected_connections(hooks, PLAN, []) if connection.port == 9002}
                for hooks in ("socket", "syscalls")}
        self.assertEqual(sent["syscalls"], {0})
        self.assertNotIn(0, sent["socket"])

    def test_the_lengths_of_the_pairs_messages_are_known(self):
        small = next(connection for connection in judge.expected_connections("socket", PLAN, []) if connection.port == 9001)
        request = "GET /call HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nUser-Agent: pair\r\n\r\n"
        answer = "HTTP/1.1 200 Status\r\nServer: pair\r\nContent-Type: text/plain\r\nContent-Length: 16\r\n\r\n"
        self.assertEqual((small.role, small.sent, small.received), ("client", 2 * len(request), 2 * (len(answer) + 16)))

    def test_a_run_that_failed_or_left_nothing_fails(self):
        report = Report()
        report.files["socket.ring.status"] = "137\n"
        self.assert_fails(report, "socket", "exit 137")
        report = Report()
        report.files["socket.ring.jsonl"] = ""
        self.assert_fails(report, "socket", "no summary")
        report = Report()
        del report.files["socket.ring.status"]
        self.assert_fails(report, "socket", "sent no socket.ring.status")
        report = Report()
        report.files["socket.ring.log"] = "remora: hooks socket, typed programs, records by perf\n"
        self.assert_fails(report, "socket", "records come by ring")

    def test_a_refusal_needs_status_3_and_the_doctors_reason(self):
        report = Report()
        report.files["packet.ring.status"] = "0\n"
        self.assert_fails(report, "packet", "and yet exit 0")
        report = Report()
        report.files["packet.ring.log"] = "remora: something else\n"
        self.assert_fails(report, "packet", "another reason")

    def test_the_doctor_must_agree_with_itself_the_agent_and_the_table(self):
        self.assert_fails(Report(), "doctor", "should be usable here", families=("socket", "packet"))
        self.assert_fails(Report(), "doctor", "the doctor does not know kprobe", families=("kprobe",))
        report = Report()
        report.files["doctor.status"] = "3\n"
        self.assert_fails(report, "doctor", "can_capture True")
        report = Report()
        report.files["auto.any.jsonl"] = '{"type":"ready","hooks":"syscalls"}\n'
        self.assert_fails(report, "doctor", "the doctor chose socket")
        report = Report()
        report.doctor["findings"].append({"topic": "Hooks", "name": "new", "state": "ok", "found": ""})
        self.assert_fails(report, "doctor", "the doctor knows new")
        report = Report()
        report.files["dmesg"] = "[ 1.0] BUG: unable to handle page fault\n"
        self.assert_fails(report, "doctor", "the kernel complains")

    def test_a_guest_that_did_not_start_fails(self):
        report = Report()
        report.files["release"] = ""
        report.doctor = None
        self.assertEqual([row.result for row in report.rows()], ["FAILED"])

    def test_the_published_table_names_refusals_and_failures(self):
        rows = [judge.Row("6.1", "6.1.0", *words) for words in (
            ("doctor", "", "agrees", ""), ("socket", "ring", "refused", LACKS), ("socket", "perf", "refused", LACKS),
            ("kprobe", "ring", "exact", ""), ("kprobe", "perf", "exact", ""),
            ("fentry", "ring", "FAILED", "x"), ("fentry", "perf", "exact", ""),
        )]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            judge.print_markdown(rows)
        self.assertIn("| 6.1 | – | ring, perf | perf; **wrong: ring** |\n", printed.getvalue())
        self.assertIn(f"- 6.1, `socket`: {LACKS}\n", printed.getvalue())


if __name__ == "__main__":
    unittest.main()
