"""What resolving two large states costs.

    state_resolution_cost.py [--members 50000] [--level-changes 300] [--repeat 5]

Two states that differ in 20 entries, in rooms of versions 1, 11 and 12. Prints one line a version: state nodes read
(of all there are), calls to the auth graph, items asked of it, and CPU milliseconds (the median and the most of the
repetitions), reading included, as far as reading from memory goes.
"""

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from fixtures.state_resolution.large_room import LargeRoom  # noqa: E402 - the paths above come first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--level-changes", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'version':<9}{'nodes':>14}{'calls':>7}{'items':>7}{'CPU ms':>9}{'most':>9}")
    for version in ("1", "11", "12"):
        room = LargeRoom(version, members=arguments.members, level_changes=arguments.level_changes)
        costs = [room.resolve() for _ in range(arguments.repeat)]
        cpu = [cost.cpu_seconds * 1000 for cost in costs]
        nodes = f"{costs[0].nodes} of {len(room.nodes)}"
        counts = f"{costs[0].port_calls:>7}{costs[0].items_asked:>7}"
        print(f"{version:<9}{nodes:>14}{counts}{statistics.median(cpu):>9.1f}{max(cpu):>9.1f}")


if __name__ == "__main__":
    main()
