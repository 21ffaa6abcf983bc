"""Table 3: index mechanisms.

    python -m experiments.table3 datasets/industrial --out runs/tables --preset small --seeds 3 \\
        --set "indexer.items=[256,256,256,256]" --set "indexer.users=[256,256,256,256]"

3-ED² and 5-ED² have levels of 256 codes, as in the paper; give the base the same sizes, as above, or the table compares
more than lengths (its column "codes" says what each row has). D-LSH and S-LSH hash into the sizes of the base, which
must be equal powers of two. With `tiny` the texts are read at the token embeddings, of which training moves only those
that occur in its instructions: there D-LSH is almost S-LSH, unless `--set encoding.layer=-1` reads the last layer.
"""

from collections.abc import Sequence

from experiments.report import ablation, write
from experiments.runs import Variant, ask, collect, command

VARIANTS = [
    Variant("ED²"), Variant("3-ED²", "3-ed2"), Variant("5-ED²", "5-ed2"), Variant("Static", "static"),
    Variant("D-LSH", "d-lsh"), Variant("S-LSH", "s-lsh"),
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    request = ask(__doc__, VARIANTS, arguments)
    write(request, "table3", *ablation(request, collect(request), "table3", "Table 3: index mechanisms"))


if __name__ == "__main__":
    command(main)
