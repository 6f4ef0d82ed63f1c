"""python -m ovdense.cli, where the entry point is not on the PATH."""
import sys

from ovdense.cli import main

sys.exit(main())
