"""Plans that change nothing, and the applies before them: 1,000, 10,000 and 100,000 repositories.

Against the plan stands what no tool that reads YAML can do without: the events of the same file, by PyYAML's C parser, and
nothing made of them. Against the apply stands the core: the same repositories made in the registry, by as many threads.
"""

from __future__ import annotations

from pathlib import Path

from bench.measure import Cases, Command, Sample, interleaved, median
from bench.site import Site
from bench.table import Budget, Row, Table, at_most, times

SIZES = (1_000, 10_000, 100_000)
#: Where the budgets are set; smaller and larger ones show that cost is linear.
_BUDGETED = 10_000
_ROUNDS = {1_000: 11, 10_000: 11, 100_000: 3}
_APPLIES = {1_000: 3, 10_000: 3, 100_000: 1}
#: Linear: ten times as many may cost this much more than ten times as much.
_LINEAR = 1.25
_EACH = 0.0005

_BARE = """
import sys
from yaml._yaml import CParser
from yaml.events import StreamEndEvent
event = CParser(open(sys.argv[1], "rb").read()).get_event
while event().__class__ is not StreamEndEvent:
    pass
"""

_CORE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from bayplan.oci.root import Root
from bayplan.registry.model import TagMutability
from bayplan.registry.registry import Registry
count, root = int(sys.argv[1]), Path(sys.argv[2])
registry = Registry(Root.at(root).ensure())
digests = ",".join(f'"{name}":"{"0" * 32}"' for name in ("image_tag_mutability", "repository_name", "tags"))
def make(number):
    uid = f"{number:016x}"
    registry.create_repository(
        f"team-{number % 97}/service-{number:06}",
        mutability=TagMutability.IMMUTABLE if number % 3 else TagMutability.MUTABLE,
        tags={"owner": f"team-{number % 97}"},
        labels={
            "bayplan.dev/stack": "bench", "bayplan.dev/address": f"Repository.r{number:06}", "bayplan.dev/uid": uid,
            "bayplan.dev/op": uid, "bayplan.dev/fields": "{" + digests + "}",
        },
    )
with ThreadPoolExecutor(8) as pool:
    list(pool.map(make, range(count)))
"""


def stack(count: int) -> str:
    """A stack file of ``count`` repositories, five lines each."""
    head = f"stack: bench{count}\nresources:\n"
    return head + "".join(
        f"  Repository.r{number:06}:\n"
        f"    repository_name: team-{number % 97}/service-{number:06}\n"
        f"    image_tag_mutability: {'IMMUTABLE' if number % 3 else 'MUTABLE'}\n"
        "    tags:\n"
        f"      owner: team-{number % 97}\n"
        for number in range(count)
    )


def tables(site: Site, sizes: tuple[int, ...] = SIZES) -> list[Table]:
    applies: dict[int, dict[str, Sample]] = {}
    plans: dict[int, dict[str, Sample]] = {}
    found = []
    for count in sizes:
        file = site.folder / f"{count}.yaml"
        file.write_text(stack(count))
        applies[count] = _medians(_applied(site, file, count), _APPLIES[count], warm=0)
        plans[count] = _medians(_planned(site, file, count), _ROUNDS[count], warm=1)
        found.append(_plan_table(count, file, plans))
        found.append(_apply_table(count, applies))
    return found


def _medians(cases: Cases, rounds: int, warm: int) -> dict[str, Sample]:
    return {name: median(samples) for name, samples in interleaved(cases, rounds, warm=warm).items()}


def _places(site: Site, count: int, number: int) -> list[str]:
    return [
        "--root",
        str(site.folder / f"root-{count}-{number}"),
        "--state",
        str(site.folder / f"state-{count}-{number}"),
    ]


def _applied(site: Site, file: Path, count: int) -> Cases:
    def core(number: int) -> Command:
        return site.python("-c", _CORE, str(count), str(site.folder / f"core-{count}-{number}"))

    def whole(number: int) -> Command:
        return site.bayplan("apply", "--yes", "-f", str(file), *_places(site, count, number))

    return {"core": core, "apply": whole}


def _planned(site: Site, file: Path, count: int) -> Cases:
    plan = ["plan", "--detailed-exitcode", "-f", str(file), *_places(site, count, 0)]
    return {
        "bare": lambda _: site.python("-c", _BARE, str(file)),
        "cached": lambda _: site.bayplan(*plan),
        "uncached": lambda _: site.bayplan(*plan, XDG_CACHE_HOME="", HOME=""),
    }


def _plan_table(count: int, file: Path, plans: dict[int, dict[str, Sample]]) -> Table:
    bare, cached, uncached = (plans[count][name] for name in ("bare", "cached", "uncached"))
    rows = [Row("bare parse of the file (PyYAML, C events)", bare, "1x")]
    budgets: dict[str, tuple[Budget, ...]] = {"cached": (), "uncached": ()}
    if count == _BUDGETED:
        budgets["uncached"] = (at_most(uncached.wall, bare.wall, 4, "the bare parse"), _memory(uncached))
        budgets["cached"] = (at_most(cached.wall, bare.wall, 2.5, "the bare parse"), _memory(cached))
    for name in budgets:
        budgets[name] += _linear(count, {size: one[name] for size, one in plans.items()})
    rows.append(Row("plan, without the parse cache", uncached, times(uncached.wall, bare.wall), budgets["uncached"]))
    rows.append(Row("plan", cached, times(cached.wall, bare.wall), budgets["cached"]))
    lines = 5 * count + 2
    title = f"A plan that changes nothing: {count:,} repositories ({lines:,} lines, {file.stat().st_size / 1e6:.1f} MB)"
    return Table(title, _ROUNDS[count], rows)


def _apply_table(count: int, applies: dict[int, dict[str, Sample]]) -> Table:
    core, whole = applies[count]["core"], applies[count]["apply"]
    each = (whole.wall - core.wall) / count
    price = Budget(f"{each * 1000:.2f} ms of 0.5 ms each over the core", each, _EACH)
    budgets = (price, *_linear(count, {size: one["apply"] for size, one in applies.items()}))
    rows = [
        Row("the core alone (8 threads)", core, f"{core.wall / count * 1000:.2f} ms each"),
        Row("apply", whole, f"{whole.wall / count * 1000:.2f} ms each", budgets),
    ]
    return Table(f"Their apply: {count:,} repositories", _APPLIES[count], rows)


def _linear(count: int, found: dict[int, Sample]) -> tuple[Budget, ...]:
    """Against a tenth of the size, where that was measured and its cost is more than the start of the process."""
    tenth = found.get(count // 10)
    if tenth is None:
        return ()
    factor = found[count].cpu / tenth.cpu
    return (Budget(f"{factor:.1f}x the CPU of a tenth, of {10 * _LINEAR:g}x", factor, 10 * _LINEAR),)


def _memory(sample: Sample) -> Budget:
    return Budget(f"{sample.memory / 1e6:.0f} MB of 120 MB", sample.memory / 1e6, 120)
