"""Mask R-CNN for clothing: `python model.py --help` lists the commands."""

import sys

if __name__ == "__main__":
    try:
        from mrcnn.commands.main import main

        status = main(own_process=True)
    except KeyboardInterrupt:  # while the imports above take their time
        status = 130
    sys.exit(status)
