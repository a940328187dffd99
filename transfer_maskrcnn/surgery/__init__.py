"""Weight surgery: plan, check, show and apply a transfer of weights between detectors."""
