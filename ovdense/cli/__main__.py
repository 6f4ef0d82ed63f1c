"""python -m ovdense.cli, where the entry point is not on the PATH."""
from ovdense.cli import main
from ovdense.cli.program import end

end(main())
