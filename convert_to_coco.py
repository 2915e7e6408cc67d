"""DeepFashion2 annotations -> COCO JSON: `python convert_to_coco.py --help` lists the options."""

import sys

if __name__ == "__main__":
    try:
        from mrcnn.commands.convert import main

        status = main(own_process=True)
    except KeyboardInterrupt:  # while the imports above take their time
        status = 130
    sys.exit(status)
