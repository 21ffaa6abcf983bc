"""Being here makes `from worlds import …` and `from contracts import …` work in every folder of tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread only waits, and many tests run at once
