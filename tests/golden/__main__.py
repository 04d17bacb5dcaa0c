"""`python -m tests.golden format-2`: make the golden store of the current format."""

import shutil
import sys

from tests import golden

target = golden.HERE / sys.argv[1]
shutil.rmtree(target, ignore_errors=True)
target.mkdir(parents=True)
golden.make(target)
