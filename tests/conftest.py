"""Being here makes `from worlds import …` and `from contracts import …` work in every folder of tests."""

import os

# Worlds whose answers are known do not depend on the machine; CUDA_VISIBLE_DEVICES=0 pytest is for one with a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread only waits, and many tests run at once
