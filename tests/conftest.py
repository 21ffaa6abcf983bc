"""Being here makes `from worlds import …` and `from contracts import …` work in every folder of tests."""
