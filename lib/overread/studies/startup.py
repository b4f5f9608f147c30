"""How long `monailabel start_server` takes with our app, against an app that serves nothing.

python -m overread.studies.startup apps/radiology --repeats 3
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from overread.studies.local_server import app_with_champion, local_server

EMPTY_APP = """from monailabel.interfaces.app import MONAILabelApp


class Empty(MONAILabelApp):
    pass
"""


def main() -> None:
    """Start both apps in turns, each in a fresh folder, and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("app", type=Path, help="folder of our app")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"empty": [], "ours": []}
    for _ in range(arguments.repeats):
        for name, times in seconds.items():
            with tempfile.TemporaryDirectory() as scratch:
                app, studies = Path(scratch) / "app", Path(scratch) / "studies"
                if name == "empty":
                    app.mkdir()
                    (app / "main.py").write_text(EMPTY_APP)
                else:
                    app_with_champion(arguments.app, app)
                with local_server(app, studies) as server:
                    times.append(server.start_s)
    for name, times in seconds.items():
        print(f"{name}: median {statistics.median(times):.1f} s of {', '.join(f'{t:.1f}' for t in times)}")
    difference = statistics.median(seconds["ours"]) - statistics.median(seconds["empty"])
    print(f"ours takes {difference:+.1f} s longer")


if __name__ == "__main__":
    main()
