"""`python -m oellm_autoexp` is the console script."""

import sys

from oellm_autoexp.cli.main import main

sys.exit(main())
