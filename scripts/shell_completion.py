"""See `python scripts/shell_completion.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oellm_autoexp.cli.completion.shell_completion import main

if __name__ == "__main__":
    sys.exit(main())
