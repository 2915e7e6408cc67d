"""DeepFashion2 annotations -> COCO JSON: `python convert_to_coco.py --help` lists the options."""

import sys

from mrcnn.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
