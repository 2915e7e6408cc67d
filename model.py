"""Mask R-CNN for clothing: `python model.py --help` lists the commands."""

import sys

from mrcnn.commands.main import main

if __name__ == "__main__":
    sys.exit(main(own_process=True))
