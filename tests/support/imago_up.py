"""`imago up` with fake services, as a process of its own: `imago_up.py [ARGUMENTS OF IMAGO…]`."""

import sys
from pathlib import Path

from services.cli import stack
from services.cli.app import main

FAKE = str(Path(__file__).with_name("fake_service.py"))
COMMANDS = {name: (sys.executable, FAKE, name) for name in ("teacher", "worker", "gateway")}

if __name__ == "__main__":
    # The default of the keyword is bound at definition, so it is changed where it is kept.
    stack.Stack.__init__.__kwdefaults__["commands"] = COMMANDS
    main(sys.argv[1:])
