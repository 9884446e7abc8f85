"""Train, check and write every credit model: `python -m models.training.all`."""

from __future__ import annotations

import time

from models.training import credit_ebm, credit_pd, credit_scorecard, reasons, sme_pd
from models.training.data import load_consumers, load_sme
from models.training.publish import release


def main() -> None:
    """The consumer models share one read of their table."""
    run = release()
    started = time.perf_counter()
    consumers = load_consumers()
    credit_pd.main(run, consumers)
    credit_scorecard.main(run, consumers)
    credit_ebm.main(run, consumers)
    sme_pd.main(run, load_sme())
    reasons.write()
    print(f"four credit models in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
