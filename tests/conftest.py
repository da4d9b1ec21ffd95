"""One thread for each process of the tests: several share the cores (`-n logical`), and small tensors lose by more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
