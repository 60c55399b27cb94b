"""`python -m coding_agent_docs`: write the reference pages, build the site, or serve it."""

from __future__ import annotations

import argparse
import sys

from coding_agent_docs import site, write
from coding_agent_docs.errors import DocsError


def main() -> int:
    """Run a command. Return the exit status: 0, or 1 if the documentation has an error."""
    parser = argparse.ArgumentParser(prog="coding_agent_docs", description=__doc__)
    parser.add_argument("command", choices=["reference", "build", "serve"])
    command = parser.parse_args().command
    try:
        if command == "reference":
            for path in write.write():
                print(path)
        elif command == "build":
            print(site.build())
        else:
            return site.serve()
    except DocsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
