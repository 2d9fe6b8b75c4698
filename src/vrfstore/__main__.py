"""``python -m vrfstore``."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    # The current directory, which -m puts first, may be a document's: a file there that is called as a module of the
    # standard library is not to be run in its place. (What is called vrfstore there has been by now: use -P, or the
    # command.)
    del sys.path[0]

from vrfstore.cli import main

if __name__ == "__main__":
    main()
