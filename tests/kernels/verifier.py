"""What the verifier of each kernel has to do for each program, held against verifier.json.

verifier.py check FILE...    fails where a program costs much more than it did, comes near to the limit, or was refused
verifier.py write FILE...    makes these kernels' rows of verifier.json anew, and the table in docs/kernels.md
verifier.py markdown         verifier.json as that table

FILE is KERNEL.doctor.json or KERNEL.doctor.perf.json: what `remora doctor --json` said there, the latter with `--transport perf`. The
kernel `host` is whichever runs the tests: nothing is known of it, so only the limit holds.
"""

import collections
import json
import pathlib
import sys

BASELINE = pathlib.Path(__file__).parent / "verifier.json"
DOCUMENT = pathlib.Path(__file__).parents[2] / "docs/kernels.md"
MARKERS = "<!-- verifier -->\n", "<!-- end of verifier -->\n"
HOST = "host"
# A verifier gives up after a million instructions (BPF_COMPLEXITY_LIMIT_INSNS, since 5.2). Another compiler's code, or another
# kernel's verifier, may cost twice as much.
LIMIT = 400_000
# Instructions differ between compilers and between releases of one kernel: what is more than both of these is meant.
SHARE, INSTRUCTIONS = 0.25, 2000

# Of one load: a family of hooks as this kernel has it. `programs` has, for each by its name, instructions and microseconds.
# A family whose object is not of the two flavours has one `alone`.
Row = collections.namedtuple("Row", "kernel family flavour transport release programs")


class Wrong(Exception):
    """What was given cannot be read; the text says why."""


def key_of(row):
    return row.kernel, row.family, row.flavour, row.transport


def words_of(row):
    return f"{row.kernel}, {row.family} ({row.flavour}, {row.transport})"


def rows_of(path):
    """The loads that one doctor tried and measured, each with what the kernel refused of it: why, by program."""
    kernel, doctor, _ = path.name.partition(".doctor.")
    if not doctor:
        raise Wrong(f"{path}: not KERNEL.doctor.json")
    try:
        report = json.loads(path.read_text())
        for family in report["families"]:
            measured = ((program["name"], program.get("verified")) for program in family["programs"])
            programs = {name: (cost["instructions"], cost["microseconds"]) for name, cost in measured if cost}
            refused = {program["name"]: program["why"] for program in family["programs"] if program["state"] == "failed"}
            if programs or refused:
                flavour = family.get("flavour", "alone")
                yield Row(kernel, family["name"], flavour, family["transport"], report["features"]["kernel"], programs), refused
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Wrong(f"{path}: {type(error).__name__}: {error}") from None


def measured(paths):
    """The rows of all of them, and what was refused; the doctor of one kernel may have loaded the same twice."""
    rows, refusals = {}, []
    for path in paths:
        for row, refused in rows_of(path):
            rows[key_of(row)] = row
            refusals += [f"{words_of(row)}: {name} was refused: {why}" for name, why in refused.items()]
    for kernel in {path.name.partition(".doctor.")[0] for path in paths}:
        if not any(row.kernel == kernel and row.programs for row in rows.values()):
            raise Wrong(f"{kernel}: the doctor has measured no program")
    return list(rows.values()), refusals


def read_baseline():
    if not BASELINE.exists():
        return []
    rows = (Row(**row) for row in json.loads(BASELINE.read_text()))
    return [row._replace(programs={name: tuple(cost) for name, cost in row.programs.items()}) for row in rows]


def compare(rows, baseline):
    """What is wrong, and what is only to be told."""
    wrong, told = [], []
    known = {key_of(row): row for row in baseline}
    for row in rows:
        before = known.pop(key_of(row), None)
        if not before and row.kernel != HOST:
            told.append(f"{words_of(row)}: not in the baseline")
        for name, (instructions, _) in row.programs.items():
            what = f"{words_of(row)}: {name}: {instructions:,} instructions"
            if instructions > LIMIT:
                wrong.append(f"{what}, more than {LIMIT:,}")
            if before and name in before.programs:
                was = before.programs[name][0]
                there = f"{was:,} on {before.release}; this is {row.release}"
                if instructions > max(was * (1 + SHARE), was + INSTRUCTIONS):
                    wrong.append(f"{what}, there were {there}")
                elif instructions < min(was * (1 - SHARE), was - INSTRUCTIONS):
                    told.append(f"{what}, there were {there}: renew the baseline")
            elif before:
                told.append(f"{what}, not in the baseline")
        for name in (before.programs if before else {}).keys() - row.programs.keys():
            wrong.append(f"{words_of(row)}: {name} is in the baseline, and was not loaded")
    kernels = {row.kernel for row in rows}
    wrong += [f"{words_of(row)}: is in the baseline, and was not loaded" for row in known.values() if row.kernel in kernels]
    return wrong, told


def renew(rows, baseline):
    """The rows in place of those of the same kernels. A row whose instructions are the same stays as it is: times never are."""
    kernels = {row.kernel for row in rows}
    known = {key_of(row): row for row in baseline}
    renewed = [row for row in baseline if row.kernel not in kernels]
    for row in rows:
        before = known.get(key_of(row))
        same = before and instructions_of(before) == instructions_of(row)
        renewed.append(before if same else row)
    return sorted(renewed, key=key_of)


def instructions_of(row):
    return {name: instructions for name, (instructions, _) in row.programs.items()}


def text_of(baseline):
    """One line for each row, so that a change of one is seen."""
    return "[\n" + ",\n".join(json.dumps(row._asdict()) for row in baseline) + "\n]\n"


def markdown(baseline):
    families = sorted({row.family for row in baseline})
    lines = [f"| kernel | programs | {' | '.join(f'`{family}`' for family in families)} |", f"|---|---|{'---|' * len(families)}"]
    loads = dict.fromkeys((row.kernel, row.flavour, row.transport) for row in baseline)
    for kernel, flavour, transport in sorted(loads, key=lambda load: (order(load[0]), load[1:])):
        cells = []
        for family in families:
            of = [row for row in baseline if key_of(row) == (kernel, family, flavour, transport)]
            cells.append(cell(of[0].programs) if of else "–")
        lines.append(f"| {kernel} | {flavour}, {transport} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(programs):
    # of two that cost the same always the same one
    name, (instructions, _) = max(programs.items(), key=lambda program: (program[1][0], program[0]))
    microseconds = sum(microseconds for _, microseconds in programs.values())
    return f"`{name}` {instructions:,}; {microseconds / 1000:,.0f} ms"


def order(kernel):
    """By the numbers of the version; a name without one is the newest."""
    numbers = [int(number) for number in kernel.partition("-")[0].split(".") if number.isdigit()]
    return numbers or [sys.maxsize], kernel


def parts_of(document):
    """The text before the table, the table, and the text behind it."""
    before, begin, rest = document.partition(MARKERS[0])
    table, end, after = rest.partition(MARKERS[1])
    if not end:
        raise Wrong(f"{DOCUMENT}: no {' … '.join(marker.strip() for marker in MARKERS)}")
    return before + begin, table, end + after


def main(arguments):
    command, paths = arguments[:1], [pathlib.Path(path) for path in arguments[1:]]
    try:
        if command == ["check"] and paths:
            return check(*measured(paths))
        if command == ["write"] and paths:
            baseline = renew([row for row in measured(paths)[0] if row.kernel != HOST], read_baseline())
            before, _, after = parts_of(DOCUMENT.read_text())
            BASELINE.write_text(text_of(baseline))
            DOCUMENT.write_text(before + markdown(baseline) + after)
            return 0
        if command == ["markdown"] and not paths:
            print(markdown(read_baseline()), end="")
            return 0
    except Wrong as error:
        print(f"verifier: {error}", file=sys.stderr)
        return 1
    sys.exit(__doc__)


def check(rows, refusals):
    baseline = read_baseline()
    wrong, told = compare(rows, baseline)
    wrong += refusals
    if parts_of(DOCUMENT.read_text())[1] != markdown(baseline):
        wrong.append(f"{DOCUMENT.name} has another table than {BASELINE.name}")
    for line in told:
        print(f"verifier: {line}")
    for line in wrong:
        print(f"verifier: WRONG: {line}")
    costs = [(cost, name, row) for row in rows for name, (cost, _) in row.programs.items()]
    cost, name, row = max(costs)
    print(f"verifier: {len(costs)} programs of {len(rows)} loads; the dearest is {name} of {words_of(row)}: {cost:,}; {len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
