"""What is measured, what was promised, and how both are shown."""

import collections
import operator
import statistics

# args: bench-client's; key: the figure of its result that counts, times scale;
# one_cpu: everything runs on one CPU (see README.md); opaque: with the service of an unknown protocol
# instead of the compositor.
Workload = collections.namedtuple("Workload", "name args key scale unit one_cpu timeout opaque",
                                  defaults=(False, 20, False))

WORKLOADS = (
    Workload("rtt", ("rtt",), "p50_us", 1, "µs", True),
    Workload("rtt-all-cpus", ("rtt",), "p50_us", 1, "µs"),
    Workload("burst", ("burst",), "requests_per_s", 1e-6, "M/s"),
    Workload("connect", ("connect",), "p50_us", 1e-3, "ms", True),
    Workload("connect-storm", ("connect-storm",), "p50_us", 1e-3, "ms"),
    Workload("startup", ("startup",), "p50_us", 1e-3, "ms"),
    Workload("damage-4k", ("damage", "3840x2160"), "p50_us", 1, "µs", True),
    Workload("damage-1080p", ("damage", "1920x1080"), "p50_us", 1, "µs", True),
    Workload("damage-4k-all-cpus", ("damage", "3840x2160"), "p50_us", 1, "µs"),
    Workload("full-1080p", ("full", "1920x1080"), "frames_per_s", 1, "frames/s"),
    Workload("sparse-1080p", ("sparse", "1920x1080"), "frames_per_s", 1, "frames/s"),
    Workload("static-1080p", ("static", "1920x1080"), "frames_per_s", 1, "frames/s"),
    Workload("clipboard", ("clipboard",), "mib_per_s", 1, "MiB/s", timeout=10),
    Workload("clipboard-one-cpu", ("clipboard",), "mib_per_s", 1, "MiB/s", True, timeout=10),
    Workload("opaque-rtt", ("opaque-rtt",), "p50_us", 1, "µs", True, opaque=True),
    Workload("opaque-rtt-all-cpus", ("opaque-rtt",), "p50_us", 1, "µs", opaque=True),
    Workload("opaque-rtt-fd", ("opaque-rtt-fd",), "p50_us", 1, "µs", True, opaque=True),
    Workload("opaque-stream-to-host", ("opaque-stream-to-service",), "mib_per_s", 1, "MiB/s",
             timeout=30, opaque=True),
    Workload("opaque-stream-to-guest", ("opaque-stream-from-service",), "mib_per_s", 1, "MiB/s",
             timeout=30, opaque=True),
    Workload("opaque-fds", ("opaque-fds",), "fds_per_s", 1, "fds/s", timeout=30, opaque=True),
    Workload("memory", ("memory", "1920x1080"), "mib", 1, "MiB"),
)

# In a virtual machine. plain: without the proxies, the service's own socket is one of AF_VSOCK.
MachineWorkload = collections.namedtuple(
    "MachineWorkload", "name args key scale unit plain timeout", defaults=(False, 60))

MACHINE_WORKLOADS = (
    MachineWorkload("rtt", ("--seconds", "3", "rtt"), "p50_us", 1, "µs"),
    MachineWorkload("stream-to-host", ("--count", "32", "opaque-stream-to-service"), "mib_per_s", 1,
                    "MiB/s"),
    MachineWorkload("stream-to-guest", ("--count", "32", "opaque-stream-from-service"),
                    "mib_per_s", 1, "MiB/s"),
    MachineWorkload("socket-rtt", ("--seconds", "3", "opaque-rtt"), "p50_us", 1, "µs", True),
    MachineWorkload("socket-to-host", ("--count", "32", "opaque-stream-to-service"), "mib_per_s", 1,
                    "MiB/s", True),
    MachineWorkload("socket-to-guest", ("--count", "32", "opaque-stream-from-service"),
                    "mib_per_s", 1, "MiB/s", True),
)

# beyond: the contender whose figure of the same repetition is subtracted.
Figure = collections.namedtuple("Figure", "workload contender key beyond",
                                defaults=("value", None))
Target = collections.namedtuple("Target", "what figure divisor relation limit",
                                defaults=(None, None, None))

RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}

TARGETS = (
    Target("round trip, against relay",
           Figure("rtt", "fdferry"), Figure("rtt", "relay"), "<=", 1.25),
    Target("64x64 damage on 4K, times faster than waypipe",
           Figure("damage-4k", "waypipe"), Figure("damage-4k", "fdferry"), ">=", 50),
    Target("64x64 damage, 4K against 1080p",
           Figure("damage-4k", "fdferry"), Figure("damage-1080p", "fdferry"), "<=", 1.3),
    Target("full 1080p frames, rate against waypipe",
           Figure("full-1080p", "fdferry"), Figure("full-1080p", "waypipe"), ">=", 2.5),
    Target("full 1080p frames, CPU against waypipe",
           Figure("full-1080p", "fdferry", "cpu_us"), Figure("full-1080p", "waypipe", "cpu_us"),
           "<", 0.5),
    Target("connect to first round trip, against waypipe",
           Figure("connect", "fdferry"), Figure("connect", "waypipe"), "<=", 0.125),
    Target("tiny requests, rate against relay",
           Figure("burst", "fdferry"), Figure("burst", "relay"), ">=", 0.8),
    Target("64 MiB clipboard, rate against direct",
           Figure("clipboard", "fdferry"), Figure("clipboard", "direct"), ">=", 0.3),
    Target("opaque round trip, what it adds to direct against what Wayland's does",
           Figure("opaque-rtt", "fdferry", beyond="direct"),
           Figure("rtt", "fdferry", beyond="direct"), "<=", 1),
    Target("opaque stream to the host, rate against relay",
           Figure("opaque-stream-to-host", "fdferry"), Figure("opaque-stream-to-host", "relay"),
           ">=", 0.8),
    Target("opaque stream to the guest, rate against relay",
           Figure("opaque-stream-to-guest", "fdferry"), Figure("opaque-stream-to-guest", "relay"),
           ">=", 0.8),
    Target("10,000 opaque fds, left open in the proxies",
           Figure("opaque-fds", "fdferry", "fds_left"), None, "<=", 0),
    Target("memory beyond the pools per client, MiB",
           Figure("memory", "fdferry"), None, "<", 6),
)


def chosen(workloads, only):
    """Those of these names, or whose name begins with one and a dash; all without any."""
    return [workload for workload in workloads
            if not only or any(workload.name == name or workload.name.startswith(name + "-")
                               for name in only)]


def machine_targets(workloads, other):
    """Of the contender vhost-user, against the kernel's vsock of that name."""
    return [Target(f"{workload.name}, against {other}", Figure(workload.name, "vhost-user"),
                   Figure(workload.name, other),
                   *(("<=", 1) if workload.unit == "µs" else (">=", 2)))
            for workload in workloads]


class Samples:
    """One dict per measurement: contender, workload, repetition, value and perhaps cpu_us."""

    def __init__(self):
        self.all = []
        self.failures = {}  # (workload, contender): reasons

    def values(self, figure):
        values = self.plain_values(figure)
        if figure.beyond is None:
            return values
        others = self.plain_values(figure._replace(contender=figure.beyond))
        return {i: values[i] - others[i] for i in values if i in others}

    def plain_values(self, figure):
        return {sample["repetition"]: sample[figure.key] for sample in self.all
                if sample["workload"] == figure.workload
                and sample["contender"] == figure.contender
                and sample.get(figure.key) is not None}

    def results(self, target):
        """The target's ratio in every repetition that has both of its sides."""
        values = self.values(target.figure)
        if target.divisor is None:
            return list(values.values())
        divisors = self.values(target.divisor)
        return [values[i] / divisors[i] for i in values if divisors.get(i)]


def number(value):
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def cell(samples, figure):
    values = list(samples.values(figure).values())
    if not values:
        failed = figure.key == "value" and (figure.workload, figure.contender) in samples.failures
        return "failed" if failed else "-"
    median = statistics.median(values)
    spread = (max(values) - min(values)) / 2 / median * 100 if median else 0
    return f"{number(median)} ±{spread:.0f}%"


def print_rows(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join([row[0].ljust(widths[0])] + [text.rjust(width) for text, width
                                                     in zip(row[1:], widths[1:])]).rstrip())


def print_figures(samples, workloads, names):
    rows = [["workload", "unit", *names]]
    for workload in workloads:
        rows.append([workload.name, workload.unit]
                    + [cell(samples, Figure(workload.name, name)) for name in names])
    print_rows(rows)

    print("\nCPU of the proxies per round trip, request, connection, frame, fd or MiB")
    names = [name for name in names if name != "direct"]
    rows = [["workload", "unit", *names]]
    for workload in workloads:
        if workload.name != "memory":
            rows.append([workload.name, "µs"] + [
                cell(samples, Figure(workload.name, name, "cpu_us")) for name in names])
    print_rows(rows)


def print_machine(samples, workloads, names):
    rows = [["workload", "unit", *names]]
    for workload in workloads:
        rows.append([workload.name, workload.unit]
                    + [cell(samples, Figure(workload.name, name)) for name in names])
    print_rows(rows)


def judge(samples, target):
    results = samples.results(target)
    if not results:
        return None
    median = statistics.median(results)
    return {
        "what": target.what,
        "median": median,
        "min": min(results),
        "max": max(results),
        "relation": target.relation,
        "limit": target.limit,
        "met": RELATIONS[target.relation](median, target.limit),
    }


def targets_of(workloads):
    names = {workload.name for workload in workloads}
    return [target for target in TARGETS if target.figure.workload in names]


def print_targets(targets, verdicts):
    rows = [["target", "limit", "median", "min .. max", "verdict"]]
    for target, verdict in zip(targets, verdicts):
        limit = f"{target.relation} {target.limit:g}"
        if verdict is None:
            rows.append([target.what, limit, "-", "-", "not measured"])
        else:
            rows.append([target.what, limit, number(verdict["median"]),
                         f"{number(verdict['min'])} .. {number(verdict['max'])}",
                         "met" if verdict["met"] else "MISSED"])
    print_rows(rows)
