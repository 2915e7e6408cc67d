"""`python -m mrcnn COMMAND`."""

import sys

from mrcnn.commands.main import main

if __name__ == "__main__":
    sys.exit(main(program="python -m mrcnn", own_process=True))
