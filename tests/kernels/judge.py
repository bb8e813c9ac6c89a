"""What a guest reported, judged against what was done in it: see guest/init for the traffic.

judge.py judge NAME REPORT PLAN FAMILIES   rows of tab-separated words; FAMILIES (a,b,c) must be usable there
judge.py table [--markdown] FILE...        the rows of all kernels as a table, or as Markdown
"""

import collections
import json
import pathlib
import re
import shlex
import sys

V4, V6 = "127.0.0.1", "::1"
# Of nginx, of nobody, of unbound, and before the first of the pair's.
HTTP, CLOSED, DNS, PAIR = 8080, 9, 53, 9000
USABLE = ("chosen", "ok")
# A kernel that complains of itself while it is watched. Stalls are left out: software emulation on a busy machine is slow.
COMPLAINT = re.compile(r"\b(WARNING: |BUG: (?!soft lockup|workqueue lockup)|Oops|general protection|KASAN)")

Row = collections.namedtuple("Row", "kernel release hooks transport result seen")
Call = collections.namedtuple("Call", "protocol address port operation resource status client server")
Connection = collections.namedtuple("Connection", "address port role error comm sent received")


class Wrong(Exception):
    """Something is not as it should be; the text says what."""


def plan_of(path):
    words = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
    return {name: " ".join(shlex.split(value)) for name, _, value in words}


def pair_runs(plan):
    """What the pair does: means, address, port, and the length of bodies (0: small ones, and GET)."""
    for number, means in enumerate(plan["MEANS"].split(), 1):
        for address in (V4, V6):
            for body in (0, int(plan["BODY_BYTES"])):
                yield means, address, PAIR + number, body


def is_read(hooks, means):
    """Whether the bytes can be read: docs/limits.md. Where not they are counted; `syscalls` has only the kernel's count of what came."""
    if hooks in ("fentry", "kprobe"):
        # pages of the kernel, not the memory of a program
        return means != "uring-fixed"
    return hooks == "packet" or not means.startswith("uring")


def expected_calls(hooks, plan, programs):
    """Each call that is made once, as one side sees it."""
    calls = collections.Counter()

    def http(address, resource, times=1):
        calls[Call("http", address, HTTP, "GET", resource, "200", "curl", "nginx")] += times

    if "nginx" in programs:
        for address in (V4, V6):
            for number in range(1, int(plan["REQUESTS"]) + 1):
                http(address, f"/kept/{number}")
            for number in range(1, int(plan["CLOSED"]) + 1):
                http(address, f"/closed/{number}")
            http(address, "/files/large")
    if "unbound" in programs:
        lookups = int(plan["LOOKUPS"])
        http(V4, "/named", lookups)
        for operation in ("A", "AAAA"):
            calls[Call("dns", V4, DNS, operation, "shop.test", "NOERROR", "curl", "unbound")] += lookups
        calls[Call("dns", V6, DNS, "A", "shop.test", "NOERROR", "nslookup", "unbound")] += lookups
    for means, address, port, body in pair_runs(plan):
        if is_read(hooks, means):
            method = "POST" if body else "GET"
            calls[Call("http", address, port, method, f"/{means}", "200", "pair", "pair")] += int(plan["ASKED"])
    if hooks == "packet":
        # of frames no process is known, so both ends have their addresses for names
        calls = collections.Counter({call._replace(client=call.address, server=call.address): count for call, count in calls.items()})
    return calls


def expected_connections(hooks, plan, programs):
    """Each connection that is closed or fails, on both sides where sides are seen. How much nginx says is its own affair."""
    connections = collections.Counter()

    def both(address, port, times, client, server, sent=None, received=None):
        for role, comm, there, back in (("client", client, sent, received), ("server", server, received, sent)):
            if hooks == "packet" and role == "server":
                continue
            connections[Connection(address, port, role, None, None if hooks == "packet" else comm, there, back)] += times

    if "nginx" in programs:
        for address in (V4, V6):
            looked_up = int(plan["LOOKUPS"]) if address == V4 and "unbound" in programs else 0
            both(address, HTTP, 1 + int(plan["CLOSED"]) + looked_up, "curl", "nginx")
    for means, address, port, body in pair_runs(plan):
        method, length = ("POST", f"Content-Length: {body}\r\n") if body else ("GET", "")
        host = f"[{address}]:{port}" if address == V6 else f"{address}:{port}"
        request = len(f"{method} /{means} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pair\r\n{length}\r\n") + body
        answer = body or 16
        answer += len(f"HTTP/1.1 200 Status\r\nServer: pair\r\nContent-Type: text/plain\r\nContent-Length: {answer}\r\n\r\n")
        asked = int(plan["ASKED"])
        both(address, port, 1, "pair", "pair", asked * request, asked * answer)
    if hooks == "syscalls":
        unseen = {PAIR + number for number, means in enumerate(plan["MEANS"].split(), 1) if not is_read(hooks, means)}
        for connection in [connection for connection in connections if connection.port in unseen]:
            count = connections.pop(connection)
            known = connection._replace(sent=0, comm=connection.comm if connection.role == "client" else None)
            connections[known] += count
    for address in (V4, V6):
        comm = None if hooks == "packet" else "pair"
        connections[Connection(address, CLOSED, "client", "ECONNREFUSED", comm, 0, 0)] += int(plan["REFUSED"])
    return connections


def difference(what, seen, expected):
    """Counts that are not the same: the first three of each kind."""
    if seen == expected:
        return
    parts = []
    for word, counts in (("missing", expected - seen), ("too many", seen - expected)):
        items = sorted(counts.items(), key=str)
        some = ", ".join(f"{count} × {' '.join(str(part) for part in item)}" for item, count in items[:3])
        if items:
            parts.append(f"{word} {sum(counts.values())}: {some}{' …' if len(items) > 3 else ''}")
    raise Wrong(f"{what}: {'; '.join(parts)}")


def comm(line):
    return line["process"] and line["process"]["comm"]


def ends(line):
    return tuple((line[end]["address"], line[end]["port"]) for end in ("client", "server"))


def call_of(line):
    """A line as the call that it tells of; the process that is not on the line's side is the name of that end."""
    names = {"client": line["client"]["name"], "server": line["server"]["name"]}
    if line["side"] in names:
        names[line["side"]] = comm(line)
    elif line["process"]:
        raise Wrong(f"frames have no process, and yet: {line}")
    address, port = ends(line)[1]
    return Call(line["protocol"], address, port, line["operation"], line["resource"], line["status"], names["client"], names["server"])


def connection_of(line):
    address, port = ends(line)[1]
    sent, received = (None, None) if port == HTTP else (line["bytes_sent"], line["bytes_received"])
    return Connection(address, port, line["role"], line["error"], comm(line), sent, received)


def check_pairs(exchanges):
    """Each call of a client is one of a server between the same two ends, in the same order, and their connections name each other."""
    sides = {side: collections.defaultdict(list) for side in ("client", "server")}
    connections = {side: {} for side in sides}
    for line in sorted(exchanges, key=lambda line: line["start_unix_nano"]):
        key = (line["protocol"], *ends(line))
        sides[line["side"]][key].append((line["operation"], line["resource"]))
        connections[line["side"]][key] = (line["connection_id"], line["peer_connection_id"])
    for key in sides["client"].keys() | sides["server"].keys():
        of = [sides[side].get(key, []) for side in ("client", "server")]
        # two questions of one sendmmsg may begin in the same nanosecond
        if key[0] == "dns":
            of = [sorted(calls) for calls in of]
        if of[0] != of[1]:
            raise Wrong(f"{key}: the client's side has {of[0][:3]}…, the server's {of[1][:3]}…")
        (client, of_client), (server, of_server) = (connections[side][key] for side in ("client", "server"))
        if of_client not in (None, server) or of_server not in (None, client) or client == server:
            raise Wrong(f"{key}: connections {client} and {server} name {of_client} and {of_server} as their peers")


def check_lines(hooks, lines, plan, programs):
    """What one run printed; returns what it saw, in words."""
    of_type = collections.defaultdict(list)
    for line in lines:
        of_type[line["type"]].append(line)
    if not of_type["summary"]:
        raise Wrong("no summary")
    summary, exchanges = of_type["summary"][-1], of_type["exchange"]
    if of_type["ready"][0]["hooks"] != hooks:
        raise Wrong(f"ready with {of_type['ready'][0]['hooks']}")
    sides = ("unknown",) if hooks == "packet" else ("client", "server")
    if strange := {line["side"] for line in exchanges} - set(sides):
        raise Wrong(f"sides {strange}")
    for side in sides:
        of_side = collections.Counter(call_of(line) for line in exchanges if line["side"] == side)
        difference(f"side {side}", of_side, expected_calls(hooks, plan, programs))
    if hooks != "packet":
        check_pairs(exchanges)
    if strange := [line for line in exchanges if line["flags"] or line["error"] or line["tls"]]:
        raise Wrong(f"{len(strange)} exchanges are not plain, such as {json.dumps(strange[0])}")
    connections = collections.Counter(connection_of(line) for line in of_type["connection"])
    difference("connections", connections, expected_connections(hooks, plan, programs))
    if lost := {reason: count for reason, count in summary["lost"].items() if count}:
        raise Wrong(f"lost {lost}")
    if summary["exchanges"] != len(exchanges):
        raise Wrong(f"the summary has {summary['exchanges']} exchanges, there are {len(exchanges)} lines")
    tally = collections.Counter(line["protocol"] for line in exchanges)
    words = [f"{count} {protocol}" for protocol, count in sorted(tally.items())]
    failed = sum(connection.error is not None for connection in connections.elements())
    words += [f"{connections.total()} connections", f"{failed} of them refused", "lost 0", f"{summary['elapsed_ns'] / 1e9:.1f} s"]
    return ", ".join(words)


def text_of(path):
    if not path.exists():
        raise Wrong(f"the guest sent no {path.name}")
    return path.read_text(errors="replace")


def lines_of(path):
    lines = []
    for number, text in enumerate(text_of(path).splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise Wrong(f"{path.name}:{number}: {error}") from None
    return lines


def check_refused(report, run, status, reason):
    """A family that the doctor calls unusable ends with status 3 and the doctor's reason."""
    log = text_of(report / f"{run}.log")
    if status != 3:
        raise Wrong(f"the doctor says: {reason}; and yet exit {status}: {last(log)}")
    # each family says something of itself in front of the reason
    for part in re.sub(r"^lacks |^has all it needs, and yet its trial failed: ", "", reason).split("; "):
        if part in log:
            return
    raise Wrong(f"refused for another reason than the doctor's ({reason}): {last(log)}")


def last(log):
    return (log.strip().splitlines() or ["nothing"])[-1]


def judge_kernel(name, report, plan, families):
    """The rows of one kernel."""
    try:
        release = text_of(report / "release").strip()
        doctor = json.loads(text_of(report / "doctor.json"))
        found = {finding["name"]: finding for finding in doctor["findings"] if finding["topic"] == "Hooks"}
        kernel = plan_of(report / "kernel")
    except (Wrong, KeyError, TypeError, ValueError) as error:
        yield Row(name, "?", "doctor", "", "FAILED", str(error))
        return
    programs = kernel["PROGRAMS"].split()
    usable = [hooks for hooks, finding in found.items() if finding["state"] in USABLE]

    def row(hooks, transport, result, seen):
        return Row(name, release, hooks, transport, result, " ".join(seen.split()))

    def about_doctor():
        status = int(text_of(report / "doctor.status"))
        if (status == 0) != doctor["can_capture"]:
            raise Wrong(f"exit {status} and can_capture {doctor['can_capture']}")
        chosen = lines_of(report / "auto.any.jsonl")
        if doctor["hooks"] is None:
            check_refused(report, "auto.any", int(text_of(report / "auto.any.status")), doctor["reason"])
        elif not chosen or chosen[0]["hooks"] != doctor["hooks"]:
            raise Wrong(f"the doctor chose {doctor['hooks']}, the agent {chosen[:1]}")
        if set(found) != set(plan["HOOKS"].split()):
            raise Wrong(f"the doctor knows {' '.join(sorted(found))}, the plan {plan['HOOKS']}")
        if unknown := [hooks for hooks in families if hooks not in found]:
            raise Wrong(f"the doctor does not know {' '.join(unknown)}")
        if lacking := [hooks for hooks in families if hooks not in usable]:
            raise Wrong("; ".join(f"{hooks}: {found[hooks]['found']}" for hooks in lacking) + ": should be usable here")
        if complaints := [line for line in text_of(report / "dmesg").splitlines() if COMPLAINT.search(line)]:
            raise Wrong(f"the kernel complains: {complaints[0]}")
        return f"chosen: {doctor['hooks']}; {text_of(report / 'seconds').strip()} s from power on"

    def about_run(hooks, transport):
        run = f"{hooks}.{transport}"
        status = int(text_of(report / f"{run}.status"))
        if hooks not in usable:
            check_refused(report, run, status, found[hooks]["found"])
            return "refused", found[hooks]["found"]
        if status != 0:
            raise Wrong(f"exit {status}: {last(text_of(report / f'{run}.log'))}")
        log = text_of(report / f"{run}.log")
        if transport != "any" and f"records by {transport}" not in log:
            raise Wrong(f"it does not say that records come by {transport}: {last(log)}")
        return "exact", check_lines(hooks, lines_of(report / f"{run}.jsonl"), plan, programs)

    try:
        yield row("doctor", "", "agrees", about_doctor())
    except Wrong as error:
        yield row("doctor", "", "FAILED", str(error))
    for hooks in plan["HOOKS"].split():
        for transport in plan["TRANSPORTS"].split():
            try:
                yield row(hooks, transport, *about_run(hooks, transport))
            except (Wrong, KeyError, ValueError, TypeError) as error:
                yield row(hooks, transport, "FAILED", f"{type(error).__name__}: {error}" if not isinstance(error, Wrong) else str(error))


def rows_of(paths):
    return [Row(*line.split("\t")) for path in paths for line in path.read_text().splitlines()]


def print_table(rows):
    print("{:<16} {:<30} {:<9} {:<9} {:<8} {}".format(*Row._fields))
    for row in rows:
        print("{:<16} {:<30} {:<9} {:<9} {:<8} {}".format(*row))


def print_markdown(rows):
    """Releases are left out: they change with each update of a distribution."""
    hooks = list(dict.fromkeys(row.hooks for row in rows if row.hooks != "doctor"))
    print(f"| kernel | {' | '.join(f'`{name}`' for name in hooks)} |\n|---|{'---|' * len(hooks)}")
    reasons = []
    for kernel in dict.fromkeys(row.kernel for row in rows):
        cells = []
        for name in hooks:
            of = [row for row in rows if (row.kernel, row.hooks) == (kernel, name)]
            exact = ", ".join(row.transport for row in of if row.result == "exact")
            if failed := ", ".join(row.transport for row in of if row.result == "FAILED"):
                exact += f"{'; ' if exact else ''}**wrong: {failed}**"
            cells.append(exact or "–")
            if not exact and of:
                reasons.append(f"- {kernel}, `{name}`: {of[0].seen}")
        print(f"| {kernel} | {' | '.join(cells)} |")
    if reasons:
        print("\nWhere there is a dash, `remora doctor` says, and the agent ends with status 3 and the same words:\n")
        print("\n".join(reasons))


def main(arguments):
    if arguments[:1] == ["judge"]:
        name, report, plan, families = arguments[1:]
        rows = list(judge_kernel(name, pathlib.Path(report), plan_of(pathlib.Path(plan)), families.split(",")))
        for row in rows:
            print("\t".join(row))
        return int(any(row.result == "FAILED" for row in rows))
    if arguments[:1] == ["table"]:
        markdown = "--markdown" in arguments
        rows = rows_of(pathlib.Path(path) for path in arguments[1:] if path != "--markdown")
        (print_markdown if markdown else print_table)(rows)
        return 0
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
