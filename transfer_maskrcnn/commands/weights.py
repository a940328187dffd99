"""The command line ``weights``: known weights, and how to get them."""

from __future__ import annotations

from collections.abc import Sequence

from transfer_maskrcnn.cli import run_tool, tool_parser

EXAMPLES = """
Examples:
  what there is:  transfer-maskrcnn weights
  fetch one:      transfer-maskrcnn weights mask_rcnn_R_50_FPN_3x
A download that was cut off goes on. Without a connection the command says what
to fetch elsewhere and where to put it. Training fetches what it needs itself.
Exit status: 0; 1 for an error; 130 after Ctrl-C.
"""


def weights_tool() -> None:
    """Parse the command line; list, or fetch."""
    run_tool(weights, "the same command goes on with the download")


def weights(argv: Sequence[str] | None = None) -> None:
    """
    Raises:
        WeightFileError: an unknown name; what cannot be fetched.
    """
    parser = tool_parser("List the weights that are known by name, or fetch some.", EXAMPLES)
    parser.add_argument("names", nargs="*", metavar="NAME", help="fetch these")
    args = parser.parse_args(argv)
    from transfer_maskrcnn.surgery.fetch import cached_file, fetch, url_of
    from transfer_maskrcnn.surgery.known import KNOWN, LICENCE, SOURCE, known

    if args.names:
        for name in args.names:
            print(f"{name}: {fetch(known(name).address)}")
        return
    print(f"{'name':32}{'MB':>6}{'box AP':>9}{'mask AP':>9}  here")
    for name, one in KNOWN.items():
        box, mask = one.box_ap or "-", one.mask_ap or "-"
        here = "yes" if cached_file(one.address).is_file() else "no"
        print(f"{name:32}{one.megabytes:>6}{box:>9}{mask:>9}  {here}\n  {url_of(one.address)}")
    print(f"\nAP: COCO val2017, as published; R-50 is a backbone, of ImageNet. Licence: {LICENCE}.")
    print(SOURCE)
